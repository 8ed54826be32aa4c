//! Clients: they start and stop instances through any captain. One that is not answered soon enough gives its operation again, to any
//! captain, while the first may still be at it; some ask several at once; and some misuse an operation's id. What they are answered is
//! what the world holds the captains to.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use captain_domain::{AppName, Environment, InstanceId, OperationId, Slots, SlugUri};
use captain_server::actions::ActionError;
use captain_server::actions::start::{self, Order, StartError};
use captain_server::actions::stop;
use captain_server::engine::ErrorKind;
use captain_server::fleet::{Filter, StateFilter};
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::crew::{Crew, Process};
use crate::plan::DEADLINE;
use crate::world::{SECRET, World};

/// In every slug URI, as a signature would be.
const SIGNATURE: &str = "signed-do-not-show";

/// I5: the longest that a start may take, by the sum of its steps' deadlines: two creations and a preparation between them, the
/// look-up, the claim's patience with a listing and an inspection at its end, start, two inspections, and ten seconds of
/// withdrawal. Nobody here waits for a turn: there are fewer clients than turns.
const START_WITHIN: Duration = Duration::from_secs(2 * 4 + 8 + 4 + 10 + 2 * 4 + 4 + 2 * 4 + 10 + 1);

/// The longest that a stop may take: grace and deadline, a minute of removal that ends with a removal and a look.
const STOP_WITHIN: Duration = Duration::from_secs(3 + 4 + 60 + 2 * 4 + 1);

/// How a request ended for its client.
pub(crate) enum Answer {
    Running,
    Refused(StartError),
    /// The captain died.
    HungUp,
}

/// One client, until it is dropped or faults have ended and all that it asked for is answered.
pub(crate) async fn client(world: Arc<World>, crew: Arc<Crew>) {
    let pace = world.with(|state| state.plan.pace);
    // Starts whose answer it does not wait for any more: its captain does not know, and goes on.
    let mut given_up = JoinSet::new();
    loop {
        sleep(world.between(Duration::from_millis(1), pace)).await;
        if !world.with(|state| state.faulty) {
            break;
        }
        match world.with(|state| state.chance.random_range(0..100)) {
            0..56 => start_somewhere(&world, &crew, &mut given_up).await,
            56..60 => ask_several(&world, &crew).await,
            60..63 => misuse(&world, &crew).await,
            _ => stop_something(&world, &crew).await,
        }
        while given_up.try_join_next().is_some() {}
    }
    while given_up.join_next().await.is_some() {}
}

/// What a client asks for.
pub(crate) fn order(world: &World, node: usize, slots: Slots) -> Order {
    world.with(|state| Order {
        operation: OperationId::from_bytes(state.chance.random()),
        repeatable: true,
        app: AppName::trusted(["web", "api", "worker"].choose(&mut state.chance).copied().unwrap_or("web")),
        node: state.nodes[node].id.clone(),
        slug_uri: SlugUri::trusted(&format!("https://slugs/app.tgz?signature={SIGNATURE}")),
        environment: Environment::from_entries([format!("TOKEN={SECRET}").as_str()]),
        slots,
        hostname: None,
        runner_version: None,
        process: None,
        slug_sha256: None,
    })
}

fn any_order(world: &World) -> (usize, Order) {
    let (node, slots) = world.with(|state| {
        let sizes = [1, 1, 1, 1, 2, 2, 3];
        (state.chance.random_range(0..state.nodes.len()), sizes.choose(&mut state.chance).copied().unwrap_or(1))
    });
    (node, order(world, node, Slots(slots)))
}

async fn start_somewhere(world: &Arc<World>, crew: &Crew, given_up: &mut JoinSet<()>) {
    let (node, order) = any_order(world);
    for _ in 0..4 {
        let patience = world.with(|state| {
            let impatient = state.chance.random_bool(0.3);
            if impatient { state.millis(20, 6_000) } else { START_WITHIN * 2 }
        });
        let (answer, heard) = oneshot::channel();
        let (asked, process, order) = (Arc::clone(world), crew.any(), order.clone());
        given_up.spawn(async move {
            // Nobody listens any more where the client has given up.
            let _ = answer.send(ask_to_start(&asked, &process, node, order).await);
        });
        let again = match timeout(patience, heard).await {
            Ok(Ok(Answer::Running | Answer::Refused(StartError::OverCapacity { .. } | StartError::Done { .. }))) => {
                false
            }
            Ok(Ok(Answer::Refused(_) | Answer::HungUp) | Err(_)) => true,
            Err(_) => {
                world.with(|state| state.count("client gave up waiting"));
                true
            }
        };
        if !again || world.with(|state| !state.faulty || state.chance.random_bool(0.3)) {
            return;
        }
    }
}

/// One start, asked of several captains at once: what a load balancer does that does not like to wait.
async fn ask_several(world: &Arc<World>, crew: &Crew) {
    let (node, order) = any_order(world);
    let mut asking = JoinSet::new();
    for _ in 0..world.with(|state| state.chance.random_range(2..=4)) {
        let (world, process, order) = (Arc::clone(world), crew.any(), order.clone());
        asking.spawn(async move {
            sleep(world.between(Duration::ZERO, Duration::from_millis(300))).await;
            ask_to_start(&world, &process, node, order).await;
        });
    }
    while asking.join_next().await.is_some() {}
}

/// Two starts with one operation id, of different apps, or on different nodes.
async fn misuse(world: &World, crew: &Crew) {
    let (node, order) = any_order(world);
    let (elsewhere, id) = world.with(|state| {
        let elsewhere = state.chance.random_range(0..state.nodes.len());
        (elsewhere, state.nodes[elsewhere].id.clone())
    });
    let other = Order { app: AppName::trusted("other"), node: id, ..order.clone() };
    let (one, two) = (crew.any(), crew.any());
    tokio::join!(ask_to_start(world, &one, node, order), ask_to_start(world, &two, elsewhere, other));
}

/// Asks a captain for an instance, and holds it to what it answers.
pub(crate) async fn ask_to_start(world: &World, process: &Process, node: usize, order: Order) -> Answer {
    let (number, operation, slots) = (process.number, order.operation, order.slots);
    world.say(format_args!("client asks captain {number} for {slots} on node {node}, operation {operation}"));
    let begun = world.with(|state| state.now());
    let stopwatch = Stopwatch::new(process);
    let outcome = tokio::select! {
        biased;
        () = process.life.death() => {
            world.with(|state| state.count("client hung up on"));
            return Answer::HungUp;
        }
        outcome = start::start(&process.captain, order) => outcome,
    };
    stopwatch.check(world, "start", START_WITHIN);
    match outcome {
        Ok(instance) => {
            world.say(format_args!("captain {number} answers {operation}: {} runs", instance.id.short()));
            keep_secret(world, "Debug of an instance", &format!("{instance:?}"), &[SECRET]);
            world.with(|state| state.acknowledge(node, instance.id, operation));
            Answer::Running
        }
        Err(error) => {
            world.say(format_args!("captain {number} answers {operation}: {error}"));
            world.with(|state| state.count(kind_of(&error)));
            scan(world, &error);
            check_nothing_left(world, process, operation, begun);
            Answer::Refused(error)
        }
    }
}

fn kind_of(error: &StartError) -> &'static str {
    match error {
        StartError::NoSuchNode(_) => "start: no such node",
        StartError::NodeUnavailable { .. } => "start: node unavailable",
        StartError::OverCapacity { .. } => "start: over capacity",
        StartError::InProgress(_) => "start: in progress",
        StartError::Done { .. } => "start: done before",
        StartError::Busy(_) => "start: busy",
        StartError::Slug(_) => "start: no slug",
        StartError::Engine(error) if error.is_unknown() => "start: unknown",
        StartError::Engine(error) if error.kind == ErrorKind::NoSpace => "start: no space",
        StartError::Engine(_) => "start: engine refused",
        StartError::Vanished => "start: vanished",
        StartError::Lost => "start: lost",
    }
}

/// A start that was answered with a failure has left nothing, or is being undone. What the engine did long after it was asked is
/// excused: the collector has it.
fn check_nothing_left(world: &World, process: &Process, operation: OperationId, begun: Duration) {
    if process.captain.fleet().read(|view| view.claim(operation).is_some()) {
        return;
    }
    world.with(|state| {
        let visible_for = DEADLINE + Duration::from_secs(1);
        let left = state.left_of(operation, process.number, begun, state.now().saturating_sub(visible_for));
        if let Some(id) = left.first() {
            let what = format!("captain {} says that {operation} failed, and left {}", process.number, id.short());
            state.violate("I2", what);
        }
    });
}

async fn stop_something(world: &World, crew: &Crew) {
    let process = crew.any();
    let mut known = Vec::new();
    let everything = Filter { state: StateFilter::All, ..Filter::default() };
    process.captain.fleet().read(|view| view.page(&everything, None, usize::MAX, |instance| known.push(instance.id())));
    let Some(id) = world.with(|state| known.choose(&mut state.chance).copied()) else { return };
    ask_to_stop(world, &process, id).await;
}

pub(crate) async fn ask_to_stop(world: &World, process: &Process, id: InstanceId) {
    let number = process.number;
    world.with(|state| {
        state.say(format_args!("client asks captain {number} to stop {}", id.short()));
        state.ask_to_end(id);
    });
    let stopwatch = Stopwatch::new(process);
    let text = id.short();
    let outcome = tokio::select! {
        biased;
        () = process.life.death() => return,
        outcome = stop::stop(&process.captain, &text) => outcome,
    };
    stopwatch.check(world, "stop", STOP_WITHIN);
    world.say(format_args!("captain {number} answers the stop of {text}: {outcome:?}"));
    match outcome {
        Ok(()) => {
            let there = world.with(|state| {
                state.count("stopped");
                state.nodes.iter().any(|node| node.containers.contains_key(&id))
            });
            if there {
                world.violate("stop", format!("captain {number} says that {text} is gone, and it is there"));
            }
        }
        Err(error) => {
            world.with(|state| {
                state.count(if matches!(error, ActionError::Engine(_)) {
                    "stop: engine failed"
                } else {
                    "stop: refused"
                });
            });
            scan(world, &error);
        }
    }
}

/// I6: what an error says, in all its ways.
fn scan(world: &World, error: &(impl Error + 'static)) {
    let mut shown = format!("{error:?}");
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        shown += &error.to_string();
        cause = error.source();
    }
    keep_secret(world, "an error", &shown, &[SECRET, SIGNATURE]);
}

/// I6: nothing secret is in this text.
pub(crate) fn keep_secret(world: &World, place: &str, text: &str, secrets: &[&str]) {
    if secrets.iter().any(|secret| text.contains(secret)) {
        world.violate("I6", format!("{place} shows a secret"));
    }
}

/// Secrets that no log may show.
pub(crate) const UNLOGGED: [&str; 2] = [SECRET, SIGNATURE];

/// I5: a request ends within its bound. Time for which its captain was stopped does not count.
struct Stopwatch<'a> {
    process: &'a Process,
    begun: Instant,
    paused: Duration,
}

impl<'a> Stopwatch<'a> {
    fn new(process: &'a Process) -> Self {
        Self { process, begun: Instant::now(), paused: process.life.paused() }
    }

    fn check(&self, world: &World, verb: &str, bound: Duration) {
        let took = self.begun.elapsed();
        let paused = self.process.life.paused() - self.paused;
        if took > bound + paused {
            let what = format!("a {verb} by captain {} took {took:?}, more than {bound:?}", self.process.number);
            world.violate("I5", what);
        }
    }
}
