//! What a slug may cost at most. Each limit is a refusal with the limit's name in it, never a truncation.

use std::fmt;

/// The bounds within which a slug is read. The defaults take every slug that Heroku takes, with room to spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes as given (compressed). Heroku's hard limit is 500 MB; the default is 1 GiB.
    pub given_bytes: u64,
    /// Bytes of the tar stream after decompression, headers included, so that this one number bounds all work that follows. Default 4 GiB.
    pub unpacked_bytes: u64,
    /// Entries, folders that are only implied by a longer path included. Default 500,000: ten times a large `node_modules`.
    pub entries: u64,
    /// The sum of the lengths of all names. They are kept in memory while the slug is read (links and duplicates are checked against
    /// them), so this bounds the memory of a slug of many small entries. Default 64 MiB.
    pub names_bytes: u64,
    /// One path. The kernel's own limit is 4,096 with the folder above it; the default of 2,048 leaves the store room for its own.
    pub path_bytes: usize,
    /// The target of one symbolic link. Default 2,048.
    pub link_target_bytes: usize,
    /// One PAX header or GNU long name, which have to be held in memory whole. Default 64 KiB.
    pub metadata_bytes: u64,
    /// The Procfile and the `.release`, which are handed to the caller in memory. Default 64 KiB.
    pub procfile_bytes: u64,
    /// Unpacked bytes for one given byte, looked at once 16 MiB are unpacked (a small slug may be all blanks). Real slugs are at 3 to 6,
    /// gzip ends at 1,032. Default 100.
    pub expansion_ratio: u64,
    /// The base-2 logarithm of the window that a zstd frame may ask for; the decoder allocates that much. Default 27 (128 MiB), what
    /// `zstd --ultra -22` uses and the reference tool accepts without asking.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            given_bytes: 1 << 30,
            unpacked_bytes: 4 << 30,
            entries: 500_000,
            names_bytes: 64 << 20,
            path_bytes: 2048,
            link_target_bytes: 2048,
            metadata_bytes: 64 << 10,
            procfile_bytes: 64 << 10,
            expansion_ratio: 100,
            zstd_window_log: 27,
        }
    }
}

/// Below this many unpacked bytes the expansion ratio says nothing: a megabyte of blanks is 1 KiB of gzip and harmless.
pub(crate) const RATIO_FREE_BYTES: u64 = 16 << 20;

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`Limits::given_bytes`].
    GivenBytes,
    /// [`Limits::unpacked_bytes`].
    UnpackedBytes,
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::names_bytes`].
    NamesBytes,
    /// [`Limits::metadata_bytes`].
    MetadataBytes,
    /// [`Limits::procfile_bytes`].
    ProcfileBytes,
    /// [`Limits::expansion_ratio`].
    ExpansionRatio,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GivenBytes => "bytes as given",
            Self::UnpackedBytes => "bytes unpacked",
            Self::Entries => "entries",
            Self::NamesBytes => "bytes of names in all",
            Self::MetadataBytes => "bytes of one long name or PAX header",
            Self::ProcfileBytes => "bytes of a Procfile or .release",
            Self::ExpansionRatio => "bytes unpacked for each byte given",
        })
    }
}
