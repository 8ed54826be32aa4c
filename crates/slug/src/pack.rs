//! Makes a slug of a folder: the same tree gives the same bytes, whoever packs it, when and where.
//!
//! What could make a difference is fixed: entries in byte order of their names, owner root, modes 0755 and 0644 by the owner's execute bit, one
//! time, no precise times, no host in the gzip header. (Another version of the compressor may give other bytes for the same tree.) Hard
//! links are packed as the files that they are. The guard that reads slugs also watches here, so what is packed is never refused later.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::archive::{Kind, RawEntry};
use crate::error::SlugError;
use crate::guard::{Guard, OutwardLinks};
use crate::limits::{Limit, Limits};
use crate::sink::{Attributes, CopyFault, Item};
pub use crate::slugignore::SlugIgnoreFault;
use crate::slugignore::{FILE, SlugIgnore};
use crate::tarball::{ROOT, TarWriter};

/// The time of every entry: the start of 1980, the first that zip knows, so that an app which zips its own files works.
const MTIME: u64 = 315_532_800;

/// How a folder is packed.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// The limits that the slug will meet when it is read.
    pub limits: Limits,
    /// Of gzip, 1 to 9. Default 6: what slugbuilders use, and each level above doubles the time for a percent.
    pub level: u32,
    /// What to do with absolute symbolic links; as it will be when the slug is read.
    pub outward_links: OutwardLinks,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), level: 6, outward_links: OutwardLinks::default() }
    }
}

/// How far packing has come. The totals are known from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackProgress {
    /// Entries packed.
    pub entries: u64,
    /// Entries in all.
    pub entries_total: u64,
    /// Bytes of files packed.
    pub bytes: u64,
    /// Bytes of files in all.
    pub bytes_total: u64,
}

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Of the slug's bytes.
    pub sha256: Digest,
    /// How many bytes the slug has.
    pub bytes: u64,
    /// Entries in it.
    pub entries: u64,
    /// Bytes of its files.
    pub content_bytes: u64,
    /// Files and folders left out by `.slugignore` or as `.git` (not counting what is in such a folder).
    pub left_out: u64,
}

/// A folder could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// Something could not be read.
    #[error("cannot {action} {}", path.display())]
    Read {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file grew, shrank or was replaced while it was packed.
    #[error("{} changed while it was packed", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// The `.slugignore` cannot be used.
    #[error("cannot use {}", path.display())]
    Ignore {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: SlugIgnoreFault,
    },
    /// The result would be refused as a slug.
    #[error("{} cannot be packed", path.display())]
    Refused {
        /// The folder.
        path: PathBuf,
        /// Why; names the entry.
        source: SlugError,
    },
    /// The output broke.
    #[error("cannot write the slug")]
    Write(#[source] io::Error),
}

/// Packs the folder `root` into `out` as a slug of the slugbuilder's layout (`./…`), which the classic runners take as well.
pub fn pack<W: Write>(
    root: &Path,
    out: W,
    options: &PackOptions,
    progress: &mut dyn FnMut(PackProgress),
) -> Result<Packed, PackError> {
    let ignore = SlugIgnore::read(root).map_err(|source| PackError::Ignore { path: root.join(FILE), source })?;
    let plan = Plan::make(root, &ignore, options)?;
    let hashing = Hashing { inner: out, hash: Sha256::new(), bytes: 0 };
    // No time and the "unknown" system: the two fields of a gzip header that differ between runs and hosts.
    let gzip =
        GzBuilder::new().mtime(0).operating_system(255).write(hashing, Compression::new(options.level.clamp(1, 9)));
    let mut tar = TarWriter::new(gzip, ROOT);
    let mut done =
        PackProgress { entries: 0, entries_total: plan.entries.len() as u64, bytes: 0, bytes_total: plan.bytes };
    progress(done);
    for entry in &plan.entries {
        entry.write(root, &mut tar)?;
        done.entries += 1;
        done.bytes += entry.raw.size;
        progress(done);
    }
    let gzip = tar.finish().map_err(PackError::Write)?;
    let mut hashing = gzip.finish().map_err(PackError::Write)?;
    hashing.inner.flush().map_err(PackError::Write)?;
    Ok(Packed {
        sha256: Digest(hashing.hash.finalize().into()),
        bytes: hashing.bytes,
        entries: done.entries,
        content_bytes: done.bytes,
        left_out: plan.left_out,
    })
}

/// Everything that will be packed, in its final order.
struct Plan {
    entries: Vec<Planned>,
    bytes: u64,
    left_out: u64,
}

impl Plan {
    fn make(root: &Path, ignore: &SlugIgnore, options: &PackOptions) -> Result<Self, PackError> {
        let limits = &options.limits;
        let mut guard = Guard::new(limits, options.outward_links);
        let mut plan = Self { entries: Vec::new(), bytes: 0, left_out: 0 };
        // Depth first with the children pushed in reverse, so that popping gives byte order without recursion.
        let mut open = vec![PathBuf::new()];
        while let Some(relative) = open.pop() {
            let path = root.join(&relative);
            let metadata = if relative.as_os_str().is_empty() { path.metadata() } else { path.symlink_metadata() };
            let metadata =
                metadata.map_err(|source| PackError::Read { action: "look at", path: path.clone(), source })?;
            if ignore.leaves_out(&relative, metadata.is_dir()) {
                plan.left_out += 1;
                continue;
            }
            if metadata.is_dir() {
                open.extend(children(&path, &relative)?);
            }
            let entry = Planned::new(relative, &path, &metadata)?;
            guard.admit(&entry.raw).map_err(|source| PackError::Refused { path: root.to_owned(), source })?;
            plan.bytes = plan.bytes.saturating_add(entry.raw.size);
            if plan.bytes > limits.unpacked_bytes {
                let (limit, allowed, entry) =
                    (Limit::UnpackedBytes, limits.unpacked_bytes, Some(entry.raw.name.as_slice().into()));
                return Err(PackError::Refused {
                    path: root.to_owned(),
                    source: SlugError::Limit { limit, allowed, entry },
                });
            }
            plan.entries.push(entry);
        }
        Ok(plan)
    }
}

/// The paths in a folder, relative to the root, in reverse byte order.
fn children(path: &Path, relative: &Path) -> Result<Vec<PathBuf>, PackError> {
    let fail = |source| PackError::Read { action: "list the folder", path: path.to_owned(), source };
    let names = path.read_dir().map_err(fail)?.map(|entry| entry.map(|entry| relative.join(entry.file_name())));
    let mut children = names.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    children.sort_unstable_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
    Ok(children)
}

struct Planned {
    relative: PathBuf,
    /// As the guard will see it when the slug is read.
    raw: RawEntry,
    /// Tells whether the file that is opened later is the one that was planned.
    identity: (u64, u64),
}

impl Planned {
    fn new(relative: PathBuf, path: &Path, metadata: &Metadata) -> Result<Self, PackError> {
        let kind = metadata.file_type();
        let mut target = Vec::new();
        let (kind, mode, size) = if kind.is_dir() {
            (Kind::Directory, 0o755, 0)
        } else if kind.is_symlink() {
            let read = path.read_link().map_err(|source| PackError::Read {
                action: "read the link",
                path: path.to_owned(),
                source,
            })?;
            target = read.into_os_string().as_bytes().to_vec();
            (Kind::Symlink, 0o777, 0)
        } else if kind.is_file() {
            (Kind::File, if metadata.mode() & 0o100 == 0 { 0o644 } else { 0o755 }, metadata.len())
        } else if kind.is_socket() {
            (Kind::Other("a socket"), 0, 0)
        } else if kind.is_fifo() {
            (Kind::Other("a named pipe"), 0, 0)
        } else {
            (Kind::Other("a device"), 0, 0)
        };
        let name = [b"./", relative.as_os_str().as_bytes()].concat();
        let raw = RawEntry { kind, name, target, size, mode, uid: 0, mtime: MTIME };
        Ok(Self { relative, raw, identity: (metadata.dev(), metadata.ino()) })
    }

    fn write<W: Write>(&self, root: &Path, tar: &mut TarWriter<W>) -> Result<(), PackError> {
        let attributes = Attributes { mode: self.raw.mode, mtime: MTIME };
        let path = root.join(&self.relative);
        let mut file;
        let item = match self.raw.kind {
            Kind::Directory => Item::Directory,
            Kind::Symlink => Item::Symlink { target: &self.raw.target },
            _ => {
                file = BufReader::with_capacity(128 << 10, self.open(&path)?);
                Item::File { size: self.raw.size, body: &mut file }
            }
        };
        let name = self.raw.name.strip_suffix(b"/").unwrap_or(&self.raw.name);
        tar.put(name, attributes, item).map_err(|fault| match fault {
            CopyFault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                PackError::Changed { path: path.clone() }
            }
            CopyFault::Read(source) => PackError::Read { action: "read", path: path.clone(), source },
            CopyFault::Write(source) => PackError::Write(source),
        })
    }

    /// Opens what was planned, not what someone may have put there since: a link would bring in a file from elsewhere.
    fn open(&self, path: &Path) -> Result<File, PackError> {
        let fail = |source: io::Error| PackError::Read { action: "open", path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fail(error.into()))?);
        let now = file.metadata().map_err(fail)?;
        if (now.dev(), now.ino()) != self.identity || now.len() != self.raw.size {
            return Err(PackError::Changed { path: path.to_owned() });
        }
        Ok(file)
    }
}

struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
