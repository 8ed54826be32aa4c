//! Start: reserve in the view, create (this is the claim that other captains see), list and judge, start, inspect, answer.
//!
//! Nothing is started before a listing made after its creation shows that everything visible on the node fits
//! (`captain_domain::claim`). A start that fails at any step leaves no container and no slots taken ([`super::withdraw`]).
//!
//! A client that was not answered may give its operation again, to any captain. On one node, at most one of these attempts comes to
//! run. Each marks what it makes as its own (`captain.attempt`), acts on nothing else, and answers 409 where another one is
//! at it or has done it. What remembers an operation is its container, for as long as there is one.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::claim::AttemptId;
use captain_domain::label::Labels;
use captain_domain::{
    AppName, Environment, Hostname, Instance, InstanceId, NodeId, OperationId, Slots, SlugUri, State,
};
use captain_slug::Digest;
use thiserror::Error;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use tracing::{info, warn};

use super::making::{Making, UnderWay};
use super::preparing;
use super::prescription::{Prescription, prescribe};
use super::withdraw::{Trace, made_by, withdraw};
use crate::captain::{Captain, NodeHandle};
use crate::engine::{CreateSpec, EngineError, ErrorKind, Inspected, Preparation};
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

impl From<Arc<EngineError>> for StartError {
    fn from(error: Arc<EngineError>) -> Self {
        Self::Engine(error)
    }
}

/// Starts an instance and answers when its container runs. Runs to its end although the caller goes away.
pub async fn start(captain: &Captain, order: Order) -> Result<Instance, StartError> {
    let acting = captain.clone();
    captain.spawn(async move { carry_out(&acting, order).await }).await.unwrap_or(Err(StartError::Lost))
}

async fn carry_out(captain: &Captain, order: Order) -> Result<Instance, StartError> {
    if order.repeatable && captain.fleet().read(|view| view.instance_of(&order.node, order.operation)).is_some() {
        return Err(repeated(captain, &order));
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
    let chance = captain.chance();
    let attempt = AttemptId::from_random(u64::from(chance.number()) << 32 | u64::from(chance.number()));
    let starting = Starting {
        captain,
        handle: &handle,
        order: &order,
        attempt,
        prescription: &prescription,
        reservation: &reservation,
    };
    // Kept until the view knows what became of it, the way back included.
    let mut making = None;
    let outcome = starting.run(&mut making).await;
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
                withdraw(captain, handle, reservation, attempt, trace).await;
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

/// What is answered where another attempt at the operation is before this one: what it came to, where that is known.
pub(super) fn repeated(captain: &Captain, order: &Order) -> StartError {
    let operation = order.operation;
    let started = captain.fleet().read(|view| {
        let instance = view.instance_of(&order.node, operation).and_then(|id| view.instance(id))?;
        let claims = matches!(instance.state(), State::Created | State::Removing | State::Dead);
        (!claims).then(|| instance.id())
    });
    match started {
        Some(instance) => StartError::Done { operation, instance },
        None => StartError::InProgress(operation),
    }
}

async fn turn<'a>(handle: &'a NodeHandle, order: &Order) -> Result<SemaphorePermit<'a>, StartError> {
    match timeout(TURN, handle.changes.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(StartError::Busy(order.node.clone())),
    }
}

/// A start that failed, and what may be left of it.
pub(super) struct Failure {
    error: StartError,
    trace: Option<Trace>,
}

impl Failure {
    /// Nothing was created.
    fn clean(error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: None }
    }

    /// A container that was created, or may have been, and not started.
    pub(super) fn unstarted(container: Option<InstanceId>, why: &'static str, error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: Some(Trace { container, started: false, why }) }
    }

    /// A container that may run.
    fn started(id: InstanceId, why: &'static str, error: impl Into<StartError>) -> Self {
        Self { error: error.into(), trace: Some(Trace { container: Some(id), started: true, why }) }
    }
}

/// A start that has its turn.
pub(super) struct Starting<'a> {
    pub(super) captain: &'a Captain,
    pub(super) handle: &'a Arc<NodeHandle>,
    pub(super) order: &'a Order,
    /// Marks what this start makes as its own.
    pub(super) attempt: AttemptId,
    prescription: &'a Prescription,
    pub(super) reservation: &'a Reservation,
}

impl Starting<'_> {
    async fn run(&self, making: &mut Option<UnderWay>) -> Result<Instance, Failure> {
        let id = self.create().await?;
        *making = Some(Making::begin(self.handle, self.captain.fleet(), id));
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
                // Of unknown outcome; or refused because there is one of the name, and it may be this very one.
                Err(error) if error.is_unknown() || error.kind == ErrorKind::Conflict => {
                    return self.look_for_created(error).await;
                }
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

    /// If the engine answers now and has a container of this attempt, the start goes on with it.
    async fn look_for_created(&self, error: EngineError) -> Result<InstanceId, Failure> {
        let refused = !error.is_unknown();
        let found = match self.handle.engine.find(self.order.operation).await {
            Ok(found) => found,
            Err(_) if refused => return Err(Failure::clean(error)),
            Err(_) => Vec::new(),
        };
        if let Some(own) = found.iter().find(|sighting| made_by(sighting, self.attempt)) {
            return Ok(own.id);
        }
        self.handle.poke.notify_one();
        if !refused {
            return Err(Failure::unstarted(None, "what came of the creation is unknown", error));
        }
        // The name is taken by another attempt, or by somebody who is no captain.
        Err(Failure::clean(if found.is_empty() { StartError::from(error) } else { repeated(self.captain, self.order) }))
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
        let under_way = preparing::join(self.captain, self.handle, preparation);
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
                attempt: Some(self.attempt),
            },
            environment,
            hostname: order.hostname.clone(),
            memory_bytes: policy.slot_size.memory_bytes(order.slots),
            cpu_shares: policy.slot_size.cpu_shares(order.slots),
        }
    }
}
