//! Captains that are many, paused, short of files, or blind in one eye. The engine's own list is asked all the while: no node
//! ever runs more than it has room for.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use captain_e2e::captain::Captain;
use captain_e2e::http::Endpoint;
use captain_e2e::proxy::Proxy;
use captain_e2e::{eventually, slugs};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::wired::{Ground, Watch, Wired, settles};
use crate::{Stage, assert_error, id};

/// Within which captains learn what others did, on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);

fn start(endpoint: Endpoint, order: &Value) -> JoinHandle<u16> {
    let body = order.to_string();
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
    let ground = Ground::lay().await;
    let (node, order) = (ground.node(), ground.order("demo"));
    let mut captains = Vec::new();
    for _ in 0..4 {
        let one_slot = ground.settings().set("SLOTS_PER_NODE", 1).set("DEFAULT_SLOTS_PER_INSTANCE", 1);
        captains.push(one_slot.start().await);
    }
    let watch = Watch::over(node);
    let starts: Vec<_> = (0..24).map(|number| start(captains[number % 4].endpoint(), &order)).collect();
    let mut won = 0;
    for start in starts {
        won += usize::from(start.await.unwrap() == 201);
    }
    assert_eq!(won, 1, "exactly one gets the slot");
    let all: Vec<&Captain> = captains.iter().collect();
    assert_eq!(settles(node, &all, SOON).await.len(), 1, "nothing is left behind");
    assert_eq!(watch.most().await, 1, "and no second one ever ran, however briefly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_is_paused_in_the_middle_does_not_overbook_when_it_goes_on() {
    let ground = Ground::lay().await;
    let (node, order) = (ground.node(), ground.order("demo"));
    let settings = ground.settings().set("SLOTS_PER_NODE", 10);
    let (paused, other) = (settings.clone().start().await, settings.start().await);
    let watch = Watch::over(node);
    // Each round stops it at another point of its starts: after so many containers are there.
    for round in 0..4 {
        let engine = node.engine();
        let first: Vec<_> = (0..5).map(|_| start(paused.endpoint(), &order)).collect();
        eventually("the starts to have come so far", Duration::from_secs(20), || async {
            (engine.containers().await.len() >= round).then_some(())
        })
        .await;
        paused.signal(Signal::STOP);
        let second: Vec<_> = (0..5).map(|_| start(other.endpoint(), &order)).collect();
        for start in second {
            start.await.unwrap();
        }
        paused.signal(Signal::CONT);
        for start in first {
            start.await.unwrap();
        }
        // Only when the other one has heard of them can it stop them.
        let there = settles(node, &[&paused, &other], SOON).await;
        assert!((1..=5).contains(&there.len()), "round {round}: {} instances of 2 slots run in 10", there.len());
        for container in there {
            let id = container["Id"].as_str().unwrap();
            let _ = other.delete(&format!("/instances/{id}")).await.expect(204);
        }
        assert!(settles(node, &[&paused, &other], SOON).await.is_empty());
    }
    assert!(watch.most().await <= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_files() {
    let ground = Ground::lay().await;
    let captain = ground.settings().open_files(64).start().await;
    ground.started(&captain, "idle").await;
    // More than it can have, and no more than the kernel keeps waiting for it.
    let crowd: Vec<TcpStream> = (0..120).map(|_| TcpStream::connect(captain.address()).unwrap()).collect();
    drop(crowd);
    eventually("an answer after the crowd has gone", Duration::from_secs(10), || async {
        captain.endpoint().try_get("/instances/").await.ok()
    })
    .await;
    captain.node_becomes(&ground.node().name, "healthy").await;
    ground.started(&captain, "idle").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_inspection_hangs_holds_up_no_other() {
    let ground = Ground::lay().await;
    let stuck = {
        let captain = ground.settings().start().await;
        ground.started(&captain, "stuck").await
    };
    let wire = Proxy::to(ground.node().engine_address()).await;
    wire.stall(&format!("/containers/{stuck}/"));
    let by_wire = format!("{}={}", ground.node().name, wire.uri());
    // It has to inspect what it finds.
    let captain = ground.settings().set("DOCKER_NODES", by_wire).set("DOCKER_TIMEOUT", 10).start().await;
    let begin = Instant::now();
    let fine = ground.started(&captain, "fine").await;
    let _ = captain.get(&format!("/instances/{fine}/logs")).await.expect(200);
    let _ = captain.delete(&format!("/instances/{fine}")).await.expect(204);
    assert!(begin.elapsed() < Duration::from_secs(9), "as long as the inspection: {:?}", begin.elapsed());
    let slots = captain.node(&ground.node().name).await["slots"].clone();
    assert_eq!(slots["used"], 2, "what cannot be inspected still takes its slots");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_events_are_cut_is_seen_afterwards() {
    let stage = Wired::up().await;
    let node = stage.node();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stage.started("idle").await);
    }
    for id in &ids[..3] {
        stage.wire.sever();
        node.engine().signal(id, "KILL").await;
        stage.wire.sever();
    }
    for id in &ids[..3] {
        stage.captain.instance_becomes(id, "exited").await;
    }
    settles(node, &[&stage.captain], SOON).await;
    assert_eq!(stage.captain.ids().await, ids[3..]);
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
