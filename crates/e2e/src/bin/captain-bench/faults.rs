//! What breaks, and how little it is felt: a hung engine among others, and a server that is killed and started again.

use std::time::{Duration, Instant};

use bytes::Bytes;
use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, lease_on_tcp};
use captain_e2e::figures::{Report, Series};
use captain_e2e::origin::Origin;
use captain_e2e::process;
use captain_e2e::{eventually, slugs};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::stage::order;
use crate::wire::{Wire, text};

/// Rounds of three parts: with all engines well, the same again, and with a hung engine; which is first changes.
const ROUNDS: usize = 8;
const WELL: usize = 0;
const AGAIN: usize = 1;
const HUNG: usize = 2;
/// Of each part, and on each of the two engines that are well.
const STARTS: usize = 20;
const READS: usize = 2_000;
/// Beside what it was.
const FELT: f64 = 1.10;

/// Instances of the server that is killed.
const INSTANCES: usize = 300;
const DEATHS: usize = 10;
/// Seconds from the start of the process until everything is there again.
const RECOVERY: f64 = 1.0;

const NODES: usize = 3;

/// Milliseconds of what was done again and again.
#[derive(Debug, Default)]
struct Times {
    starts: Vec<f64>,
    reads: Vec<f64>,
}

fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

fn p99(times: &[f64]) -> f64 {
    percentile(times, 99)
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

pub(crate) async fn hung(report: &mut Report) {
    report.section("faults: POST and GET on two engines while a third one hangs, over the same with all well");
    let lease = lease_on_tcp(NODES).await;
    let origin = Origin::start(&lease).await;
    let slug = origin.offer("bench.tgz", slugs::script(slugs::IDLE));
    let captain = Settings::of(&lease).start().await;
    // Something to read, and the image on every node.
    for node in lease.nodes() {
        let _ = captain.post("/instances/", order(node, &slug).to_string()).await.expect(201);
    }
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut now = [Times::default(), Times::default(), Times::default()];
        for turn in 0..now.len() {
            let part = (round + turn) % now.len();
            if part == HUNG {
                lease.node(2).hang();
            }
            measure(&captain, &lease, &slug, &mut now[part]).await;
            if part == HUNG {
                lease.node(2).wake();
                captain.node_becomes(&lease.node(2).name, "healthy").await;
            }
        }
        rounds.push(now);
    }
    judge(report, "POST", &rounds, |times| &times.starts);
    judge(report, "GET", &rounds, |times| &times.reads);
}

/// The bound, for the rounds' 99th percentiles one beside another (of starts, that is the slowest of a part), and how much of what is seen
/// is noise: the same of two parts with nothing hung, and of all rounds together what comes of it when the times are dealt out at random.
fn judge(report: &mut Report, name: &str, rounds: &[[Times; 3]], of: fn(&Times) -> &Vec<f64>) {
    let p99_of = |part: usize| rounds.iter().map(|round| p99(of(&round[part]))).collect::<Series>();
    let (with, without) = (p99_of(HUNG), p99_of(WELL).midpoint(&p99_of(AGAIN)));
    let ratio = with.over(&without);
    let shown = format!("{}: {} ms over {} ms", ratio.shown(2), with.shown(2), without.shown(2));
    report.at_most(&format!("p99 of {name} while one of three engines hangs"), ratio.median(), FELT, shown);
    report.note("  control: the same with nothing hung in either", p99_of(AGAIN).over(&p99_of(WELL)).shown(2));
    let all = |part: usize| rounds.iter().flat_map(|round| of(&round[part]).iter().copied()).collect::<Vec<_>>();
    let (hung, well) = (all(HUNG), [all(WELL), all(AGAIN)].concat());
    let together = [50, 90, 99].map(|percent| percentile(&hung, percent) / percentile(&well, percent));
    let [half, most, nearly_all] = together.map(|ratio| format!("{ratio:.3}"));
    report.note(
        "  of all rounds together, p50, p90, p99",
        format!("{half}, {most}, {nearly_all}; {} and {} times", hung.len(), well.len()),
    );
    let chance = by_chance(&hung, &well);
    report.note("  such a p99 by chance alone, 95 of 100 times, up to", format!("{chance:.3}"));
}

/// The ratio of the 99th percentiles that 5 of 100 deals of the same times exceed, if it does not matter which is which.
fn by_chance(some: &[f64], others: &[f64]) -> f64 {
    let (mut times, mut seed) = ([some, others].concat(), 0x9e37_79b9_7f4a_7c15_u64);
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let deal = |_| {
        for at in (1..times.len()).rev() {
            times.swap(at, below(at + 1));
        }
        p99(&times[..some.len()]) / p99(&times[some.len()..])
    };
    let ratios: Vec<f64> = (0..1_000).map(deal).collect();
    percentile(&ratios, 95)
}

/// Starts on two nodes at the same time, then reads, each over a connection that is kept; then all that was started is stopped.
async fn measure(captain: &Captain, lease: &Lease, slug: &str, times: &mut Times) {
    let address = captain.address();
    let mut starting = JoinSet::new();
    for node in lease.nodes().take(2) {
        let body = Bytes::from(order(node, slug).to_string());
        starting.spawn(async move {
            let mut wire = Wire::warm(address, "/ping/ping").await;
            let (mut took, mut ids) = (Vec::new(), Vec::new());
            for _ in 0..STARTS {
                let begin = Instant::now();
                let answer = wire.send("POST", "/instances/", &body, &[201]).await;
                took.push(ms(begin));
                ids.push(text(&answer, "id"));
            }
            (took, ids)
        });
    }
    let mut wire = Wire::warm(address, "/ping/ping").await;
    let mut ids = Vec::new();
    for (took, started) in starting.join_all().await {
        times.starts.extend(took);
        ids.extend(started);
    }
    let one = format!("/instances/{}", ids[0]);
    // What the engines that are well still do for these starts is not what a hung one does to a read.
    process::rest(&[captain.pid()]).await;
    for read in 0..READS {
        let path = ["/instances/", one.as_str(), "/nodes/"][read % 3];
        let begin = Instant::now();
        wire.send("GET", path, &Bytes::new(), &[200]).await;
        times.reads.push(ms(begin));
    }
    for id in ids {
        wire.send("DELETE", &format!("/instances/{id}"), &Bytes::new(), &[204]).await;
    }
    process::rest(&[captain.pid()]).await;
}

/// What a captain shows, without what changes with every look.
async fn shown(wire: &mut Wire) -> (Vec<Value>, Vec<Value>) {
    let list = async |wire: &mut Wire, path: &str| -> Vec<Value> {
        serde_json::from_slice(&wire.send("GET", path, &Bytes::new(), &[200]).await).unwrap()
    };
    let mut instances = list(wire, "/instances/").await;
    instances.sort_by_key(|instance| instance["id"].to_string());
    let nodes = list(wire, "/nodes/").await;
    let nodes = nodes.into_iter().map(|node| serde_json::json!([node["id"], node["state"], node["slots"]])).collect();
    (instances, nodes)
}

pub(crate) async fn recovery(report: &mut Report) {
    report.section(&format!(
        "recovery: kill -9 of the server at {INSTANCES} containers on {NODES} engines, until all is as it was"
    ));
    let lease = lease_on_tcp(NODES).await;
    let origin = Origin::start(&lease).await;
    let slug = origin.offer("bench.tgz", slugs::script("exec sleep 100000"));
    let settings = Settings::of(&lease).set("SLOTS_PER_NODE", INSTANCES).set("DEFAULT_SLOTS_PER_INSTANCE", 1);
    let mut captain = settings.clone().start().await;
    populate(&captain, &lease, &slug).await;
    let mut wire = Wire::warm(captain.address(), "/ping/ping").await;
    let before = shown(&mut wire).await;
    assert_eq!(before.0.len(), INSTANCES);
    let (mut took, mut floor) = (Series::default(), Series::default());
    for _ in 0..DEATHS {
        captain.crash();
        floor.push(asked_directly(&lease, &before.0).await.as_secs_f64());
        let begin = Instant::now();
        captain = settings.clone().start_anyhow().await;
        let mut wire = Wire::warm(captain.address(), "/ping/ping").await;
        while shown(&mut wire).await != before {
            assert!(begin.elapsed() < Duration::from_secs(30), "it is never as it was");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.push(begin.elapsed().as_secs_f64());
    }
    let shown = format!("{}, {DEATHS} deaths", took.shown(3));
    report.at_most("seconds until ready and right", took.median(), RECOVERY, shown);
    report.note("  the engines alone: list and inspect all, s", floor.shown(3));
    drop(captain);
    clear(&lease).await;
}

async fn populate(captain: &Captain, lease: &Lease, slug: &str) {
    let mut starting = JoinSet::new();
    for node in lease.nodes() {
        let (address, body) = (captain.address(), Bytes::from(order(node, slug).to_string()));
        starting.spawn(async move {
            let mut wire = Wire::warm(address, "/ping/ping").await;
            for _ in 0..INSTANCES / NODES {
                wire.send("POST", "/instances/", &body, &[201]).await;
            }
        });
    }
    starting.join_all().await;
    // The runner of each fetches its slug after it has been started.
    process::rest(&[captain.pid()]).await;
}

/// The least that it takes to know all this: each engine lists, and inspects each of its containers, 16 at a time.
async fn asked_directly(lease: &Lease, instances: &[Value]) -> Duration {
    let mut asking = JoinSet::new();
    let mut wires = Vec::new();
    for node in lease.nodes() {
        let of_node = instances.iter().filter(|instance| instance["node"] == node.name.as_str());
        let ids: Vec<String> = of_node.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect();
        for share in ids.chunks(ids.len().div_ceil(16)) {
            wires.push((Wire::warm(node.engine_address(), "/_ping").await, share.to_vec()));
        }
    }
    let begin = Instant::now();
    for (mut wire, ids) in wires {
        asking.spawn(async move {
            wire.send("GET", "/containers/json?all=true", &Bytes::new(), &[200]).await;
            for id in ids {
                wire.send("GET", &format!("/containers/{id}/json"), &Bytes::new(), &[200]).await;
            }
        });
    }
    asking.join_all().await;
    begin.elapsed()
}

async fn clear(lease: &Lease) {
    let mut clearing = JoinSet::new();
    for node in lease.nodes() {
        clearing.spawn(async move {
            let engine = node.engine();
            engine.clear().await;
            eventually("an empty node", Duration::from_secs(60), || async {
                engine.containers().await.is_empty().then_some(())
            })
            .await;
        });
    }
    clearing.join_all().await;
}
