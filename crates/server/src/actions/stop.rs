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

/// Nodes that an error names. Of thousands, a few are enough to begin with, and the rest is in `GET /nodes/`.
const NAMED: usize = 5;

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
    let mut unheard = view
        .nodes()
        .filter(|node| node.health() != Health::Healthy && node.heard().is_none())
        .map(|node| node.id().as_str());
    let named: Vec<&str> = unheard.by_ref().take(NAMED).collect();
    if named.is_empty() || asked.parse::<IdPrefix>().is_err() {
        return ActionError::NoSuchInstance(asked.to_owned());
    }
    let nodes = match unheard.count() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    };
    ActionError::Unheard { id: asked.to_owned(), nodes }
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

#[cfg(test)]
mod tests {
    use captain_domain::{Slots, Timestamp};

    use super::*;
    use crate::fleet::Fleet;

    #[test]
    fn of_thousands_of_unheard_nodes_a_few_are_named() {
        let fleet = Fleet::default();
        let id = InstanceId::from_bytes([7; 32]).to_string();
        let mut told = Vec::new();
        for nodes in 0..=3_000 {
            if [0, 1, 5, 3_000].contains(&nodes) {
                told.push(fleet.read(|view| absent(view, &id)).to_string());
            }
            let node = NodeId::trusted(&format!("app-{nodes}"));
            fleet.write(|view| view.add_node(node, Slots(10), Timestamp(0)));
        }
        assert_eq!(told[0], format!("there is no instance {id}"));
        assert!(told[1].ends_with(": app-0"), "{told:?}");
        assert!(told[2].ends_with(": app-0, app-1, app-2, app-3, app-4"), "{told:?}");
        assert!(told[3].ends_with(", app-4 and 2995 more"), "{told:?}");
    }
}
