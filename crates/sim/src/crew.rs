//! The captains: seats on which captains live, pause, die and are replaced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use captain_server::captain::{Captain, Chance};
use captain_server::gc;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;

use crate::engine::SimEngine;
use crate::world::World;

/// What a captain's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    Lives,
    /// Stopped, and will go on as if nothing had been.
    Paused,
    Dead,
}

/// A captain's process.
pub(crate) struct Process {
    /// Counts all captains of the run.
    pub(crate) number: usize,
    /// The machine that it is on: what is cut off from nodes.
    pub(crate) seat: usize,
    pub(crate) captain: Captain,
    pub(crate) life: Life,
}

/// The process as its calls feel it.
#[derive(Clone)]
pub(crate) struct Life(Arc<Inner>);

/// A `Notify`, not a `watch`: that wakes its waiters in a random order.
struct Inner {
    vitals: Mutex<Vitals>,
    changed: Notify,
}

#[derive(Clone, Copy)]
struct Vitals {
    pulse: Pulse,
    /// When it was last paused or resumed.
    last: Option<Duration>,
    /// How long the ended pauses were together.
    paused: Duration,
}

impl Life {
    fn new() -> Self {
        let vitals = Vitals { pulse: Pulse::Lives, last: None, paused: Duration::ZERO };
        Self(Arc::new(Inner { vitals: Mutex::new(vitals), changed: Notify::new() }))
    }

    fn vitals(&self) -> MutexGuard<'_, Vitals> {
        self.0.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.vitals().pulse
    }

    async fn until(&self, wanted: Pulse) {
        loop {
            let changed = self.0.changed.notified();
            if self.pulse() == wanted {
                return;
            }
            changed.await;
        }
    }

    /// Goes on while the captain lives. A dead captain's step is never taken: to the engines that is what death is.
    pub(crate) async fn gate(&self) {
        self.until(Pulse::Lives).await;
    }

    /// Ends when the captain is dead.
    pub(crate) async fn death(&self) {
        self.until(Pulse::Dead).await;
    }

    fn turn(&self, from: Pulse, to: Pulse, now: Duration) {
        let mut vitals = self.vitals();
        if vitals.pulse == from {
            if let (Pulse::Paused, Some(last)) = (from, vitals.last) {
                vitals.paused += now - last;
            }
            vitals.pulse = to;
            vitals.last = Some(now);
            drop(vitals);
            self.0.changed.notify_waiters();
        }
    }

    pub(crate) fn pause(&self, now: Duration) {
        self.turn(Pulse::Lives, Pulse::Paused, now);
    }

    pub(crate) fn resume(&self, now: Duration) {
        self.turn(Pulse::Paused, Pulse::Lives, now);
    }

    /// For how long it has lived without a pause; `None` where it never had one.
    pub(crate) fn since_pause(&self, now: Duration) -> Option<Duration> {
        self.vitals().last.map(|last| now.saturating_sub(last))
    }

    /// How long all its pauses were that ended.
    pub(crate) fn paused(&self) -> Duration {
        self.vitals().paused
    }

    pub(crate) fn end(&self) {
        self.vitals().pulse = Pulse::Dead;
        self.0.changed.notify_waiters();
    }
}

/// All captains.
pub(crate) struct Crew {
    world: Arc<World>,
    seats: Mutex<Vec<Arc<Process>>>,
    count: Mutex<usize>,
}

impl Crew {
    /// The captains of the plan, just started.
    pub(crate) fn muster(world: &Arc<World>) -> Arc<Self> {
        let crew = Self { world: Arc::clone(world), seats: Mutex::default(), count: Mutex::new(0) };
        let seats = (0..world.with(|state| state.plan.captains)).map(|seat| crew.launch(seat)).collect();
        *crew.seats() = seats;
        Arc::new(crew)
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self, seat: usize) -> Arc<Process> {
        let number = {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            *count - 1
        };
        let (policy, seed, skew) = self.world.with(|state| {
            state.say(format_args!("captain {number} starts on seat {seat}"));
            (state.plan.policy(), state.chance.random::<u64>(), state.chance.random_range(-5_000..5_000))
        });
        let world = Arc::clone(&self.world);
        // Its clock may jump by hours while it runs: deadlines must not care.
        let clock = Arc::new(move || {
            world.with(|state| {
                let jump = if state.now().as_secs() / 20 % 2 == 1 { skew * 720 } else { 0 };
                state.wall(skew + jump)
            })
        });
        // Runner images fetch slugs by themselves: nothing is ever kept there.
        let slugs = captain_server::slugs::Settings::below("/nonexistent".into());
        let captain = Captain::new(policy, slugs, clock, Chance::new(SmallRng::seed_from_u64(seed)));
        let life = Life::new();
        let nodes: Vec<_> =
            self.world.with(|state| state.nodes.iter().map(|node| (node.id.clone(), node.total)).collect());
        for (at, (id, total)) in nodes.into_iter().enumerate() {
            captain.add_node(Arc::new(SimEngine::new(&self.world, &life, number, seat, at, id)), total);
        }
        captain.spawn(gc::collect(captain.clone()));
        Arc::new(Process { number, seat, captain, life })
    }

    /// The captain of a seat.
    pub(crate) fn of(&self, seat: usize) -> Arc<Process> {
        Arc::clone(&self.seats()[seat])
    }

    /// Every seat's captain.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        self.seats().clone()
    }

    /// Any captain.
    pub(crate) fn any(&self) -> Arc<Process> {
        let seats = self.seats();
        let at = self.world.with(|state| state.chance.random_range(0..seats.len()));
        Arc::clone(&seats[at])
    }

    /// Kills a seat's captain: from now on none of its calls begins, ends or takes effect. Those that engines have got go on.
    pub(crate) fn kill(&self, seat: usize) {
        let process = self.of(seat);
        self.world.say(format_args!("captain {} is killed", process.number));
        process.life.end();
        // Only spares the run its watchers' timers: nothing that is woken by it gets past the gate.
        process.captain.closing().cancel();
    }

    /// Starts a new captain on a seat, with nothing but what the engines tell.
    pub(crate) fn replace(&self, seat: usize) {
        let process = self.launch(seat);
        self.seats()[seat] = process;
    }
}
