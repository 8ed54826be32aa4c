//! Engines that hang, die, are cut off or talk nonsense: their state says so, and nobody else is slower for it.

use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{lease, lease_on_tcp};
use captain_e2e::fake::{Ailment, FakeEngine};
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

/// No read may take as long as this, whatever the nodes do. It is far below any time-out of an engine call.
const PROMPT: Duration = Duration::from_millis(1500);

/// Every read that there is, of which none may wait.
async fn reads_are_prompt(captain: &Captain, instance: &str) {
    for path in
        ["/instances/", "/instances_summary/", "/nodes/", "/cache", "/ping/ping", &format!("/instances/{instance}")]
    {
        let begin = Instant::now();
        let answer = captain.get(path).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        assert!(begin.elapsed() < PROMPT, "{path} took {:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_node_slows_nothing_on_the_others() {
    let stage = Stage::set(2, |settings| settings.set("DOCKER_TIMEOUT", 5)).await;
    let (hung, well) = (stage.lease.node(0), stage.lease.node(1));
    let slug = stage.origin.offer("web.tgz", slugs::web("alive"));
    let on_hung = id(&stage.captain.started("web", &hung.name, &slug).await);
    let on_well = id(&stage.captain.started("web", &well.name, &slug).await);

    hung.hang();
    reads_are_prompt(&stage.captain, &on_hung).await; // at once, before anybody has noticed
    let begin = Instant::now();
    let third = id(&stage.captain.started("web", &well.name, &slug).await);
    let mut logs = stage.captain.stream(&format!("/instances/{third}/logs?follow=1")).await;
    logs.until("listening", Duration::from_secs(5)).await; // before that it would not heed SIGTERM
    let _ = stage.captain.get(&format!("/instances/{on_well}/logs")).await.expect(200);
    assert!(begin.elapsed() < Duration::from_secs(5), "a start and logs on a healthy node took {:?}", begin.elapsed());
    let begin = Instant::now();
    let _ = stage.captain.delete(&format!("/instances/{third}")).await.expect(204);
    assert!(begin.elapsed() < Duration::from_secs(5), "a stop on a healthy node took {:?}", begin.elapsed());

    let node = stage.captain.node_becomes(&hung.name, "un").await; // unresponsive, or unreachable
    assert_eq!(node["slots"], json!({"free": 0, "total": 0, "used": 0}));
    assert_eq!(node["last_known"]["slots"]["used"], 2, "{node}");
    assert!(node["since"].is_string(), "{node}");
    reads_are_prompt(&stage.captain, &on_hung).await;
    assert!(stage.captain.ids().await.contains(&on_hung), "its instances stay listed");
    let marked = stage.captain.instance(&on_hung).await;
    assert!(marked["node_state"].as_str().is_some_and(|state| state != "healthy"), "{marked}");

    hung.wake();
    stage.captain.node_becomes(&hung.name, "healthy").await;
    assert!(stage.captain.instance(&on_hung).await.get("node_state").is_none());
    assert_eq!(stage.captain.node(&hung.name).await["slots"]["used"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_hung_node_leaves_nothing_when_it_wakes() {
    let stage = Stage::set(1, |settings| settings.set("DOCKER_TIMEOUT", 3)).await;
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    stage.captain.started("warm", &node.name, &slug).await;
    node.hang();
    let begin = Instant::now();
    let answer = stage.captain.start(json!({"app": "late", "node": node.name, "slug_uri": slug})).await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert!([503, 504].contains(&answer.status.as_u16()), "{}", answer.text());
    assert!(answer.json()["message"].as_str().unwrap().contains(&node.name), "{}", answer.text());

    node.wake();
    stage.captain.node_becomes(&node.name, "healthy").await;
    let engine = node.engine();
    eventually("nothing of the failed start", Duration::from_secs(30), || async {
        let left = engine.containers().await;
        let slots = stage.captain.node(&node.name).await["slots"]["used"].clone();
        (left.len() == 1 && slots == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_node_that_is_away_are_listed_and_cannot_be_stopped_with_404() {
    let stage = Stage::set(1, |settings| settings.set("DOCKER_TIMEOUT", 3)).await;
    let node = stage.node();
    let slug = stage.origin.offer("web.tgz", slugs::web("alive"));
    let id = id(&stage.captain.started("web", &node.name, &slug).await);
    node.kill();
    let seen = stage.captain.node_becomes(&node.name, "unreachable").await;
    assert_eq!(seen["slots"]["total"], 0);
    let message = assert_error(&stage.captain.delete(&format!("/instances/{id}")).await, 503, "node_unavailable");
    assert!(message.contains(&node.name), "{message}");
    assert_eq!(stage.captain.ids().await, [id.as_str()]);
    let body = json!({"app": "web", "node": node.name, "slug_uri": slug});
    assert_error(&stage.captain.start(body).await, 503, "node_unavailable");

    // The engine comes back without its containers, which is what engines do unless told otherwise.
    node.restart();
    stage.captain.node_becomes(&node.name, "healthy").await;
    stage.captain.instance_becomes(&id, "exited").await;
    assert_eq!(stage.captain.node(&node.name).await["slots"]["used"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_unplugged_and_plugged_in_again() {
    let lease = lease_on_tcp(2).await;
    let origin = Origin::start(&lease).await;
    let captain = Settings::of(&lease).set("DOCKER_TIMEOUT", 3).start().await;
    let stage = Stage { captain, origin, lease };
    let (cut, well) = (stage.lease.node(0), stage.lease.node(1));
    let slug = stage.origin.offer("idle.tgz", slugs::script(&format!("echo up\n{}", slugs::IDLE)));
    let first = id(&stage.captain.started("idle", &cut.name, &slug).await);
    // The runner image fetches the slug in the instance: through the cable.
    eventually("the app is up", Duration::from_secs(20), || async {
        stage.captain.get(&format!("/instances/{first}/logs")).await.text().contains("up").then_some(())
    })
    .await;
    cut.cut();
    reads_are_prompt(&stage.captain, &first).await;
    stage.captain.node_becomes(&cut.name, "un").await;
    cut.engine().signal(&first, "KILL").await; // what happens meanwhile is seen afterwards
    stage.captain.started("idle", &well.name, &slug).await;
    cut.join();
    stage.captain.node_becomes(&cut.name, "healthy").await;
    stage.captain.instance_becomes(&first, "exited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_well_is_shown_as_such_and_takes_no_starts() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let well = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let ailments = [
        Ailment::CannotList,
        Ailment::ListHangs,
        Ailment::ListIsGarbage,
        Ailment::Silent,
        Ailment::TalksGarbage,
        Ailment::OnlyErrors,
        Ailment::WantsPassword,
    ];
    let mut fakes = Vec::new();
    for ailment in ailments {
        fakes.push((format!("{ailment:?}").to_lowercase(), FakeEngine::start(ailment).await));
    }
    let entries: Vec<String> =
        fakes.iter().map(|(name, fake)| format!("{name}={}", fake.uri())).chain([well.entry()]).collect();
    let captain =
        Settings::of(&lease).set("DOCKER_NODES", entries.join(",")).set("DOCKER_TIMEOUT", 2).start_anyhow().await;
    captain.node_becomes(&well.name, "healthy").await;
    let id = id(&captain.started("idle", &well.name, &slug).await);
    reads_are_prompt(&captain, &id).await;

    for (name, _) in &fakes {
        let node = eventually(&format!("a verdict on {name}"), Duration::from_secs(20), || async {
            let node = captain.node(name).await;
            let state = node["state"].as_str().unwrap().to_owned();
            assert_ne!(state, "healthy", "{node}");
            (!state.starts_with("unknown")).then_some(node)
        })
        .await;
        assert_eq!(node["slots"], json!({"free": 0, "total": 0, "used": 0}), "healthy and empty would be overfilled");
        let state = node["state"].as_str().unwrap();
        assert!(state.len() > "unreachable: ".len(), "why? {node}");
        let begin = Instant::now();
        let answer = captain.start(json!({"app": "idle", "node": name, "slug_uri": slug})).await;
        assert!([502, 503, 504].contains(&answer.status.as_u16()), "{name}: {}", answer.text());
        assert!(answer.json()["message"].as_str().unwrap().contains(name.as_str()), "{}", answer.text());
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}: {:?}", begin.elapsed());
    }
    reads_are_prompt(&captain, &id).await;
    assert_eq!(captain.node(&well.name).await["state"], "healthy");
}

/// Fault 1 and 2 of ENGINES.md: the engine did it, and the answer was lost.
async fn an_answer_is_lost(method: &str, path: &str) {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let wire = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease)
        .set("DOCKER_NODES", format!("{}={}", node.name, wire.uri()))
        .set("DOCKER_TIMEOUT", 5)
        .start()
        .await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    captain.started("warm", &node.name, &slug).await;

    wire.lose_answers(method, path, 1);
    let answer = captain.start(json!({"app": "wanted", "node": node.name, "slug_uri": slug})).await;
    assert_eq!(wire.answers_to_lose(), 0, "no {method} …{path} was made, so this shows nothing");
    let expected = if answer.status == 201 { 2 } else { 1 };
    assert!([201, 502, 503, 504].contains(&answer.status.as_u16()), "{}", answer.text());
    let engine = node.engine();
    eventually("the engine and the answer to agree", Duration::from_secs(30), || async {
        let there = engine.containers().await;
        let used = captain.node(&node.name).await["slots"]["used"].clone();
        (there.len() == expected && there.iter().all(|c| c["State"] == "running") && used == expected * 2).then_some(())
    })
    .await;
    assert_eq!(captain.ids().await.len(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_create_is_lost() {
    an_answer_is_lost("POST", "/containers/create").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_start_is_lost() {
    an_answer_is_lost("POST", "/start").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_an_inspect_is_lost() {
    an_answer_is_lost("GET", "/json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_stop_or_removal_is_lost() {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let wire = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, wire.uri())).start().await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for (method, path) in [("POST", "/stop"), ("DELETE", "/containers/")] {
        let id = id(&captain.started("idle", &node.name, &slug).await);
        wire.lose_answers(method, path, 1);
        let answer = captain.delete(&format!("/instances/{id}")).await;
        if answer.status != 204 {
            assert!([502, 503, 504].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text());
            let again = captain.delete(&format!("/instances/{id}")).await;
            assert!([204, 404].contains(&again.status.as_u16()), "{method} {path}: {}", again.text());
        }
        assert!(!node.engine().has(&id).await, "{method} {path}");
        eventually("its slots to be free", Duration::from_secs(10), || async {
            (captain.node(&node.name).await["slots"]["used"] == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wire_makes_reads_no_slower() {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let wire = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, wire.uri())).start().await;
    wire.delay(Duration::from_millis(300));
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let id = id(&captain.started("idle", &node.name, &slug).await);
    let begin = Instant::now();
    for _ in 0..20 {
        let _ = captain.get(&format!("/instances/{id}")).await.expect(200);
    }
    assert!(begin.elapsed() < PROMPT, "20 reads took {:?}", begin.elapsed());
    let _ = captain.delete(&format!("/instances/{id}")).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_dies_during_starts_leaves_no_claims_for_ever() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let first = Settings::of(&lease).start().await;
    let bodies: Vec<Value> = (0..6).map(|_| json!({"app": "demo", "node": node.name, "slug_uri": slug})).collect();
    let starts: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let endpoint = first.endpoint();
            tokio::spawn(async move {
                endpoint.send("POST", "/instances/", &[("content-type", "application/json")], body.to_string()).await
            })
        })
        .collect();
    let engine = node.engine();
    eventually("a container", Duration::from_secs(10), || async {
        (!engine.containers().await.is_empty()).then_some(())
    })
    .await;
    first.crash();
    for start in starts {
        let _ = start.await; // broken, or answered: the engine says what is true
    }

    // A claim is taken for dead after 20 s and three calls that time out.
    let second = Settings::of(&lease).set("DOCKER_TIMEOUT", 2).start().await;
    eventually("no claim of the dead captain", Duration::from_secs(120), || async {
        let containers = engine.containers().await;
        let running = containers.iter().filter(|container| container["State"] == "running").count();
        let used = second.node(&node.name).await["slots"]["used"].clone();
        (running == containers.len() && used == running * 2).then_some(())
    })
    .await;
}
