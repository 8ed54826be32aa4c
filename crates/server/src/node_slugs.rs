//! Prepared slugs on nodes: which are needed, and how those go that were not needed for longest.
//!
//! A collector like [`crate::gc`], by the same rules: it only ever removes what Captain made, and any number of captains may do it at
//! once. A slug that another captain is about to use may go under its hands; its engine then says that the slug is missing, and it is
//! prepared again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captain_domain::Timestamp;
use captain_slug::Digest;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::captain::{Captain, Mode, NodeHandle};
use crate::engine::{ErrorKind, Preparation, Prepared};

/// How often it looks. Only nodes on which a slug was prepared since the last look are asked, so that one that is quiet costs nothing.
const EVERY: Duration = Duration::from_secs(60);

/// Slugs taken off a node in one pass: each may take the engine's disk a while. The rest has time until the next.
const PER_PASS: usize = 32;

/// Which slugs the starts of this captain need on a node, and when they needed them last.
#[derive(Debug)]
pub(crate) struct SlugUse(Arc<Mutex<Uses>>);

#[derive(Debug)]
struct Uses {
    of: HashMap<Digest, Use>,
    /// Whether the node may hold more than it should: something was prepared there, or nobody has looked yet.
    to_look_at: bool,
}

#[derive(Debug, Default)]
struct Use {
    starts: u32,
    last: Option<Timestamp>,
}

/// A start needs the slug on the node, until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    digest: Digest,
    uses: Arc<Mutex<Uses>>,
}

impl Default for SlugUse {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Uses { of: HashMap::new(), to_look_at: true })))
    }
}

impl SlugUse {
    fn with<T>(&self, change: impl FnOnce(&mut Uses) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a start needs the slug from now on.
    pub(crate) fn begin(&self, digest: Digest, now: Timestamp) -> InUse {
        self.with(|uses| {
            let slug = uses.of.entry(digest).or_default();
            slug.starts += 1;
            slug.last = Some(now);
        });
        InUse { digest, uses: Arc::clone(&self.0) }
    }

    /// Notes that a slug was prepared.
    pub(crate) fn prepared(&self) {
        self.with(|uses| uses.to_look_at = true);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slug) = uses.of.get_mut(&self.digest) {
            slug.starts = slug.starts.saturating_sub(1);
        }
    }
}

/// Collects until the captain closes. With a runner image there is nothing to collect, and no node is asked.
pub(crate) async fn collect(captain: Captain) {
    if let Mode::RunnerImage { .. } = captain.policy().mode {
        return;
    }
    loop {
        let pause = captain.chance().between(EVERY.mul_f64(0.8), EVERY);
        tokio::select! {
            biased;
            () = captain.closing().cancelled() => return,
            () = sleep(pause) => {}
        }
        let passes: Vec<_> = captain
            .nodes()
            .into_iter()
            .filter(|handle| handle.slug_use.with(|uses| std::mem::take(&mut uses.to_look_at)))
            // Each node in a task of its own: one that hangs keeps no other waiting.
            .map(|handle| captain.spawn(pass(handle, captain.policy().node_slug_bytes)))
            .collect();
        for pass in passes {
            if pass.await.is_err() {
                warn!("a collection of prepared slugs ended early");
            }
        }
    }
}

/// Looks through one node.
async fn pass(handle: Arc<NodeHandle>, bound: u64) {
    let node = handle.engine.node();
    let prepared = match handle.engine.prepared().await {
        Ok(prepared) => prepared,
        Err(error) => {
            debug!(%node, %error, "prepared slugs cannot be listed");
            return handle.slug_use.prepared();
        }
    };
    let due = due(&handle, &prepared, bound);
    for slug in due.iter().take(PER_PASS) {
        match handle.engine.discard(&slug.reference).await {
            Ok(()) => {
                info!(%node, digest = %slug.digest, bytes = slug.bytes, "took a slug off the node that was not used for longest")
            }
            // Used after all, or somebody else's captain was quicker.
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::ImageMissing) => {
            }
            Err(error) => warn!(%node, digest = %slug.digest, %error, "a prepared slug cannot be taken off"),
        }
    }
    let still_too_much = prepared.iter().map(|slug| slug.bytes).sum::<u64>() > bound;
    if still_too_much {
        // What is in use now may not be at the next look.
        handle.slug_use.prepared();
    }
}

/// Which slugs are to go, until the rest fits.
fn due<'a>(handle: &NodeHandle, prepared: &'a [Prepared], bound: u64) -> Vec<&'a Prepared> {
    let preparing: Vec<Digest> = {
        let preparing = handle.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        let slug = |preparation: &Preparation| match preparation {
            Preparation::Slug(slug) => Some(slug.digest),
            Preparation::RunnerImage { .. } => None,
        };
        preparing.keys().filter_map(slug).collect()
    };
    handle.slug_use.with(|uses| {
        uses.of.retain(|digest, slug| slug.starts > 0 || prepared.iter().any(|prepared| prepared.digest == *digest));
        let starts = |digest| uses.of.get(digest).map_or(0, |slug| slug.starts);
        let last = |slug: &Prepared| uses.of.get(&slug.digest).and_then(|slug| slug.last).unwrap_or(slug.created);
        let mut idle: Vec<&Prepared> = prepared
            .iter()
            .filter(|slug| !slug.in_use && starts(&slug.digest) == 0 && !preparing.contains(&slug.digest))
            .collect();
        idle.sort_by_key(|slug| last(slug));
        let mut total: u64 = prepared.iter().map(|slug| slug.bytes).sum();
        let mut due = Vec::new();
        for slug in idle {
            if total <= bound {
                break;
            }
            total = total.saturating_sub(slug.bytes);
            due.push(slug);
        }
        due
    })
}

#[cfg(test)]
mod tests {
    use captain_domain::{InstanceId, NodeId};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::engine::{CreateSpec, Engine, Facts, Hints, Inspected, Logs, Progress, Result, Sighting, SlugOnStack};

    /// An engine that holds prepared slugs, and does nothing else.
    #[derive(Debug)]
    struct Holding {
        node: NodeId,
        slugs: Mutex<Vec<Prepared>>,
    }

    #[async_trait::async_trait]
    impl Engine for Holding {
        fn node(&self) -> &NodeId {
            &self.node
        }
        async fn facts(&self) -> Result<Facts> {
            unreachable!()
        }
        async fn list(&self) -> Result<Vec<Sighting>> {
            unreachable!()
        }
        async fn inspect(&self, _: InstanceId) -> Result<Inspected> {
            unreachable!()
        }
        async fn prepare(&self, _: &Preparation, _: Progress<'_>) -> Result<()> {
            unreachable!()
        }
        async fn prepared(&self) -> Result<Vec<Prepared>> {
            Ok(self.slugs.lock().unwrap().clone())
        }
        async fn discard(&self, reference: &str) -> Result<()> {
            self.slugs.lock().unwrap().retain(|slug| slug.reference != reference);
            Ok(())
        }
        async fn create(&self, _: &CreateSpec) -> Result<InstanceId> {
            unreachable!()
        }
        async fn start(&self, _: InstanceId) -> Result<()> {
            unreachable!()
        }
        async fn stop(&self, _: InstanceId, _: Duration) -> Result<()> {
            unreachable!()
        }
        async fn remove(&self, _: InstanceId, _: bool) -> Result<()> {
            unreachable!()
        }
        async fn logs(&self, _: InstanceId, _: bool) -> Result<Logs> {
            unreachable!()
        }
        async fn events(&self) -> Result<Hints> {
            unreachable!()
        }
    }

    fn slug(n: u8, created: i64, in_use: bool) -> Prepared {
        let reference = format!("captain/{n}");
        Prepared { digest: Digest([n; 32]), reference, bytes: 100, created: Timestamp(created), in_use }
    }

    fn node(slugs: Vec<Prepared>) -> (Arc<Holding>, Arc<NodeHandle>) {
        let engine = Arc::new(Holding { node: NodeId::trusted("app-1"), slugs: Mutex::new(slugs) });
        let handle = NodeHandle::new(Arc::clone(&engine) as Arc<dyn Engine>, CancellationToken::new());
        (engine, Arc::new(handle))
    }

    fn left(engine: &Holding) -> Vec<u8> {
        engine.slugs.lock().unwrap().iter().map(|slug| slug.digest.0[0]).collect()
    }

    #[tokio::test]
    async fn the_longest_unused_go_first_and_none_that_is_needed() {
        let (engine, handle) = node(vec![
            slug(1, 10, true),
            slug(2, 20, false),
            slug(3, 30, false),
            slug(4, 40, false),
            slug(5, 50, false),
        ]);
        let starting = handle.slug_use.begin(Digest([2; 32]), Timestamp(21));
        drop(handle.slug_use.begin(Digest([3; 32]), Timestamp(60)));
        let preparing = Preparation::Slug(SlugOnStack {
            digest: Digest([4; 32]),
            file: std::path::Path::new("/x").into(),
            stack: "debian".into(),
        });
        handle.preparing.lock().unwrap().insert(preparing, Arc::default());
        pass(Arc::clone(&handle), 400).await;
        assert_eq!(left(&engine), [1, 2, 3, 4], "5 is younger than 3, but 3 was used since");
        pass(Arc::clone(&handle), 0).await;
        assert_eq!(left(&engine), [1, 2, 4]);
        assert!(handle.slug_use.with(|uses| uses.to_look_at), "there is still too much");
        drop(starting);
        handle.preparing.lock().unwrap().clear();
        pass(Arc::clone(&handle), 0).await;
        assert_eq!(left(&engine), [1]);
    }

    #[tokio::test]
    async fn a_node_that_holds_what_it_may_is_not_asked_again() {
        let (engine, handle) = node(vec![slug(1, 10, false), slug(2, 20, false)]);
        handle.slug_use.with(|uses| uses.to_look_at = false);
        pass(Arc::clone(&handle), 200).await;
        assert_eq!(left(&engine), [1, 2]);
        assert!(!handle.slug_use.with(|uses| uses.to_look_at));
    }
}
