//! Preparations of nodes: one per node and thing at a time, in a task of its own, however many starts wait for it.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::captain::{Captain, NodeHandle, Preparations};
use crate::engine::{EngineError, ErrorKind, Preparation, SlugOnStack};

/// The same slug is the same preparation, wherever its bytes lie on this captain's disk.
fn key(preparation: &Preparation) -> Preparation {
    match preparation {
        Preparation::Slug(slug) => Preparation::Slug(SlugOnStack { file: Path::new("").into(), ..slug.clone() }),
        Preparation::RunnerImage { .. } => preparation.clone(),
    }
}

/// The preparation of this thing on this node: the one under way, or a new one in a task of its own.
pub(super) fn join(captain: &Captain, handle: &Arc<NodeHandle>, preparation: &Preparation) -> Arc<Preparations> {
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
