//! The part of the root that all instances share: a folder with the small files of `/etc`, the links, and a place for everything that
//! is mounted. Made once, and bound by each instance read-only; making it anew for each would be most of a start.
//!
//! Its name tells its content, so captains on one state directory share it and never write to one that is in use. The host's files
//! can change at any time: every launch compares their identities with those that the folder was made from, which costs some fifty
//! looks and no read. Who uses a folder holds a shared lock on it: a sweep takes away those that nobody holds.

mod host;

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use self::host::Entry;
use crate::jail::{hash, is_old};

/// Begins the name of a folder that is being made or removed.
const UNFINISHED: &str = ".new-";

/// A folder that can be the root of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) dir: PathBuf,
    /// Folders and large files of the host, relative to the root: mounted at the same place.
    pub(crate) mounts: Vec<PathBuf>,
}

/// Keeps a base from being taken away, while it exists.
#[derive(Debug)]
pub(crate) struct Kept(File);

impl Kept {
    /// A removed folder has no names.
    fn is_still_at(&self, dir: &Path) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 0 && dir.exists())
    }
}

impl Base {
    /// `None` if it is not there (any more).
    pub(crate) fn keep(&self) -> io::Result<Option<Kept>> {
        let folder = match File::open(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        folder.lock_shared()?;
        let kept = Kept(folder);
        // It may have been removed while we waited.
        Ok(kept.is_still_at(&self.dir)?.then_some(kept))
    }
}

/// The bases of a state directory.
#[derive(Debug)]
pub(crate) struct Bases {
    dir: PathBuf,
    /// Where control groups will be shown: places for them belong to the base.
    places: Vec<PathBuf>,
    /// Part of the name: what was written before a crash of the machine may be torn, and is not trusted after it.
    boot: String,
    current: Mutex<Option<Current>>,
}

/// Kept as long as it is current: to lock it anew for each start would go through the locks of all instances.
#[derive(Debug)]
struct Current {
    made_from: Vec<[u64; 5]>,
    base: Base,
    kept: Arc<Kept>,
}

impl Bases {
    pub(crate) fn open(dir: PathBuf, places: Vec<PathBuf>, boot: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, places, boot: boot.to_owned(), current: Mutex::default() })
    }

    /// The base for the host as it is now.
    pub(crate) fn current(&self) -> io::Result<(Base, Arc<Kept>)> {
        let print = host::fingerprint(Path::new("/"));
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Current { made_from, base, kept }) = &*current
            && *made_from == print
            && kept.is_still_at(&base.dir)?
        {
            return Ok((base.clone(), Arc::clone(kept)));
        }
        let entries = host::entries(Path::new("/"))?;
        let base = Base { dir: self.dir.join(self.name(&entries)), mounts: mounts(&entries) };
        loop {
            if let Some(kept) = base.keep()?.map(Arc::new) {
                *current = Some(Current { made_from: print, base: base.clone(), kept: Arc::clone(&kept) });
                return Ok((base, kept));
            }
            self.make(&base.dir, &entries)?;
        }
    }

    fn name(&self, entries: &[Entry]) -> String {
        let mut told = format!("1 {} {:?}", self.boot, self.places).into_bytes();
        for entry in entries {
            let (at, kind, content) = match entry {
                Entry::Link { at, to } => (at, b'l', to.as_os_str().as_bytes()),
                Entry::Mount { at } => (at, b'm', &[][..]),
                Entry::Copy { at, content } => (at, b'c', &content[..]),
            };
            // With lengths, so that no two lists tell the same.
            told.extend(format!("\0{}{}:{}:", char::from(kind), at.as_os_str().len(), content.len()).bytes());
            told.extend(at.as_os_str().as_bytes());
            told.extend(content);
        }
        format!("{:016x}", hash(&told))
    }

    /// It appears whole or not at all. Where another captain was faster, its is as good.
    fn make(&self, dir: &Path, entries: &[Entry]) -> io::Result<()> {
        let unfinished = self.dir.join(format!("{UNFINISHED}{}-{:?}", std::process::id(), std::thread::current().id()));
        let made = fill(&unfinished, entries, &self.places).and_then(|()| fs::rename(&unfinished, dir));
        match made {
            Err(error) if is_taken(&error) => fs::remove_dir_all(&unfinished),
            Err(error) => {
                // What remains is swept.
                let _ = fs::remove_dir_all(&unfinished);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Removes those that nobody uses. Says which.
    pub(crate) fn sweep(&self) -> Vec<(PathBuf, io::Result<()>)> {
        let Ok(all) = fs::read_dir(&self.dir) else { return Vec::new() };
        let old = all.flatten().map(|entry| entry.path()).filter(|path| is_old(path));
        old.filter_map(|path| Some((path.clone(), take_away(&path).transpose()?))).collect()
    }
}

/// `None` where somebody uses it.
fn take_away(dir: &Path) -> io::Result<Option<()>> {
    let folder = File::open(dir)?;
    match folder.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    // Whoever waits for the lock finds it gone from its name.
    let leaving = dir.with_file_name(format!("{UNFINISHED}old-{}", std::process::id()));
    fs::rename(dir, &leaving)?;
    fs::remove_dir_all(&leaving).map(Some)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

fn mounts(entries: &[Entry]) -> Vec<PathBuf> {
    entries.iter().filter_map(|entry| if let Entry::Mount { at } = entry { Some(at.clone()) } else { None }).collect()
}

/// Folders of every base, and links.
const FOLDERS: [&str; 9] =
    [".captain", "app", "dev/pts", "dev/shm", "etc", "proc", "sys/devices/system/cpu", "tmp", "var"];
const LINKS: [(&str, &str); 9] = [
    ("var/tmp", "/tmp"),
    ("dev/ptmx", "pts/ptmx"),
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    // These three differ from instance to instance.
    ("etc/passwd", "/.captain/passwd"),
    ("etc/group", "/.captain/group"),
    ("etc/hostname", "/.captain/hostname"),
];
/// Devices of the host that are bound over empty files of the same name.
pub(crate) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

fn fill(base: &Path, entries: &[Entry], places: &[PathBuf]) -> io::Result<()> {
    // A predecessor of this process id may have crashed here.
    match fs::remove_dir_all(base) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => folder(base, Path::new(""))?,
    }
    for at in FOLDERS.iter().map(Path::new).chain(places.iter().map(PathBuf::as_path)) {
        folder(base, at)?;
    }
    for (at, to) in LINKS {
        symlink(to, base.join(at))?;
    }
    for name in DEVICES {
        file(base, &Path::new("dev").join(name), b"")?;
    }
    for entry in entries {
        match entry {
            Entry::Link { at, to } => {
                parent(base, at)?;
                symlink(to, base.join(at))?;
            }
            Entry::Copy { at, content } => file(base, at, content)?,
            Entry::Mount { at } if Path::new("/").join(at).is_dir() => folder(base, at)?,
            Entry::Mount { at } => file(base, at, b"")?,
        }
    }
    Ok(())
}

fn parent(base: &Path, at: &Path) -> io::Result<()> {
    at.parent().map_or(Ok(()), |parent| folder(base, parent))
}

/// With modes of its own: every instance reads it under another uid, whatever the server's umask is.
fn folder(base: &Path, at: &Path) -> io::Result<()> {
    let mut path = base.to_owned();
    for part in std::iter::once(None).chain(at.components().map(Some)) {
        path.extend(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => {
                created?;
                fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            }
        }
    }
    Ok(())
}

fn file(base: &Path, at: &Path, content: &[u8]) -> io::Result<()> {
    parent(base, at)?;
    fs::write(base.join(at), content)?;
    fs::set_permissions(base.join(at), Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(dir: &Path) -> Bases {
        Bases::open(dir.to_owned(), vec!["sys/fs/cgroup/memory".into()], "boot").unwrap()
    }

    #[test]
    fn all_captains_share_one_and_a_sweep_spares_what_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (bases(dir.path()), bases(dir.path()));
        let (base, kept) = one.current().unwrap();
        assert_eq!(other.current().unwrap().0, base);
        assert!(base.dir.join("sys/fs/cgroup/memory").is_dir() && base.dir.join("etc/passwd").is_symlink());
        let later = Bases::open(dir.path().to_owned(), Vec::new(), "later boot").unwrap();
        assert_ne!(later.current().unwrap().0, base);
        assert!(later.sweep().is_empty(), "it is young");
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(600);
        File::open(&base.dir).unwrap().set_modified(long_ago).unwrap();
        assert!(later.sweep().is_empty(), "it is used");
        drop((one, kept));
        assert!(later.sweep().is_empty(), "and would be by the next start of the other");
        fs::remove_dir_all(&base.dir).unwrap();
        assert!(other.current().unwrap().0.dir.is_dir(), "made again where it is missing");
        File::open(&base.dir).unwrap().set_modified(long_ago).unwrap();
        drop(other);
        assert_eq!(later.sweep().len(), 1);
        assert!(base.keep().unwrap().is_none());
    }
}
