//! A folder of slugs, each under the sha256 of its bytes.
//!
//! What has its name there is whole, has that digest, and was inspected: it is written elsewhere and takes its name by a rename. Several
//! captains may share a folder. Whoever uses a slug holds a shared lock on its file ([`Held`]); whoever would remove one takes an
//! exclusive lock first, and leaves it where he gets none. So nothing in use is removed, by this process or another, and a captain
//! that dies gives its locks back. The modification time of a file is when it came; its access time, set by us, when it was used last.

use std::fs::{self, File, FileTimes, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use captain_slug::Digest;
use tempfile::NamedTempFile;

/// Where slugs are written before they have their names.
const DRAFTS: &str = "drafts";

/// A draft is locked as soon as it is made; only one older than this can be a dead captain's.
const DRAFT_AGE: Duration = Duration::from_secs(60);

/// Between naming a slug and taking hold of it another captain may remove it again. Twice in a row is no accident.
const TRIES: u32 = 3;

/// A slug on this captain's disk. It is not removed for as long as this exists.
#[derive(Debug)]
pub struct Held {
    /// Its digest.
    pub digest: Digest,
    /// Its file.
    pub path: Arc<Path>,
    /// Its size.
    pub bytes: u64,
    /// Holds the shared lock.
    file: File,
}

impl Held {
    /// The file, opened anew: its position is the reader's own.
    pub(super) fn reopen(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

/// What a listing says of a slug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it came.
    pub created: SystemTime,
    /// When it was used last, where that is known.
    pub last_used: Option<SystemTime>,
}

/// What came of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Removed,
    Absent,
    InUse,
}

/// The folder. Everything here blocks.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the slug is, or would be.
    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// A file for a slug that is coming. It removes itself unless it is published.
    pub(super) fn draft(&self) -> io::Result<NamedTempFile> {
        let folder = self.folder.join(DRAFTS);
        fs::create_dir_all(&folder)?;
        let draft = NamedTempFile::new_in(folder)?;
        draft.as_file().lock_shared()?;
        Ok(draft)
    }

    /// Gives a draft its name; answers also whether the slug is new here. The caller has checked every byte of it.
    pub(super) fn publish(&self, draft: NamedTempFile, digest: Digest, bytes: u64) -> io::Result<(Held, bool)> {
        let path = self.path(digest);
        // The name promises the bytes, after a power cut too.
        draft.as_file().sync_all()?;
        let mut draft = draft;
        for _ in 0..TRIES {
            match draft.persist_noclobber(&path) {
                Ok(file) => {
                    File::open(&self.folder)?.sync_all()?;
                    return Ok((Held { digest, path: path.into(), bytes, file }, true));
                }
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => draft = error.file,
                Err(error) => return Err(error.error),
            }
            if let Some(held) = self.hold(digest)? {
                return Ok((held, false));
            }
        }
        Err(io::Error::other("others keep adding and removing it"))
    }

    /// Takes hold of a slug, if it is here.
    pub(super) fn hold(&self, digest: Digest) -> io::Result<Option<Held>> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => {}
            // Somebody is removing it.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 {
            return Ok(None);
        }
        // Only the order of eviction suffers where this fails (another owner, a read-only disk).
        let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
        Ok(Some(Held { digest, path: path.into(), bytes: metadata.len(), file }))
    }

    /// All slugs that are here, by digest.
    pub(super) fn list(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(kept),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Gone since it was listed, or no file.
            let Ok(metadata) = entry.metadata() else { continue };
            if let (true, Ok(created)) = (metadata.is_file(), metadata.modified()) {
                kept.push(Kept { digest, bytes: metadata.len(), created, last_used: metadata.accessed().ok() });
            }
        }
        kept.sort_by_key(|kept| kept.digest);
        Ok(kept)
    }

    pub(super) fn remove(&self, digest: Digest) -> io::Result<Removal> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Absent),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Removal::InUse),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(Removal::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Absent),
            Err(error) => Err(error),
        }
    }

    /// Removes slugs, those first that were not used for longest, until all together are at most `bound` bytes or in use.
    pub(super) fn evict(&self, bound: u64) -> io::Result<Vec<Digest>> {
        let mut kept = self.list()?;
        let mut total: u64 = kept.iter().map(|kept| kept.bytes).sum();
        kept.sort_by_key(|kept| kept.last_used.unwrap_or(kept.created));
        let mut evicted = Vec::new();
        for slug in kept {
            if total <= bound {
                break;
            }
            if self.remove(slug.digest)? != Removal::InUse {
                total -= slug.bytes;
                evicted.push(slug.digest);
            }
        }
        Ok(evicted)
    }

    /// Removes the drafts of captains that died.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let entries = match fs::read_dir(self.folder.join(DRAFTS)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let Ok(file) = File::open(&path) else { continue };
            let old = file
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age >= DRAFT_AGE));
            if old && file.try_lock().is_ok() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would do; but a copy of the descriptor in a child process that is just being started would keep the lock.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("cache"));
        (folder, shelf)
    }

    fn put(shelf: &Shelf, n: u8, used: u64) -> Held {
        let mut draft = shelf.draft().unwrap();
        draft.write_all(&[n; 100]).unwrap();
        let (held, new) = shelf.publish(draft, digest(n), 100).unwrap();
        assert!(new);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        held.file.set_times(FileTimes::new().set_accessed(at).set_modified(at)).unwrap();
        held
    }

    fn digests(shelf: &Shelf) -> Vec<Digest> {
        shelf.list().unwrap().into_iter().map(|kept| kept.digest).collect()
    }

    #[test]
    fn eviction_takes_the_longest_unused_first_and_nothing_in_use() {
        let (_folder, shelf) = shelf();
        let in_use = put(&shelf, 1, 10);
        for (n, used) in [(2, 40), (3, 20), (4, 30)] {
            drop(put(&shelf, n, used));
        }
        assert_eq!(shelf.evict(250).unwrap(), [digest(3), digest(4)], "1 is the oldest, and held");
        assert_eq!(shelf.evict(0).unwrap(), [digest(2)]);
        assert_eq!(digests(&shelf), [digest(1)]);
        drop(in_use);
        assert_eq!(shelf.evict(0).unwrap(), [digest(1)]);
    }

    #[test]
    fn to_hold_a_slug_makes_it_the_last_to_go() {
        let (_folder, shelf) = shelf();
        drop(put(&shelf, 1, 10));
        drop(put(&shelf, 2, 20));
        assert_eq!(shelf.hold(digest(1)).unwrap().unwrap().bytes, 100);
        assert_eq!(shelf.evict(100).unwrap(), [digest(2)]);
    }

    #[test]
    fn a_held_slug_is_not_removed() {
        let (_folder, shelf) = shelf();
        let held = put(&shelf, 1, 10);
        let second = shelf.hold(digest(1)).unwrap().unwrap();
        drop(held);
        assert_eq!(shelf.remove(digest(1)).unwrap(), Removal::InUse);
        drop(second);
        assert_eq!(shelf.remove(digest(1)).unwrap(), Removal::Removed);
        assert_eq!(shelf.remove(digest(1)).unwrap(), Removal::Absent);
        assert!(shelf.hold(digest(1)).unwrap().is_none());
    }

    #[test]
    fn the_second_of_two_equal_slugs_is_dropped() {
        let (_folder, shelf) = shelf();
        drop(put(&shelf, 1, 10));
        let (held, new) = shelf.publish(shelf.draft().unwrap(), digest(1), 0).unwrap();
        assert_eq!((held.bytes, new), (100, false));
        assert_eq!(fs::read_dir(shelf.folder().join(DRAFTS)).unwrap().count(), 0);
    }

    #[test]
    fn drafts_of_the_dead_are_swept_and_those_of_the_living_are_not() {
        let (_folder, shelf) = shelf();
        let (living, dead) = (shelf.draft().unwrap(), shelf.draft().unwrap());
        let fresh = shelf.draft().unwrap();
        let long_ago = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        living.as_file().set_times(long_ago).unwrap();
        dead.as_file().set_times(long_ago).unwrap();
        dead.as_file().unlock().unwrap();
        fresh.as_file().unlock().unwrap();
        shelf.sweep().unwrap();
        assert_eq!([&living, &dead, &fresh].map(|draft| draft.path().exists()), [true, false, true]);
    }
}
