//! A captain's way to an engine: what its calls, their answers and the captain itself meet with.
//!
//! A call is sent, waits for the daemon, is done at one instant, and its answer comes back; what is on the engine's side of it goes on
//! whether or not anybody still waits. Each call has its fate drawn before it is sent: whole, or with an outcome that the caller
//! does not learn, done all the same or not or later.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use captain_domain::claim::AttemptId;
use captain_domain::{InstanceId, NodeId, OperationId, State as Doing};
use captain_server::engine::{
    CreateSpec, Engine, EngineError, ErrorKind, Facts, Hints, Inspected, Logs, Owner, Preparation, Progress, Result,
    Sighting,
};
use futures_util::stream::{self, StreamExt};
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::crew::{Life, Pulse};
use crate::plan::{DEADLINE, Mutation, PREPARATION};
use crate::world::{Daemon, Node, Outcome, Reach, World};

/// One captain's engine on one node.
pub(crate) struct SimEngine {
    side: Side,
    life: Life,
    captain: usize,
    id: NodeId,
    mutation: Mutation,
    /// The attempts that were made through this, by operation: for [`Mutation::NoAttempt`].
    attempts: Mutex<BTreeMap<OperationId, AttemptId>>,
}

/// The engine's side: what goes on although the captain is gone.
#[derive(Clone)]
struct Side {
    world: Arc<World>,
    seat: usize,
    node: usize,
}

/// What becomes of a call.
struct Fate {
    /// On its way there and back.
    there: Duration,
    back: Duration,
    /// Whether the engine ever gets it.
    done: bool,
    /// The caller sees this instead of the answer, after so long.
    lost: Option<(ErrorKind, Duration)>,
}

impl fmt::Debug for SimEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "captain {} at {}", self.captain, self.id)
    }
}

impl Side {
    /// Waits until the daemon takes calls. `false` where it went down meanwhile.
    async fn awake(&self, boot: u64) -> bool {
        loop {
            let changed = self.world.changed.notified();
            let (daemon, now) = self.world.with(|state| (state.nodes[self.node].daemon, state.nodes[self.node].boot));
            match daemon {
                _ if now != boot => return false,
                Daemon::Down => return false,
                Daemon::Up => return true,
                Daemon::Hung => changed.await,
            }
            // All that waited is done at once, in no order.
            let jitter = self.world.with(|state| state.millis(0, 300));
            sleep(jitter).await;
        }
    }

    /// Something takes the engine so long. A restart that falls into it ends it.
    async fn take(&self, time: Duration) -> Outcome<()> {
        let boot = self.world.with(|state| state.nodes[self.node].boot);
        sleep(time).await;
        if self.awake(boot).await { Ok(()) } else { Err((ErrorKind::Interrupted, "the daemon went down")) }
    }

    /// Waits until nothing holds the container's lock.
    async fn unstuck(&self, id: InstanceId) -> Outcome<()> {
        self.until_not(|node| node.containers.get(&id).is_some_and(|container| container.stuck)).await
    }

    /// Waits until no container's lock holds the listing up.
    async fn listable(&self) -> Outcome<()> {
        self.until_not(|node| node.listing_stuck).await
    }

    async fn until_not(&self, held: impl Fn(&Node) -> bool) -> Outcome<()> {
        let boot = self.world.with(|state| state.nodes[self.node].boot);
        loop {
            let changed = self.world.changed.notified();
            if !self.world.with(|state| held(&state.nodes[self.node])) {
                let stands = self.awake(boot).await;
                return if stands { Ok(()) } else { Err((ErrorKind::Interrupted, "the daemon went down")) };
            }
            changed.await;
        }
    }

    fn draw(&self, patience: Duration) -> Fate {
        self.world.with(|state| {
            let slowness = u64::from(state.nodes[self.node].slowness);
            let mut fate = Fate {
                there: state.millis(1, 8) * state.nodes[self.node].slowness,
                back: state.millis(1, 8 * slowness),
                done: true,
                lost: None,
            };
            if state.unlucky(state.plan.calls_lost) {
                state.count("answer lost");
                fate.done = state.chance.random_bool(0.7);
                if fate.done && state.chance.random_bool(0.3) {
                    state.count("done late");
                    // No fault outlives the time of faults.
                    let rest = state.plan.span.saturating_sub(state.now());
                    fate.there += state.millis(500, 15_000).min(rest);
                }
                let soon = state.millis(1, 500);
                let kinds = [
                    (ErrorKind::TimedOut, patience),
                    (ErrorKind::Interrupted, soon),
                    (ErrorKind::Failed, soon),
                    (ErrorKind::Garbled, soon),
                ];
                fate.lost = kinds.choose(&mut state.chance).copied();
            }
            fate
        })
    }

    /// Sends the call to the engine and goes on there; what it answers comes out of the channel, unless it gets lost.
    fn send<T: Send + 'static>(
        &self,
        fate: &Fate,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> oneshot::Receiver<Outcome<T>> {
        let (answer, heard) = oneshot::channel();
        let side = self.clone();
        let (there, back, done) = (fate.there, fate.back, fate.done);
        let under_way = UnderWay::new(&self.world);
        tokio::spawn(async move {
            let _under_way = under_way;
            let boot = side.world.with(|state| state.nodes[side.node].boot);
            sleep(there).await;
            if !done || !side.awake(boot).await {
                return;
            }
            let outcome = work.await;
            sleep(back).await;
            let here = side.world.with(|state| match state.reach(side.seat, side.node) {
                _ if state.nodes[side.node].boot != boot => Reach::Refused,
                reach => reach,
            });
            match here {
                Reach::Open => drop(answer.send(outcome)),
                Reach::Refused => drop(answer),
                // Nothing comes, not even an end: the caller's deadline ends it.
                Reach::Silent => answer.closed_by_caller().await,
            }
        });
        heard
    }
}

/// Counts the calls that engines have not done yet.
struct UnderWay(Arc<World>);

impl UnderWay {
    fn new(world: &Arc<World>) -> Self {
        world.with(|state| state.calls_under_way += 1);
        Self(Arc::clone(world))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|state| state.calls_under_way -= 1);
    }
}

/// What a sender does whose line is dead.
trait Held {
    async fn closed_by_caller(self);
}

impl<T> Held for oneshot::Sender<T> {
    async fn closed_by_caller(mut self) {
        self.closed().await;
    }
}

impl SimEngine {
    pub(crate) fn new(world: &Arc<World>, life: &Life, captain: usize, seat: usize, node: usize, id: NodeId) -> Self {
        let mutation = world.with(|state| state.plan.mutation);
        let side = Side { world: Arc::clone(world), seat, node };
        Self { side, life: life.clone(), captain, id, mutation, attempts: Mutex::default() }
    }

    /// Between two steps: here a captain dies, or is stopped for a while.
    async fn gate(&self) {
        let now = self.side.world.with(|state| state.now());
        match self.side.world.with(|state| state.step(self.captain, self.side.seat)) {
            Some(Pulse::Dead) => self.life.end(),
            Some(_) => self.life.pause(now),
            None => return self.life.gate().await,
        }
        self.side.world.struck.notify_one();
        self.life.gate().await;
    }

    fn failed(&self, attempted: &'static str, kind: ErrorKind, message: &str) -> EngineError {
        let (captain, node) = (self.captain, self.side.node);
        self.side.world.say(format_args!("captain {captain}, node {node}: {attempted}: {kind:?}"));
        EngineError { node: self.id.clone(), attempted, kind, message: message.to_owned() }
    }

    /// A call from its beginning to what the captain makes of it.
    async fn call<T: Send + 'static>(
        &self,
        attempted: &'static str,
        patience: Duration,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
    ) -> Result<T> {
        self.gate().await;
        let reach = self.side.world.with(|state| state.reach(self.side.seat, self.side.node));
        let outcome = match reach {
            Reach::Open => {
                let fate = self.side.draw(patience);
                let heard = self.side.send(&fate, work);
                match fate.lost {
                    Some((kind, after)) => {
                        sleep(after).await;
                        Err((kind, "the answer was lost"))
                    }
                    None => match timeout(patience, heard).await {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => Err((ErrorKind::Interrupted, "the connection was closed")),
                        Err(_) => Err((ErrorKind::TimedOut, "no answer in time")),
                    },
                }
            }
            Reach::Refused => {
                sleep(Duration::from_millis(1)).await;
                Err((ErrorKind::Unreachable, "connection refused"))
            }
            Reach::Silent => {
                sleep(patience).await;
                Err((ErrorKind::Unreachable, "no connection in time"))
            }
        };
        self.gate().await;
        outcome.map_err(|(kind, message)| self.failed(attempted, kind, message))
    }

    fn hidden(&self, sighting: &Sighting, own: &[OperationId]) -> bool {
        self.mutation == Mutation::NoCapacityCheck
            && sighting.state == Doing::Created
            && matches!(&sighting.owner, Owner::Captain(labels) if !own.contains(&labels.operation))
    }

    /// With attempts taken out, what carries an operation of this captain's looks as if this captain had made it.
    fn relabel(&self, sighting: &mut Sighting) {
        if self.mutation != Mutation::NoAttempt {
            return;
        }
        if let Owner::Captain(labels) = &mut sighting.owner {
            let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            labels.attempt = attempts.get(&labels.operation).copied().or(labels.attempt);
        }
    }

    async fn sightings(&self, attempted: &'static str) -> Result<Vec<Sighting>> {
        let side = self.side.clone();
        let captain = self.captain;
        let (mut sightings, own) = self
            .call(attempted, DEADLINE, async move {
                side.listable().await?;
                Ok(side.world.with(|state| {
                    let made = state.nodes[side.node].containers.iter();
                    let own: Vec<InstanceId> =
                        made.filter(|(_, container)| container.maker == Some(captain)).map(|(id, _)| *id).collect();
                    (state.list(side.node), own)
                }))
            })
            .await?;
        let operations: Vec<OperationId> = sightings
            .iter()
            .filter(|sighting| own.contains(&sighting.id))
            .filter_map(|sighting| match &sighting.owner {
                Owner::Captain(labels) => Some(labels.operation),
                _ => None,
            })
            .collect();
        sightings.retain(|sighting| !self.hidden(sighting, &operations));
        sightings.iter_mut().for_each(|sighting| self.relabel(sighting));
        Ok(sightings)
    }
}

#[async_trait]
impl Engine for SimEngine {
    fn node(&self) -> &NodeId {
        &self.id
    }

    async fn facts(&self) -> Result<Facts> {
        self.call("ask the engine who it is", DEADLINE, async {
            Ok(Facts { kind: "sim", version: "1".to_owned(), memory_bytes: 0, cpus: 2, warnings: Vec::new() })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Sighting>> {
        self.sightings("list containers").await
    }

    async fn find(&self, operation: OperationId) -> Result<Vec<Sighting>> {
        let mut sightings = self.sightings("look an operation up").await?;
        let made_by_it =
            |sighting: &Sighting| matches!(&sighting.owner, Owner::Captain(labels) if labels.operation == operation);
        sightings.retain(|sighting| self.mutation != Mutation::NoLookUp && made_by_it(sighting));
        Ok(sightings)
    }

    async fn inspect(&self, id: InstanceId) -> Result<Inspected> {
        let (side, mutation) = (self.side.clone(), self.mutation);
        self.call("inspect a container", DEADLINE, async move {
            side.unstuck(id).await?;
            side.world.with(|state| match state.inspect(side.node, id) {
                Ok(Inspected::Instance(instance))
                    if mutation == Mutation::NoWaitForGone
                        && matches!(instance.state, Doing::Removing | Doing::Dead) =>
                {
                    Err((ErrorKind::NotFound, "no such container"))
                }
                inspected => inspected,
            })
        })
        .await
    }

    async fn prepare(&self, _preparation: &Preparation, progress: Progress<'_>) -> Result<()> {
        progress("pulling sim/runner:1".to_owned());
        let side = self.side.clone();
        self.call("prepare the runner image", PREPARATION, async move {
            let (takes, fails) = side.world.with(|state| (state.millis(200, 3_000), state.unlucky(30)));
            side.take(takes).await?;
            if side.world.with(|state| state.nodes[side.node].disk_full) {
                return Err((ErrorKind::NoSpace, "no space left on device"));
            }
            if fails {
                return Err((ErrorKind::ImageUnavailable, "manifest unknown"));
            }
            side.world.with(|state| {
                state.count("image pulled");
                state.nodes[side.node].image = true;
            });
            Ok(())
        })
        .await
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InstanceId> {
        let (side, spec, captain) = (self.side.clone(), spec.clone(), self.captain);
        if let Some(attempt) = spec.labels.attempt {
            self.attempts.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.labels.operation, attempt);
        }
        self.call("create a container", DEADLINE, async move {
            let takes = side.world.with(|state| state.millis(5, 60) * state.nodes[side.node].slowness);
            side.take(takes).await?;
            let created = side.world.with(|state| state.create(side.node, &spec, captain));
            // Visible to others before its maker knows.
            side.take(takes / 2).await?;
            created
        })
        .await
    }

    async fn start(&self, id: InstanceId) -> Result<()> {
        let (side, captain) = (self.side.clone(), self.captain);
        self.call("start a container", DEADLINE, async move {
            side.unstuck(id).await?;
            let waits = side.world.with(|state| {
                let takes = state.millis(10, 150) * state.nodes[side.node].slowness;
                let now = state.now();
                let site = &mut state.nodes[side.node];
                site.busy_until = site.busy_until.max(now) + takes;
                site.busy_until - now
            });
            side.take(waits).await?;
            side.world.with(|state| state.start(side.node, id, captain))
        })
        .await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<()> {
        let (side, captain) = (self.side.clone(), self.captain);
        self.call("stop a container", grace + DEADLINE, async move {
            side.unstuck(id).await?;
            let takes = side.world.with(|state| state.begin_stop(side.node, id, captain, grace))?;
            if let Some(takes) = takes {
                side.take(takes).await?;
                side.world.with(|state| state.end_stop(side.node, id, captain));
            }
            Ok(())
        })
        .await
    }

    async fn remove(&self, id: InstanceId, force: bool) -> Result<()> {
        let (side, captain) = (self.side.clone(), self.captain);
        self.call("remove a container", DEADLINE, async move {
            side.unstuck(id).await?;
            let takes = side.world.with(|state| state.begin_removal(side.node, id, force, captain))?;
            side.take(takes).await?;
            side.world.with(|state| state.end_removal(side.node, id))
        })
        .await
    }

    async fn logs(&self, _id: InstanceId, _follow: bool) -> Result<Logs> {
        Err(self.failed("read the output of a container", ErrorKind::Unsupported, "containers here say nothing"))
    }

    async fn events(&self) -> Result<Hints> {
        let side = self.side.clone();
        let heard = self
            .call("listen to the engine's events", DEADLINE, async move {
                let (events, heard) = mpsc::unbounded_channel();
                side.world.with(|state| state.listen(side.seat, side.node, events));
                Ok(heard)
            })
            .await?;
        let life = self.life.clone();
        let hints = stream::unfold((heard, life), |(mut heard, life)| async move {
            let hint = heard.recv().await?;
            life.gate().await;
            Some((Ok(hint), (heard, life)))
        });
        Ok(hints.boxed())
    }
}
