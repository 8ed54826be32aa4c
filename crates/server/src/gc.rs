//! Collects what has had its time: exited instances, and claims left behind by captains that died.
//!
//! A reconciler: it takes no input, walks the same path each time, and only ever removes what Captain made. Any number of
//! captains may do it at once: a removal that another one made first is a 404.

use std::collections::HashMap;
use std::time::Duration;

use captain_domain::{InstanceId, NodeId, State};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::captain::Captain;
use crate::engine::ErrorKind;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(10);

/// Removals at once in one pass over one node: the rest has time until the next.
const PER_PASS: usize = 64;

/// Collects until the captain closes.
pub async fn collect(captain: Captain) {
    let mut collector = Collector { captain: captain.clone(), passing: HashMap::new(), passes: HashMap::new() };
    let every = EVERY.min(captain.policy().exited_kept.max(Duration::from_secs(1)));
    loop {
        let pause = captain.chance().between(every.mul_f64(0.8), every);
        tokio::select! {
            biased;
            () = captain.closing().cancelled() => return,
            () = sleep(pause) => {}
        }
        collector.pass();
    }
}

struct Collector {
    captain: Captain,
    /// Since when this captain has seen each container in a state that should soon be over: created and not started, or being
    /// removed. Its own clock, since those of engines differ.
    passing: HashMap<InstanceId, (State, Instant)>,
    /// What is being removed from each node, in a task of its own: one that hangs keeps no other waiting.
    passes: HashMap<NodeId, JoinHandle<()>>,
}

/// A container to be removed.
struct Due {
    id: InstanceId,
    why: &'static str,
    /// Only what must not run may be removed by force. A claim is not among them: its captain may be starting it just now, and
    /// an unforced removal of what runs is refused by the engine.
    force: bool,
}

impl Collector {
    fn pass(&mut self) {
        self.passes.retain(|_, pass| !pass.is_finished());
        let mut still_passing = HashMap::new();
        for handle in self.captain.nodes() {
            let node = handle.engine.node().clone();
            let due = self.due(&node, &mut still_passing);
            if due.is_empty() || self.passes.contains_key(&node) {
                continue;
            }
            let captain = self.captain.clone();
            let pass = self.captain.spawn(async move {
                for due in due {
                    remove(&captain, &handle, due).await;
                }
            });
            self.passes.insert(node, pass);
        }
        self.passing = still_passing;
    }

    fn due(&self, node: &NodeId, passing: &mut HashMap<InstanceId, (State, Instant)>) -> Vec<Due> {
        let policy = self.captain.policy();
        let (now, wall) = (Instant::now(), self.captain.now());
        self.captain.fleet().read(|view| {
            let own = |operation| view.claim(operation).is_some();
            let mut lingers = |id, state| {
                let seen = self.passing.get(&id).filter(|(before, _)| *before == state);
                let since = seen.map_or(now, |(_, since)| *since);
                passing.insert(id, (state, since));
                now - since >= policy.claim_grace
            };
            let mut due = Vec::new();
            for instance in view.instances_of(node).filter(|instance| instance.is_certain()) {
                let (id, state) = (instance.id(), instance.state());
                let passes = match state {
                    State::Created => !instance.operation().is_some_and(own),
                    state => state == State::Removing,
                };
                let lingers = passes && lingers(id, state);
                match state {
                    State::Exited => {
                        let ended = instance.exit().and_then(|exit| exit.at).unwrap_or(instance.created());
                        if u128::from(wall.millis_since(ended)) >= policy.exited_kept.as_millis() {
                            due.push(Due { id, why: "it has ended, and was kept long enough", force: false });
                        }
                    }
                    State::Created if lingers => {
                        due.push(Due { id, why: "it was never started, and its captain is gone", force: false });
                    }
                    // One that failed half way: Docker 20.10 goes on to list what is dead as being removed, tells nobody, and holds
                    // its slots for ever. Where the removal does go on, this one is refused.
                    State::Removing if lingers => due.push(Due { id, why: "its removal does not end", force: false }),
                    State::Dead => due.push(Due { id, why: "its removal failed half way", force: true }),
                    _ => {}
                }
            }
            due.truncate(PER_PASS);
            due
        })
    }
}

async fn remove(captain: &Captain, handle: &crate::captain::NodeHandle, due: Due) {
    let node = handle.engine.node();
    match handle.engine.remove(due.id, due.force).await {
        Ok(()) => info!(%node, instance = due.id.short(), why = due.why, "collected"),
        Err(error) if error.is_not_found() => {
            let stamp = captain.fleet().stamp();
            captain.fleet().write(|view| view.gone(stamp, node, due.id));
            return;
        }
        // It runs after all, or somebody is removing it.
        Err(error) if error.kind == ErrorKind::Conflict => {}
        Err(error) => warn!(%node, instance = due.id.short(), %error, "could not be collected"),
    }
    handle.poke.notify_one();
}
