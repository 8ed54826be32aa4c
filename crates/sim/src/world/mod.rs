//! The engines' own truth. Each change is one instant, and each instant is checked.
//!
//! All of it is behind one mutex that is never held across an await. One thread runs everything: the mutex is there for the
//! compiler, not for races.

mod containers;
mod daemon;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captain_domain::{InstanceId, OperationId, Timestamp};
use captain_server::engine::ErrorKind;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use containers::{Container, Kind};
pub(crate) use daemon::{Cut, Daemon, Node, Reach};
pub(crate) use truth::Shown;

use crate::crew::Pulse;
use crate::plan::Plan;
use crate::trace::Trace;

/// In every environment and slug URI. Where it shows up, a secret would have.
pub(crate) const SECRET: &str = "hunter2-do-not-show";

/// What an engine answers.
pub(crate) type Outcome<T> = Result<T, (ErrorKind, &'static str)>;

/// What must not be, and was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant of ENGINES.md, C4.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Everything outside the captains.
pub(crate) struct World {
    state: Mutex<State>,
    /// Woken when something that calls wait for has changed: a daemon woke up, a container came unstuck.
    pub(crate) changed: Notify,
    /// Woken at the first violation.
    pub(crate) violated: Notify,
    /// Woken when a captain was struck between two steps.
    pub(crate) struck: Notify,
}

/// What [`World::with`] gives.
pub(crate) struct State {
    pub(crate) chance: SmallRng,
    pub(crate) trace: Trace,
    pub(crate) nodes: Vec<Node>,
    pub(crate) plan: Plan,
    /// Calls that engines have got and not done.
    pub(crate) calls_under_way: usize,
    /// Whether faults still come.
    pub(crate) faulty: bool,
    /// How often each thing happened, so that a test can see that it does.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<Violation>,
    /// Captains that were struck between two steps, by number and seat: what became of them.
    pub(crate) stricken: Vec<(usize, usize, Pulse)>,
    /// How many steps each captain has still to take before it is struck, by its number.
    pub(crate) fuses: BTreeMap<usize, (u64, Pulse)>,
    /// Instances that a client was told run.
    acknowledged: BTreeMap<InstanceId, OperationId>,
    /// Instances that a client or an operator asked to end.
    asked_to_end: BTreeSet<InstanceId>,
    /// Instances that a captain ended or removed while they ran and nobody had asked.
    ended_unasked: BTreeMap<InstanceId, usize>,
    /// How often captains could not reach engines, and since when: by seat and node.
    cuts: BTreeMap<(usize, usize), (Cut, Duration)>,
    begun: Instant,
}

impl World {
    pub(crate) fn new(plan: Plan, readable: bool) -> Arc<Self> {
        let mut chance = SmallRng::seed_from_u64(plan.seed ^ 0x5eed);
        let sites = plan.nodes.iter().zip(&plan.nameless).enumerate();
        let nodes = sites.map(|(at, (total, nameless))| Node::new(at, *total, *nameless, &mut chance)).collect();
        let state = State {
            chance,
            trace: Trace::new(readable),
            nodes,
            plan,
            calls_under_way: 0,
            faulty: true,
            counts: BTreeMap::new(),
            violation: None,
            stricken: Vec::new(),
            fuses: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            asked_to_end: BTreeSet::new(),
            ended_unasked: BTreeMap::new(),
            cuts: BTreeMap::new(),
            begun: Instant::now(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            violated: Notify::new(),
            struck: Notify::new(),
        })
    }

    /// Looks at the state, or changes it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.violation.is_some();
        let outcome = act(&mut state);
        if !before && state.violation.is_some() {
            self.violated.notify_one();
        }
        outcome
    }

    /// Takes the state out at the end of a run.
    pub(crate) fn finish(&self) -> (Trace, BTreeMap<&'static str, u64>, Option<Violation>) {
        self.with(|state| {
            let trace = std::mem::replace(&mut state.trace, Trace::new(false));
            (trace, std::mem::take(&mut state.counts), state.violation.take())
        })
    }

    pub(crate) fn between(&self, low: Duration, high: Duration) -> Duration {
        self.with(|state| state.between(low, high))
    }

    pub(crate) fn say(&self, step: fmt::Arguments<'_>) {
        self.with(|state| state.say(step));
    }

    pub(crate) fn violate(&self, invariant: &'static str, what: String) {
        self.with(|state| state.violate(invariant, what));
    }
}

impl State {
    /// Since the run began.
    pub(crate) fn now(&self) -> Duration {
        Instant::now() - self.begun
    }

    /// The wall clock of somebody whose clock is off by so much.
    pub(crate) fn wall(&self, skew_ms: i64) -> Timestamp {
        const BEGINNING: i64 = 1_700_000_000_000;
        Timestamp(BEGINNING + i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX) + skew_ms)
    }

    pub(crate) fn say(&mut self, step: fmt::Arguments<'_>) {
        let at = self.now();
        self.trace.say(at, step);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        self.say(format_args!("VIOLATION of {invariant}: {what}"));
        self.violation.get_or_insert(Violation { invariant, what });
    }

    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        if high <= low { low } else { self.chance.random_range(low..high) }
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.chance.random_range(low..=high))
    }

    /// Whether a thing happens that does so `rate` times of a thousand while faults come.
    pub(crate) fn unlucky(&mut self, rate: u32) -> bool {
        self.faulty && rate > 0 && self.chance.random_ratio(rate.min(1000), 1000)
    }

    /// A captain takes a step: what befalls it before.
    pub(crate) fn step(&mut self, captain: usize, seat: usize) -> Option<Pulse> {
        let armed = self.fuses.get(&captain).copied();
        let fate = match armed {
            Some((0, fate)) => fate,
            Some((left, fate)) => {
                self.fuses.insert(captain, (left - 1, fate));
                return None;
            }
            None if self.unlucky(self.plan.struck) => {
                if self.chance.random_bool(0.5) {
                    Pulse::Dead
                } else {
                    Pulse::Paused
                }
            }
            None => return None,
        };
        self.fuses.remove(&captain);
        self.count(if fate == Pulse::Dead { "killed between steps" } else { "paused between steps" });
        self.say(format_args!("captain {captain} is struck between two steps: {fate:?}"));
        self.stricken.push((captain, seat, fate));
        Some(fate)
    }

    /// A client was told that this instance runs.
    pub(crate) fn acknowledge(&mut self, node: usize, id: InstanceId, operation: OperationId) {
        self.count("start acknowledged");
        self.acknowledged.insert(id, operation);
        if let Some(captain) = self.ended_unasked.get(&id) {
            let what =
                format!("captain {captain} had ended {} on node {node} before its start was acknowledged", id.short());
            self.violate("I2", what);
        }
    }

    /// A client or an operator asks for the end of an instance.
    pub(crate) fn ask_to_end(&mut self, id: InstanceId) {
        self.asked_to_end.insert(id);
    }

    /// A captain ends an instance that runs.
    fn ended_by(&mut self, captain: usize, node: usize, id: InstanceId) {
        if self.asked_to_end.contains(&id) {
            return;
        }
        self.ended_unasked.insert(id, captain);
        if self.acknowledged.contains_key(&id) {
            let what = format!(
                "captain {captain} ends {} on node {node}, whose start was acknowledged and whose end nobody asked for",
                id.short()
            );
            self.violate("I2", what);
        }
    }
}
