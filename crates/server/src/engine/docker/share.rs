//! What one engine may take of the files that this process may have open.
//!
//! Six thousand engines are inspected at once when a captain starts. Were each given what one of three is, the process would run out
//! of file descriptors, and engines that are well would count as lost. So what is there is shared out by the number of engines, and
//! never lent: an engine that hangs keeps only its own share busy, and no other waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Of the open files. The rest is for clients (who may have half, and rarely do), slugs, and the process itself.
const FOR_ENGINES: (usize, usize) = (3, 4);
/// Where there is enough: a stream of events, a listing or ping, sixteen inspections.
const MOST: usize = 18;
/// A stream of events, and one connection for everything else.
const LEAST: usize = 2;
/// Parts that an engine's inspections are shared out by: as many as are ever under way on it at once.
const PARTS: u32 = 16;

/// The engines among which the open files are shared.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<AtomicUsize>);

/// One engine's share.
#[derive(Debug)]
pub(super) struct Share {
    engines: Shares,
    /// Connections that it has open.
    open: AtomicUsize,
    inspections: Semaphore,
}

/// A connection's place in its engine's share.
pub(super) struct Place(Arc<Share>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shares {
    /// One more engine. All shares become smaller.
    pub(super) fn take(&self) -> Arc<Share> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let inspections = Semaphore::new(PARTS as usize);
        Arc::new(Share { engines: self.clone(), open: AtomicUsize::new(0), inspections })
    }

    /// Connections for one engine. The limit is asked for anew: it is raised when the process begins to serve.
    fn each(&self) -> usize {
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        shared(files.unwrap_or(usize::MAX), self.0.load(Ordering::Relaxed))
    }
}

fn shared(files: usize, engines: usize) -> usize {
    let (part, whole) = FOR_ENGINES;
    (files / whole * part / engines.max(1)).clamp(LEAST, MOST)
}

/// How many of the parts one inspection takes, so that no more run than the share allows.
fn parts_of_one(each: usize) -> u32 {
    let at_once = u32::try_from(each.saturating_sub(LEAST)).unwrap_or(PARTS).clamp(1, PARTS);
    PARTS.div_ceil(at_once)
}

impl Share {
    /// A connection is made. Answers its place, and whether it may be kept for further requests: what is beyond the share is let
    /// go as soon as it has served.
    pub(super) fn connect(self: &Arc<Self>) -> (Place, bool) {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (Place(Arc::clone(self)), before < self.engines.each())
    }

    /// Waits until one more inspection may be asked for.
    pub(super) async fn inspection(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.inspections.acquire_many(parts_of_one(self.engines.each())).await.ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.engines.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_engines_have_all_they_want_and_many_have_what_there_is() {
        assert_eq!(shared(1_024, 3), MOST);
        assert_eq!(shared(20_000, 1_000), 15);
        for (files, engines) in [(20_000, 6_100), (200, 4_000), (0, 0)] {
            assert_eq!(shared(files, engines), LEAST, "{files} files, {engines} engines");
        }
        assert!(shared(65_536, 6_100) * 6_100 <= 65_536 / 4 * 3);
    }

    #[test]
    fn inspections_at_once_follow_the_share() {
        let at_once = |each| PARTS / parts_of_one(each);
        assert_eq!([MOST, 10, 4, 3, LEAST].map(at_once), [16, 8, 2, 1, 1]);
    }

    #[tokio::test]
    async fn an_engine_that_leaves_gives_its_share_back() {
        let shares = Shares::default();
        let (one, two) = (shares.take(), shares.take());
        drop(two);
        assert_eq!(shares.0.load(Ordering::Relaxed), 1);
        let (place, kept) = one.connect();
        assert!(kept);
        drop(one);
        assert_eq!(shares.0.load(Ordering::Relaxed), 1, "a connection is still open");
        drop(place);
        assert_eq!(shares.0.load(Ordering::Relaxed), 0);
    }
}
