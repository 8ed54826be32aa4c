//! Unpacked slugs: `<state>/slugs/<digest>/`, each whole or not there, shared by all its instances and never written again.
//!
//! A slug may be taken away only while no instance is made of it. Creations hold the lock shared, a removal holds it alone: so it
//! sees every instance that could still want the slug, whichever captain on the machine creates it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use captain_domain::Timestamp;
use captain_slug::{Digest, Durability, Options, SlugError, sweep_partials, unpack_into};

use super::failure::Failure;
use crate::engine::reading::Reading;
use crate::engine::{ErrorKind, Prepared};

/// Begins the name of a slug that is being removed.
const LEAVING: &str = ".old-";

/// The unpacked slugs of a state directory.
#[derive(Debug)]
pub(super) struct Slugs {
    dir: PathBuf,
    lock: PathBuf,
    /// How slugs are read.
    options: Options,
    /// What each takes on disk. A slug is never written again, so this is counted once.
    bytes: Mutex<HashMap<Digest, u64>>,
}

/// Held while it exists.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "the open descriptor is the lock")] File);

impl Slugs {
    pub(super) fn open(state: &Path, options: Options) -> io::Result<Self> {
        let (dir, lock) = (state.join("slugs"), state.join("slugs.lock"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, lock, options, bytes: Mutex::default() })
    }

    /// Where a slug is, or will be.
    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Keeps slugs from being removed.
    pub(super) fn keep(&self) -> io::Result<Held> {
        let file = self.lock_file()?;
        file.lock_shared()?;
        Ok(Held(file))
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.lock)
    }

    /// Unpacks a slug, unless it is there.
    pub(super) fn unpack(&self, digest: Digest, slug: Reading) -> Result<(), Failure> {
        if self.path(digest).is_dir() {
            return Ok(());
        }
        let options = Options { sha256: Some(digest), ..self.options.clone() };
        let name = digest.to_string();
        match unpack_into(slug, &self.dir, OsStr::new(&name), Durability::Synced, &options) {
            // Another captain was faster.
            Ok(_) | Err(SlugError::AlreadyThere { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// All of them; `used` are those that instances are made of.
    pub(super) fn all(&self, used: &BTreeSet<PathBuf>) -> Result<Vec<Prepared>, Failure> {
        let failed = |error| Failure::io(&format!("list the slugs in {:?}", self.dir), &error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)?.flatten() {
            let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                continue;
            };
            // Gone since it was listed: then it is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            let Ok(bytes) = self.bytes_of(digest) else { continue };
            all.push(Prepared {
                digest,
                reference: digest.to_string(),
                bytes,
                created: Timestamp(metadata.mtime().saturating_mul(1000)),
                in_use: used.contains(&entry.path()),
            });
        }
        all.sort_unstable_by_key(|prepared| prepared.digest);
        Ok(all)
    }

    fn bytes_of(&self, digest: Digest) -> io::Result<u64> {
        let known = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).copied();
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let bytes = bytes_on_disk(&self.path(digest))?;
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes);
        Ok(bytes)
    }

    /// Removes a slug, unless `used` says that an instance is made of it. Asked under the lock.
    pub(super) fn discard(
        &self,
        reference: &str,
        used: impl FnOnce() -> Result<BTreeSet<PathBuf>, Failure>,
    ) -> Result<(), Failure> {
        let not_there = || Failure::new(ErrorKind::NotFound, format!("no slug {reference} is unpacked here"));
        let digest: Digest = reference.parse().map_err(|_| not_there())?;
        let path = self.path(digest);
        let leaving = self.dir.join(format!("{LEAVING}{digest}-{}", std::process::id()));
        let lock = self.lock_file().map_err(|error| Failure::io(&format!("open {:?}", self.lock), &error))?;
        lock.lock().map_err(|error| Failure::io(&format!("lock {:?}", self.lock), &error))?;
        if used()?.contains(&path) {
            return Err(Failure::new(ErrorKind::Conflict, format!("an instance is made of the slug {digest}")));
        }
        match fs::rename(&path, &leaving) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_there()),
            Err(error) => return Err(Failure::io(&format!("move {path:?} away"), &error)),
        }
        drop(lock);
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
        fs::remove_dir_all(&leaving).map_err(|error| Failure::io(&format!("remove {leaving:?}"), &error))
    }

    /// Removes what crashes left half unpacked or half removed.
    pub(super) fn sweep(&self) -> io::Result<usize> {
        let mut swept = sweep_partials(&self.dir)?;
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(LEAVING) {
                match fs::remove_dir_all(entry.path()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => swept += 1,
                }
            }
        }
        Ok(swept)
    }
}

/// What a folder takes on disk. Files with several names are counted once for each: close enough for people, and slugs have few.
fn bytes_on_disk(folder: &Path) -> io::Result<u64> {
    let mut folders = vec![folder.to_owned()];
    let mut blocks = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            blocks += metadata.blocks();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(blocks * 512)
}
