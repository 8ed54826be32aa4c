//! Start: reserve in the view, create (this is the claim that other captains see), list and judge, start, inspect, answer.
//!
//! Nothing is started before a listing made after its creation shows that everything visible on the node fits
//! (`captain_domain::claim`). A start that fails at any step leaves no container and no slots taken ([`super::withdraw`]).

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use captain_domain::claim::{self, Hold, Taken, Verdict};
use captain_domain::label::Labels;
use captain_domain::{
    AppName, Environment, Hostname, Instance, InstanceId, NodeId, OperationId, Slots, SlugUri, State,
};
use captain_slug::Digest;
use thiserror::Error;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::prescription::{Prescription, prescribe};
use super::withdraw::{Trace, withdraw};
use crate::captain::{Captain, NodeHandle, Preparations};
use crate::engine::{CreateSpec, EngineError, ErrorKind, Inspected, Owner, Preparation, SlugOnStack};
use crate::fleet::{Phase, Refusal, Reservation};
use crate::slugs::FetchError;

/// How long a start waits for its turn on a node: about as long as a client of the original would have.
const TURN: Duration = Duration::from_secs(120);

/// Creations tried: the image may go between its preparation and the creation, once.
const CREATIONS: u32 = 2;

/// A start, with everything decided but whether it fits.
#[derive(Debug, Clone)]
pub struct Order {
    /// The operation: given by the client, or drawn.
    pub operation: OperationId,
    /// Whether the client gave it, and so may give it again.
    pub repeatable: bool,
    /// The app.
    pub app: AppName,
    /// The node.
    pub node: NodeId,
    /// The slug.
    pub slug_uri: SlugUri,
    /// The caller's environment.
    pub environment: Environment,
    /// The slots to take.
    pub slots: Slots,
    /// The host name asked for.
    pub hostname: Option<Hostname>,
    /// The tag of the runner image asked for. Only where one runs slugs.
    pub runner_version: Option<String>,
    /// The process type asked for. Only where Captain's own runner runs slugs.
    pub process: Option<String>,
    /// The digest that the slug must have. Only where Captain fetches it.
    pub slug_sha256: Option<Digest>,
}

/// Why a start did not happen. Nothing of it is left, or is being removed.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no such node.
    #[error("there is no node {0}")]
    NoSuchNode(NodeId),
    /// The node is known not to answer.
    #[error("node {node} cannot be reached now ({state})")]
    NodeUnavailable {
        /// The node.
        node: NodeId,
        /// Its state.
        state: String,
    },
    /// Not enough free slots. The sentence is the original's.
    #[error("There aren't enough free slots on {node} to service your request")]
    OverCapacity {
        /// The node.
        node: NodeId,
        /// The slots asked for.
        asked: Slots,
        /// The slots that were free.
        free: Slots,
    },
    /// The operation is being carried out already.
    #[error("operation {0} is being carried out already")]
    InProgress(OperationId),
    /// The operation was carried out before.
    #[error("operation {operation} was carried out already: it started instance {instance}")]
    Done {
        /// The operation.
        operation: OperationId,
        /// What it started.
        instance: InstanceId,
    },
    /// Too many changes wait for the node.
    #[error("too many changes are waiting for node {0}")]
    Busy(NodeId),
    /// The slug cannot be had.
    #[error(transparent)]
    Slug(Arc<FetchError>),
    /// The engine failed.
    #[error(transparent)]
    Engine(Arc<EngineError>),
    /// The instance was gone before it could be looked at: somebody removed it.
    #[error("the instance was removed by somebody else while it was being started")]
    Vanished,
    /// A defect: the task ended without an answer.
    #[error("the start ended without an answer")]
    Lost,
}

impl From<EngineError> for StartError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Arc::new(error))
    }
}

/// Starts an instance and answers when its container runs. Runs to its end although the caller goes away.
pub async fn start(captain: &Captain, order: Order) -> Result<Instance, StartError> {
    let acting = captain.clone();
    captain.spawn(async move { carry_out(&acting, order).await }).await.unwrap_or(Err(StartError::Lost))
}

async fn carry_out(captain: &Captain, order: Order) -> Result<Instance, StartError> {
    if order.repeatable {
        let done = captain.fleet().read(|view| view.instance_of(&order.node, order.operation));
        if let Some(instance) = done {
            return Err(StartError::Done { operation: order.operation, instance });
        }
    }
    let reservation = captain
        .fleet()
        .reserve(&order.node, &order.app, order.slots, order.operation, captain.now())
        .map_err(|refusal| refused(refusal, &order))?;
    let handle = captain.node(&order.node).ok_or_else(|| StartError::NoSuchNode(order.node.clone()))?;
    // Before its turn: an origin that is slow must not keep other starts from the node.
    let prescription = prescribe(captain, &order, &reservation).await?;
    let needed = prescription.slug.as_ref().map(|slug| handle.slug_use.begin(slug.digest, captain.now()));
    let turn = turn(&handle, &order).await?;
    let starting =
        Starting { captain, handle: &handle, order: &order, prescription: &prescription, reservation: &reservation };
    let outcome = starting.run().await;
    drop((turn, needed));
    match outcome {
        Ok(instance) => {
            // The instance is in the view before the reservation goes: its slots are never counted as free in between.
            drop(reservation);
            info!(node = %order.node, app = %order.app, instance = instance.id.short(), slug = order.slug_uri.redacted(), "started");
            Ok(instance)
        }
        Err(failure) => {
            if let Some(trace) = failure.trace {
                withdraw(captain, handle, reservation, trace).await;
            }
            if let StartError::Engine(error) = &failure.error {
                warn!(node = %order.node, app = %order.app, operation = %order.operation, %error, "start failed");
            }
            Err(failure.error)
        }
    }
}

fn refused(refusal: Refusal, order: &Order) -> StartError {
    let node = order.node.clone();
    match refusal {
        Refusal::NoSuchNode => StartError::NoSuchNode(node),
        Refusal::Unavailable(state) => StartError::NodeUnavailable { node, state },
        Refusal::OverCapacity { free, .. } => StartError::OverCapacity { node, asked: order.slots, free },
        Refusal::InProgress => StartError::InProgress(order.operation),
    }
}

async fn turn<'a>(handle: &'a NodeHandle, order: &Order) -> Result<SemaphorePermit<'a>, StartError> {
    match timeout(TURN, handle.changes.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(StartError::Busy(order.node.clone())),
    }
}

/// A start that failed, and what may be left of it.
struct Failure {
    error: StartError,
    trace: Option<Trace>,
}

impl Failure {
    /// Nothing was created.
    fn clean(error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: None }
    }

    /// A container that was created, or may have been, and not started.
    fn unstarted(container: Option<InstanceId>, why: &'static str, error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: Some(Trace { container, started: false, why }) }
    }

    /// A container that may run.
    fn started(id: InstanceId, why: &'static str, error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: Some(Trace { container: Some(id), started: true, why }) }
    }
}

struct Starting<'a> {
    captain: &'a Captain,
    handle: &'a Arc<NodeHandle>,
    order: &'a Order,
    prescription: &'a Prescription,
    reservation: &'a Reservation,
}

impl Starting<'_> {
    async fn run(&self) -> Result<Instance, Failure> {
        let id = self.create().await?;
        self.claim(id).await?;
        self.reservation.phase(Phase::Starting, None);
        self.set_going(id).await?;
        self.look_at(id).await
    }

    /// Creates the container, and prepares the node first if it turns out to lack something. That order costs a prepared node no
    /// call: the creation itself tells.
    async fn create(&self) -> Result<InstanceId, Failure> {
        let spec = self.spec();
        for _ in 0..CREATIONS {
            self.reservation.phase(Phase::Creating, self.prescription.note());
            match self.handle.engine.create(&spec).await {
                Ok(id) => return Ok(id),
                Err(error) if error.kind == ErrorKind::ImageMissing => {
                    self.prepare(&spec.preparation).await.map_err(Failure::clean)?;
                }
                Err(error) if error.is_unknown() => return self.look_for_created(error).await,
                Err(error) => return Err(Failure::clean(error)),
            }
        }
        Err(Failure::clean(EngineError {
            node: self.order.node.clone(),
            attempted: "create a container",
            kind: ErrorKind::ImageUnavailable,
            message: "the image was removed from the node again and again while it was being used".to_owned(),
        }))
    }

    /// The outcome of the creation is unknown. If the engine answers now and has the container, the start goes on with it.
    async fn look_for_created(&self, error: EngineError) -> Result<InstanceId, Failure> {
        match self.handle.engine.find(self.order.operation).await {
            // An operation that the client chose may be with another captain as well, and what is found may be that one's. Then
            // nothing is gone on with: what is ours is found again, and removed while it does not run.
            Ok(found) if found.len() == 1 && !self.order.repeatable => Ok(found[0].id),
            _ => {
                self.handle.poke.notify_one();
                Err(Failure::unstarted(None, "what came of the creation is unknown", error))
            }
        }
    }

    /// Waits until everything on the node fits, this claim included, or gives way.
    async fn claim(&self, id: InstanceId) -> Result<(), Failure> {
        self.reservation.phase(Phase::Claiming, None);
        let until = Instant::now() + self.captain.policy().claim_patience;
        let mut pause = Duration::from_millis(5);
        loop {
            let (verdict, free) = self.judge(id).await.map_err(|error| {
                self.handle.poke.notify_one();
                Failure::unstarted(Some(id), "nothing could be said of the node", error)
            })?;
            match verdict {
                Verdict::Start => return Ok(()),
                Verdict::Wait if Instant::now() < until => {
                    // Others are giving way. Jitter keeps several that wait from listing in step.
                    sleep(self.captain.chance().between(pause / 2, pause)).await;
                    pause = (pause * 2).min(Duration::from_millis(250));
                }
                Verdict::Wait | Verdict::Outbid | Verdict::Full => {
                    let error =
                        StartError::OverCapacity { node: self.order.node.clone(), asked: self.order.slots, free };
                    return Err(Failure::unstarted(Some(id), "the node is full", error));
                }
            }
        }
    }

    /// Lists the node and judges this claim. Answers also how many slots the others leave free.
    async fn judge(&self, id: InstanceId) -> Result<(Verdict, Slots), StartError> {
        let (fleet, engine) = (self.captain.fleet(), &self.handle.engine);
        let sightings = engine.list().await?;
        let mut taken = Vec::new();
        for sighting in sightings.iter().filter(|sighting| sighting.state.holds_slots()) {
            let hold = match sighting.state {
                State::Created => Hold::Claim,
                State::Removing => Hold::Leaving,
                _ => Hold::Lasting,
            };
            match &sighting.owner {
                // The client has given one operation to two starts, through two captains. The rule tells claims apart by their
                // operations, so it is not even asked.
                Owner::Captain(labels) if labels.operation == self.order.operation && sighting.id != id => {
                    return Err(StartError::InProgress(self.order.operation));
                }
                Owner::Captain(labels) => {
                    taken.push(Taken { operation: Some(labels.operation), slots: labels.slots, hold });
                }
                Owner::Perhaps => {
                    let known = fleet.read(|view| view.instance(sighting.id).map(|instance| instance.slots()));
                    let slots = match known {
                        Some(slots) => slots,
                        None => self.slots_of_unknown(sighting.id).await?,
                    };
                    taken.push(Taken { operation: None, slots, hold: Hold::Lasting });
                }
                Owner::Foreign | Owner::Unreadable(_) => {}
            }
        }
        let total = fleet.read(|view| view.node(self.order.node.as_str()).map(|node| node.total()));
        let total = total.unwrap_or(Slots::ZERO);
        let others = taken.iter().filter(|taken| taken.operation != Some(self.order.operation));
        let free = others.fold(total, |free, taken| free.minus(taken.slots));
        Ok((claim::judge(self.order.operation, self.order.slots, total, taken), free))
    }

    /// A container in the shape of the original's that the watcher has not looked at: it counts if it is one.
    async fn slots_of_unknown(&self, id: InstanceId) -> Result<Slots, EngineError> {
        let known_foreign = self
            .captain
            .fleet()
            .read(|view| view.node(self.order.node.as_str()).is_some_and(|node| node.is_foreign(id)));
        if known_foreign {
            return Ok(Slots::ZERO);
        }
        match self.handle.engine.inspect(id).await {
            Ok(Inspected::Instance(instance)) => Ok(instance.slots),
            Ok(Inspected::Foreign | Inspected::Unreadable(_)) => Ok(Slots::ZERO),
            Err(error) if error.is_not_found() => Ok(Slots::ZERO),
            Err(error) => Err(error),
        }
    }

    async fn set_going(&self, id: InstanceId) -> Result<(), Failure> {
        match self.handle.engine.start(id).await {
            Ok(()) => Ok(()),
            // It may run all the same: the look that follows tells.
            Err(error) if error.is_unknown() => match self.handle.engine.inspect(id).await {
                Ok(Inspected::Instance(instance)) if instance.started.is_some() => Ok(()),
                _ => {
                    self.handle.poke.notify_one();
                    Err(Failure::started(id, "what came of the start is unknown", error))
                }
            },
            // Swept by another captain that took this one for dead: it must not be started, and is not.
            Err(error) if error.is_not_found() => Err(Failure::clean(StartError::Vanished)),
            Err(error) => Err(Failure::started(id, "it could not be started", error)),
        }
    }

    async fn look_at(&self, id: InstanceId) -> Result<Instance, Failure> {
        let fleet = self.captain.fleet();
        let stamp = fleet.stamp();
        match self.handle.engine.inspect(id).await {
            Ok(Inspected::Instance(instance)) => {
                fleet.write(|view| view.observe(stamp, &instance));
                Ok(*instance)
            }
            Ok(Inspected::Foreign | Inspected::Unreadable(_)) => {
                let error = EngineError {
                    node: self.order.node.clone(),
                    attempted: "inspect the started container",
                    kind: ErrorKind::Garbled,
                    message: "the engine does not give back the labels that it was given".to_owned(),
                };
                Err(Failure::started(id, "it cannot be recognised", error))
            }
            Err(error) if error.is_not_found() => Err(Failure::clean(StartError::Vanished)),
            Err(error) => {
                self.handle.poke.notify_one();
                Err(Failure::started(id, "it runs, but nothing can be said of it", error))
            }
        }
    }

    /// Brings to the node what is needed, once for all starts that wait for it.
    async fn prepare(&self, preparation: &Preparation) -> Result<(), StartError> {
        if let Some(why) = self.prescription.lacking() {
            return Err(StartError::Slug(why));
        }
        let under_way = join_preparation(self.captain, self.handle, preparation);
        let report = |detail: String| {
            self.reservation.phase(Phase::Preparing, (!detail.is_empty()).then_some(detail));
        };
        under_way.outcome(report).await.map_err(StartError::Engine)
    }

    fn spec(&self) -> CreateSpec {
        let Self { captain, order, .. } = self;
        let policy = captain.policy();
        let mut environment = order.environment.clone();
        environment.set("PORT", "8080");
        // Captain's own runner keeps it from the app; it stands here so that every instance's container says the same.
        environment.set("SLUG_URL", order.slug_uri.as_str());
        CreateSpec {
            name: format!("{}_{}", order.app, order.operation),
            preparation: self.prescription.preparation.clone(),
            command: self.prescription.command.clone(),
            labels: Labels {
                app: order.app.clone(),
                slots: order.slots,
                slug_uri: order.slug_uri.clone(),
                operation: order.operation,
            },
            environment,
            hostname: order.hostname.clone(),
            memory_bytes: policy.slot_size.memory_bytes(order.slots),
            cpu_shares: policy.slot_size.cpu_shares(order.slots),
        }
    }
}

/// The same slug is the same preparation, wherever its bytes lie on this captain's disk.
fn key(preparation: &Preparation) -> Preparation {
    match preparation {
        Preparation::Slug(slug) => Preparation::Slug(SlugOnStack { file: Path::new("").into(), ..slug.clone() }),
        Preparation::RunnerImage { .. } => preparation.clone(),
    }
}

/// The preparation of this thing on this node: the one under way, or a new one in a task of its own.
fn join_preparation(captain: &Captain, handle: &Arc<NodeHandle>, preparation: &Preparation) -> Arc<Preparations> {
    let mut all = handle.preparing.lock().unwrap_or_else(PoisonError::into_inner);
    let key = key(preparation);
    if let Some(under_way) = all.get(&key) {
        return Arc::clone(under_way);
    }
    let under_way = Arc::new(Preparations::default());
    all.insert(key, Arc::clone(&under_way));
    drop(all);
    let acting =
        Ending { handle: Arc::clone(handle), preparation: preparation.clone(), under_way: Arc::clone(&under_way) };
    captain.spawn(async move {
        let progress = |detail: String| acting.under_way.change(|state| state.detail = detail);
        let outcome = acting.handle.engine.prepare(&acting.preparation, &progress).await;
        acting.under_way.change(|state| state.outcome = Some(outcome.map_err(Arc::new)));
    });
    under_way
}

/// Takes a preparation off the list when its task ends, however it ends: nobody must wait for what does not go on.
struct Ending {
    handle: Arc<NodeHandle>,
    preparation: Preparation,
    under_way: Arc<Preparations>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.handle.preparing.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(&self.preparation));
        if let Preparation::Slug(_) = self.preparation {
            self.handle.slug_use.prepared();
        }
        self.under_way.change(|state| {
            state.outcome.get_or_insert_with(|| {
                Err(Arc::new(EngineError {
                    node: self.handle.engine.node().clone(),
                    attempted: "prepare the node",
                    kind: ErrorKind::Failed,
                    message: "the preparation ended without an answer".to_owned(),
                }))
            });
        });
    }
}
