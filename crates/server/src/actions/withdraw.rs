//! Undoing a start: whatever container this attempt at the operation made is removed, and its slots stay taken until it is known to
//! be gone. What another captain made for the same operation is not looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use captain_domain::backoff::Backoff;
use captain_domain::claim::AttemptId;
use captain_domain::{InstanceId, OperationId};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::captain::{Captain, NodeHandle};
use crate::engine::{Engine, EngineError, ErrorKind, Inspected, Owner, Result, Sighting};
use crate::fleet::{Phase, Reservation};

/// How long the answer to the client may be held back for the removal. What takes longer goes on behind it.
const BEFORE_ANSWER: Duration = Duration::from_secs(10);

/// Looks for a container of unknown existence, and the time between two of them.
const LOOKS: u32 = 4;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Between two looks at a removal that is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a failed start may have left.
pub(super) struct Trace {
    /// The container, where it is known.
    pub(super) container: Option<InstanceId>,
    /// Whether the engine was asked to start it.
    pub(super) started: bool,
    /// Why the start was given up.
    pub(super) why: &'static str,
}

/// Whether this attempt made the container.
pub(super) fn made_by(sighting: &Sighting, attempt: AttemptId) -> bool {
    matches!(&sighting.owner, Owner::Captain(labels) if labels.attempt == Some(attempt))
}

/// Removes what the attempt made, in the background if it takes long, and gives its slots back after that. The reservation is
/// kept for as long as the engine does not say that nothing is left: a node that hangs keeps the slots of what may run on it.
pub(super) async fn withdraw(
    captain: &Captain,
    handle: std::sync::Arc<NodeHandle>,
    reservation: Reservation,
    attempt: AttemptId,
    trace: Trace,
) {
    let Trace { container: known, started, why } = trace;
    reservation.phase(Phase::Withdrawing, Some(why.to_owned()));
    let operation = reservation.operation();
    let node = handle.engine.node().clone();
    let (undoing, fleet) = (captain.clone(), captain.fleet().clone());
    let undone = captain.spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match remove_all(handle.engine.as_ref(), (operation, attempt), known, started).await {
                Ok(gone) => {
                    let stamp = fleet.stamp();
                    fleet.write(|view| gone.into_iter().for_each(|id| view.gone(stamp, handle.engine.node(), id)));
                    drop(reservation);
                    return;
                }
                Err(error) => {
                    warn!(node = %handle.engine.node(), %operation, %error, "a failed start cannot be undone yet");
                }
            }
            let pause = backoff.next(undoing.chance().number());
            tokio::select! {
                biased;
                // What is left behind is a claim that no captain holds, or an instance that any captain sees.
                () = undoing.closing().cancelled() => return,
                () = handle.leaves.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    });
    if timeout(BEFORE_ANSWER, undone).await.is_err() {
        info!(%node, %operation, "a failed start is being undone in the background");
    }
}

/// Removes every container of the attempt; answers which are gone.
///
/// What this captain has not asked to start is not removed by force: if it runs, somebody who is no captain has started it.
async fn remove_all(
    engine: &dyn Engine,
    made_by: (OperationId, AttemptId),
    known: Option<InstanceId>,
    started: bool,
) -> Result<Vec<InstanceId>> {
    let mut ids = match known {
        Some(id) => vec![id],
        None => look_for(engine, made_by).await?,
    };
    let (mut gone, mut seen) = (Vec::new(), BTreeSet::new());
    while !ids.is_empty() {
        for id in ids {
            seen.insert(id);
            match remove(engine, id, started, Instant::now() + BEFORE_ANSWER).await {
                Ok(()) => gone.push(id),
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        if known.is_some() {
            break;
        }
        // An engine that was asked once may have done it twice.
        ids = find(engine, made_by).await?;
        ids.retain(|id| !seen.contains(id));
    }
    Ok(gone)
}

/// The containers of the attempt.
async fn find(engine: &dyn Engine, (operation, attempt): (OperationId, AttemptId)) -> Result<Vec<InstanceId>> {
    let mut found = engine.find(operation).await?;
    found.retain(|sighting| made_by(sighting, attempt));
    Ok(found.into_iter().map(|sighting| sighting.id).collect())
}

/// Looks for what a creation of unknown outcome left. An engine that wakes from a hang may carry the creation out a moment after
/// it has answered the first listing: nothing is believed to be there only after several looks.
async fn look_for(engine: &dyn Engine, made_by: (OperationId, AttemptId)) -> Result<Vec<InstanceId>> {
    for look in 0..LOOKS {
        if look > 0 {
            sleep(BETWEEN_LOOKS).await;
        }
        let found = find(engine, made_by).await?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Removes a container and waits until the engine answers that there is none. `TimedOut` where it is accepted and not done in
/// time; `Conflict` where it runs and force was not asked.
pub(super) async fn remove(engine: &dyn Engine, id: InstanceId, force: bool, until: Instant) -> Result<()> {
    loop {
        match engine.remove(id, force).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            // Somebody's removal is under way: what it comes to is seen below.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            // It may have been done all the same. Only looking tells.
            Err(error) if error.is_unknown() => {}
            Err(error) => return Err(error),
        }
        match engine.inspect(id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
            Ok(Inspected::Instance(instance)) if !force && instance.state.is_running() => {
                return Err(EngineError {
                    node: engine.node().clone(),
                    attempted: "remove a container",
                    kind: ErrorKind::Conflict,
                    message: format!("{} runs", id.short()),
                });
            }
            Ok(Inspected::Instance(_) | Inspected::Foreign | Inspected::Unreadable(_)) => {}
        }
        if Instant::now() >= until {
            return Err(EngineError {
                node: engine.node().clone(),
                attempted: "remove a container",
                kind: ErrorKind::TimedOut,
                message: format!("the engine has accepted the removal of {} and not finished it", id.short()),
            });
        }
        sleep(LOOK_AGAIN).await;
    }
}
