//! Why a slug was refused, or could not be read or written. Every fault of an entry names the entry.

use std::io;
use std::path::PathBuf;

use crate::limits::Limit;
use crate::name::EntryName;
use crate::sniff::{Compression, Foreign};
use crate::{Digest, Layout};

/// A slug could not be read, was refused, or could not be put where it should go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlugError {
    /// The given bytes could not be had: the network or the disk, not the slug.
    #[error("cannot read the slug after {bytes} bytes")]
    Input {
        /// How many bytes had been read.
        bytes: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// It is something else than a slug.
    #[error("this is not a slug but {found}")]
    NotASlug {
        /// What it is.
        found: Foreign,
    },
    /// The compressed stream is damaged or ends too early.
    #[error("the {compression} stream is damaged or cut off after {bytes} bytes")]
    Damaged {
        /// How it is compressed.
        compression: Compression,
        /// How many given bytes had been read.
        bytes: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// The tar inside is malformed.
    #[error("the archive is malformed at byte {offset} of its unpacked form: {fault}")]
    Archive {
        /// Where, in the unpacked stream.
        offset: u64,
        /// What is wrong.
        fault: ArchiveFault,
    },
    /// One entry was refused.
    #[error("the entry `{entry}` {fault}")]
    Entry {
        /// Which.
        entry: EntryName,
        /// Why, as a predicate.
        fault: EntryFault,
    },
    /// A limit was reached.
    #[error("the slug has more than {allowed} {limit}{}", at(.entry.as_ref()))]
    Limit {
        /// Which.
        limit: Limit,
        /// Its value.
        allowed: u64,
        /// The entry that was being read, when there was one.
        entry: Option<EntryName>,
    },
    /// Nothing is in it.
    #[error("the archive holds no files")]
    Empty,
    /// The given layout is not the one that the archive has.
    #[error("the slug was taken to have the layout `{expected}` but has the layout `{found}`")]
    LayoutDiffers {
        /// What the caller said.
        expected: Layout,
        /// What the whole archive says.
        found: Layout,
    },
    /// The bytes are not the ones that were asked for.
    #[error("the slug's sha256 is {found}, not {expected} as was asked for")]
    DigestDiffers {
        /// What was asked for.
        expected: Digest,
        /// What the given bytes have.
        found: Digest,
    },
    /// The sink could not take an entry.
    #[error("cannot {action} `{entry}`")]
    Write {
        /// What was attempted.
        action: &'static str,
        /// On which entry.
        entry: EntryName,
        /// What the system said.
        source: io::Error,
    },
    /// The output stream broke.
    #[error("cannot {action}")]
    Output {
        /// What was attempted.
        action: &'static str,
        /// What the writer said.
        source: io::Error,
    },
    /// A folder of the store could not be made, locked, renamed or synced.
    #[error("cannot {action} {}", path.display())]
    Folder {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something is already at the place where the slug was to go; it was left as it is.
    #[error("{} is already there", path.display())]
    AlreadyThere {
        /// The place.
        path: PathBuf,
    },
    /// The name or prefix given by the caller cannot be used.
    #[error("`{name}` cannot be the place of a slug: it {fault}")]
    Destination {
        /// The name.
        name: EntryName,
        /// Why, as a predicate.
        fault: EntryFault,
    },
}

fn at(entry: Option<&EntryName>) -> String {
    entry.map(|entry| format!(", reached at the entry `{entry}`")).unwrap_or_default()
}

impl SlugError {
    /// Whether the disk or the quota is full: a fault of the node, not of the slug.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Write { source, .. } | Self::Output { source, .. } | Self::Folder { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Whether the slug itself is at fault, so that reading it again cannot help.
    #[must_use]
    pub fn is_slugs_fault(&self) -> bool {
        match self {
            Self::NotASlug { .. }
            | Self::Damaged { .. }
            | Self::Archive { .. }
            | Self::Entry { .. }
            | Self::Limit { .. }
            | Self::Empty
            | Self::LayoutDiffers { .. }
            | Self::DigestDiffers { .. } => true,
            Self::Input { .. }
            | Self::Write { .. }
            | Self::Output { .. }
            | Self::Folder { .. }
            | Self::AlreadyThere { .. }
            | Self::Destination { .. } => false,
        }
    }
}

/// What is wrong with the archive as such.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// A header's checksum.
    #[error("the checksum of a header is wrong")]
    Checksum,
    /// A number in a header.
    #[error("the field `{0}` of a header is no number")]
    Number(&'static str),
    /// A PAX header that is not made of records.
    #[error("a PAX header is malformed")]
    Pax,
    /// A key that changes what entries mean, set for the rest of the archive. Readers differ on it, which is how files get smuggled.
    #[error("a PAX header for the whole archive sets `{0}`")]
    GlobalPax(&'static str),
    /// The same thing said twice about one entry.
    #[error("two {0} stand before one entry")]
    Repeated(&'static str),
    /// A long name or PAX header at the end.
    #[error("a long name or PAX header belongs to no entry")]
    Dangling,
    /// One zero block with something after it. Some readers stop there, others go on.
    #[error("a single zero block stands between entries")]
    LoneZeroBlock,
    /// The end came inside an entry.
    #[error("it ends inside an entry")]
    Truncated,
    /// The end came without the mark that every writer sets; a transfer was cut off.
    #[error("it ends without an end-of-archive mark, so it may be cut off")]
    NoEndMark,
}

/// Why an entry was refused, as a predicate that follows the entry's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// Empty.
    #[error("has no name")]
    NoName,
    /// Starts with `/`.
    #[error("has an absolute name")]
    AbsoluteName,
    /// Holds a NUL.
    #[error("has a NUL byte in its name")]
    NulInName,
    /// Holds `..`.
    #[error("has `..` in its name")]
    ParentInName,
    /// Path or component too long.
    #[error("has a name of {bytes} bytes where {allowed} are allowed")]
    NameTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// `.wh.x`: in a layer of an image it deletes `x` instead of being there.
    #[error("has a name that begins with `.wh.`, by which container engines mean a deletion")]
    Whiteout,
    /// More than one component where one is needed.
    #[error("is not a single visible name")]
    NotOneName,
    /// `./` as something else than a directory.
    #[error("stands for the root but is not a directory")]
    RootNotDirectory,
    /// Devices, pipes and the like.
    #[error("is {0}, which a slug cannot hold")]
    Unsupported(&'static str),
    /// Its folder is a symbolic link of this archive.
    #[error("lies below `{0}`, which is a symbolic link")]
    BelowSymlink(EntryName),
    /// Its folder is a file of this archive.
    #[error("lies below `{0}`, which is a file")]
    BelowFile(EntryName),
    /// A directory given before becomes something else.
    #[error("replaces the directory of the same name by something else")]
    ReplacesDirectory,
    /// Something given before becomes a directory.
    #[error("replaces what had the same name by a directory")]
    BecomesDirectory,
    /// Empty link target.
    #[error("is a link to nothing")]
    NoTarget,
    /// NUL in a link target.
    #[error("is a link with a NUL byte in its target")]
    NulInTarget,
    /// Link target too long.
    #[error("is a link whose target has {bytes} bytes where {allowed} are allowed")]
    TargetTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        allowed: usize,
    },
    /// The target is outside.
    #[error("is a link to `{target}`, which is outside of the slug")]
    TargetOutside {
        /// The target as given.
        target: EntryName,
    },
    /// `a/../b`.
    #[error("is a link to `{target}`: `..` after a name cannot be judged without following links")]
    ParentAfterName {
        /// The target as given.
        target: EntryName,
    },
    /// A hard link to nothing known.
    #[error("is a hard link to `{target}`, which is no earlier file of the archive")]
    UnknownTarget {
        /// The target as given.
        target: EntryName,
    },
    /// A directory or link with contents: readers differ on whether they are skipped, which is how files get smuggled.
    #[error("is {0} and yet carries data")]
    CarriesData(&'static str),
    /// Header and PAX disagree on the size.
    #[error("is given two sizes, {header} and {pax}")]
    TwoSizes {
        /// In the header.
        header: u64,
        /// In the PAX record.
        pax: u64,
    },
    /// Long name and PAX disagree.
    #[error("is given two names or link targets")]
    TwoNames,
}
