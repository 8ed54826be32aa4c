//! Unpacks a slug into a folder that appears whole or not at all.
//!
//! Everything is written below a folder `.partial-*` next to its place, by system calls that cannot leave that folder whatever the archive
//! says (`openat2` beneath a descriptor, no link followed), and renamed at the end. The guard has refused hostile entries before;
//! this is the second wall, for the case that the first has a hole. A held lock tells [`sweep_partials`] which partial folders are
//! somebody's work and which were left by a crash.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{EntryFault, SlugError};
use crate::layout::Layout;
use crate::name::{EntryName, EntryPath};
use crate::normalise::{self, Options, Owner, Report};
use crate::sink::{self, Attributes, CopyFault, Item, Sink};

/// How much has to survive a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The folder is whole or absent after a power cut too: its file system is synced once before the rename (one sync costs far less than
    /// one for each of 30,000 files) and the folder above after it.
    #[default]
    Synced,
    /// Nothing is synced: for a cache that is thrown away after a crash.
    Cache,
}

/// Unpacks the slug that `input` gives into the new folder `name` below `parent`, which must exist and be no one else's to write.
///
/// The folder becomes visible only when the whole slug has been checked and written; on any error nothing stays behind. Something that is
/// there already is left alone and reported as [`SlugError::AlreadyThere`] (an empty folder counts as nothing).
pub fn unpack_into<R: Read + Send>(
    input: R,
    parent: &Path,
    name: &OsStr,
    durability: Durability,
    options: &Options,
) -> Result<Report, SlugError> {
    let place = EntryPath::parse(name.as_bytes(), &options.limits).and_then(|place| {
        let one = place.as_bytes() == name.as_bytes()
            && !name.as_bytes().contains(&b'/')
            && !name.as_bytes().starts_with(b".");
        one.then_some(place).ok_or(EntryFault::NotOneName)
    });
    place.map_err(|fault| SlugError::Destination { name: EntryName::from(name.as_bytes()), fault })?;
    let mut sink =
        DirectorySink { staging: Staging::create(parent)?, folder: None, owner: options.owner, layout: Layout::Top };
    let report = normalise::run(input, &mut sink, options)?;
    sink.commit(name, durability)?;
    Ok(report)
}

/// Removes what crashed processes left half unpacked below `parent`; says how many. What a living one is working on stays.
pub fn sweep_partials(parent: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().as_bytes().starts_with(PARTIAL.as_bytes()) || !entry.file_type()?.is_dir() {
            continue;
        }
        // Gone meanwhile, or locked by its maker: neither is a fault.
        let Ok(folder) = rustix::fs::open(entry.path(), FOLDER, Mode::empty()) else { continue };
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            std::fs::remove_dir_all(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

const PARTIAL: &str = ".partial-";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a path below the staging folder is resolved: never out of it, never through a link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A partial folder, locked; removed when dropped.
struct Staging {
    parent: PathBuf,
    path: PathBuf,
    root: OwnedFd,
    /// It was renamed as a whole: its old name may already be somebody else's.
    gone: bool,
}

impl Staging {
    /// Names tried before giving up; more are taken only if as many crashes left theirs.
    const TRIES: u64 = 10_000;

    fn create(parent: &Path) -> Result<Self, SlugError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let fail = |action, path: &Path, error: Errno| SlugError::Folder {
            action,
            path: path.to_owned(),
            source: error.into(),
        };
        for _ in 0..Self::TRIES {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{PARTIAL}{}-{serial}", std::process::id()));
            match rustix::fs::mkdir(&path, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made.map_err(|error| fail("make the folder", &path, error))?,
            }
            let root = match rustix::fs::open(&path, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) => continue, // Swept between making and locking.
                root => root.map_err(|error| fail("open the folder", &path, error))?,
            };
            // A sweeper may hold the lock for the moment in which it deletes; then the folder has no name any more.
            rustix::fs::flock(&root, FlockOperation::LockExclusive)
                .map_err(|error| fail("lock the folder", &path, error))?;
            let stat = rustix::fs::fstat(&root).map_err(|error| fail("look at the folder", &path, error))?;
            if stat.st_nlink > 0 {
                return Ok(Self { parent: parent.to_owned(), path, root, gone: false });
            }
        }
        Err(fail("make a partial folder in", parent, Errno::EXIST))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        // What cannot be removed now is removed by the next sweep; there is nobody to tell.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

struct DirectorySink {
    staging: Staging,
    /// The folder of the entry before, kept open: most entries follow a sibling.
    folder: Option<(EntryPath, OwnedFd)>,
    owner: Option<Owner>,
    layout: Layout,
}

impl Sink for DirectorySink {
    /// The archive is unpacked as it comes; which of its folders is the app matters only for the rename.
    fn settle(&mut self, layout: Layout) -> Result<(), SlugError> {
        self.layout = layout;
        Ok(())
    }

    fn put(&mut self, path: &EntryPath, attributes: Attributes, item: Item<'_>) -> Result<(), SlugError> {
        if path.is_root() {
            return Ok(());
        }
        let owner = self.owner;
        let (above, name) = path.split();
        let fail = |action| move |source: Errno| SlugError::Write { action, entry: path.name(), source: source.into() };
        let name = OsStr::from_bytes(name);
        match item {
            Item::Directory => {
                let above = self.folder(above).map_err(fail("open the folder of"))?;
                make_directory(above, name, attributes, owner).map_err(fail("make the folder"))
            }
            Item::File { size, body } => {
                let above = self.folder(above).map_err(fail("open the folder of"))?;
                let file = replacing(above, name, || create(above, name)).map_err(fail("create the file"))?;
                let mut file = File::from(file);
                sink::copy(body, size, |slice| file.write_all(slice))
                    .map_err(|fault| fault.at(path, "write the file"))?;
                finish_file(&file, attributes, owner)
                    .map_err(|e| CopyFault::Write(e.into()).at(path, "set owner and mode of"))
            }
            Item::Symlink { target } => {
                let above = self.folder(above).map_err(fail("open the folder of"))?;
                let target = OsStr::from_bytes(target);
                replacing(above, name, || rustix::fs::symlinkat(target, above, name)).map_err(fail("make the link"))?;
                chown_link(above, name, owner).map_err(fail("set the owner of"))
            }
            Item::HardLink { target } => {
                let (from_above, from_name) = target.split();
                let from =
                    open_folder(self.staging.root.as_fd(), from_above).map_err(fail("open the target's folder of"))?;
                let above = self.folder(above).map_err(fail("open the folder of"))?;
                let from_name = OsStr::from_bytes(from_name);
                let link = || rustix::fs::linkat(&from, from_name, above, name, AtFlags::empty());
                replacing(above, name, link).map_err(fail("make the hard link"))
            }
        }
    }
}

impl DirectorySink {
    fn folder(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        let known = self.folder.take().filter(|(known, _)| known.as_bytes() == path);
        let folder = match known {
            Some(known) => known,
            None => (EntryPath::part(path), open_folder(self.staging.root.as_fd(), path)?),
        };
        Ok(self.folder.insert(folder).1.as_fd())
    }

    /// Makes the app visible under its name.
    fn commit(mut self, name: &OsStr, durability: Durability) -> Result<(), SlugError> {
        let Staging { parent, path, root, .. } = &self.staging;
        let from = path.join(OsStr::from_bytes(self.layout.folder()));
        let place = parent.join(name);
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |error: Errno| SlugError::Folder { action, path, source: error.into() }
        };
        let app = open_folder(root.as_fd(), self.layout.folder()).map_err(fail("open the folder", &from))?;
        // An archive may say anything about its own root (0700 and a stranger's uid have been seen); it is not the archive's to say.
        set_owner_and_mode(&app, Attributes::FOLDER, self.owner).map_err(fail("set owner and mode of", &from))?;
        if durability == Durability::Synced {
            rustix::fs::syncfs(&app).map_err(fail("sync the file system of", &from))?;
        }
        match rustix::fs::rename(&from, &place) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => return Err(SlugError::AlreadyThere { path: place }),
            renamed => renamed.map_err(fail("rename the unpacked slug to", &place))?,
        }
        self.staging.gone = self.layout == Layout::Top;
        if durability == Durability::Synced {
            let parent = &self.staging.parent;
            let above = rustix::fs::open(parent, FOLDER, Mode::empty()).map_err(fail("open the folder", parent))?;
            rustix::fs::fsync(above).map_err(fail("sync the folder", parent))?;
        }
        Ok(())
    }
}

fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(root, OsStr::from_bytes(path), FOLDER, Mode::empty(), BENEATH)
}

fn create(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(folder, name, flags, Mode::RUSR | Mode::WUSR, BENEATH)
}

/// Does `make`; if the name is taken by an earlier entry, removes that first. Never writes into what is there, which may be linked elsewhere.
fn replacing<T>(folder: BorrowedFd<'_>, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(folder, name, AtFlags::empty())?;
            make()
        }
        made => made,
    }
}

fn make_directory(
    above: BorrowedFd<'_>,
    name: &OsStr,
    attributes: Attributes,
    owner: Option<Owner>,
) -> Result<(), Errno> {
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        // Named before, or implied by a path.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let folder = open_folder(above, name.as_bytes())?;
    set_owner_and_mode(&folder, attributes, owner)
}

fn finish_file(file: &File, attributes: Attributes, owner: Option<Owner>) -> Result<(), Errno> {
    set_owner_and_mode(file, attributes, owner)?;
    let time = Timespec { tv_sec: attributes.mtime.try_into().unwrap_or(0), tv_nsec: 0 };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

/// Owner first: a change of owner may clear bits of the mode.
fn set_owner_and_mode(fd: impl AsFd, attributes: Attributes, owner: Option<Owner>) -> Result<(), Errno> {
    if let Some(Owner { uid, gid }) = owner {
        rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(attributes.mode))
}

fn chown_link(folder: BorrowedFd<'_>, name: &OsStr, owner: Option<Owner>) -> Result<(), Errno> {
    match owner {
        Some(Owner { uid, gid }) => rustix::fs::chownat(
            folder,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{DirectorySink, Staging};
    use crate::error::SlugError;
    use crate::layout::Layout;
    use crate::name::EntryPath;
    use crate::sink::{Attributes, Item, Sink};

    /// The second wall alone: entries that the guard would never let through.
    #[test]
    fn without_the_guard_nothing_leaves_the_folder_either() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("witness"), "untouched").unwrap();
        let mut sink = DirectorySink {
            staging: Staging::create(outer.path()).unwrap(),
            folder: None,
            owner: None,
            layout: Layout::Top,
        };
        let attributes = Attributes { mode: 0o644, mtime: 0 };
        let up = EntryPath::part(b"up");
        sink.put(&up, attributes, Item::Symlink { target: b".." }).unwrap();
        let prize = outer.path().join("witness");
        let to_prize = std::os::unix::ffi::OsStrExt::as_bytes(prize.as_os_str());
        sink.put(&EntryPath::part(b"link"), attributes, Item::Symlink { target: to_prize }).unwrap();
        for path in ["up/witness", "up/new", "../witness", "../new", "up/../../new"] {
            let body = &mut &b"evil"[..];
            let refused = sink.put(&EntryPath::part(path.as_bytes()), attributes, Item::File { size: 4, body });
            assert!(matches!(refused, Err(SlugError::Write { .. })), "{path}: {refused:?}");
            let refused = sink.put(&EntryPath::part(path.as_bytes()), attributes, Item::Directory);
            assert!(matches!(refused, Err(SlugError::Write { .. })), "{path}: {refused:?}");
            let target = EntryPath::part(path.as_bytes());
            let refused = sink.put(&EntryPath::part(b"hard"), attributes, Item::HardLink { target: &target });
            assert!(matches!(refused, Err(SlugError::Write { .. })), "{path}: {refused:?}");
        }
        // Over a link: the link is replaced, what it leads to is not written.
        sink.put(&EntryPath::part(b"link"), attributes, Item::File { size: 4, body: &mut &b"evil"[..] }).unwrap();
        assert_eq!(std::fs::read(&prize).unwrap(), b"untouched");
        drop(sink);
        let left: Vec<_> = outer.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["witness"]);
    }
}
