//! Stop: SIGTERM, grace, SIGKILL, removal; done when the engine answers that there is no such container.

use std::time::Duration;

use captain_domain::id::IdPrefix;
use captain_domain::{Health, InstanceId, NodeId, State};
use tokio::time::Instant;
use tracing::info;

use super::ActionError;
use super::withdraw;
use crate::captain::Captain;
use crate::engine::{EngineError, ErrorKind};
use crate::fleet::{Found, View};

/// How long a removal may take after the instance has ended, before the client is told that it goes on.
const REMOVAL: Duration = Duration::from_secs(60);

/// An instance that an action is meant for.
#[derive(Debug, Clone)]
pub struct Target {
    /// The instance.
    pub id: InstanceId,
    /// Its node.
    pub node: NodeId,
    /// Its state when last seen.
    pub state: State,
}

/// Finds the instance that `asked` names, and makes sure that its node can be asked to do something.
pub fn find(captain: &Captain, asked: &str) -> Result<Target, ActionError> {
    let prefix: Option<IdPrefix> = asked.parse().ok();
    captain.fleet().read(|view| {
        let found = prefix.map_or(Found::None, |prefix| view.find(&prefix));
        match found {
            Found::None => Err(absent(view, asked)),
            Found::Ambiguous => Err(ActionError::AmbiguousId(asked.to_owned())),
            Found::One(instance) if instance.is_certain() => {
                Ok(Target { id: instance.id(), node: instance.node().id().clone(), state: instance.state() })
            }
            Found::One(instance) => {
                Err(ActionError::NodeUnavailable { node: instance.node().id().clone(), state: instance.node().state() })
            }
        }
    })
}

/// "There is no such instance" is only true of nodes that have been listed. Where some have never answered, say so instead.
fn absent(view: &View, asked: &str) -> ActionError {
    let unheard: Vec<&str> = view
        .nodes()
        .filter(|node| node.health() != Health::Healthy && node.heard().is_none())
        .map(|node| node.id().as_str())
        .collect();
    if unheard.is_empty() || asked.parse::<IdPrefix>().is_err() {
        ActionError::NoSuchInstance(asked.to_owned())
    } else {
        ActionError::Unheard { id: asked.to_owned(), nodes: unheard.join(", ") }
    }
}

/// Stops and removes an instance. Runs to its end although the caller goes away.
pub async fn stop(captain: &Captain, asked: &str) -> Result<(), ActionError> {
    let target = find(captain, asked)?;
    let acting = captain.clone();
    captain.spawn(async move { carry_out(&acting, target).await }).await.unwrap_or(Err(ActionError::Lost))
}

async fn carry_out(captain: &Captain, target: Target) -> Result<(), ActionError> {
    let Target { id, node, state } = target;
    let handle = captain.node(&node).ok_or_else(|| ActionError::NoSuchInstance(id.to_string()))?;
    let engine = handle.engine.as_ref();
    if state != State::Exited {
        match engine.stop(id, captain.policy().stop_grace).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return gone(captain, &node, id),
            // A removal by somebody else is under way: that is what is wanted.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => {
                handle.poke.notify_one();
                return Err(error.into());
            }
        }
    }
    match withdraw::remove(engine, id, true, Instant::now() + REMOVAL).await {
        Ok(()) => gone(captain, &node, id),
        Err(EngineError { kind: ErrorKind::TimedOut, .. }) => {
            handle.poke.notify_one();
            Err(ActionError::NotRemoved { id: id.to_string(), node })
        }
        Err(error) => {
            handle.poke.notify_one();
            Err(error.into())
        }
    }
}

fn gone(captain: &Captain, node: &NodeId, id: InstanceId) -> Result<(), ActionError> {
    let stamp = captain.fleet().stamp();
    captain.fleet().write(|view| view.gone(stamp, node, id));
    info!(%node, instance = id.short(), "stopped");
    Ok(())
}
