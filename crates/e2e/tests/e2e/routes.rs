//! Each row of the contract's table of routes, and the forms of a request that must work beside it.

use captain_e2e::slugs;
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

#[tokio::test(flavor = "multi_thread")]
async fn ping_is_204_without_a_body() {
    let stage = Stage::with(1).await;
    let answer = stage.captain.get("/ping/ping").await.expect(204);
    assert!(answer.body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_fleet_is_empty_lists() {
    let stage = Stage::with(1).await;
    let instances = stage.captain.get("/instances/").await.expect(200);
    assert_eq!(instances.text().trim(), "[]");
    assert_eq!(instances.header("content-type"), "application/json");
    let summary = stage.captain.get("/instances_summary/").await.expect(200);
    assert_eq!(summary.json(), json!({"total_instances": 0, "apps": {}}));
    assert_eq!(summary.header("content-type"), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_described_as_the_original_did_wherever_it_is_shown() {
    let stage = Stage::with(1).await;
    let node = &stage.node().name;
    let slug = stage.origin.offer("random-backend-v1.tgz", slugs::web("one"));
    let body = json!({"app": "random-backend", "node": node, "slug_uri": slug, "environment": {"JAVA_OPTS": "-Xmx256m -Xms256m"}});
    let posted = stage.captain.start(body).await.expect(201);
    assert_eq!(posted.header("content-type"), "application/json");
    let instance = posted.json();

    let id = id(&instance);
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(instance["app"], "random-backend");
    assert_eq!(instance["slug_uri"], slug);
    assert_eq!(instance["node"], *node);
    assert!(instance["port"].is_u64(), "{instance}");
    assert_eq!(instance["slots"], 2);
    assert_eq!(instance["hostname"], id[..12]);
    assert_eq!(instance["environment"]["JAVA_OPTS"], "-Xmx256m -Xms256m");
    for hidden in ["HOME", "PATH", "PORT", "SLUG_URL"] {
        assert!(instance["environment"].get(hidden).is_none(), "{hidden}: {instance}");
    }
    assert_eq!(instance["state"], "running");
    assert!(instance["created"].is_string() && instance["started"].is_string(), "{instance}");
    assert!(instance["exit"].is_null(), "{instance}");

    assert_eq!(stage.captain.instance(&id).await, instance);
    assert_eq!(stage.captain.get("/instances/").await.json(), json!([instance]));
    assert_eq!(stage.node().engine().running().await, [id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_counts_by_app() {
    let stage = Stage::with(2).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for (app, node) in [("demo", 0), ("demo", 1), ("bee", 0)] {
        stage.captain.started(app, &stage.lease.node(node).name, &slug).await;
    }
    let summary = stage.captain.get("/instances_summary/").await.expect(200).json();
    assert_eq!(summary, json!({"total_instances": 3, "apps": {"bee": 1, "demo": 2}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_show_their_slots_and_state() {
    let stage = Stage::set(2, |settings| settings.set("SLOTS_PER_NODE", 10)).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let (busy, idle) = (&stage.lease.node(0).name, &stage.lease.node(1).name);
    let body = json!({"app": "demo", "node": busy, "slug_uri": slug, "slots": 3});
    let _ = stage.captain.start(body).await.expect(201);

    let nodes = stage.captain.get("/nodes/").await.expect(200).json();
    let shown: Vec<(&str, &Value, &str)> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), &node["slots"], node["state"].as_str().unwrap()))
        .collect();
    let (three, none) = (json!({"free": 7, "total": 10, "used": 3}), json!({"free": 10, "total": 10, "used": 0}));
    assert_eq!(shown, [(busy.as_str(), &three, "healthy"), (idle.as_str(), &none, "healthy")]);
    assert_eq!(stage.captain.node(busy).await, nodes[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_of_slots_is_110_unless_set() {
    let stage = Stage::with(1).await;
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["total"], 110);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_in_json() {
    let stage = Stage::with(1).await;
    let absent = "f".repeat(64);
    for path in [format!("/instances/{absent}"), format!("/instances/{absent}/logs"), "/instances/nonsense".to_owned()]
    {
        assert_error(&stage.captain.get(&path).await, 404, "no_such_instance");
    }
    assert_error(&stage.captain.delete(&format!("/instances/{absent}")).await, 404, "no_such_instance");
    let message = assert_error(&stage.captain.get("/nodes/app-99").await, 404, "no_such_node");
    assert!(message.contains("app-99"), "{message}");
    for path in ["/", "/nothing", "/instances/a/b/c", "/ping", "/%00", "/%ff", "/../etc/passwd"] {
        assert_error(&stage.captain.get(path).await, 404, "no_such_path");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_405_in_json() {
    let stage = Stage::with(1).await;
    for (method, path) in [
        ("PUT", "/instances/"),
        ("DELETE", "/instances/"),
        ("POST", "/nodes/"),
        ("POST", "/ping/ping"),
        ("PATCH", "/instances_summary/"),
        ("POST", "/instances/abc"),
        ("DELETE", "/nodes/app-1"),
        ("DELETE", "/instances/abc/logs"),
        ("BREW", "/instances/"),
    ] {
        let answer = stage.captain.endpoint().send(method, path, &[], "").await;
        assert_error(&answer, 405, "method_not_allowed");
        assert!(!answer.header("allow").is_empty(), "{method} {path} does not say what is allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_works_wherever_get_does() {
    let stage = Stage::with(1).await;
    let node = &stage.node().name;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let id = id(&stage.captain.started("demo", node, &slug).await);
    for path in [
        "/ping/ping".to_owned(),
        "/instances/".to_owned(),
        format!("/instances/{id}"),
        format!("/instances/{id}/logs"),
        format!("/instances/{id}/logs?follow=1"),
        "/instances_summary/".to_owned(),
        "/nodes/".to_owned(),
        format!("/nodes/{node}"),
        "/cache".to_owned(),
        format!("/instances/{}", "f".repeat(64)),
    ] {
        let head = stage.captain.endpoint().send("HEAD", &path, &[], "").await;
        let get = stage.captain.stream(&path).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.headers.get("content-type"), get.headers.get("content-type"), "{path}");
        assert!(head.body.is_empty(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_answer_without_their_slash_too() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for path in ["/instances", "/nodes", "/instances_summary"] {
        let bare = stage.captain.get(path).await;
        if bare.status == 301 {
            assert!(bare.header("location").ends_with(&format!("{path}/")), "{}", bare.header("location"));
        } else {
            assert_eq!(bare.expect(200).json(), stage.captain.get(&format!("{path}/")).await.json(), "{path}");
        }
    }
    // The original answered 500 with a page of HTML to this one.
    let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": slug}).to_string();
    let _ = stage.captain.post("/instances", body).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_can_be_read_and_emptied() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    stage.captain.started("demo", &stage.node().name, &slug).await;
    for path in ["/cache", "/cache/"] {
        let cache = stage.captain.get(path).await;
        if path == "/cache" || cache.status == 200 {
            let cache = cache.expect(200).json();
            for figure in ["currsize", "hits", "maxsize", "misses"] {
                assert!(cache[figure].is_u64(), "{figure}: {cache}");
            }
        }
    }
    let emptied = stage.captain.delete("/cache").await.expect(200);
    assert_eq!(emptied.json(), Value::Null);
    assert_eq!(stage.captain.ids().await.len(), 1, "emptying the cache must not lose instances");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unambiguous_prefix_of_an_id_will_do() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let id = id(&stage.captain.started("demo", &stage.node().name, &slug).await);
    for length in [12, 20, 63] {
        assert_eq!(stage.captain.instance(&id[..length]).await["id"], id, "{length} digits");
    }
    for length in [1, 11] {
        assert_error(&stage.captain.get(&format!("/instances/{}", &id[..length])).await, 404, "no_such_instance");
    }
    assert_error(&stage.captain.get(&format!("/instances/{id}0")).await, 404, "no_such_instance");
    let _ = stage.captain.delete(&format!("/instances/{}", &id[..12])).await.expect(204);
    assert!(!stage.node().engine().has(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_can_be_narrowed() {
    let stage = Stage::with(2).await;
    let idle = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let brief = stage.origin.offer("brief.tgz", slugs::script("exit 3"));
    let (first, second) = (&stage.lease.node(0).name, &stage.lease.node(1).name);
    let a = id(&stage.captain.started("a", first, &idle).await);
    let b = id(&stage.captain.started("b", second, &idle).await);
    let ended = id(&stage.captain.started("a", second, &brief).await);
    stage.captain.instance_becomes(&ended, "exited").await;

    for (query, expected) in [
        (format!("?node={first}"), vec![&a]),
        (format!("?node={second}"), vec![&b]),
        ("?app=b".to_owned(), vec![&b]),
        (format!("?app=b&node={first}"), vec![]),
        ("?state=exited".to_owned(), vec![&ended]),
        ("?state=running&app=a".to_owned(), vec![&a]),
        ("?app=nobody".to_owned(), vec![]),
    ] {
        let list = stage.captain.get(&format!("/instances/{query}")).await.expect(200).json();
        let shown: Vec<String> = list.as_array().unwrap().iter().map(id_of).collect();
        assert_eq!(shown.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    assert_error(&stage.captain.get("/instances/?state=sideways").await, 400, "bad_request");
}

fn id_of(instance: &Value) -> String {
    id(instance)
}
