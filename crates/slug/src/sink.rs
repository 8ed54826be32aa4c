//! What takes the entries of a slug: a tar stream, a folder, or one who only counts.

use std::io::{self, BufRead};

use crate::Layout;
use crate::error::SlugError;
use crate::name::EntryPath;

/// Permissions and time of an entry, already normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

impl Attributes {
    /// Of folders that only the paths of others imply.
    pub(crate) const FOLDER: Self = Self { mode: 0o755, mtime: 0 };
}

/// What an entry is, and what it carries.
pub(crate) enum Item<'a> {
    Directory,
    File { size: u64, body: &'a mut dyn BufRead },
    Symlink { target: &'a [u8] },
    HardLink { target: &'a EntryPath },
}

/// Takes admitted entries, in the archive's order and with the archive's paths. A folder comes before what is in it; a file or link may
/// come twice, and the later one counts.
pub(crate) trait Sink {
    /// The layout is known; called once, before the first entry, between two, or after the last.
    fn settle(&mut self, layout: Layout) -> Result<(), SlugError>;

    fn put(&mut self, path: &EntryPath, attributes: Attributes, item: Item<'_>) -> Result<(), SlugError>;
}

/// Which side of a copy failed.
pub(crate) enum CopyFault {
    Read(io::Error),
    Write(io::Error),
}

impl CopyFault {
    /// Names the entry, and on the writing side also what was attempted.
    pub(crate) fn at(self, path: &EntryPath, action: &'static str) -> SlugError {
        match self {
            Self::Read(error) => SlugError::reading(error, Some(path.name())),
            Self::Write(source) => SlugError::Write { action, entry: path.name(), source },
        }
    }
}

/// Hands exactly `size` bytes to `write`, slice by slice as they lie in the reader's buffer.
pub(crate) fn copy(
    body: &mut dyn BufRead,
    size: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), CopyFault> {
    let mut left = size;
    while left > 0 {
        let available = body.fill_buf().map_err(CopyFault::Read)?;
        if available.is_empty() {
            return Err(CopyFault::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let step = available.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        write(&available[..step]).map_err(CopyFault::Write)?;
        body.consume(step);
        left -= step as u64;
    }
    Ok(())
}
