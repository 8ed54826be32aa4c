//! One run: a seed's plan, from the first captain to the last check.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use captain_domain::{OperationId, Slots};
use captain_server::actions::start::StartError;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing_subscriber::fmt::MakeWriter;

use crate::clients::{self, Answer};
use crate::crew::Crew;
use crate::plan::{CONVERGENCE, Plan, Scenario};
use crate::world::{Kind, Violation, World};
use crate::{strike, verdict, weather};

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What was drawn.
    pub plan: Plan,
    /// The hash of all that happened.
    pub hash: u64,
    /// How many steps that were.
    pub steps: u64,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// What must not be, and was.
    pub violation: Option<Violation>,
    /// What happened, in lines; empty unless asked for.
    pub lines: Vec<String>,
}

/// Runs a plan. With `readable`, the trace comes as lines too, with the captains' own log among them.
pub fn run(plan: Plan, scenario: Scenario, readable: bool) -> io::Result<Report> {
    // Every 16th run listens to the log for secrets: listening costs more than the run.
    let listens = readable || plan.seed.is_multiple_of(16);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let world = runtime.block_on(async {
        let world = World::new(plan.clone(), readable);
        let log = Log(Arc::clone(&world));
        let subscriber =
            tracing_subscriber::fmt().with_writer(log).without_time().with_ansi(false).with_target(false).finish();
        let _listening = listens.then(|| tracing::subscriber::set_default(subscriber));
        let script = play(Arc::clone(&world), scenario);
        tokio::select! {
            biased;
            () = world.violated.notified() => {}
            () = script => {}
        }
        world
    });
    // All that still waits goes before the world is asked: tasks hold it.
    drop(runtime);
    let (trace, counts, violation) = world.finish();
    Ok(Report { plan, hash: trace.hash(), steps: trace.steps(), counts, violation, lines: trace.into_lines() })
}

async fn play(world: Arc<World>, scenario: Scenario) {
    world.with(|state| state.faulty = scenario == Scenario::Anything);
    furnish(&world);
    let crew = Crew::muster(&world);
    let span = world.with(|state| state.plan.span);
    let mut clients = JoinSet::new();
    for _ in 0..world.with(|state| state.plan.clients) {
        clients.spawn(clients::client(Arc::clone(&world), Arc::clone(&crew)));
    }
    let mut faults = JoinSet::new();
    faults.spawn(weather::blow(Arc::clone(&world), Arc::clone(&crew)));
    faults.spawn(weather::tend(Arc::clone(&world), Arc::clone(&crew)));
    let doubting = async {
        tokio::select! {
            biased;
            () = verdict::doubt(&world, &crew) => {}
            () = sleep(span) => {}
        }
    };
    match scenario {
        Scenario::Anything => doubting.await,
        Scenario::Rush => rush(&world, &crew).await,
        Scenario::Strike(strike) => strike::play(&world, &crew, strike).await,
    }
    faults.shutdown().await;
    weather::clear_up(&world, &crew);
    verdict::converge(&world, &crew).await;
    if tokio::time::timeout(CONVERGENCE, async { while clients.join_next().await.is_some() {} }).await.is_err() {
        world.violate("I5", "a request has no end".to_owned());
    }
    verdict::fill(&world, &crew).await;
    verdict::converge(&world, &crew).await;
    verdict::print(&world, &crew);
}

/// What is on the nodes before the first captain: instances of the original within the slots, and other people's containers.
fn furnish(world: &World) {
    world.with(|state| {
        for node in 0..state.nodes.len() {
            let mut free = state.nodes[node].total.0;
            while state.plan.clients > 0 && state.chance.random_bool(0.4) {
                let slots = state.chance.random_range(1..=2).min(free);
                let kinds = [Kind::Original { slots: Slots(slots) }, Kind::Lookalike, Kind::Foreign, Kind::Poison];
                let kind = kinds[state.chance.random_range(0..kinds.len())].clone();
                if matches!(kind, Kind::Original { .. }) {
                    if slots == 0 {
                        break;
                    }
                    free -= slots;
                }
                state.run_foreign(node, kind);
            }
        }
    });
}

/// Sixteen captains, few slots, far more starts than slots, all at once: as many are acknowledged as there are slots.
async fn rush(world: &Arc<World>, crew: &Arc<Crew>) {
    sleep(Duration::from_secs(2)).await;
    let mut starts = JoinSet::new();
    for _ in 0..100 {
        let (world, crew) = (Arc::clone(world), Arc::clone(crew));
        starts.spawn(async move {
            let mut order = clients::order(&world, 0, Slots(1));
            order.operation = OperationId::from_bytes(world.with(|state| state.chance.random()));
            sleep(world.between(Duration::ZERO, Duration::from_millis(50))).await;
            clients::ask_to_start(&world, &crew.any(), 0, order).await
        });
    }
    let mut running = 0;
    while let Some(answer) = starts.join_next().await {
        match answer {
            Ok(Answer::Running) => running += 1,
            Ok(Answer::Refused(StartError::OverCapacity { .. })) => {}
            Ok(Answer::Refused(error)) => {
                world.violate("rush", format!("a start that does not fit is answered: {error}"))
            }
            Ok(Answer::HungUp) | Err(_) => world.violate("rush", "a start was not answered".to_owned()),
        }
    }
    let total = world.with(|state| state.nodes[0].total);
    if Slots(running) != total {
        world.violate("rush", format!("{running} starts were acknowledged on {total}"));
    }
}

/// The captains' log: scanned for secrets, and among the lines of a readable trace.
#[derive(Clone)]
struct Log(Arc<World>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        clients::keep_secret(&self.0, "the log", &text, &clients::UNLOGGED);
        self.0.with(|state| {
            let at = state.now();
            state.trace.remark(at, format_args!("    log: {}", text.trim_end()));
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
