//! A node's daemon as a whole: up, down or hung, who listens to its events, and who is cut off from it.

use std::collections::BTreeMap;
use std::time::Duration;

use captain_domain::{InstanceId, NodeId, Slots, State as Doing};
use captain_server::engine::Hint;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::sleep;

use super::{Container, State};

/// What its daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Up,
    /// Connections are taken, nothing is answered, and all of it is done when it wakes up.
    Hung,
    Down,
}

/// How a captain is cut off from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Connections are refused.
    Refused,
    /// Nothing comes back.
    Silent,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Open,
    Refused,
    Silent,
}

/// Somebody who listens to the events of a node.
struct Listener {
    seat: usize,
    events: UnboundedSender<Hint>,
}

/// A node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) total: Slots,
    pub(crate) containers: BTreeMap<InstanceId, Container>,
    pub(crate) daemon: Daemon,
    /// When it went down or hung.
    away_since: Option<Duration>,
    /// Counts restarts: a call that a restart fell into is interrupted.
    pub(crate) boot: u64,
    /// Whether its engine lets two containers have one name.
    pub(crate) nameless: bool,
    /// Whether its listing waits for a container whose lock is held.
    pub(crate) listing_stuck: bool,
    /// Whether the runner image is there.
    pub(crate) image: bool,
    pub(crate) disk_full: bool,
    /// How many times slower than usual it is.
    pub(crate) slowness: u32,
    /// Until when the starts accepted so far keep it busy: an engine does them one after another.
    pub(crate) busy_until: Duration,
    /// Its clock is off by so much.
    pub(crate) skew_ms: i64,
    listeners: Vec<Listener>,
}

impl Node {
    pub(super) fn new(at: usize, total: Slots, nameless: bool, chance: &mut SmallRng) -> Self {
        Self {
            id: NodeId::trusted(&format!("node-{at}")),
            total,
            containers: BTreeMap::new(),
            daemon: Daemon::Up,
            away_since: None,
            boot: 0,
            nameless,
            listing_stuck: false,
            image: chance.random_bool(0.5),
            disk_full: false,
            slowness: 1,
            busy_until: Duration::ZERO,
            skew_ms: if chance.random_bool(0.5) { 0 } else { chance.random_range(-3_600_000..3_600_000) },
            listeners: Vec::new(),
        }
    }

    /// Slots of what has processes.
    pub(crate) fn running(&self) -> Slots {
        let running = self.containers.values().filter(|container| container.runs);
        running.fold(Slots::ZERO, |sum, container| sum.plus(container.slots()))
    }
}

impl State {
    /// Tells the listeners that something happened to a container: each of them at once, late, twice or not at all.
    pub(super) fn emit(&mut self, node: usize, id: InstanceId) {
        // A daemon on a full disk stops telling.
        let rate = if self.nodes[node].disk_full { self.plan.events_lost.max(300) } else { self.plan.events_lost };
        let mut listeners = std::mem::take(&mut self.nodes[node].listeners);
        listeners.retain(|listener| !listener.events.is_closed());
        for listener in &listeners {
            if self.cuts.contains_key(&(listener.seat, node)) || self.unlucky(rate) {
                self.count("event lost");
                continue;
            }
            let late = self.unlucky(rate);
            if late || self.unlucky(rate) {
                self.count(if late { "event late" } else { "event doubled" });
                let (events, delay) = (listener.events.clone(), self.millis(1, 8_000));
                tokio::spawn(async move {
                    sleep(delay).await;
                    let _ = events.send(Hint { id, begins: false });
                });
            }
            if !late {
                let _ = listener.events.send(Hint { id, begins: false });
            }
        }
        self.nodes[node].listeners = listeners;
    }

    pub(crate) fn listen(&mut self, seat: usize, node: usize, events: UnboundedSender<Hint>) {
        self.nodes[node].listeners.push(Listener { seat, events });
    }

    /// The daemon ends its event streams.
    pub(crate) fn end_streams(&mut self, node: usize) {
        self.nodes[node].listeners.clear();
    }

    /// The daemon hangs, wakes up, goes down or comes back.
    pub(crate) fn set_daemon(&mut self, node: usize, daemon: Daemon) {
        self.say(format_args!("node {node}: daemon {daemon:?}"));
        let now = self.now();
        let site = &mut self.nodes[node];
        site.daemon = daemon;
        site.away_since = (daemon != Daemon::Up).then(|| site.away_since.unwrap_or(now));
    }

    /// The daemon goes down. Without live restore everything on it dies with it. A removal under way is left half done.
    pub(crate) fn go_down(&mut self, node: usize, live_restore: bool) {
        self.set_daemon(node, Daemon::Down);
        self.end_streams(node);
        self.nodes[node].boot += 1;
        self.nodes[node].listing_stuck = false;
        let ids: Vec<(InstanceId, Doing, bool)> =
            self.nodes[node].containers.iter().map(|(id, container)| (*id, container.state, container.runs)).collect();
        for (id, state, runs) in ids {
            if runs && !live_restore {
                self.end(node, id, 255, "died with its daemon");
            }
            if state == Doing::Removing {
                self.count("dead container");
            }
            if let Some(container) = self.nodes[node].containers.get_mut(&id) {
                // Locks do not outlive the daemon.
                container.stuck = false;
                container.listed_as_removing = false;
                if state == Doing::Removing {
                    container.state = Doing::Dead;
                }
            }
        }
    }

    /// Cuts a captain off from a node, or puts it back.
    pub(crate) fn set_cut(&mut self, seat: usize, node: usize, cut: Option<Cut>) {
        let now = self.now();
        self.say(format_args!("captain's seat {seat} and node {node}: cut {cut:?}"));
        match cut {
            Some(cut) => {
                let since = self.cuts.get(&(seat, node)).map_or(now, |(_, since)| *since);
                self.cuts.insert((seat, node), (cut, since));
            }
            None => {
                self.cuts.remove(&(seat, node));
            }
        }
    }

    /// What becomes of a connection from a captain to a node.
    pub(crate) fn reach(&self, seat: usize, node: usize) -> Reach {
        match (self.cuts.get(&(seat, node)), self.nodes[node].daemon) {
            (Some((Cut::Silent, _)), _) => Reach::Silent,
            (Some((Cut::Refused, _)), _) | (None, Daemon::Down) => Reach::Refused,
            (None, Daemon::Up | Daemon::Hung) => Reach::Open,
        }
    }

    /// For how long a captain has been unable to learn anything of a node.
    pub(crate) fn unreachable_for(&self, seat: usize, node: usize) -> Duration {
        let cut = self.cuts.get(&(seat, node)).map(|(_, since)| *since);
        let since = [cut, self.nodes[node].away_since].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| self.now().saturating_sub(since))
    }

    /// All faults end.
    pub(crate) fn heal(&mut self) {
        self.say(format_args!("faults end"));
        let now = self.now();
        self.faulty = false;
        self.cuts.clear();
        for node in 0..self.nodes.len() {
            if self.nodes[node].daemon != Daemon::Up {
                self.set_daemon(node, Daemon::Up);
            }
            let site = &mut self.nodes[node];
            site.disk_full = false;
            site.listing_stuck = false;
            site.slowness = 1;
            site.busy_until = now;
            for container in site.containers.values_mut() {
                container.stuck = false;
            }
        }
    }
}
