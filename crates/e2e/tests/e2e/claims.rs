//! A start that takes its time, seen from outside while it does.

use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::cluster::lease_on_tcp;
use captain_e2e::heavy::HeavyImage;
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

/// A pull takes four seconds at least, which is eight reports of its progress.
const BYTES_PER_SECOND: u32 = 2_000_000;

/// A stage whose runner image has to be pulled by way of a narrow wire.
async fn narrow() -> (Stage, HeavyImage) {
    let lease = lease_on_tcp(1).await;
    let image = HeavyImage::bake(&lease, BYTES_PER_SECOND).await;
    let origin = Origin::start(&lease).await;
    let captain = Settings::of(&lease).set("SLUG_RUNNER_IMAGE", &image.reference).start().await;
    (Stage { captain, origin, lease }, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_is_a_claim_that_says_how_far_it_has_come() {
    let (stage, image) = narrow().await;
    let node = &stage.node().name;
    let operation = "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11";
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let body = json!({"app": "slow", "node": node, "slug_uri": slug, "slots": 3});
    assert_error(&stage.captain.get(&format!("/claims/{operation}")).await, 404, "no_such_claim");

    let (answer, ()) = tokio::join!(stage.captain.start_as(operation, body.clone()), async {
        let claim = eventually("the progress of the pull", Duration::from_secs(20), || async {
            let claim = stage.captain.get(&format!("/claims/{operation}")).await;
            let claim = (claim.status == 200).then(|| claim.json())?;
            claim["detail"].as_str().unwrap_or_default().contains(" MB of ").then_some(claim)
        })
        .await;
        assert_eq!(claim["operation"], operation);
        assert_eq!(
            (&claim["app"], &claim["node"], &claim["slots"]),
            (&json!("slow"), &json!(node), &json!(3)),
            "{claim}"
        );
        assert_eq!(claim["phase"], "preparing", "{claim}");
        let detail = claim["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("pulling {}:0.0.0: ", image.reference)), "{detail}");
        assert!(claim["since"].is_string(), "{claim}");

        let all = stage.captain.get("/claims/").await.expect(200).json();
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        assert_eq!(all[0]["operation"], operation);
        assert_eq!(stage.captain.node(node).await["slots"]["used"], 3, "a claim takes its slots");
        assert_error(&stage.captain.start_as(operation, body.clone()).await, 409, "operation_in_progress");
    });

    let instance = answer.expect(201);
    assert_eq!(instance.header("captain-operation"), operation);
    assert_eq!(instance.json()["operation"], operation);
    assert_error(&stage.captain.get(&format!("/claims/{operation}")).await, 404, "no_such_claim");
    assert_eq!(stage.captain.get("/claims/").await.json(), json!([]));
    let again = stage.captain.start_as(operation, body).await;
    let message = assert_error(&again, 409, "operation_done");
    assert!(message.contains(&id(&instance.json())), "it is not said what came of it: {message}");
    assert_eq!(stage.node().engine().containers().await.len(), 1, "one operation has made two");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_no_uuid_is_400() {
    let stage = Stage::with(1).await;
    let body = json!({"app": "demo", "node": stage.node().name, "slug_uri": "http://10.77.0.1/x.tgz"});
    let message = assert_error(&stage.captain.start_as("again", body).await, 400, "bad_request");
    assert!(message.contains("Captain-Operation"), "{message}");
    assert_error(&stage.captain.get("/claims/again").await, 404, "no_such_claim");
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_at_once_pull_once() {
    let lease = lease_on_tcp(1).await;
    let node = lease.node(0);
    let image = HeavyImage::bake(&lease, BYTES_PER_SECOND).await;
    let origin = Origin::start(&lease).await;
    let wire = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease)
        .set("DOCKER_NODES", format!("{}={}", node.name, wire.uri()))
        .set("SLUG_RUNNER_IMAGE", &image.reference)
        .start()
        .await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let starts = (0..10).map(|number| {
        let body = json!({"app": format!("app-{number}"), "node": node.name, "slug_uri": slug, "slots": 1});
        let (endpoint, body) = (captain.endpoint(), body.to_string());
        tokio::spawn(async move {
            endpoint.send("POST", "/instances/", &[("content-type", "application/json")], body).await
        })
    });
    let starts: Vec<_> = starts.collect();
    // All ten wait for the one pull, and each says so.
    eventually("ten claims that tell of the pull", Duration::from_secs(20), || async {
        let claims = captain.get("/claims/").await.expect(200).json();
        let tells = |claim: &Value| claim["detail"].as_str().is_some_and(|detail| detail.starts_with("pulling "));
        (claims.as_array().unwrap().iter().filter(|claim| tells(claim)).count() == 10).then_some(())
    })
    .await;
    for start in starts {
        let _ = start.await.unwrap().expect(201);
    }
    let pulls = wire.requests().into_iter().filter(|request| request.contains("/images/create")).count();
    assert_eq!(pulls, 1, "{:?}", wire.requests());
    let mut blobs: Vec<String> = image
        .registry
        .requests()
        .into_iter()
        .filter(|request| request.starts_with("GET") && request.contains("/blobs/"))
        .collect();
    let fetched = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert!(fetched > 0 && blobs.len() == fetched, "a blob was fetched twice: {:?}", image.registry.requests());
}
