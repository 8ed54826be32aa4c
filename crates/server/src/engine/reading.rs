//! A slug that an engine takes in from this captain's disk, and how far it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use captain_slug::Digest;

use super::Progress;

/// Its file. Counts what was read, for whoever watches.
pub(super) struct Reading {
    file: File,
    read: Arc<AtomicU64>,
    total: u64,
}

impl Reading {
    pub(super) async fn of(slug: &Path) -> io::Result<Self> {
        let file = tokio::fs::File::open(slug).await?;
        let total = file.metadata().await?.len();
        Ok(Self { file: file.into_std().await, read: Arc::default(), total })
    }

    /// Tells how far it is: `unpacking the slug 0123456789ab: 12 MB of 80 MB`.
    pub(super) fn teller<'a>(
        &self,
        doing: &'static str,
        digest: Digest,
        progress: Progress<'a>,
    ) -> impl Fn() + Send + Sync + use<'a> {
        let (read, total) = (Arc::clone(&self.read), self.total);
        move || {
            let megabytes = |bytes: u64| bytes / 1_000_000;
            let so_far = megabytes(read.load(Ordering::Relaxed));
            progress(format!("{doing} the slug {digest:.12}: {so_far} MB of {} MB", megabytes(total)));
        }
    }
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
