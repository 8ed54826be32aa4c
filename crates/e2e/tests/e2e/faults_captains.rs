//! Captains that die between two steps, and several that are given the same start. Of a dead captain another one cleans up.

use std::time::Duration;

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::eventually;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::wired::{Ground, Watch, settles};
use crate::{assert_error, id};

/// A step of a captain: an engine call that it has sent, or whose answer it waits for.
struct Step {
    /// A call that must have been made before, so that it is this step of the action and not one of the watcher's.
    after: &'static str,
    matches: fn(&str) -> bool,
}

fn is_inspection(line: &str) -> bool {
    line.starts_with("GET ") && line.ends_with("/json")
}

const START: [Step; 4] = [
    Step { after: "", matches: |line| line.contains("/containers/create") },
    Step { after: "/containers/create", matches: |line| line.contains("/containers/json?") },
    Step { after: "", matches: |line| line.ends_with("/start") },
    Step { after: "/start", matches: is_inspection },
];

const STOP: [Step; 3] = [
    Step { after: "", matches: |line| line.contains("/stop?") },
    Step { after: "", matches: |line| line.starts_with("DELETE ") },
    Step { after: "DELETE ", matches: is_inspection },
];

fn operation(number: u32) -> String {
    format!("0b8c2d0e-7d3c-4a53-9d6f-{number:012x}")
}

/// Lets a captain come to a step of what it is asked for, and kills it there. `delivered`: when the engine has done it.
async fn dies_at(ground: &Ground, step: &Step, delivered: bool, ask: impl FnOnce(&Captain) -> JoinHandle<()>) {
    let (captain, wire) = ground.at_a_wire(few_slots).await;
    wire.hold(delivered, step.matches);
    let asking = ask(&captain);
    eventually("the captain to come to the step", Duration::from_secs(30), || async {
        let requests = wire.requests();
        (wire.held() > 0 && requests.iter().any(|request| request.contains(step.after))).then_some(())
    })
    .await;
    captain.crash();
    assert!(asking.await.is_err(), "nobody is there to answer");
}

fn few_slots(settings: Settings) -> Settings {
    settings.set("SLOTS_PER_NODE", 20).set("DEFAULT_SLOTS_PER_INSTANCE", 1).set("DOCKER_TIMEOUT", 2)
}

/// C4, 6. What the dead leave is swept after a grace of 14 s and the next pass of the collector: for all of them at once.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_start_may_be_the_last_of_its_captain() {
    let ground = Ground::lay().await;
    let node = ground.node();
    let body = ground.order("demo");
    let watch = Watch::over(node);
    let steps: Vec<(&Step, bool)> = START.iter().flat_map(|step| [(step, false), (step, true)]).collect();
    let operations: Vec<String> = (0..steps.len() as u32).map(operation).collect();
    for ((step, delivered), operation) in steps.iter().zip(&operations) {
        dies_at(&ground, step, *delivered, |captain| {
            let (endpoint, body, operation) = (captain.endpoint(), body.to_string(), operation.clone());
            tokio::spawn(async move {
                let headers = [("content-type", "application/json"), ("captain-operation", operation.as_str())];
                let _ = endpoint.send("POST", "/instances/", &headers, body).await;
            })
        })
        .await;
    }
    let heir = few_slots(ground.settings()).start().await;
    for operation in &operations {
        // The client that was not answered asks the other captain.
        eventually("an instance of the operation", Duration::from_secs(60), || async {
            let answer = heir.start_as(operation, body.clone()).await;
            if answer.status == 201 {
                return Some(());
            }
            assert_eq!(answer.status, 409, "{}", answer.text());
            (answer.json()["code"] == "operation_done").then_some(())
        })
        .await;
    }
    let mut there: Vec<String> = settles(node, &[&heir], Duration::from_secs(60))
        .await
        .iter()
        .map(|container| {
            assert_eq!(container["State"], "running", "{container}");
            container["Labels"]["captain.operation"].as_str().unwrap().to_owned()
        })
        .collect();
    there.sort();
    assert_eq!(there, operations, "each start has come to one instance");
    assert_eq!(watch.most().await, operations.len() as u64);
}

/// C4, 7.
#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_stop_may_be_the_last_of_its_captain() {
    let ground = Ground::lay().await;
    let node = ground.node();
    let heir = few_slots(ground.settings()).start().await;
    for (step, delivered) in STOP.iter().flat_map(|step| [(step, false), (step, true)]) {
        let id = ground.started(&heir, "demo").await;
        dies_at(&ground, step, delivered, |captain| {
            let (endpoint, path) = (captain.endpoint(), format!("/instances/{id}"));
            tokio::spawn(async move {
                let _ = endpoint.send("DELETE", &path, &[], "").await;
            })
        })
        .await;
        let answer = heir.delete(&format!("/instances/{id}")).await;
        assert!([204, 404].contains(&answer.status.as_u16()), "{}", answer.text());
        assert!(settles(node, &[&heir], Duration::from_secs(20)).await.is_empty());
    }
}

/// Gives a start to both captains at the same time, and again, turn by turn, until it is carried out.
async fn insist(captains: [&Captain; 2], operation: &str, bodies: [Value; 2]) {
    let mut first = JoinSet::new();
    for (captain, body) in captains.into_iter().zip(&bodies) {
        let (endpoint, body, operation) = (captain.endpoint(), body.to_string(), operation.to_owned());
        first.spawn(async move {
            let headers = [("content-type", "application/json"), ("captain-operation", operation.as_str())];
            endpoint.send("POST", "/instances/", &headers, body).await
        });
    }
    let answers = first.join_all().await;
    for answer in &answers {
        assert!([201, 409, 502, 503, 504].contains(&answer.status.as_u16()), "{}", answer.text());
    }
    if answers.iter().any(|answer| answer.status == 201) {
        return;
    }
    eventually("the start to be carried out", Duration::from_secs(60), || async {
        for (captain, body) in captains.into_iter().zip(&bodies) {
            let answer = captain.start_as(operation, body.clone()).await;
            if answer.status == 201 || answer.json()["code"] == "operation_done" {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// C4, 1 and I3: a client is not answered and asks another captain while the first is still at it, and answers of the engine get lost
/// on both sides. The engine refuses a second container of the same name; where the apps differ and the names with them, the
/// captains' own rule is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_two_captains_are_given_is_carried_out_once() {
    let ground = Ground::lay().await;
    let node = ground.node();
    let (one, first_wire) = ground.at_a_wire(few_slots).await;
    let (two, second_wire) = ground.at_a_wire(few_slots).await;
    let watch = Watch::over(node);
    let bodies = |apps: [&str; 2]| apps.map(|app| ground.order(app));
    let mut number = 100;
    for apps in [["demo", "demo"], ["demo", "other"]] {
        for (method, path) in
            [("POST", "/containers/create"), ("GET", "/containers/json?"), ("POST", "/start"), ("-", "-")]
        {
            number += 1;
            first_wire.lose_answers(method, path, 1);
            second_wire.lose_answers(method, path, 1);
            insist([&one, &two], &operation(number), bodies(apps)).await;
            let there = settles(node, &[&one, &two], Duration::from_secs(60)).await;
            assert_eq!(there.len(), 1, "{method} {path}: {there:?}");
            assert_eq!(there[0]["Labels"]["captain.operation"], operation(number));
            let again = two.start_as(&operation(number), bodies(apps)[1].clone()).await;
            assert_error(&again, 409, "operation_done");
            let _ = one.delete(&format!("/instances/{}", there[0]["Id"].as_str().unwrap())).await.expect(204);
            settles(node, &[&one, &two], Duration::from_secs(20)).await;
        }
    }
    assert_eq!(watch.most().await, 1, "never two at once");
}

/// C4, 9: a storm through two captains; then the sum is right, and the node can be filled to its last slot.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_starts_and_stops_no_slot_is_lost() {
    const SLOTS: u64 = 6;
    let ground = Ground::lay().await;
    let node = ground.node();
    let settings = few_slots(ground.settings()).set("SLOTS_PER_NODE", SLOTS);
    let (one, two) = (settings.clone().start().await, settings.start().await);
    let watch = Watch::over(node);
    let mut clients = JoinSet::new();
    for client in 0..6_u64 {
        let (mine, others) = if client % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let (mine, others) = (mine.endpoint(), others.endpoint());
        let mut body = ground.order("demo");
        body["slots"] = json!(1 + client % 3);
        let body = body.to_string();
        clients.spawn(async move {
            for _ in 0..6 {
                let headers = [("content-type", "application/json")];
                let answer = mine.send("POST", "/instances/", &headers, body.clone()).await;
                if answer.status != 201 {
                    assert_error(&answer, 503, "over_capacity");
                    continue;
                }
                let path = format!("/instances/{}", id(&answer.json()));
                // The other captain hears of it a moment later.
                eventually("the stop by the other captain", Duration::from_secs(20), || async {
                    (others.send("DELETE", &path, &[], "").await.status == 204).then_some(())
                })
                .await;
            }
        });
    }
    clients.join_all().await;
    assert!(settles(node, &[&one, &two], Duration::from_secs(20)).await.is_empty(), "all were stopped");
    let body = ground.order("fill");
    for captain in [&one, &two].into_iter().cycle().take(SLOTS as usize) {
        let _ = captain.start(body.clone()).await.expect(201);
        settles(node, &[&one, &two], Duration::from_secs(20)).await;
    }
    for captain in [&one, &two] {
        assert_error(&captain.start(body.clone()).await, 503, "over_capacity");
    }
    assert_eq!(watch.most().await, SLOTS);
}

/// C4, 20: what one captain cannot see it does not guess.
#[tokio::test(flavor = "multi_thread")]
async fn a_captain_that_does_not_see_the_node_starts_nothing_that_the_other_has_room_for() {
    let ground = Ground::lay().await;
    let node = ground.node();
    let two_slots = |settings: Settings| few_slots(settings).set("SLOTS_PER_NODE", 2);
    let sighted = two_slots(ground.settings()).start().await;
    let (blind, wire) = ground.at_a_wire(two_slots).await;
    let watch = Watch::over(node);
    let first = ground.started(&blind, "demo").await;
    wire.hold(false, |_| true);
    wire.sever();
    blind.node_becomes(&node.name, "un").await;
    assert_eq!(blind.instance(&first).await["state"], "unknown", "it runs, but who knows");
    let body = ground.order("demo");
    assert_error(&blind.start(body.clone()).await, 503, "node_unavailable");
    // The node fills up meanwhile.
    ground.started(&sighted, "demo").await;
    wire.release();
    wire.sever();
    blind.node_becomes(&node.name, "healthy").await;
    assert_error(&blind.start(body).await, 503, "over_capacity");
    assert_eq!(settles(node, &[&sighted, &blind], Duration::from_secs(20)).await.len(), 2);
    assert_eq!(watch.most().await, 2);
}
