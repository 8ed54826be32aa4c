//! Capacity-checked reservations in the process, without engines: their rate, and that it does not depend on the fleet's size.

use std::hint::black_box;
use std::time::{Duration, Instant};

use captain_domain::{AppName, NodeId, OperationId, Slots, Timestamp};
use captain_e2e::figures::{Report, Series};
use captain_scale::engines::{Plan, told};
use captain_server::fleet::Fleet;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Reservations a second, each taken and given back.
const RATE: f64 = 1_000_000.0;
/// Of the rate with a small fleet.
const OF_SMALL: f64 = 0.8;
/// As many instances on a node in both.
const SMALL: (u32, u64) = (7, 2_000);
const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(500);

pub(crate) fn reserve(report: &mut Report, nodes: u32, instances: u64) {
    report.section(&format!(
        "reserve: in the process, {instances} instances on {nodes} nodes beside {} on {}",
        SMALL.1, SMALL.0
    ));
    let (small, large) = (Subject::of(SMALL.0, SMALL.1), Subject::of(nodes, instances));
    let (mut of_small, mut of_large) = (Series::default(), Series::default());
    for round in 0..ROUNDS {
        // In turns, so that what else the machine does meets both.
        let in_turn = if round % 2 == 0 {
            [(&small, &mut of_small), (&large, &mut of_large)]
        } else {
            [(&large, &mut of_large), (&small, &mut of_small)]
        };
        for (subject, rates) in in_turn {
            rates.push(subject.rate());
        }
    }
    let shown = |series: &Series, decimals| format!("{}, {ROUNDS} rounds", series.shown(decimals));
    let name = format!("reservations a second, at {instances} instances");
    report.at_least(&name, of_large.median(), RATE, shown(&of_large, 0));
    let ratio = of_large.over(&of_small);
    report.at_least("  of the rate with the small fleet", ratio.median(), OF_SMALL, shown(&ratio, 2));
    report.note("  the rate with the small fleet", shown(&of_small, 0));
}

struct Subject {
    fleet: Fleet,
    nodes: Vec<NodeId>,
    apps: Vec<AppName>,
}

impl Subject {
    fn of(nodes: u32, instances: u64) -> Self {
        let plan = Plan::of(nodes, instances);
        let fleet = told::nodes(&plan);
        told::observe(&fleet, &plan, 0..instances);
        let apps = (0..plan.apps).map(|app| AppName::parse(&captain_scale::engines::app_name(app)).unwrap());
        Self { fleet, nodes: (0..nodes).map(told::node).collect(), apps: apps.collect() }
    }

    /// Nodes and apps at random, so that what is looked up is where it would be in the field: not in the processor's cache.
    fn rate(&self) -> f64 {
        let mut chance = SmallRng::seed_from_u64(9);
        let (begin, mut done) = (Instant::now(), 0_u64);
        while begin.elapsed() < ROUND {
            for _ in 0..256 {
                let node = &self.nodes[chance.random_range(0..self.nodes.len())];
                let app = &self.apps[chance.random_range(0..self.apps.len())];
                let mut operation = [0; 16];
                chance.fill_bytes(&mut operation);
                let operation = OperationId::from_bytes(operation);
                let reservation = self.fleet.reserve(node, app, Slots(1), operation, Timestamp(3));
                drop(black_box(reservation.unwrap()));
            }
            done += 256;
        }
        done as f64 / begin.elapsed().as_secs_f64()
    }
}
