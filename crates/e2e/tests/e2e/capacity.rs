//! Never over capacity, and nothing left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::http::Response;
use captain_e2e::origin::Origin;
use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

/// Starts all of these at once, turn by turn on the given captains, and returns the answers.
async fn start_at_once(captains: &[&Captain], bodies: Vec<Value>) -> Vec<Response> {
    let starts = bodies.into_iter().enumerate().map(|(number, body)| {
        let endpoint = captains[number % captains.len()].endpoint();
        let headers = [("content-type", "application/json")];
        tokio::spawn(async move { endpoint.send("POST", "/instances/", &headers, body.to_string()).await })
    });
    let mut answers = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        answers.push(start.await.unwrap());
    }
    answers
}

/// 20 starts of 2 slots into 10: exactly 5 run, 15 are refused, nothing is left behind.
async fn overbook(captains: &[&Captain], stage: &Stage) {
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for round in 0..3 {
        let bodies = (0..20).map(|_| json!({"app": "demo", "node": node.name, "slug_uri": slug})).collect();
        let answers = start_at_once(captains, bodies).await;
        let (started, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
        for answer in &refused {
            assert_error(answer, 503, "over_capacity");
            let sentence = format!("There aren't enough free slots on {} to service your request", node.name);
            assert_eq!(answer.json()["description"], sentence);
        }
        assert_eq!((started.len(), refused.len()), (5, 15), "round {round}");
        let mut expected: Vec<String> = started.iter().map(|answer| id(&answer.json())).collect();
        expected.sort();
        // A refused start is answered when its claim is gone, or after ten seconds.
        eventually("what is on the engine to be what was answered with 201", Duration::from_secs(20), || async {
            let containers = node.engine().containers().await;
            let mut there: Vec<&str> = containers.iter().map(|container| container["Id"].as_str().unwrap()).collect();
            there.sort_unstable();
            (there == expected).then_some(())
        })
        .await;
        for captain in captains {
            eventually("all captains to count 10", Duration::from_secs(20), || async {
                (captain.node(&node.name).await["slots"] == json!({"free": 0, "total": 10, "used": 10})).then_some(())
            })
            .await;
        }
        for id in expected {
            let _ = captains[0].delete(&format!("/instances/{id}")).await.expect(204);
        }
        for captain in captains {
            eventually("all captains to count 0", Duration::from_secs(20), || async {
                (captain.node(&node.name).await["slots"]["used"] == 0).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_captain_never_overbooks() {
    let stage = Stage::set(1, |settings| settings.set("SLOTS_PER_NODE", 10)).await;
    overbook(&[&stage.captain], &stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_captains_never_overbook_and_still_fill_the_node() {
    let stage = Stage::set(1, |settings| settings.set("SLOTS_PER_NODE", 10)).await;
    let second = Settings::of(&stage.lease).set("SLOTS_PER_NODE", 10).start().await;
    overbook(&[&stage.captain, &second], &stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_keep_their_own_slug_and_environment() {
    let stage = Stage::with(2).await;
    let mut expected = BTreeMap::new();
    let bodies = (0..10).map(|number| {
        let slug = stage.origin.offer(&format!("slug-{number}.tgz"), slugs::script(slugs::IDLE));
        let mut body =
            json!({"app": format!("app-{number}"), "node": stage.lease.node(number % 2).name, "slug_uri": slug});
        if number % 3 == 0 {
            body["environment"] = json!({"OWN": number.to_string()});
        }
        expected.insert(format!("app-{number}"), (slug, (number % 3 == 0).then(|| number.to_string())));
        body
    });
    let bodies = bodies.collect();
    for answer in start_at_once(&[&stage.captain], bodies).await {
        let instance = answer.expect(201).json();
        let (slug, own) = &expected[instance["app"].as_str().unwrap()];
        assert_eq!(instance["slug_uri"], **slug);
        assert_eq!(instance["environment"].get("OWN").and_then(Value::as_str), own.as_deref(), "{instance}");
        let node = stage.lease.nodes().find(|node| node.name == instance["node"]).unwrap();
        let env = node.engine().inspect(&id(&instance)).await["Config"]["Env"].clone();
        assert!(env.as_array().unwrap().contains(&json!(format!("SLUG_URL={slug}"))), "{env}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_does_not_fit_is_refused_and_one_that_fits_is_not() {
    let stage = Stage::set(1, |settings| settings.set("SLOTS_PER_NODE", 5).set("DEFAULT_SLOTS_PER_INSTANCE", 3)).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let wish = |slots: Value| json!({"app": "demo", "node": stage.node().name, "slug_uri": slug, "slots": slots});
    assert_error(&stage.captain.start(wish(json!(6))).await, 503, "over_capacity");
    let first = stage.captain.start(wish(Value::Null)).await.expect(201).json();
    assert_eq!(first["slots"], 3);
    assert_error(&stage.captain.start(wish(json!(3))).await, 503, "over_capacity");
    let _ = stage.captain.start(wish(json!(2))).await.expect(201);
    assert_error(&stage.captain.start(wish(json!(1))).await, 503, "over_capacity");
    let _ = stage.captain.delete(&format!("/instances/{}", id(&first))).await.expect(204);
    let _ = stage.captain.start(wish(json!(3))).await.expect(201);
    assert_eq!(stage.node().engine().containers().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_node_is_404_even_with_too_many_slots() {
    let stage = Stage::with(1).await;
    for slots in [json!(2), json!(100_000)] {
        let body = json!({"app": "demo", "node": "app-99", "slug_uri": "http://10.77.0.1/x.tgz", "slots": slots});
        let message = assert_error(&stage.captain.start(body).await, 404, "no_such_node");
        assert!(message.contains("app-99"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_have_slots_of_its_own_and_one_full_node_does_not_matter_to_the_other() {
    let stage = Stage::set(2, |settings| settings.set("SLOTS_PER_NODE", 2)).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let (full, free) = (&stage.lease.node(0).name, &stage.lease.node(1).name);
    stage.captain.started("demo", full, &slug).await;
    let body = json!({"app": "demo", "node": full, "slug_uri": slug});
    assert_error(&stage.captain.start(body).await, 503, "over_capacity");
    stage.captain.started("demo", free, &slug).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_leaves_nothing_behind() {
    let lease = captain_e2e::cluster::lease(1).await;
    let origin = Origin::start(&lease).await;
    let captain = Settings::of(&lease).start().await;
    let stage = Stage { captain, origin, lease };
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let node = stage.node();

    // There is no such tag in the registry.
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug, "slug_runner_version": "9.9.9"});
    let message = assert_error(&stage.captain.start(body).await, 422, "image_unavailable");
    assert!(message.contains("slugrunner:9.9.9") && message.contains(&node.name), "{message}");
    // The engine creates this container, and then cannot start it.
    let broken = Settings::of(&stage.lease)
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", "no-such-image-anywhere")
        .start()
        .await;
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug});
    assert_error(&broken.start(body).await, 422, "image_unavailable");

    for captain in [&stage.captain, &broken] {
        assert_eq!(captain.node(&node.name).await["slots"]["used"], 0);
        assert!(captain.ids().await.is_empty());
    }
    assert!(node.engine().containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_started_is_removed() {
    let stage = Stage::with(1).await;
    let node = stage.node();
    let engine = node.engine();
    let image = format!("{}:0.0.0", stage.lease.runner_image());
    engine.pull(&stage.lease.runner_image(), "0.0.0").await;
    // An image whose entry point is not there: create works, start does not.
    let donor = engine.create("donor", json!({"Image": image, "Entrypoint": ["/not/there"]})).await;
    let commit = format!("/commit?container={donor}&repo={}&tag=broken", stage.lease.runner_image());
    let _ = engine.call("POST", &commit, json!({"Entrypoint": ["/not/there"]})).await.expect(201);
    engine.remove(&donor).await;

    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug, "slug_runner_version": "broken"});
    let answer = stage.captain.start(body).await;
    engine.remove_image(&format!("{}:broken", stage.lease.runner_image())).await;
    assert!([422, 502].contains(&answer.status.as_u16()), "{}", answer.text());
    assert!(answer.json()["message"].as_str().unwrap().contains(&node.name), "{}", answer.text());
    assert!(engine.containers().await.is_empty());
    assert_eq!(stage.captain.node(&node.name).await["slots"]["used"], 0);
}
