//! What a seed draws before anything runs: how many captains and nodes, how busy, and which faults.

use std::num::NonZeroU64;
use std::time::Duration;

use captain_domain::{SlotSize, Slots};
use captain_server::captain::{Mode, Policy};
use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::weather::Incident;

/// The deadline of an ordinary engine call.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// The deadline of bringing an image to a node.
pub(crate) const PREPARATION: Duration = Duration::from_secs(8);
/// How long after the last fault everything must be right again (I4).
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(60);

/// A part of the production code that is taken out, at the engine's seam or by policy, to see that the simulator misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Mutation {
    /// Nothing is taken out.
    #[default]
    None,
    /// The capacity check between captains: a listing hides the claims of others.
    NoCapacityCheck,
    /// The operation look-up: it finds nothing.
    NoLookUp,
    /// The periodic listing.
    NoRelist,
    /// The collection of claims whose captain died.
    NoSweep,
    /// The attempt: whatever carries an operation looks like one's own.
    NoAttempt,
    /// The wait for the engine's 404: a removal that was accepted counts as done, and an inspection says so.
    NoWaitForGone,
}

/// What the run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scenario {
    /// All that the seed draws.
    #[default]
    Anything,
    /// No faults: many captains and far more starts than slots.
    Rush,
    /// No chance: two captains, one start and one stop, and this befalls the first captain at one of its steps.
    Strike(Strike),
}

/// What befalls a captain between two of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strike {
    /// Before which of its steps: a call that begins, or an answer that comes.
    pub step: u64,
    /// Counted from the stop, and not from the start.
    pub in_stop: bool,
    /// It is only stopped for a while.
    pub pause: bool,
    /// Whether the node's engine keeps names unique.
    pub names: bool,
}

/// What a seed draws.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What is taken out.
    pub mutation: Mutation,
    /// How many captains share the fleet.
    pub captains: usize,
    /// The slots of each node.
    pub nodes: Vec<Slots>,
    /// Which nodes' engines keep no names, as the embedded one.
    pub nameless: Vec<bool>,
    /// How long clients and faults go on.
    pub span: Duration,
    /// Clients at once.
    pub clients: usize,
    /// The longest pause between two requests of a client.
    pub pace: Duration,
    /// Of a thousand calls, so many have an outcome that the caller does not learn.
    pub calls_lost: u32,
    /// Of a thousand events, so many are lost, late or doubled, each.
    pub events_lost: u32,
    /// Of a thousand starts, so many fail for a port.
    pub ports_taken: u32,
    /// Of a thousand steps of captains, so many are the last one for a while, or for ever.
    pub struck: u32,
    /// The faults that may come.
    pub(crate) incidents: Vec<Incident>,
    /// The longest pause between two of them.
    pub(crate) incident_pace: Duration,
}

impl Plan {
    /// What this seed draws.
    pub fn draw(seed: u64, scenario: Scenario, mutation: Mutation) -> Self {
        let mut chance = SmallRng::seed_from_u64(seed);
        match scenario {
            Scenario::Anything => {}
            Scenario::Rush => return Self::rush(seed, mutation, &mut chance),
            Scenario::Strike(strike) => return Self::struck(seed, mutation, strike),
        }
        let captains = match chance.random_range(0..100) {
            0..15 => 1,
            15..50 => 2,
            50..80 => chance.random_range(3..=4),
            _ => chance.random_range(5..=16),
        };
        let few_slots = chance.random_bool(0.5);
        let nodes: Vec<Slots> = (0..chance.random_range(1..=3))
            .map(|_| Slots(if few_slots { chance.random_range(1..=4) } else { chance.random_range(3..=10) }))
            .collect();
        let nameless = nodes.iter().map(|_| chance.random_bool(0.3)).collect();
        // Every tenth run has nothing but contention: a fault must not hide what is wrong without one.
        let calm = chance.random_ratio(1, 10);
        let rate = |chance: &mut SmallRng, rates: &[u32]| {
            if calm { 0 } else { rates.choose(chance).copied().unwrap_or(0) }
        };
        let mut incidents: Vec<Incident> = Incident::ALL.into_iter().filter(|_| chance.random_bool(0.4)).collect();
        if calm {
            incidents.clear();
        }
        Self {
            seed,
            mutation,
            captains,
            nodes,
            nameless,
            span: Duration::from_secs(chance.random_range(20..=60)),
            clients: chance.random_range(2..=10),
            pace: Duration::from_millis(*[300, 1_000, 3_000, 8_000].choose(&mut chance).unwrap_or(&1_000)),
            calls_lost: rate(&mut chance, &[0, 5, 30, 120]),
            events_lost: rate(&mut chance, &[0, 20, 200, 1000]),
            ports_taken: rate(&mut chance, &[0, 0, 50, 300]),
            struck: rate(&mut chance, &[0, 0, 0, 2, 10]),
            incidents,
            incident_pace: Duration::from_millis(*[1_000, 3_000, 10_000].choose(&mut chance).unwrap_or(&3_000)),
        }
    }

    fn rush(seed: u64, mutation: Mutation, chance: &mut SmallRng) -> Self {
        Self {
            seed,
            mutation,
            captains: 16,
            nodes: vec![Slots(chance.random_range(1..=3))],
            nameless: vec![chance.random_bool(0.3)],
            span: Duration::from_secs(5),
            clients: 0,
            pace: Duration::ZERO,
            calls_lost: 0,
            events_lost: 0,
            ports_taken: 0,
            struck: 0,
            incidents: Vec::new(),
            incident_pace: Duration::from_secs(1),
        }
    }

    fn struck(seed: u64, mutation: Mutation, strike: Strike) -> Self {
        let calm = Self::rush(seed, mutation, &mut SmallRng::seed_from_u64(seed));
        Self { captains: 2, nodes: vec![Slots(2)], nameless: vec![!strike.names], ..calm }
    }

    /// The command that replays this plan with a readable trace.
    pub fn command(&self, scenario: Scenario) -> String {
        let mutation = self.mutation.to_possible_value().filter(|_| self.mutation != Mutation::None);
        let mutation = mutation.map_or(String::new(), |value| format!(" --mutation {}", value.get_name()));
        let how = match scenario {
            Scenario::Anything => String::new(),
            Scenario::Rush => " --rush".to_owned(),
            Scenario::Strike(Strike { step, in_stop, pause, names }) => {
                let flag = |set: bool, flag: &'static str| if set { flag } else { "" };
                let (stop, pause) = (flag(in_stop, " --in-stop"), flag(pause, " --pause"));
                format!(" --strike {step}{stop}{pause}{}", flag(!names, " --nameless"))
            }
        };
        format!("cargo run -p captain-sim -- --seed {}{mutation}{how}", self.seed)
    }

    /// The captains' policy. Its times are shorter than a server's, so that what they bound happens within a run: an orphaned
    /// claim is in the view after a listing, seen by the collector after one pass, and swept by the first after its grace:
    /// 12 + 10 + 20 + 10 seconds, less than [`CONVERGENCE`].
    pub(crate) fn policy(&self) -> Policy {
        let never = Duration::from_secs(10_000_000);
        let or_never = |mutation, usual| if self.mutation == mutation { never } else { Duration::from_secs(usual) };
        Policy {
            slot_size: SlotSize::from_mib(NonZeroU64::MIN.saturating_add(127)),
            default_slots: Slots(1),
            mode: Mode::RunnerImage {
                image: "sim/runner".to_owned(),
                version: "1".to_owned(),
                command: vec!["start".to_owned(), "web".to_owned()],
            },
            slug_path: None,
            stop_grace: Duration::from_secs(3),
            exited_kept: Duration::from_secs(10),
            claim_patience: Duration::from_secs(10),
            claim_grace: or_never(Mutation::NoSweep, 20),
            relist_every: or_never(Mutation::NoRelist, 10),
            ping_every: Duration::from_secs(5),
            node_slug_bytes: 0,
        }
    }
}
