//! The harness holds what it promises; otherwise what the other tests show would be worth nothing.

use std::time::Duration;

use captain_e2e::cluster::{lease, lease_secure};
use captain_e2e::http::Endpoint;
use captain_e2e::origin::{Manner, Origin};
use captain_e2e::{eventually, slugs};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_pulls_the_runner_and_runs_a_slug_without_captain() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let engine = node.engine();
    engine.pull(&lease.runner_image(), "0.0.0").await;

    let slug = origin.offer("hello.tgz", slugs::web("hello from a slug"));
    let image = format!("{}:0.0.0", lease.runner_image());
    let id = engine.run("by-hand", captain_e2e::engine::original_container(&image, &slug, 2, &[])).await;
    let port = engine.inspect(&id).await["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"].clone();
    let port = json!(port.as_str().unwrap().parse::<u16>().unwrap());
    let page = eventually("the page", Duration::from_secs(10), || async {
        let page = node.port(&port);
        page.try_get("/").await.ok()?;
        Some(page.send("GET", "/", &[], "").await.text())
    })
    .await;
    assert_eq!(page, "hello from a slug");
    assert_eq!(origin.fetches("hello.tgz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_node_is_empty_and_mended() {
    {
        let lease = lease_secure().await;
        lease.node(0).engine().pull(&lease.runner_image(), "0.0.0").await;
        let image = format!("{}:0.0.0", lease.runner_image());
        let _ = lease.node(0).engine().run("left-behind", json!({"Image": image, "Cmd": ["sleep", "1000"]})).await;
        lease.node(0).hang();
    }
    let lease = lease_secure().await;
    assert!(lease.node(0).engine().containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_misbehaves_as_told() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let fetch = async |uri: String| {
        let (address, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
        Endpoint::Tcp(address.parse().unwrap()).send("GET", &format!("/{path}"), &[], "").await
    };
    assert_eq!(fetch(origin.uri("absent.tgz")).await.status, 404);
    let failing = origin.offer_badly("failing.tgz", slugs::web(""), Manner::Status(500));
    assert_eq!(fetch(failing).await.status, 500);
    let truncated = origin.offer_badly("truncated.tgz", slugs::web(""), Manner::Truncated);
    assert!(tokio::spawn(fetch_broken(truncated)).await.is_err());
}

async fn fetch_broken(uri: String) {
    let (address, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let _ = Endpoint::Tcp(address.parse().unwrap()).send("GET", &format!("/{path}"), &[], "").await;
}
