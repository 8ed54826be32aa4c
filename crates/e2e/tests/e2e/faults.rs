//! Engines that hang, die, are cut off or talk nonsense: their state says so, and nobody else is slower for it.
//!
//! # The 25 cases of ENGINES.md, C4, and where each is tried
//!
//! *Real* tests run the built binary against dockerds. `sim` is `crates/sim`: the production code over simulated engines, `invariants_hold` and
//! `every_step_may_be_the_last`, where each instant of every run is checked by I1, I3 and I5, and its end by I2 and I4.
//!
//! | case | real | besides |
//! | --- | --- | --- |
//! | 1 create is cut off | `the_answer_to_a_create_is_lost`, `faults_captains::a_start_that_two_captains_are_given_is_carried_out_once` | sim |
//! | 2 start says 500 and runs | `the_answer_to_a_start_is_lost`, `faults_engines::an_engine_that_did_it_and_says_that_it_failed_is_looked_at` | sim |
//! | 3 engine hangs | `a_hung_node_slows_nothing_on_the_others`, `a_start_on_a_hung_node_leaves_nothing_when_it_wakes` | sim; figures: `captain-bench faults` |
//! | 4 engine dies | `resilience::an_engine_that_dies_takes_its_instances_along_and_gives_its_slots_back` | sim |
//! | 5 engine dies, live restore | `faults_engines::instances_outlive_an_engine_that_lets_them_and_are_neither_lost_nor_started_again` | sim |
//! | 6 captain dies in a start | `faults_captains::every_step_of_a_start_may_be_the_last_of_its_captain` | sim, before and after every call |
//! | 7 captain dies in a stop | `faults_captains::every_step_of_a_stop_may_be_the_last_of_its_captain` | sim, likewise |
//! | 8 many captains, one slot | `resilience::four_captains_and_one_free_slot`, `capacity::two_captains_never_overbook_and_still_fill_the_node` | sim: 16 captains, 100 starts at once (1) |
//! | 9 storm | `faults_captains::after_a_storm_of_starts_and_stops_no_slot_is_lost` | sim (1) |
//! | 10 captain is paused | `resilience::a_captain_that_is_paused_in_the_middle_does_not_overbook_when_it_goes_on` | sim, at every step |
//! | 11 events are cut | `resilience::what_happens_while_the_events_are_cut_is_seen_afterwards` | sim |
//! | 12 events are dropped | `faults_engines::a_silent_event_stream_hides_nothing_for_long` | sim |
//! | 13 events doubled, out of order | – (2) | sim; `fleet::tests` |
//! | 14 an inspection hangs | `resilience::a_container_whose_inspection_hangs_holds_up_no_other` | sim |
//! | 15 port conflict | `faults_engines::a_start_that_gets_no_port_leaves_nothing_and_the_next_ones_get_one` (3) | sim |
//! | 16 removal fails half way | `faults_engines::a_dead_container_takes_its_slots_until_it_is_gone` | sim |
//! | 17 disk full | `faults_engines::a_node_whose_disk_is_full_says_so_and_keeps_nothing_of_the_start`, `stack::disk_full` | sim |
//! | 18 bad slug origins | `slug_fetching`, `stack` | `crates/server/tests/slugs` |
//! | 19 cut off, and an instance ends inside | `a_cable_that_is_unplugged_and_plugged_in_again` | sim ("stale") |
//! | 20 one captain of two is cut off | `faults_captains::a_captain_that_does_not_see_the_node_starts_nothing_that_the_other_has_room_for` | sim |
//! | 21 clocks jump | – (4) | sim: captains' clocks jump by hours, engines' are off by up to one |
//! | 22 flood of output | `logs::a_client_that_does_not_read_costs_no_memory_and_holds_nobody_up` | |
//! | 23 out of memory, out of files | `instances::an_instance_that_takes_too_much_memory_says_so`, `resilience::more_connections_than_files` | |
//! | 24 poison | `adoption::labels_that_cannot_be_read_are_told_and_trip_nobody_up`, `adoption::containers_of_others_are_neither_shown_nor_touched_nor_trip_captain_up`, `faults_engines::what_others_do_to_instances_is_seen` | sim |
//! | 25 versions beside each other | `faults_engines::containers_of_earlier_and_later_versions_are_managed` (5) | `domain::label` |
//!
//! 1. 1,000 starts, 16 captains and a million operations are minutes of a real dockerd, which starts some six containers a second.
//! 2. A dockerd orders its own stream, and doubles nothing. Captain takes events for hints, so there is nothing for it to get wrong.
//! 3. It is not retried elsewhere: a start names its node. The next start on the node gets another port.
//! 4. The machine has one clock, which other tests use; dockerd takes the time from the kernel and not from a library that could be
//!    replaced. Captain's deadlines are tokio's, which are monotonic.
//! 5. There is no released earlier version yet to run; what it wrote on containers is.

use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{lease, lease_on_tcp};
use captain_e2e::fake::{Ailment, FakeEngine};
use captain_e2e::origin::Origin;
use captain_e2e::{eventually, slugs};
use serde_json::json;

use crate::wired::{Wired, settles};
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
    let stage = Stage::set(2, |settings| settings.set("DOCKER_TIMEOUT", 10)).await;
    let (hung, well) = (stage.lease.node(0), stage.lease.node(1));
    let slug = stage.origin.offer("web.tgz", slugs::web("alive"));
    let on_hung = id(&stage.captain.started("web", &hung.name, &slug).await);
    let on_well = id(&stage.captain.started("web", &well.name, &slug).await);

    hung.hang();
    reads_are_prompt(&stage.captain, &on_hung).await; // at once, before anybody has noticed
    let begin = Instant::now();
    let third = id(&stage.captain.started("web", &well.name, &slug).await);
    let mut logs = stage.captain.stream(&format!("/instances/{third}/logs?follow=1")).await;
    logs.until("listening", Duration::from_secs(20)).await; // before that it would not heed SIGTERM
    let _ = stage.captain.get(&format!("/instances/{on_well}/logs")).await.expect(200);
    // Less than the deadline of a call: none waited for the node that hangs.
    assert!(begin.elapsed() < Duration::from_secs(9), "a start and logs on a healthy node took {:?}", begin.elapsed());
    let begin = Instant::now();
    let _ = stage.captain.delete(&format!("/instances/{third}")).await.expect(204);
    assert!(begin.elapsed() < Duration::from_secs(9), "a stop on a healthy node took {:?}", begin.elapsed());

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

/// C4, 1 and 2: the engine did it, and the answer was lost.
async fn an_answer_is_lost(method: &str, path: &str) {
    let stage = Wired::set(|settings| settings.set("DOCKER_TIMEOUT", 5)).await;
    stage.started("warm").await;
    stage.wire.lose_answers(method, path, 1);
    let answer = stage.captain.start(stage.ground.order("wanted")).await;
    assert_eq!(stage.wire.answers_to_lose(), 0, "no {method} …{path} was made, so this shows nothing");
    assert!([201, 502, 503, 504].contains(&answer.status.as_u16()), "{}", answer.text());
    let there = settles(stage.node(), &[&stage.captain], Duration::from_secs(30)).await;
    assert_eq!(there.len(), if answer.status == 201 { 2 } else { 1 });
    assert!(there.iter().all(|container| container["State"] == "running"), "{there:?}");
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
    let stage = Wired::up().await;
    for (method, path) in [("POST", "/stop"), ("DELETE", "/containers/")] {
        let id = stage.started("idle").await;
        stage.wire.lose_answers(method, path, 1);
        let answer = stage.captain.delete(&format!("/instances/{id}")).await;
        if answer.status != 204 {
            assert!([502, 503, 504].contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text());
            let again = stage.captain.delete(&format!("/instances/{id}")).await;
            assert!([204, 404].contains(&again.status.as_u16()), "{method} {path}: {}", again.text());
        }
        assert!(!stage.node().engine().has(&id).await, "{method} {path}");
        settles(stage.node(), &[&stage.captain], Duration::from_secs(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wire_makes_reads_no_slower() {
    let stage = Wired::up().await;
    stage.wire.delay(Duration::from_millis(300));
    let id = stage.started("idle").await;
    let begin = Instant::now();
    for _ in 0..20 {
        let _ = stage.captain.get(&format!("/instances/{id}")).await.expect(200);
    }
    assert!(begin.elapsed() < PROMPT, "20 reads took {:?}", begin.elapsed());
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
}
