//! Captains that are many, paused, short of files, or blind in one eye. The engine's own list is asked all the while: no node
//! ever runs more than it has room for.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Node, lease, lease_on_tcp};
use captain_e2e::http::Endpoint;
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::{eventually, slugs};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{Stage, assert_error, id};

/// Looks at the engine again and again until told to stop, and returns the most instances that ever ran at once.
fn watch(node: &'static Node) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let watching = tokio::spawn(async move {
        let mut most = 0;
        while !stop.load(Ordering::Relaxed) {
            most = most.max(node.engine().running().await.len());
        }
        most
    });
    (done, watching)
}

fn start(endpoint: Endpoint, node: &str, slug: &str) -> JoinHandle<u16> {
    let body = json!({"app": "demo", "node": node, "slug_uri": slug}).to_string();
    tokio::spawn(async move {
        let answer = endpoint.send("POST", "/instances/", &[("content-type", "application/json")], body).await;
        if answer.status != 201 {
            assert_error(&answer, 503, "over_capacity");
        }
        answer.status.as_u16()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn four_captains_and_one_free_slot() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let mut captains = Vec::new();
    for _ in 0..4 {
        captains.push(Settings::of(&lease).set("SLOTS_PER_NODE", 1).set("DEFAULT_SLOTS_PER_INSTANCE", 1).start().await);
    }
    let (done, watching) = watch(node);
    let starts: Vec<_> = (0..24).map(|number| start(captains[number % 4].endpoint(), &node.name, &slug)).collect();
    let mut won = 0;
    for start in starts {
        won += usize::from(start.await.unwrap() == 201);
    }
    done.store(true, Ordering::Relaxed);
    assert_eq!(won, 1, "exactly one gets the slot");
    assert_eq!(watching.await.unwrap(), 1, "and no second one ever ran, however briefly");
    assert_eq!(node.engine().containers().await.len(), 1, "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_is_paused_in_the_middle_does_not_overbook_when_it_goes_on() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let settings = Settings::of(&lease).set("SLOTS_PER_NODE", 10);
    let (paused, other) = (settings.clone().start().await, settings.start().await);
    let (done, watching) = watch(node);
    // Each round stops it at another point of its starts: after so many containers are there.
    for round in 0..4 {
        let engine = node.engine();
        let first: Vec<_> = (0..5).map(|_| start(paused.endpoint(), &node.name, &slug)).collect();
        eventually("the starts to have come so far", Duration::from_secs(20), || async {
            (engine.containers().await.len() >= round).then_some(())
        })
        .await;
        paused.signal(Signal::STOP);
        let second: Vec<_> = (0..5).map(|_| start(other.endpoint(), &node.name, &slug)).collect();
        for start in second {
            start.await.unwrap();
        }
        paused.signal(Signal::CONT);
        for start in first {
            start.await.unwrap();
        }
        let running = engine.running().await.len();
        assert!((1..=5).contains(&running), "round {round}: {running} instances of 2 slots run in 10");
        for id in engine.running().await {
            let _ = other.delete(&format!("/instances/{id}")).await.expect(204);
        }
        eventually("an empty node", Duration::from_secs(20), || async {
            engine.containers().await.is_empty().then_some(())
        })
        .await;
        for captain in [&paused, &other] {
            free_again(captain, node).await;
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(watching.await.unwrap() <= 5);
}

async fn free_again(captain: &Captain, node: &Node) {
    eventually("all slots to be free", Duration::from_secs(10), || async {
        (captain.node(&node.name).await["slots"]["used"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_files() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let captain = Settings::of(&lease).open_files(64).start().await;
    captain.started("idle", &node.name, &slug).await;
    // More than it can have, and no more than the kernel keeps waiting for it.
    let crowd: Vec<TcpStream> = (0..120).map(|_| TcpStream::connect(captain.address()).unwrap()).collect();
    drop(crowd);
    eventually("an answer after the crowd has gone", Duration::from_secs(10), || async {
        captain.endpoint().try_get("/instances/").await.ok()
    })
    .await;
    captain.node_becomes(&node.name, "healthy").await;
    captain.started("idle", &node.name, &slug).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_inspection_hangs_holds_up_no_other() {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let wire = Proxy::to(node.engine_address()).await;
    let settings =
        Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, wire.uri())).set("DOCKER_TIMEOUT", 3);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let stuck = {
        let captain = settings.clone().start().await;
        id(&captain.started("stuck", &node.name, &slug).await)
    };
    wire.stall(&format!("/containers/{stuck}/"));
    let captain = settings.start().await; // it has to inspect what it finds
    let begin = Instant::now();
    let fine = id(&captain.started("fine", &node.name, &slug).await);
    let _ = captain.get(&format!("/instances/{fine}/logs")).await.expect(200);
    let _ = captain.delete(&format!("/instances/{fine}")).await.expect(204);
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    let slots = captain.node(&node.name).await["slots"].clone();
    assert_eq!(slots["used"], 2, "what cannot be inspected still takes its slots");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_events_are_cut_is_seen_afterwards() {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let wire = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, wire.uri())).start().await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(id(&captain.started("idle", &node.name, &slug).await));
    }
    for id in &ids[..3] {
        wire.sever();
        node.engine().signal(id, "KILL").await;
        wire.sever();
    }
    for id in &ids[..3] {
        captain.instance_becomes(id, "exited").await;
    }
    captain.node_becomes(&node.name, "healthy").await;
    assert_eq!(captain.ids().await, ids[3..]);
    assert_eq!(captain.node(&node.name).await["slots"]["used"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_takes_its_instances_along_and_gives_its_slots_back() {
    let stage = Stage::with(1).await;
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let mut lost = Vec::new();
    for _ in 0..2 {
        lost.push(id(&stage.captain.started("lost", &node.name, &slug).await));
    }
    node.kill();
    stage.captain.node_becomes(&node.name, "un").await;
    for instance in &lost {
        assert_eq!(stage.captain.instance(instance).await["state"], "unknown");
    }
    // It ends what it finds running when it comes back, for it cannot take it over.
    node.restart();
    stage.captain.node_becomes(&node.name, "healthy").await;
    for instance in &lost {
        eventually("the end of what was lost to be told", Duration::from_secs(20), || async {
            let answer = stage.captain.get(&format!("/instances/{instance}")).await;
            (answer.status == 404 || answer.json()["state"] == "exited").then_some(())
        })
        .await;
    }
    assert!(stage.captain.ids().await.is_empty());
    assert_eq!(stage.captain.node(&node.name).await["slots"]["used"], 0);
    stage.captain.started("after", &node.name, &slug).await;
    for instance in &lost {
        let answer = stage.captain.delete(&format!("/instances/{instance}")).await;
        assert!([204, 404].contains(&answer.status.as_u16()), "{}", answer.text());
    }
    assert_eq!(node.engine().containers().await.len(), 1);
}
