//! What one engine may take of what all of them share: open files, and memory for their answers.
//!
//! Six thousand engines are asked at once when a captain starts. Were each given what one of three is, the process would run out of
//! file descriptors. So connections, and the memory that each keeps, are shared out by the number of engines. That their listings and
//! first inspections are not all in memory at once, nor in the way of their pings, is the watchers' care: they take turns.
//!
//! An engine that hangs keeps no other waiting: connections are never lent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::open_files;

/// Of the open files. The rest is for clients (who may have half, and rarely do), slugs, and the process itself.
const FOR_ENGINES: (usize, usize) = (3, 4);
/// Where there is enough: a stream of events, a listing or ping, sixteen inspections.
const MOST: usize = 18;
/// A stream of events, and one connection for everything else.
const LEAST: usize = 2;
/// Parts that an engine's inspections are shared out by: as many as are ever under way on it at once.
const PARTS: u32 = 16;

/// What a connection reads at once. Each piece costs a system call and two changes of task; a listing is some hundred kilobytes.
const BUFFERS: std::ops::RangeInclusive<usize> = 4 << 10..=64 << 10;
/// Connections that are in use at once on an engine at work, and the memory that the buffers of all of them may take.
const BUSY: usize = 4;
const FOR_BUFFERS: usize = 16 << 20;
/// The memory that records of lists may take (`known`): of some 50,000 containers. Beyond it, they are read each time.
const FOR_RECORDS: usize = 64 << 20;

/// All engines.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares(Arc<All>);

#[derive(Debug, Default)]
struct All {
    engines: AtomicUsize,
    /// Bytes of the records that are kept.
    records: AtomicUsize,
}

/// One engine's share.
#[derive(Debug)]
pub(super) struct Share {
    all: Shares,
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

/// Room that a record takes while it is kept.
#[derive(Debug)]
pub(super) struct Room(Shares, usize);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.0.records.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Shares {
    /// One more engine. All shares become smaller.
    pub(super) fn take(&self) -> Arc<Share> {
        self.0.engines.fetch_add(1, Ordering::Relaxed);
        let inspections = Semaphore::new(PARTS as usize);
        Arc::new(Share { all: self.clone(), open: AtomicUsize::new(0), inspections })
    }

    fn engines(&self) -> usize {
        self.0.engines.load(Ordering::Relaxed)
    }

    /// Connections for one engine.
    fn each(&self) -> usize {
        shared(open_files::limit(), self.engines())
    }
}

fn shared(files: usize, engines: usize) -> usize {
    let (part, whole) = FOR_ENGINES;
    (files / whole * part / engines.max(1)).clamp(LEAST, MOST)
}

fn buffer(engines: usize) -> usize {
    (FOR_BUFFERS / (engines.max(1) * BUSY)).clamp(*BUFFERS.start(), *BUFFERS.end())
}

/// How many of the parts one inspection takes, so that no more run than the share allows.
fn parts_of_one(each: usize) -> u32 {
    let at_once = u32::try_from(each.saturating_sub(LEAST)).unwrap_or(PARTS).clamp(1, PARTS);
    PARTS.div_ceil(at_once)
}

impl Share {
    /// A connection is made.
    pub(super) fn connect(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    /// Whether a connection may be kept for further requests: what is beyond the share is let go as soon as it has served.
    pub(super) fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) <= self.all.each()
    }

    /// Whether there are so many engines that each has the least.
    pub(super) fn is_least(&self) -> bool {
        self.all.each() <= LEAST
    }

    /// What a connection may read at once.
    pub(super) fn buffer(&self) -> usize {
        buffer(self.all.engines())
    }

    /// Room for so many bytes of records, if there is some.
    pub(super) fn room(&self, bytes: usize) -> Option<Room> {
        let room = Room(self.all.clone(), bytes);
        let taken = self.all.0.records.fetch_add(bytes, Ordering::Relaxed);
        (taken + bytes <= FOR_RECORDS).then_some(room)
    }

    /// Waits until there is a connection for an inspection, whose deadline begins then: the wait is not the engine's fault. What is
    /// given is held as long as it lasts.
    pub(super) async fn inspection(&self) -> impl Sized {
        // It is never closed, and nothing depends on how many there are.
        self.inspections.acquire_many(parts_of_one(self.all.each())).await
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.0.engines.fetch_sub(1, Ordering::Relaxed);
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

    #[test]
    fn buffers_of_few_engines_are_large_and_those_of_many_small() {
        assert_eq!([1, 3, 6_100].map(buffer), [64 << 10, 64 << 10, 4 << 10]);
        assert_eq!(buffer(1_024), 4 << 10);
        assert!((8 << 10..16 << 10).contains(&buffer(300)), "{}", buffer(300));
    }

    #[tokio::test]
    async fn an_engine_that_leaves_gives_its_share_back() {
        let shares = Shares::default();
        let (one, two) = (shares.take(), shares.take());
        drop(two);
        assert_eq!(shares.engines(), 1);
        let place = one.connect();
        assert!(one.has_room());
        drop(one);
        assert_eq!(shares.engines(), 1, "a connection is still open");
        drop(place);
        assert_eq!(shares.engines(), 0);
    }
}
