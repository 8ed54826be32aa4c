//! Logs of one instance: the only reading that asks an engine.

use super::ActionError;
use super::stop::{Target, find};
use crate::captain::Captain;
use crate::engine::Logs;

/// Output of an instance from the beginning; with `follow` until it ends.
pub async fn logs(captain: &Captain, asked: &str, follow: bool) -> Result<Logs, ActionError> {
    let Target { id, node, .. } = find(captain, asked)?;
    let handle = captain.node(&node).ok_or_else(|| ActionError::NoSuchInstance(asked.to_owned()))?;
    match handle.engine.logs(id, follow).await {
        Ok(logs) => Ok(logs),
        Err(error) if error.is_not_found() => {
            let stamp = captain.fleet().stamp();
            handle.poke.notify_one();
            captain.fleet().write(|view| view.gone(stamp, &node, id));
            Err(ActionError::NoSuchInstance(asked.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
