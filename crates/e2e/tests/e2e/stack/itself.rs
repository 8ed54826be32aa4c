//! Captain runs itself: packed as a slug, started by another captain, on an engine that it manages then.

use std::time::Duration;

use captain_e2e::captain::{Captain, binary};
use captain_e2e::cluster::{Node, lease_on_tcp};
use captain_e2e::http::Endpoint;
use captain_e2e::slugs::{self, Slug};
use captain_e2e::{eventually, origin::Manner};
use serde_json::{Value, json};

use super::apps::{NODE_STACK, node_and_what_it_needs, with_node};
use super::{JSON, Stacked, stdout};
use crate::id;

/// The captain under test as a slug. Without its symbols, which are most of what a build for tests weighs.
fn captain_as_a_slug() -> Vec<u8> {
    let work = tempfile::tempdir().unwrap();
    let program = work.path().join("captain");
    stdout(&std::process::Command::new("strip").arg("-o").arg(&program).arg(binary()).output().unwrap());
    let program = std::fs::read(&program).unwrap();
    Slug::with_procfile("web: ./captain serve\n").file("captain", &program).pack()
}

/// Starts a captain by a captain, and waits until it knows its nodes, and so itself.
async fn inner(stacked: &Stacked, node: &Node, uri: &str) -> (String, Endpoint) {
    let engines: Vec<String> = stacked.stage.lease.nodes().map(Node::entry).collect();
    let order = json!({
        "app": "captain", "node": node.name, "slug_uri": uri, "slots": 2,
        "environment": { "DOCKER_NODES": engines.join(","), "CAPTAIN_STACK": NODE_STACK, "SLOTS_PER_NODE": "60" },
    });
    let instance = stacked.stage.captain.start(order).await.expect(201).json();
    let (id, port) = (id(&instance), node.port(&instance["port"]));
    eventually("the inner captain to serve", Duration::from_secs(60), || async {
        port.try_get("/ping/ping").await.ok()
    })
    .await;
    eventually("the inner captain to know all nodes", Duration::from_secs(60), || async {
        let nodes = port.send("GET", "/nodes/", &[], "").await.expect(200).json();
        nodes.as_array().unwrap().iter().all(|node| node["state"] == "healthy").then_some(())
    })
    .await;
    let _ = port.send("GET", &format!("/instances/{id}"), &[], "").await.expect(200);
    (id, port)
}

async fn sees(captain: &Endpoint) -> Vec<Value> {
    captain.send("GET", "/instances/", &[], "").await.expect(200).json().as_array().unwrap().clone()
}

async fn gone(captain: &Captain, id: &str) {
    let _ = captain.get(&format!("/instances/{id}")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_runs_as_a_slug_manages_the_nodes_it_runs_on_and_is_stopped_by_another() {
    let lease = lease_on_tcp(2).await;
    let programs = node_and_what_it_needs();
    for node in lease.nodes() {
        with_node(node, &lease, &programs).await;
    }
    let stacked = Stacked::on(lease, NODE_STACK).await;
    let uri = stacked.stage.origin.offer_bytes("captain.tgz", captain_as_a_slug(), Manner::Properly);
    let (home, other) = (stacked.stage.lease.node(0), stacked.stage.lease.node(1));
    let (itself, captain) = inner(&stacked, home, &uri).await;

    // It lists itself, starts a slug on another node, and nobody need tell the captain outside.
    let sleeper = stacked.stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let order = json!({"app": "by-the-inner", "node": other.name, "slug_uri": sleeper, "slots": 1});
    let started = captain.send("POST", "/instances/", &JSON, order.to_string()).await.expect(201).json();
    assert_eq!(sees(&captain).await.len(), 2);
    stacked.stage.captain.instance_becomes(&id(&started), "running").await;

    // It does not stop itself: that is for another captain, to which the client comes by the same URL behind a load balancer.
    let path = format!("/instances/{itself}");
    let elsewhere = captain.send("DELETE", &path, &[("host", "captain.example")], "").await.expect(307);
    assert_eq!(elsewhere.header("location"), format!("http://captain.example{path}"));
    assert_eq!(sees(&captain).await.len(), 2, "it runs on");

    // A second one beside it stops the first, and what the first has started goes on.
    let (second, successor) = inner(&stacked, other, &uri).await;
    let _ = successor.send("DELETE", &path, &[], "").await.expect(204);
    let _ = stacked.stage.captain.delete(&format!("/instances/{second}")).await.expect(204);
    gone(&stacked.stage.captain, &itself).await;
    let left = stacked.stage.captain.get("/instances/").await.expect(200).json();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["id"], started["id"]);
    assert_eq!(stacked.stage.origin.counts("captain.tgz").bodies, 1, "a captain's slug too travels once");
}
