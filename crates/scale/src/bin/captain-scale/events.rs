//! Much happens on the engines: how soon a GET shows it.
//!
//! Containers die, are removed, and others take their place, as when apps are deployed: four events a container. Some of them are
//! sampled: from the moment at which the engine has sent the event until a client that asks again and again is told so.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use captain_e2e::figures::{Latencies, Report};
use captain_e2e::process;
use captain_scale::client::Client;
use captain_scale::engines::{Container, Engines, Happening};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::stage::Stage;

/// Events a second, over all engines.
const RATE: u32 = 10_000;
/// How long they last; the samples are of that time.
const LASTING: Duration = Duration::from_secs(15);
/// Milliseconds from an event to a GET that shows it, 99 of 100.
const VISIBLE: f64 = 50.0;
/// Between the end of a container and its removal; and what replaces it.
const LINGERS: Duration = Duration::from_millis(500);
/// Samples at once. Each asks as fast as it is answered, a pause of a millisecond between: far less than all that happens.
const SAMPLERS: u64 = 4;
/// After so long an event counts as lost.
const LOST: Duration = Duration::from_secs(5);

pub(crate) async fn events(report: &mut Report, stage: &Stage) {
    let engines = &stage.engines;
    report.section(&format!(
        "events: {RATE} a second on {} engines with {} containers",
        engines.plan().engines,
        engines.containers()
    ));
    let over = Arc::new(AtomicBool::new(false));
    let (before, cpu) = (engines.counted(), process::cpu(stage.pid()));
    let begin = Instant::now();
    let storm = tokio::spawn(storm(Arc::clone(engines), Arc::clone(&over)));
    let samplers: Vec<_> = (0..SAMPLERS)
        .map(|number| {
            let (engines, over, address) = (Arc::clone(engines), Arc::clone(&over), stage.captain.address());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(sample(&engines, number, address, &over))
            })
        })
        .collect();
    tokio::time::sleep(LASTING).await;
    over.store(true, Ordering::Relaxed);
    let sent = storm.await.unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    let after = engines.counted();
    let cpu = (process::cpu(stage.pid()) - cpu).as_secs_f64() / seconds;
    let mut latencies = Latencies::default();
    let mut lost = 0;
    for sampler in samplers {
        let (of_it, lost_by_it) = tokio::task::spawn_blocking(|| sampler.join().unwrap()).await.unwrap();
        latencies.extend(&of_it);
        lost += lost_by_it;
    }
    let rate = sent as f64 / seconds;
    report.at_least("events a second, by the engines' count", rate, f64::from(RATE) * 0.98, format!("{rate:.0}"));
    latencies.report(report, "from the event to a GET that shows it, p99", VISIBLE);
    report.holds("  samples never shown", lost == 0, lost);
    let inspected = (after.inspections - before.inspections) as f64 / seconds;
    report.note("  inspections a second", format!("{inspected:.0}"));
    report.note("  processors that the captain used", format!("{cpu:.2}"));
    report.note("  events that a slow reader lost", after.lost_events - before.lost_events);
}

/// What is still to happen to a container, and when.
enum Step {
    Remove(Container),
    Replace(Container),
    Run(Container),
}

/// Lets things happen at the rate that is promised, whatever the captain makes of it. Answers how many events were sent.
async fn storm(engines: Arc<Engines>, over: Arc<AtomicBool>) -> u64 {
    let plan = engines.plan().clone();
    let mut chance = SmallRng::seed_from_u64(7);
    let mut later: VecDeque<(Instant, Step)> = VecDeque::new();
    let (begin, mut sent) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(RATE)) as u64;
        while sent < due {
            let step = later.pop_front_if(|(at, _)| *at <= Instant::now());
            sent += u64::from(match step {
                Some((_, Step::Remove(container))) => {
                    later.push_back((Instant::now(), Step::Replace(container)));
                    engines.happen(container, Happening::Remove)
                }
                Some((_, Step::Replace(container))) => {
                    later.push_front((Instant::now(), Step::Run(engines.create(container.engine))));
                    true
                }
                Some((_, Step::Run(container))) => engines.happen(container, Happening::Start),
                None => {
                    let container = plan.nth(chance.random_range(0..plan.instances));
                    let died = engines.happen(container, Happening::Die(1));
                    if died {
                        later.push_back((Instant::now() + LINGERS, Step::Remove(container)));
                    }
                    died
                }
            });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sent
}

/// Makes one container of its own after another, and asks for it until it is shown: running, ended, gone.
async fn sample(engines: &Engines, number: u64, address: SocketAddr, over: &AtomicBool) -> (Latencies, u32) {
    let mut chance = SmallRng::seed_from_u64(100 + number);
    let mut client = Client::to(address).await;
    let (mut latencies, mut lost) = (Latencies::default(), 0);
    while !over.load(Ordering::Relaxed) {
        let container = engines.create(chance.random_range(0..engines.plan().engines));
        for (happening, state) in
            [(Happening::Start, Some("running")), (Happening::Die(0), Some("exited")), (Happening::Remove, None)]
        {
            let begin = Instant::now();
            assert!(engines.happen(container, happening), "{happening:?} of {container:?}");
            while !shows(&mut client, container, state).await {
                if begin.elapsed() > LOST {
                    lost += 1;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            latencies.push(begin.elapsed());
        }
    }
    (latencies, lost)
}

async fn shows(client: &mut Client, container: Container, state: Option<&str>) -> bool {
    let answer = client.get(&format!("/instances/{}", container.id())).await;
    match state {
        Some(state) => answer.status == http::StatusCode::OK && answer.json()["state"] == state,
        None => answer.status == http::StatusCode::NOT_FOUND,
    }
}
