//! A slug that is coming: written, hashed and inspected as it comes.
//!
//! The inspection reads the file behind the writer, in a thread of its own. So a hostile slug is refused while it is still being sent,
//! and a good one is checked by the time that its last byte is there. Nothing has a slug's name before all of it was found good.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use captain_slug::{Digest, Options, SlugError, Summary};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::DraftError;
use super::shelf::{Held, Shelf};

/// Bytes written at once: so many that handing them to another thread costs nothing beside writing them.
const AT_ONCE: usize = 256 * 1024;

/// The slug. Dropped, it leaves nothing.
#[derive(Debug)]
pub(super) struct Draft {
    shelf: Shelf,
    /// `None` only while a thread writes with it, or after one was lost.
    pen: Option<Pen>,
    waiting: Vec<u8>,
    bytes: u64,
    allowed: u64,
    /// Which digest it must have, if any: then a fault found half way may be that of another slug, and only the digest tells.
    pin: Option<Digest>,
    extent: Arc<Extent>,
    inspection: JoinHandle<Result<Summary, SlugError>>,
}

#[derive(Debug)]
struct Pen {
    file: NamedTempFile,
    hash: Sha256,
}

impl Pen {
    fn write(mut self, bytes: &[u8], extent: &Extent) -> Result<Self, DraftError> {
        self.file.write_all(bytes).map_err(|source| DraftError::disk("write", self.file.path(), source))?;
        self.hash.update(bytes);
        extent.move_to(|reach| reach.written += bytes.len() as u64);
        Ok(self)
    }
}

impl Draft {
    /// An empty draft on the shelf.
    pub(super) async fn begin(shelf: &Shelf, options: Options, pin: Option<Digest>) -> Result<Self, DraftError> {
        let making = shelf.clone();
        let made = spawn_blocking(move || {
            let file = making.draft()?;
            let behind = file.reopen()?;
            Ok((file, behind))
        });
        let failed = |source| DraftError::disk("make a file in", shelf.folder(), source);
        let (file, behind) = made.await.map_err(|_| DraftError::Lost)?.map_err(failed)?;
        let extent = Arc::new(Extent::default());
        let allowed = options.limits.given_bytes;
        let follower = Follower { file: behind, at: 0, extent: Arc::clone(&extent) };
        Ok(Self {
            shelf: shelf.clone(),
            pen: Some(Pen { file, hash: Sha256::new() }),
            waiting: Vec::with_capacity(AT_ONCE),
            bytes: 0,
            allowed,
            pin,
            extent,
            inspection: spawn_blocking(move || captain_slug::inspect(follower, &options)),
        })
    }

    /// How many bytes have come.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more of it.
    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<(), DraftError> {
        self.bytes += chunk.len() as u64;
        if self.bytes > self.allowed {
            return Err(DraftError::TooLarge { allowed: self.allowed });
        }
        self.waiting.extend_from_slice(chunk);
        if self.waiting.len() >= AT_ONCE {
            self.flush().await?;
            if self.pin.is_none() && self.inspection.is_finished() {
                // It ends before the slug does only for a fault.
                self.verdict().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), DraftError> {
        let bytes = mem::replace(&mut self.waiting, Vec::with_capacity(AT_ONCE));
        let (pen, extent) = (self.pen.take().ok_or(DraftError::Lost)?, Arc::clone(&self.extent));
        let written = spawn_blocking(move || pen.write(&bytes, &extent)).await;
        self.pen = Some(written.map_err(|_| DraftError::Lost)??);
        Ok(())
    }

    async fn verdict(&mut self) -> Result<(), DraftError> {
        match (&mut self.inspection).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_slugs_fault() => Err(DraftError::Refused(error)),
            Ok(Err(error)) => Err(DraftError::disk("read back", self.shelf.folder(), io::Error::other(error))),
            Err(_) => Err(DraftError::Lost),
        }
    }

    /// All of it has come: answers the slug, and whether it is new on the shelf.
    pub(super) async fn finish(mut self) -> Result<(Held, bool), DraftError> {
        self.flush().await?;
        self.extent.move_to(|reach| reach.end = Some(End::Whole));
        let Pen { file, hash } = self.pen.take().ok_or(DraftError::Lost)?;
        let found = Digest(hash.finalize().into());
        if let Some(expected) = self.pin.filter(|pin| *pin != found) {
            return Err(DraftError::Mismatch { expected, found });
        }
        self.verdict().await?;
        let (shelf, bytes) = (self.shelf.clone(), self.bytes);
        let published = spawn_blocking(move || shelf.publish(file, found, bytes)).await;
        published.map_err(|_| DraftError::Lost)?.map_err(|source| self.failed_to_keep(source))
    }

    fn failed_to_keep(&self, source: io::Error) -> DraftError {
        DraftError::disk("keep the slug in", self.shelf.folder() as &Path, source)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.extent.move_to(|reach| {
            reach.end.get_or_insert(End::Abandoned);
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    Abandoned,
}

/// How much of the file may be read.
#[derive(Debug, Default)]
struct Extent {
    reach: Mutex<Reach>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Reach {
    written: u64,
    end: Option<End>,
}

impl Extent {
    fn move_to(&self, change: impl FnOnce(&mut Reach)) {
        change(&mut self.reach.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_all();
    }
}

/// Reads what has been written, and waits for more. The wait is bounded by the writer's: its end, good or bad, ends this.
struct Follower {
    file: File,
    at: u64,
    extent: Arc<Extent>,
}

impl Follower {
    /// How many bytes there are to read now; 0 at the end.
    fn available(&self) -> io::Result<u64> {
        let mut reach = self.extent.reach.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match (reach.written - self.at, reach.end) {
                (_, Some(End::Abandoned)) => return Err(io::Error::other("the slug stopped coming")),
                (0, Some(End::Whole)) => return Ok(0),
                (0, None) => reach = self.extent.moved.wait(reach).unwrap_or_else(PoisonError::into_inner),
                (available, _) => return Ok(available),
            }
        }
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = usize::try_from(self.available()?).unwrap_or(usize::MAX);
        let room = buffer.len().min(available);
        if room == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn begun(folder: &Path, pin: Option<Digest>) -> Draft {
        Draft::begin(&Shelf::new(folder.join("slugs")), Options::default(), pin).await.unwrap()
    }

    async fn until_judged(draft: &Draft) {
        let judged = async {
            while !draft.inspection.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), judged).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_slug_is_refused_while_it_still_comes() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = begun(folder.path(), None).await;
        // On a quiet machine the judgement is there before the first piece is written.
        let mut written = draft.write(&vec![b'x'; AT_ONCE]).await;
        until_judged(&draft).await;
        if written.is_ok() {
            written = draft.write(&vec![b'x'; AT_ONCE]).await;
        }
        assert!(matches!(written, Err(DraftError::Refused(_))));
    }

    #[tokio::test]
    async fn of_a_pinned_slug_the_digest_is_said_before_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let pin = Digest([7; 32]);
        let mut draft = begun(folder.path(), Some(pin)).await;
        draft.write(&vec![b'x'; AT_ONCE]).await.unwrap();
        until_judged(&draft).await;
        draft.write(&vec![b'x'; AT_ONCE]).await.unwrap();
        assert!(matches!(draft.finish().await, Err(DraftError::Mismatch { expected, .. }) if expected == pin));
    }

    #[tokio::test]
    async fn a_draft_that_is_dropped_leaves_neither_a_file_nor_a_thread_that_waits() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = begun(folder.path(), None).await;
        draft.write(b"a part").await.unwrap();
        let extent = Arc::clone(&draft.extent);
        drop(draft);
        let gone = async {
            // The inspection holds the other one.
            while Arc::strong_count(&extent) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("slugs/drafts")).unwrap().count(), 0);
    }
}
