//! What Captain does on nodes: a verb is a file.
//!
//! Every action runs to its end in a task of its own, whether or not its client stays ([`crate::captain::Captain::spawn`]).
//! A failed engine call is *unknown*, not *failed*: it is looked up by its operation and attempt before anything else is tried.

mod claiming;
pub(crate) mod listing;
pub mod logs;
pub(crate) mod making;
mod preparing;
mod prescription;
pub mod start;
pub mod stop;
mod withdraw;

use captain_domain::NodeId;
use thiserror::Error;

use crate::engine::EngineError;

/// Why an action on an instance could not be done.
#[derive(Debug, Error)]
pub enum ActionError {
    /// There is no such instance.
    #[error("there is no instance {0}")]
    NoSuchInstance(String),
    /// The beginning of an id fits several instances.
    #[error("{0} is the beginning of several instances' ids: give more of it")]
    AmbiguousId(String),
    /// The node is known not to answer.
    #[error("node {node} cannot be reached now ({state})")]
    NodeUnavailable {
        /// The node.
        node: NodeId,
        /// Its state.
        state: String,
    },
    /// Not found on any node that answers, but these nodes have never answered.
    #[error("there is no instance {id} on the nodes that answer; not heard of yet: {nodes}")]
    Unheard {
        /// What was asked for.
        id: String,
        /// The nodes, joined by commas: a few of them, and how many more there are.
        nodes: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The removal was accepted, but the engine still has the container.
    #[error(
        "instance {id} on {node} is stopped, but the engine has not removed it yet: its slots stay taken until it has"
    )]
    NotRemoved {
        /// The instance.
        id: String,
        /// The node.
        node: NodeId,
    },
    /// A defect: the action's task ended without an answer.
    #[error("the action ended without an answer")]
    Lost,
}
