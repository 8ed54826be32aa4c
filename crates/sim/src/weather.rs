//! Faults as they come: every row of ENGINES.md C2 that is not a call's own fate, and what happens to captains.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::{InstanceId, Slots, State as Doing};
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::crew::{Crew, Pulse};
use crate::world::{Cut, Daemon, Kind, World};

/// What can befall the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Incident {
    /// A daemon hangs, and does all that it was asked when it wakes up.
    Hang,
    /// A daemon restarts; what it runs dies.
    Restart,
    /// A daemon restarts with live restore; what it runs goes on.
    LiveRestore,
    /// One captain is cut off from one node.
    CutOne,
    /// Every captain is cut off from one node.
    CutAll,
    /// The lock of one container is held for long.
    Stick,
    /// A node's disk is full.
    DiskFull,
    /// A node is slow.
    Slow,
    /// A node's unused images are removed.
    Prune,
    /// A daemon ends its event streams.
    EndStreams,
    /// A captain is killed, and started again later.
    Kill,
    /// A captain is stopped for a while.
    Pause,
    /// An instance ends by itself.
    Crash,
    /// Somebody runs containers of his own.
    Foreign,
    /// An operator does things to instances behind Captain's back.
    Operator,
}

impl Incident {
    pub(crate) const ALL: [Self; 15] = [
        Self::Hang,
        Self::Restart,
        Self::LiveRestore,
        Self::CutOne,
        Self::CutAll,
        Self::Stick,
        Self::DiskFull,
        Self::Slow,
        Self::Prune,
        Self::EndStreams,
        Self::Kill,
        Self::Pause,
        Self::Crash,
        Self::Foreign,
        Self::Operator,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Hang => "daemon hung",
            Self::Restart => "daemon restarted",
            Self::LiveRestore => "daemon restarted with live restore",
            Self::CutOne => "one captain cut off",
            Self::CutAll => "all captains cut off",
            Self::Stick => "container stuck",
            Self::DiskFull => "disk full",
            Self::Slow => "node slow",
            Self::Prune => "images pruned",
            Self::EndStreams => "event streams ended",
            Self::Kill => "captain killed",
            Self::Pause => "captain paused",
            Self::Crash => "instance crashed",
            Self::Foreign => "foreign container",
            Self::Operator => "operator's doing",
        }
    }
}

/// Lets incidents come until the run's time is over. What they began and did not end is ended by [`clear_up`].
pub(crate) async fn blow(world: Arc<World>, crew: Arc<Crew>) {
    let (incidents, pace) = world.with(|state| (state.plan.incidents.clone(), state.plan.incident_pace));
    let mut under_way = JoinSet::new();
    loop {
        sleep(world.between(Duration::from_millis(50), pace)).await;
        let Some(incident) = world.with(|state| incidents.choose(&mut state.chance).copied()) else { return };
        world.with(|state| state.count(incident.word()));
        under_way.spawn(strike(Arc::clone(&world), Arc::clone(&crew), incident));
        while under_way.try_join_next().is_some() {}
    }
}

/// Looks after captains that were struck between two steps: the dead are replaced, the others go on, after a while.
pub(crate) async fn tend(world: Arc<World>, crew: Arc<Crew>) {
    let mut under_way = JoinSet::new();
    loop {
        let struck = world.struck.notified();
        while let Some((number, seat, fate)) = world.with(|state| state.stricken.pop()) {
            let (world, crew) = (Arc::clone(&world), Arc::clone(&crew));
            under_way.spawn(async move {
                let longest = if fate == Pulse::Dead { 8 } else { 40 };
                sleep(world.between(Duration::from_millis(10), Duration::from_secs(longest))).await;
                let process = crew.of(seat);
                match process.life.pulse() {
                    // Somebody else may have seen to it.
                    _ if process.number != number => {}
                    Pulse::Dead => crew.replace(seat),
                    Pulse::Paused => process.life.resume(world.with(|state| state.now())),
                    Pulse::Lives => {}
                }
            });
        }
        while under_way.try_join_next().is_some() {}
        struck.await;
    }
}

/// All faults end, and every captain lives.
pub(crate) fn clear_up(world: &World, crew: &Crew) {
    world.with(|state| state.heal());
    world.changed.notify_waiters();
    for process in crew.all() {
        match process.life.pulse() {
            Pulse::Dead => crew.replace(process.seat),
            Pulse::Paused => process.life.resume(world.with(|state| state.now())),
            Pulse::Lives => {}
        }
    }
}

async fn strike(world: Arc<World>, crew: Arc<Crew>, incident: Incident) {
    let node = world.with(|state| state.chance.random_range(0..state.nodes.len()));
    match incident {
        Incident::Hang | Incident::Restart | Incident::LiveRestore => befall_daemon(&world, node, incident).await,
        Incident::CutOne | Incident::CutAll => cut(&world, &crew, node, incident == Incident::CutAll).await,
        Incident::Stick => stick(&world, node).await,
        Incident::DiskFull | Incident::Slow => {
            let slowness =
                if incident == Incident::Slow { world.with(|state| state.chance.random_range(5..60)) } else { 1 };
            world.with(|state| {
                state.say(format_args!("node {node}: {}", incident.word()));
                state.nodes[node].disk_full |= incident == Incident::DiskFull;
                state.nodes[node].slowness = slowness;
            });
            sleep(world.between(Duration::from_secs(1), Duration::from_secs(20))).await;
            world.with(|state| {
                state.nodes[node].disk_full = false;
                state.nodes[node].slowness = 1;
            });
        }
        Incident::Prune => world.with(|state| state.nodes[node].image = false),
        Incident::EndStreams => world.with(|state| state.end_streams(node)),
        Incident::Kill => {
            let seat = crew.any().seat;
            crew.kill(seat);
            sleep(world.between(Duration::from_millis(10), Duration::from_secs(8))).await;
            // Another kill of the same seat may have been quicker.
            if crew.of(seat).life.pulse() == Pulse::Dead {
                crew.replace(seat);
            }
        }
        Incident::Pause => {
            let process = crew.any();
            world.say(format_args!("captain {} is paused", process.number));
            process.life.pause(world.with(|state| state.now()));
            sleep(world.between(Duration::from_millis(5), Duration::from_secs(40))).await;
            world.say(format_args!("captain {} goes on", process.number));
            process.life.resume(world.with(|state| state.now()));
        }
        Incident::Crash => {
            world.with(|state| {
                let running = pick(state, node, |container| container.runs);
                if let Some(id) = running {
                    let code = *[0, 1, 137, 255].choose(&mut state.chance).unwrap_or(&1);
                    state.end(node, id, code, "ended by itself");
                }
            });
        }
        Incident::Foreign => foreign(&world, node).await,
        Incident::Operator => operate(&world, node).await,
    }
}

fn pick(
    state: &mut crate::world::State,
    node: usize,
    fits: impl Fn(&crate::world::Container) -> bool,
) -> Option<InstanceId> {
    let fitting: Vec<InstanceId> = state.nodes[node]
        .containers
        .iter()
        .filter(|(_, container)| container.is_managed() && fits(container))
        .map(|(id, _)| *id)
        .collect();
    fitting.choose(&mut state.chance).copied()
}

async fn befall_daemon(world: &World, node: usize, incident: Incident) {
    if world.with(|state| state.nodes[node].daemon != Daemon::Up) {
        return;
    }
    world.with(|state| match incident {
        Incident::Hang => state.set_daemon(node, Daemon::Hung),
        other => state.go_down(node, other == Incident::LiveRestore),
    });
    world.changed.notify_waiters();
    sleep(world.between(Duration::from_millis(300), Duration::from_secs(25))).await;
    world.with(|state| {
        if incident == Incident::LiveRestore {
            outlive(state, node);
        }
        state.set_daemon(node, Daemon::Up);
    });
    world.changed.notify_waiters();
}

/// What has run on without its daemon: some of it has ended, and nobody knows how; some has lost its port.
fn outlive(state: &mut crate::world::State, node: usize) {
    for _ in 0..state.chance.random_range(0..3) {
        let Some(id) = pick(state, node, |container| container.runs) else { return };
        if state.chance.random_bool(0.6) {
            state.end(node, id, 255, "ended without its daemon");
        } else {
            state.lose_port(node, id);
        }
    }
}

async fn cut(world: &World, crew: &Crew, node: usize, all: bool) {
    let seats: Vec<usize> =
        if all { crew.all().iter().map(|process| process.seat).collect() } else { vec![crew.any().seat] };
    let how = world.with(|state| if state.chance.random_bool(0.5) { Cut::Refused } else { Cut::Silent });
    for seat in &seats {
        world.with(|state| state.set_cut(*seat, node, Some(how)));
    }
    sleep(world.between(Duration::from_millis(300), Duration::from_secs(30))).await;
    for seat in &seats {
        world.with(|state| state.set_cut(*seat, node, None));
    }
}

async fn stick(world: &World, node: usize) {
    let stuck = world.with(|state| {
        let id = pick(state, node, |_| true)?;
        state.say(format_args!("node {node}: {} is stuck", id.short()));
        state.nodes[node].containers.get_mut(&id)?.stuck = true;
        // Listings of old engines wait for the lock, too.
        if state.chance.random_ratio(1, 4) {
            state.count("listing stuck");
            state.nodes[node].listing_stuck = true;
        }
        Some(id)
    });
    let Some(id) = stuck else { return };
    sleep(world.between(Duration::from_secs(1), Duration::from_secs(40))).await;
    world.with(|state| {
        if let Some(container) = state.nodes[node].containers.get_mut(&id) {
            container.stuck = false;
        }
        state.nodes[node].listing_stuck = false;
    });
    world.changed.notify_waiters();
}

async fn foreign(world: &World, node: usize) {
    let id = world.with(|state| {
        let kinds = [Kind::Foreign, Kind::Lookalike, Kind::Poison];
        let kind = kinds.choose(&mut state.chance).cloned().unwrap_or(Kind::Foreign);
        state.run_foreign(node, kind)
    });
    sleep(world.between(Duration::from_millis(100), Duration::from_secs(60))).await;
    world.with(|state| state.vanish(node, id));
}

async fn operate(world: &World, node: usize) {
    let deed = world.with(|state| state.chance.random_range(0..5));
    let chosen = world.with(|state| {
        let id = pick(state, node, |container| match deed {
            // `docker container prune`
            3 => !container.runs && matches!(container.state, Doing::Created | Doing::Exited),
            _ => container.runs && container.slots() > Slots::ZERO,
        })?;
        state.say(format_args!("an operator does {deed} to {} on node {node}", id.short()));
        match deed {
            0 | 3 => {
                state.ask_to_end(id);
                state.vanish(node, id);
            }
            1 => {
                state.ask_to_end(id);
                state.end(node, id, 143, "stopped by an operator");
            }
            4 => state.restart(node, id),
            _ => state.freeze(node, id, true),
        }
        Some(id)
    });
    if let (2, Some(id)) = (deed, chosen) {
        sleep(world.between(Duration::from_millis(500), Duration::from_secs(15))).await;
        world.with(|state| state.freeze(node, id, false));
    }
}
