//! Engines that keep what they run, run out of disk or ports, or are used by others behind Captain's back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::engine::Engine;
use captain_e2e::{eventually, slugs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::wired::{Wired, settles};
use crate::{Stage, assert_error, id};

const SOON: Duration = Duration::from_secs(30);

/// Counts up in its output.
const COUNTING: &str = "trap 'exit 0' TERM\ni=0\nwhile :; do i=$((i+1)); echo number $i; sleep 0.2 & wait $!; done\n";

async fn numbers(stage: &Stage, id: &str) -> Vec<u32> {
    let log = stage.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text();
    log.split("number ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

/// C4, 5.
#[tokio::test(flavor = "multi_thread")]
async fn instances_outlive_an_engine_that_lets_them_and_are_neither_lost_nor_started_again() {
    let stage = Stage::with(1).await;
    let node = stage.node();
    node.live_restore(true);
    stage.captain.node_becomes(&node.name, "healthy").await;
    let slug = stage.origin.offer("counting.tgz", slugs::script(COUNTING));
    let second = Settings::of(&stage.lease).start().await;
    let survivor = stage.captain.started("survivor", &node.name, &slug).await;
    let casualty = id(&stage.captain.started("casualty", &node.name, &slug).await);
    let pid = node.engine().inspect(&casualty).await["State"]["Pid"].as_i64().unwrap();
    node.kill();
    stage.captain.node_becomes(&node.name, "un").await;
    // One goes on without its engine, one ends.
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    node.restart();
    for captain in [&stage.captain, &second] {
        captain.node_becomes(&node.name, "healthy").await;
        captain.instance_becomes(&casualty, "exited").await;
        let there = captain.instance(&id(&survivor)).await;
        for field in ["id", "state", "port", "started", "slots", "environment"] {
            assert_eq!(there[field], survivor[field], "{field}: {there}");
        }
    }
    assert_eq!(settles(node, &[&stage.captain, &second], SOON).await.len(), 2, "nothing was started anew");
    let before = numbers(&stage, &id(&survivor)).await.len();
    eventually("its output to go on", SOON, || async {
        let numbers = numbers(&stage, &id(&survivor)).await;
        assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "a gap: {numbers:?}");
        (numbers.len() > before).then_some(())
    })
    .await;
    let _ = second.delete(&format!("/instances/{}", id(&survivor))).await.expect(204);
}

/// A small disk in the place of a folder, until this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(folder: PathBuf) -> Self {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&folder).status().unwrap();
        assert!(mounted.success());
        Self(folder)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    fn fill(&self) {
        let mut size = 8 << 20;
        while size > 0 {
            use std::io::Write as _;
            let mut file = std::fs::File::options().append(true).create(true).open(self.ballast()).unwrap();
            if file.write_all(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// C4, 17, where the engine keeps its containers. (Slugs that do not fit: `stack::disk_full`.)
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_says_so_and_keeps_nothing_of_the_start() {
    let stage = Stage::with(1).await;
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let disk = SmallDisk::at(node.data_root().join("containers"));
    let before = id(&stage.captain.started("before", &node.name, &slug).await);
    disk.fill();
    for _ in 0..3 {
        let body = json!({"app": "demo", "node": node.name, "slug_uri": slug});
        let message = assert_error(&stage.captain.start(body).await, 507, "node_out_of_space");
        assert!(message.contains(&node.name), "{message}");
    }
    let there = settles(node, &[&stage.captain], SOON).await;
    assert_eq!(there.len(), 1, "nothing of a start is left: {there:?}");
    // What runs can be stopped: that is how room is made.
    let _ = stage.captain.delete(&format!("/instances/{before}")).await.expect(204);
    disk.empty();
    stage.captain.started("after", &node.name, &slug).await;
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 1);
    node.engine().clear().await;
    eventually("an empty disk", SOON, || async { node.engine().containers().await.is_empty().then_some(()) }).await;
}

/// C4, 15: the engine chooses ports one after another, and somebody listens on the next forty.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_gets_no_port_leaves_nothing_and_the_next_ones_get_one() {
    let stage = Stage::with(1).await;
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let first = stage.captain.started("demo", &node.name, &slug).await["port"].as_u64().unwrap() as u16;
    let taken = node.occupy(first + 1..=first + 40);
    assert!(taken.len() > 30, "only {} ports could be taken", taken.len());
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug});
    let message = assert_error(&stage.captain.start(body.clone()).await, 502, "engine_error");
    assert!(message.contains(&node.name) && message.contains("port") || message.contains("address"), "{message}");
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 1, "no created container is left");
    drop(taken);
    let _ = stage.captain.start(body).await.expect(201);
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 2);
}

/// A file that nobody can remove, until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: PathBuf) -> Self {
        chattr("+i", &path);
        Self(path)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(flag: &str, path: &Path) {
    assert!(Command::new("chattr").arg(flag).arg(path).status().unwrap().success(), "chattr {flag} {}", path.display());
}

/// C4, 16: a removal that fails half way leaves a dead container. It takes its slots until the engine has nothing of it any more;
/// the collector tries again by itself, after a grace of 14 s and every 10 s from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_container_takes_its_slots_until_it_is_gone() {
    let stage = Stage::set(1, |settings| settings.set("DOCKER_TIMEOUT", 2)).await;
    let node = stage.node();
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let dead = id(&stage.captain.started("demo", &node.name, &slug).await);
    let stuck = Immutable::new(node.data_root().join("containers").join(&dead).join("hostname"));
    let removal = node.engine().call("DELETE", &format!("/containers/{dead}?force=1"), Value::Null).await;
    assert_eq!(removal.status, 500, "{}", removal.text());
    // Docker 20.10 goes on to list it as being removed, and says only when it is inspected that it is dead.
    eventually("the failed removal to be shown", SOON, || async {
        let state = stage.captain.instance(&dead).await["state"].clone();
        (state == "removing" || state == "dead").then_some(())
    })
    .await;
    assert_eq!(stage.captain.node(&node.name).await["slots"]["used"], 2);
    drop(stuck);
    eventually("the collector to have removed it", 2 * SOON, || async {
        (!node.engine().has(&dead).await).then_some(())
    })
    .await;
    assert!(settles(node, &[&stage.captain], SOON).await.is_empty());
}

async fn does(engine: &Engine, id: &str, verb: &str) {
    let answer = engine.call("POST", &format!("/containers/{id}/{verb}"), Value::Null).await;
    assert!(answer.status.is_success(), "{verb}: {}", answer.text());
}

/// What an operator does with Docker's own tools is seen, and confuses nobody.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_instances_is_seen() {
    let stage = Stage::with(1).await;
    let (node, engine) = (stage.node(), stage.node().engine());
    let second = Settings::of(&stage.lease).start().await;
    let captains = [&stage.captain, &second];
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let mut instances = Vec::new();
    for app in ["paused", "renamed", "restarted", "removed"] {
        instances.push(id(&stage.captain.started(app, &node.name, &slug).await));
    }
    let [paused, renamed, restarted, removed] = &instances[..] else { unreachable!("four were started") };
    let port = stage.captain.instance(restarted).await["port"].clone();
    does(&engine, paused, "pause").await;
    does(&engine, renamed, "rename?name=somebody-elses-name").await;
    does(&engine, restarted, "restart?t=0").await;
    engine.remove(removed).await;
    for captain in captains {
        captain.instance_becomes(paused, "paused").await;
        eventually("the other port", SOON, || async {
            let bindings = engine.inspect(restarted).await["NetworkSettings"]["Ports"]["8080/tcp"].clone();
            let now: u16 = bindings[0]["HostPort"].as_str()?.parse().ok()?;
            assert_ne!(port, now, "the engine has given the same port again, so this shows nothing");
            (captain.instance(restarted).await["port"] == now).then_some(())
        })
        .await;
    }
    assert_eq!(settles(node, &captains, SOON).await.len(), 3);
    assert_error(&second.get(&format!("/instances/{removed}")).await, 404, "no_such_instance");
    for instance in [paused, renamed, restarted] {
        let _ = second.delete(&format!("/instances/{instance}")).await.expect(204);
    }
    assert!(settles(node, &captains, SOON).await.is_empty());
}

/// C2, 7: the name is somebody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_has_taken_fails_the_start_and_is_left_to_him() {
    const OPERATION: &str = "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c22";
    let stage = Stage::with(1).await;
    let (node, engine) = (stage.node(), stage.node().engine());
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let first = id(&stage.captain.started("demo", &node.name, &slug).await);
    let image = engine.inspect(&first).await["Config"]["Image"].clone();
    let container = json!({"Image": image, "Entrypoint": ["sleep"], "Cmd": ["1000"]});
    let theirs = engine.run(&format!("demo_{OPERATION}"), container).await;
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug});
    let answer = stage.captain.start_as(OPERATION, body.clone()).await;
    assert!(answer.status.is_client_error() || answer.status == 502, "{}", answer.text());
    assert!(answer.json()["message"].as_str().unwrap().contains(&node.name), "{}", answer.text());
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 2);
    assert!(engine.running().await.contains(&theirs));
    engine.remove(&theirs).await;
    let _ = stage.captain.start_as(OPERATION, body).await.expect(201);
}

/// C4, 25: containers of an earlier Captain, without attempts, and of a later one, with labels that nobody knows yet. Both count, both can
/// be stopped, and what is not known is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn containers_of_earlier_and_later_versions_are_managed() {
    let stage = Stage::set(1, |settings| settings.set("SLOTS_PER_NODE", 6)).await;
    let (node, engine) = (stage.node(), stage.node().engine());
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let own = id(&stage.captain.started("demo", &node.name, &slug).await);
    let of_own = engine.inspect(&own).await;
    assert!(of_own["Config"]["Labels"]["captain.attempt"].is_string(), "{}", of_own["Config"]["Labels"]);
    let mut versions = Vec::new();
    for (name, attempt) in [("earlier", Value::Null), ("later", json!("v2:0123"))] {
        let mut configuration = of_own["Config"].clone();
        configuration["Hostname"] = json!("");
        let labels = &mut configuration["Labels"];
        labels["captain.app"] = json!(name);
        labels["captain.operation"] = json!(format!("0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c{:02x}", name.len()));
        labels.as_object_mut().unwrap().remove("captain.attempt");
        if !attempt.is_null() {
            labels["captain.attempt"] = attempt;
            labels["captain.of-the-future"] = json!("yes");
        }
        versions.push(engine.run(name, configuration).await);
    }
    settles(node, &[&stage.captain], SOON).await;
    let body = json!({"app": "demo", "node": node.name, "slug_uri": slug});
    assert_error(&stage.captain.start(body).await, 503, "over_capacity");
    for id in &versions {
        let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    }
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 1);
}

/// C4, 2: the engine has done it and says that it failed.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_did_it_and_says_that_it_failed_is_looked_at() {
    let stage = Wired::set(|settings| settings.set("DOCKER_TIMEOUT", 5)).await;
    let node = stage.node();
    stage.started("warm").await;
    for (number, (method, path)) in [("POST", "/containers/create"), ("POST", "/start")].into_iter().enumerate() {
        stage.wire.fail_answers(method, path, 1);
        let started = stage.started("wanted").await;
        assert_eq!(stage.wire.answers_to_fail(), 0, "no {method} …{path} was made, so this shows nothing");
        assert!(node.engine().running().await.contains(&started));
        assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 2 + number);
    }
    let id = stage.started("stopped").await;
    stage.wire.fail_answers("DELETE", "/containers/", 1);
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    assert!(!node.engine().has(&id).await);
    assert_eq!(settles(node, &[&stage.captain], SOON).await.len(), 3);
}

/// C4, 12: the stream of events is open, and says nothing any more. The next listing tells; it comes every 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_event_stream_hides_nothing_for_long() {
    let stage = Wired::up().await;
    let node = stage.node();
    let ended = stage.started("ended").await;
    let restarted = stage.started("restarted").await;
    stage.wire.hush("/events");
    stage.wire.sever();
    stage.captain.node_becomes(&node.name, "un").await;
    stage.captain.node_becomes(&node.name, "healthy").await;
    node.engine().signal(&ended, "KILL").await;
    does(&node.engine(), &restarted, "restart?t=0").await;
    settles(node, &[&stage.captain], Duration::from_secs(60)).await;
    let bindings = node.engine().inspect(&restarted).await["NetworkSettings"]["Ports"]["8080/tcp"].clone();
    let now: u16 = bindings[0]["HostPort"].as_str().unwrap().parse().unwrap();
    eventually("the other port", Duration::from_secs(60), || async {
        (stage.captain.instance(&restarted).await["port"] == now).then_some(())
    })
    .await;
}
