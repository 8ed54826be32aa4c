//! What a start makes: the container is inspected on the engine, and the app is asked over HTTP.

use std::time::Duration;

use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, id};

/// What the app answers at `/`, once it listens.
pub(crate) async fn page(stage: &Stage, instance: &Value) -> String {
    page_at(stage, instance, "/").await
}

/// What the app answers at `path`, once it listens.
pub(crate) async fn page_at(stage: &Stage, instance: &Value, path: &str) -> String {
    let node = stage.lease.nodes().find(|node| node.name == instance["node"]).unwrap();
    let port = node.port(&instance["port"]);
    eventually("the app to listen", Duration::from_secs(20), || async { port.try_get(path).await.ok() }).await;
    port.send("GET", path, &[], "").await.expect(200).text()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_reached_through_the_port_of_the_answer() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("hello.tgz", slugs::web("hello, world"));
    let instance = stage.captain.started("hello", &stage.node().name, &slug).await;
    assert_eq!(page(&stage, &instance).await, "hello, world");
    assert_eq!(stage.origin.fetches("hello.tgz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_image_that_the_node_lacks_is_pulled() {
    let stage = Stage::with(1).await;
    let engine = stage.node().engine();
    let image = format!("{}:0.0.0", stage.lease.runner_image());
    engine.remove_image(&image).await;
    assert!(!engine.has_image(&image).await);
    let slug = stage.origin.offer("hello.tgz", slugs::web("pulled"));
    let instance = stage.captain.started("hello", &stage.node().name, &slug).await;
    assert_eq!(page(&stage, &instance).await, "pulled");
    assert!(engine.has_image(&image).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_the_runner_can_be_chosen() {
    let stage = Stage::set(1, |settings| settings.set("SLUG_RUNNER_VERSION", "1.2.3")).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for (wish, expected) in [(Value::Null, "1.2.3"), (json!("0.0.0"), "0.0.0")] {
        let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "slug_runner_version": wish});
        let instance = stage.captain.start(body).await.expect(201).json();
        let container = stage.node().engine().inspect(&id(&instance)).await;
        assert_eq!(container["Config"]["Image"], format!("{}:{expected}", stage.lease.runner_image()));
        assert_eq!(container["Config"]["Cmd"], json!(["start", "web"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_really_applied() {
    let stage = Stage::set(1, |settings| settings.set("SLOT_MEMORY_MB", 64)).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for (wish, slots) in [(Value::Null, 2_u64), (json!(0), 2), (json!(1), 1), (json!(5), 5)] {
        let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "slots": wish});
        let instance = stage.captain.start(body).await.expect(201).json();
        assert_eq!(instance["slots"], slots, "slots: {wish}");
        let container = stage.node().engine().inspect(&id(&instance)).await;
        let limits = &container["HostConfig"];
        assert_eq!(limits["Memory"], slots * 64 * 1024 * 1024, "slots: {wish}");
        assert_eq!(limits["MemorySwap"], limits["Memory"], "no swap beyond the memory");
        assert!(limits["CpuShares"].as_u64().unwrap() >= 2, "cgroup v1 takes no less: {}", limits["CpuShares"]);
        let options = limits["SecurityOpt"].to_string();
        assert!(options.contains("no-new-privileges"), "{options}");
        assert!(
            limits["LogConfig"]["Config"]["max-size"].is_string(),
            "the log is not bounded: {}",
            limits["LogConfig"]
        );
        assert_eq!(limits["Privileged"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_grow_with_the_slots() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let mut shares = Vec::new();
    for slots in [1, 2, 4, 8] {
        let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "slots": slots});
        let instance = stage.captain.start(body).await.expect(201).json();
        shares.push(stage.node().engine().inspect(&id(&instance)).await["HostConfig"]["CpuShares"].as_u64().unwrap());
    }
    assert!(shares.windows(2).all(|pair| pair[1] == 2 * pair[0]), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn port_and_slug_url_are_captains_whatever_the_caller_says() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("hello.tgz", slugs::web("mine"));
    let environment = json!({"PORT": "1", "SLUG_URL": "http://elsewhere/", "NUMBER": 5, "EMPTY": "", "QUOTED": "a \"b\" $HOME = c\nd", "ÜMLAUT": "grün"});
    let body = json!({"app": "hello", "node": stage.node().name, "slug_uri": slug, "environment": environment});
    let instance = stage.captain.start(body).await.expect(201).json();
    assert_eq!(page(&stage, &instance).await, "mine");

    let container = stage.node().engine().inspect(&id(&instance)).await;
    let env: Vec<&str> =
        container["Config"]["Env"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    let url = format!("SLUG_URL={slug}");
    for expected in ["PORT=8080", &url, "NUMBER=5", "EMPTY=", "QUOTED=a \"b\" $HOME = c\nd", "ÜMLAUT=grün"] {
        assert_eq!(env.iter().filter(|entry| **entry == expected).count(), 1, "{expected}: {env:?}");
    }
    assert_eq!(
        env.iter().filter(|entry| entry.starts_with("PORT=") || entry.starts_with("SLUG_URL=")).count(),
        2,
        "{env:?}"
    );
    assert_eq!(instance["environment"]["NUMBER"], "5");
    assert_eq!(instance["environment"]["EMPTY"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_can_be_asked_for() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("name.tgz", slugs::script(&format!("hostname\n{}", slugs::IDLE)));
    let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "hostname": "frontend-1"});
    let instance = stage.captain.start(body).await.expect(201).json();
    assert_eq!(instance["hostname"], "frontend-1");
    assert_eq!(stage.captain.instance(&id(&instance)).await["hostname"], "frontend-1");
    let mut logs = stage.captain.stream(&format!("/instances/{}/logs?follow=1", id(&instance))).await;
    logs.until("frontend-1", Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn app_names_come_back_as_they_were_given() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for app in ["my-app.1", "MyApp", "under_score_d", "a", "7", "trailing_"] {
        let instance = stage.captain.started(app, &stage.node().name, &slug).await;
        assert_eq!(instance["app"], app);
        let found = stage.captain.get(&format!("/instances/?app={app}")).await.json();
        assert_eq!(id(&found[0]), id(&instance), "{app}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_example_with_a_version_starts_an_instance() {
    let lease = captain_e2e::cluster::lease(1).await;
    let origin = captain_e2e::origin::Origin::start(&lease).await;
    origin.offer("random-frontend-v47.tgz", slugs::web("version 47"));
    let template = origin.uri("{app_name}-v{app_version}.tgz");
    let captain = captain_e2e::captain::Settings::of(&lease).set("SLUG_PATH", template).start().await;
    let stage = Stage { captain, origin, lease };

    for version in [json!("47"), json!(47)] {
        let body = json!({
            "app": "random-frontend", "version": version, "node": stage.node().name, "allocated_port": 12345,
            "environment": {"HMRC_CONFIG": "-Dapplication.log=INFO -Drun.mode=Prod", "JAVA_OPTS": "-Xmx256m -Xms256m"},
        });
        let instance = stage.captain.start(body).await.expect(201).json();
        assert_eq!(instance["slug_uri"], stage.origin.uri("random-frontend-v47.tgz"));
        assert_eq!(page(&stage, &instance).await, "version 47");
    }
    // Both given: the URI is what counts.
    let other = stage.origin.offer("other.tgz", slugs::web("other"));
    let body = json!({"app": "random-frontend", "version": "47", "slug_uri": other, "node": stage.node().name});
    let instance = stage.captain.start(body).await.expect(201).json();
    assert_eq!(instance["slug_uri"], other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charset_in_the_content_type_is_fine() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "environment": null, "slots": null, "hostname": null}).to_string();
    let headers = [("content-type", "application/json; charset=utf-8")];
    let _ = stage.captain.endpoint().send("POST", "/instances/", &headers, body).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_both_ip_versions_is_one_instance() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let instance = stage.captain.started("demo", &stage.node().name, &slug).await;
    let container = stage.node().engine().inspect(&id(&instance)).await;
    let bindings = container["NetworkSettings"]["Ports"]["8080/tcp"].as_array().unwrap();
    assert_eq!(bindings.len(), 2, "this engine publishes on IPv4 and IPv6, which the test is about: {bindings:?}");
    assert_eq!(bindings[0]["HostPort"], instance["port"].to_string());
    assert_eq!(stage.captain.ids().await, [id(&instance)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ended_can_be_read_and_removed() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("brief.tgz", slugs::script("echo these were my last words\nexit 3"));
    let started = stage.captain.started("brief", &stage.node().name, &slug).await;
    let id = id(&started);

    let instance = stage.captain.instance_becomes(&id, "exited").await;
    assert_eq!(instance["exit"]["code"], 3, "{instance}");
    assert!(stage.captain.ids().await.is_empty(), "it is not in the default list");
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["used"], 0, "it takes no slots");
    let logs = stage.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text();
    assert!(logs.contains("these were my last words"), "{logs}");
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    assert!(!stage.node().engine().has(&id).await);
    assert_eq!(stage.captain.get(&format!("/instances/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_takes_too_much_memory_says_so() {
    let stage = Stage::set(1, |settings| settings.set("SLOT_MEMORY_MB", 16)).await;
    let slug = stage.origin.offer("hog.tgz", slugs::script(slugs::HOG));
    let id = id(&stage.captain.started("hog", &stage.node().name, &slug).await);
    let instance = stage.captain.instance_becomes(&id, "exited").await;
    assert_eq!(instance["exit"]["out_of_memory"], true, "{instance}");
    assert!(instance["exit"]["reason"].as_str().unwrap().to_lowercase().contains("memory"), "{instance}");
}
