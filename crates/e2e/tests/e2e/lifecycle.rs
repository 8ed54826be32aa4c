//! Stopping, being stopped, and being started again: of instances and of captains.

use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::lease;
use captain_e2e::origin::{Manner, Origin};
use captain_e2e::{eventually, slugs};
use serde_json::json;

use crate::{Stage, assert_error, id};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_sigterm_and_removes() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("web.tgz", slugs::web("here"));
    let instance = stage.captain.started("web", &stage.node().name, &slug).await;
    let id = id(&instance);
    let mut logs = stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
    logs.until("listening", Duration::from_secs(10)).await;

    let answer = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    assert!(answer.body.is_empty());
    assert!(!stage.node().engine().has(&id).await, "204 came before the container was gone");
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["used"], 0);
    assert!(stage.captain.ids().await.is_empty());
    assert_error(&stage.captain.get(&format!("/instances/{id}")).await, 404, "no_such_instance");
    assert_error(&stage.captain.delete(&format!("/instances/{id}")).await, 404, "no_such_instance");
    let all = logs.end(Duration::from_secs(10)).await;
    assert!(all.contains("ended by SIGTERM"), "{all}");
}

/// Starts an app that ignores SIGTERM, and waits until it does.
async fn deaf(captain: &Captain, node: &str, slug: &str) -> String {
    let id = id(&captain.started("deaf", node, slug).await);
    let mut logs = captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
    logs.until("deaf", Duration::from_secs(10)).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_ignores_sigterm_has_its_grace_whatever_the_timeout() {
    let stage = Stage::set(1, |settings| settings.set("DOCKER_TIMEOUT", 2)).await;
    let slug = stage.origin.offer("deaf.tgz", slugs::script(slugs::DEAF));
    let id = deaf(&stage.captain, &stage.node().name, &slug).await;
    let begin = Instant::now();
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    let took = begin.elapsed();
    assert!((9..20).contains(&took.as_secs()), "SIGTERM, 10 s of grace, SIGKILL took {took:?}");
    assert!(!stage.node().engine().has(&id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_stop_the_same_instance_all_hear_204() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let path = format!("/instances/{}", id(&stage.captain.started("idle", &stage.node().name, &slug).await));
    let stop = || stage.captain.delete(&path);
    let (a, b, c, d) = tokio::join!(stop(), stop(), stop(), stop());
    assert_eq!([a, b, c, d].map(|answer| answer.status.as_u16()), [204; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_runs_to_its_end_although_the_client_hangs_up() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("deaf.tgz", slugs::script(slugs::DEAF));
    let id = deaf(&stage.captain, &stage.node().name, &slug).await;
    let path = format!("/instances/{id}");
    let hung_up = tokio::time::timeout(Duration::from_millis(500), stage.captain.delete(&path)).await;
    assert!(hung_up.is_err(), "the stop was to take its 10 s");
    let engine = stage.node().engine();
    eventually("the container to go", Duration::from_secs(25), || async { (!engine.has(&id).await).then_some(()) })
        .await;
    eventually("its slots to be free", Duration::from_secs(20), || async {
        (stage.captain.node(&stage.node().name).await["slots"]["used"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_runs_to_its_end_although_the_client_hangs_up() {
    let stage = Stage::with(1).await;
    stage.node().engine().remove_image(&format!("{}:0.0.0", stage.lease.runner_image())).await; // so that the start takes its time
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let body = json!({"app": "idle", "node": stage.node().name, "slug_uri": slug});
    let hung_up = tokio::time::timeout(Duration::from_millis(20), stage.captain.start(body)).await;
    if let Ok(answer) = hung_up {
        let _ = answer.expect(201); // a fast machine; then there is nothing to hang up on, and the rest holds too
    }
    let ids = eventually("the instance", Duration::from_secs(20), || async {
        Some(stage.captain.ids().await).filter(|ids| ids.len() == 1)
    })
    .await;
    assert_eq!(stage.node().engine().running().await, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_stopped_by_other_means_is_seen_to_have_ended() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let first = id(&stage.captain.started("idle", &stage.node().name, &slug).await);
    let second = id(&stage.captain.started("idle", &stage.node().name, &slug).await);
    stage.node().engine().signal(&first, "KILL").await;
    let ended = stage.captain.instance_becomes(&first, "exited").await;
    assert_eq!(ended["exit"]["code"], 137, "{ended}");
    stage.node().engine().remove(&second).await;
    eventually("the removed one to go", Duration::from_secs(10), || async {
        (stage.captain.get(&format!("/instances/{second}")).await.status == 404).then_some(())
    })
    .await;
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["used"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_asked_to_stop_itself_sends_the_client_elsewhere() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let first = Settings::of(&lease).start().await;
    let own = id(&first.started("captain", &node.name, &slug).await);

    let captain = Settings::of(&lease).hostname(&own[..12]).start().await;
    let path = format!("/instances/{own}");
    let plain = captain.delete(&path).await.expect(307);
    assert_eq!(plain.header("location"), format!("{}{path}", captain.url()));
    let headers =
        [("host", "captain.example"), ("x-forwarded-host", "front.example:8443"), ("x-forwarded-proto", "https")];
    let forwarded = captain.endpoint().send("DELETE", &path, &headers, "").await.expect(307);
    assert_eq!(forwarded.header("location"), format!("https://front.example:8443{path}"));
    let host = captain.endpoint().send("DELETE", &path, &[("host", "captain.example")], "").await.expect(307);
    assert_eq!(host.header("location"), format!("http://captain.example{path}"));
    assert!(node.engine().has(&own).await, "it was stopped nevertheless");
    // The other captain, which the load balancer hands the retry to, does it.
    let _ = first.delete(&path).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_starts_anew_sees_the_same_fleet() {
    let lease = lease(2).await;
    let origin = Origin::start(&lease).await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let captain = Settings::of(&lease).start().await;
    for number in 0..4 {
        captain.started(&format!("app_{number}"), &lease.node(number % 2).name, &slug).await;
    }
    let (before, nodes) = (captain.get("/instances/").await.json(), captain.get("/nodes/").await.json());
    captain.crash();
    for node in lease.nodes() {
        assert_eq!(node.engine().running().await.len(), 2, "nothing that runs is touched");
    }

    let captain = Settings::of(&lease).start().await;
    // A node is called healthy after two seconds at the latest, whatever of it has been inspected by then.
    eventually("the same instances", Duration::from_secs(20), || async {
        (captain.get("/instances/").await.json() == before).then_some(())
    })
    .await;
    let slots = |nodes: serde_json::Value| {
        nodes.as_array().unwrap().iter().map(|node| node["slots"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(slots(captain.get("/nodes/").await.json()), slots(nodes));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_captains_see_what_the_other_does() {
    let stage = Stage::with(1).await;
    let second = Settings::of(&stage.lease).start().await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let instance = stage.captain.started("idle", &stage.node().name, &slug).await;
    let id = id(&instance);
    // A listing tells of it before an inspection tells all.
    eventually("the other to see it as it is", Duration::from_secs(20), || async {
        let seen = second.get(&format!("/instances/{id}")).await;
        (seen.status == 200 && seen.json() == instance).then_some(())
    })
    .await;
    let _ = second.delete(&format!("/instances/{id}")).await.expect(204);
    eventually("the first to see it go", Duration::from_secs(20), || async {
        stage.captain.ids().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_start_and_a_stop_in_flight_finish() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    let deaf = origin.offer("deaf.tgz", slugs::script(slugs::DEAF));
    let idle = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let captain = Settings::of(&lease).start().await;
    let old = self::deaf(&captain, &node.name, &deaf).await;
    node.engine().remove_image(&format!("{}:1.2.3", lease.runner_image())).await;

    let endpoint = captain.endpoint();
    let stop_endpoint = endpoint.clone();
    let path = format!("/instances/{old}");
    let stopping = tokio::spawn(async move { stop_endpoint.send("DELETE", &path, &[], "").await });
    let body = json!({"app": "late", "node": node.name, "slug_uri": idle, "slug_runner_version": "1.2.3"}).to_string();
    let starting = tokio::spawn(async move {
        endpoint.send("POST", "/instances/", &[("content-type", "application/json")], body).await
    });
    // The start is in flight once its slots are taken.
    eventually("the start to be in flight", Duration::from_secs(20), || async {
        (captain.node(&node.name).await["slots"]["used"] == 4).then_some(())
    })
    .await;

    let (status, logs) = captain.end();
    assert_eq!(status.code(), Some(0), "{logs}");
    let _ = stopping.await.unwrap().expect(204);
    let started = starting.await.unwrap().expect(201).json();
    assert_eq!(node.engine().running().await, [id(&started)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_takes_long_to_fetch_does_not_hold_up_the_answer() {
    let stage = Stage::with(1).await;
    let slow = Manner::Slowly(Duration::from_millis(200));
    let slug = stage.origin.offer_badly("slow.tgz", slugs::script(slugs::IDLE).ballast("ballast", 20_000), slow);
    let begin = Instant::now();
    let instance = stage.captain.started("slow", &stage.node().name, &slug).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "in runner-image mode the runner fetches: {:?}", begin.elapsed());
    assert_eq!(instance["state"], "running");
}
