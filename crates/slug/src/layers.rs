//! The normalised form of a slug as several tar archives, one on top of the other: each can be on its way, and be unpacked, while the next
//! is still being made.
//!
//! What lies on top wins, as in an image: an entry that comes again replaces the earlier one, and a folder has the attributes that the
//! topmost archive gives it. So each archive names the folders above its entries, with all that is known of them. A hard link cannot
//! lead out of its archive; a slug in which one would have to is [`LayersError::Indivisible`].

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::mem;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::error::SlugError;
use crate::name::{EntryName, EntryPath};
use crate::normalise::{Options, Owner, Report};
use crate::sink::{Attributes, CopyFault, Item};
use crate::tarball::{ROOT, Taker, TarWriter, normalise_into};

/// An archive, whole, in a file without a name.
#[derive(Debug)]
pub struct Layer {
    /// Stands at its beginning.
    pub file: File,
    /// Its length.
    pub bytes: u64,
    /// The sha256 of its bytes.
    pub sha256: Digest,
}

/// Why there are no layers.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// The slug, or the reading and writing of it.
    #[error(transparent)]
    Slug(#[from] SlugError),
    /// It cannot be divided; as a whole it may be good.
    #[error("the hard link `{0}` leads to a file that comes long before it")]
    Indivisible(EntryName),
}

/// Divides the slug that `input` gives. `room` says how large the next archive should become, given the bytes of those before; only a single
/// large file makes one larger. Each archive but the last goes to `take` as soon as it is whole; the last is answered, and only when the
/// whole slug has been checked, its digest included. An error of `take` ends the work.
///
/// The archives are made in [`Options::spool_folder`].
pub fn normalise_to_layers<R: Read + Send>(
    input: R,
    prefix: &str,
    options: &Options,
    room: impl Fn(u64) -> u64,
    take: impl FnMut(Layer) -> io::Result<()>,
) -> Result<(Report, Layer), LayersError> {
    let folder = options.spool_folder.clone().unwrap_or_else(std::env::temp_dir);
    let failed = |source| SlugError::Output { action: "use a temporary file for a part of the slug", source };
    let mut crossing = None;
    let layers = Layers {
        current: TarWriter::new(Spool::new(&folder).map_err(failed)?, options.owner.unwrap_or(ROOT)),
        owner: options.owner.unwrap_or(ROOT),
        allowed: room(0),
        before: 0,
        folders: HashMap::new(),
        here: HashSet::new(),
        crossing: &mut crossing,
        folder,
        room,
        take,
    };
    let done = normalise_into(input, layers, prefix, options);
    let (report, layers) = match done {
        Ok((report, layers)) => (report, layers.current),
        Err(error) => return Err(crossing.map_or(LayersError::Slug(error), LayersError::Indivisible)),
    };
    let last = layers.finish().and_then(Spool::end).map_err(failed)?;
    Ok((report, last))
}

struct Layers<'a, M, T> {
    current: TarWriter<Spool>,
    owner: Owner,
    folder: PathBuf,
    room: M,
    take: T,
    /// How large the current archive may become.
    allowed: u64,
    /// Bytes of the archives before it.
    before: u64,
    /// All folders there are, with the attributes that they were given last.
    folders: HashMap<Box<[u8]>, Attributes>,
    /// What is in the current archive.
    here: HashSet<Box<[u8]>>,
    crossing: &'a mut Option<EntryName>,
}

impl<M: Fn(u64) -> u64, T: FnMut(Layer) -> io::Result<()>> Layers<'_, M, T> {
    /// Begins a new archive.
    fn cut(&mut self) -> io::Result<()> {
        let next = TarWriter::new(Spool::new(&self.folder)?, self.owner);
        let layer = mem::replace(&mut self.current, next).finish()?.end()?;
        self.before += layer.bytes;
        self.allowed = (self.room)(self.before);
        self.here.clear();
        (self.take)(layer)
    }

    /// Names the folders above a path that this archive has not named yet.
    fn above(&mut self, path: &EntryPath) -> Result<(), CopyFault> {
        for folder in path.ancestors() {
            if !self.here.contains(folder) {
                let attributes = self.folders.get(folder).copied().unwrap_or(Attributes::FOLDER);
                self.current.put(folder, attributes, Item::Directory)?;
                self.here.insert(folder.into());
            }
        }
        Ok(())
    }
}

impl<M: Fn(u64) -> u64, T: FnMut(Layer) -> io::Result<()>> Taker for Layers<'_, M, T> {
    fn put(&mut self, path: &[u8], attributes: Attributes, item: Item<'_>) -> Result<(), CopyFault> {
        let whole = EntryPath::part(path);
        match &item {
            Item::File { size, .. } => {
                let (spool, waiting) = self.current.written();
                let used = spool.bytes + waiting;
                if used > 0 && used.saturating_add(*size) > self.allowed {
                    self.cut().map_err(CopyFault::Write)?;
                }
            }
            Item::HardLink { target } if !self.here.contains(target.as_bytes()) => {
                *self.crossing = Some(whole.name());
                return Err(CopyFault::Write(io::Error::other("a hard link leads out of its archive")));
            }
            Item::HardLink { .. } | Item::Symlink { .. } => {}
            Item::Directory => drop(self.folders.insert(path.into(), attributes)),
        }
        self.above(&whole)?;
        self.current.put(path, attributes, item)?;
        self.here.insert(path.into());
        Ok(())
    }
}

/// Counts and hashes what goes into a file.
struct Spool {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Spool {
    fn new(folder: &std::path::Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, hash: Sha256::new(), bytes: 0 })
    }

    fn end(mut self) -> io::Result<Layer> {
        self.file.rewind()?;
        Ok(Layer { file: self.file, bytes: self.bytes, sha256: Digest(self.hash.finalize().into()) })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
