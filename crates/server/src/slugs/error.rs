//! Why a slug could not be had, or not be kept.

use std::io;
use std::path::PathBuf;

use captain_slug::{Digest, SlugError};
use thiserror::Error;

use super::Store;

/// What came is not put on the disk as a slug.
#[derive(Debug, Error)]
pub enum DraftError {
    /// It is no slug, or one with an entry that no node is given.
    #[error("the slug is refused: {0}")]
    Refused(#[source] SlugError),
    /// It is larger than slugs may be here.
    #[error("the slug is larger than {allowed} bytes")]
    TooLarge {
        /// The bound.
        allowed: u64,
    },
    /// It is another one than was asked for.
    #[error("the slug has the sha256 {found}, not {expected} as was asked for")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The captain's own disk is full.
    #[error("the disk of this captain is full: there is no room for slugs in {}", folder.display())]
    DiskFull {
        /// The folder.
        folder: PathBuf,
    },
    /// The captain's own disk fails.
    #[error("cannot {attempted} {}", path.display())]
    Disk {
        /// What was attempted.
        attempted: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A defect: a task ended without an answer.
    #[error("the work on the slug ended without an answer")]
    Lost,
}

impl DraftError {
    pub(super) fn disk(attempted: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let folder = if path.is_dir() { path } else { path.parent().map(Into::into).unwrap_or(path) };
                Self::DiskFull { folder }
            }
            _ => Self::Disk { attempted, path, source },
        }
    }
}

/// Why a slug cannot be had. URIs are redacted.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The URI is none that slugs are fetched by.
    #[error("{0}")]
    Uri(String),
    /// Its origin says that it is not there, or not for us. Asking again would not help.
    #[error("{uri}: {problem}")]
    Unavailable {
        /// The slug.
        uri: String,
        /// What the origin says.
        problem: String,
        /// The HTTP status, where it was one.
        status: Option<u16>,
    },
    /// Its origin fails or cannot be reached. It may be had later.
    #[error("{uri} cannot be fetched: {problem}")]
    Origin {
        /// The slug.
        uri: String,
        /// What happened last, and how often it was tried.
        problem: String,
    },
    /// Captain's own store has no such slug.
    #[error("sha256:{0} is not in this captain's store")]
    NotStored(Digest),
    /// What came is not kept.
    #[error("{uri}: {source}")]
    Content {
        /// The slug.
        uri: String,
        /// Why.
        source: DraftError,
    },
    /// A defect: the fetch ended without an answer.
    #[error("the fetch of {0} ended without an answer")]
    Lost(String),
}

impl FetchError {
    /// Whether the origin could not be asked, so that an earlier answer of it may stand in.
    pub(super) const fn is_origins(&self) -> bool {
        matches!(self, Self::Origin { .. })
    }
}

/// Why Captain's own store could not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no such slug.
    #[error("there is no slug sha256:{0} in the store")]
    NoSuchSlug(Digest),
    /// It is being put on a node just now.
    #[error("sha256:{0} is being used by a start; try again when that has ended")]
    InUse(Digest),
    /// What came is not kept.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The upload broke off.
    #[error("the upload broke off after {bytes} bytes")]
    BrokenOff {
        /// How many had come.
        bytes: u64,
    },
    /// The upload came too slowly.
    #[error("the upload did not come to its end within {seconds} s, or nothing of it came for {idle} s")]
    TooSlow {
        /// The bound of it all.
        seconds: u64,
        /// The bound of a pause.
        idle: u64,
    },
    /// The bucket fails.
    #[error("the store {store} {problem}")]
    Bucket {
        /// Where it is.
        store: Store,
        /// What happened, as a predicate.
        problem: String,
    },
}
