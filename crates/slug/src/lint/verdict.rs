//! The stable name of each fault, and what the classic runners make of it.

use crate::error::{EntryFault, SlugError};
use crate::sniff::Foreign;

/// Of a slug that cannot be read to its end.
pub(super) fn unreadable(fault: &SlugError) -> (&'static str, Option<&'static str>) {
    const TAR_FAILS: &str = "all but Flynn since late 2016 end with 2, the code of tar, and do not say why";
    match fault {
        SlugError::NotASlug { found: Foreign::Squashfs } => {
            ("squashfs", Some("Flynn since late 2016 mounts it; all others end with 2, the code of tar"))
        }
        SlugError::NotASlug { .. } => ("not-a-slug", Some(TAR_FAILS)),
        SlugError::Damaged { .. } => {
            ("damaged", Some("they end with 2, the code of tar, and have unpacked what came before"))
        }
        SlugError::Archive { .. } => ("malformed", None),
        SlugError::Limit { .. } => ("limit", Some("they know no limits but the disk's")),
        SlugError::Empty => ("empty", Some("they unpack nothing and end with 1, finding no Procfile")),
        _ => ("refused", None),
    }
}

/// Of an entry that Captain refuses.
pub(super) fn refusal(fault: &EntryFault) -> (&'static str, Option<&'static str>) {
    match fault {
        EntryFault::ParentInName => ("name-parent", Some("tar ends with 2 and has unpacked everything else by then")),
        EntryFault::AbsoluteName => ("name-absolute", Some("tar takes the leading `/` away and unpacks it below /app")),
        EntryFault::NoName | EntryFault::NulInName | EntryFault::NameTooLong { .. } | EntryFault::NotOneName => {
            ("name-invalid", None)
        }
        EntryFault::Whiteout => ("whiteout", Some("they unpack it like any other file, outside of an image's layers")),
        EntryFault::TargetOutside { .. } | EntryFault::ParentAfterName { .. } => {
            ("link-outside", Some("they keep the link; what it leads to is looked up in the container"))
        }
        EntryFault::UnknownTarget { .. } => ("link-unknown", Some("tar ends with 2 if there is no such file")),
        EntryFault::NoTarget | EntryFault::NulInTarget | EntryFault::TargetTooLong { .. } => ("link-invalid", None),
        EntryFault::Unsupported(_) => ("unsupported", Some("unpacked as root, devices and pipes are made")),
        EntryFault::BelowSymlink(_) => {
            ("below-link", Some("tar delays such links, or follows them, depending on its version"))
        }
        EntryFault::BelowFile(_)
        | EntryFault::ReplacesDirectory
        | EntryFault::BecomesDirectory
        | EntryFault::RootNotDirectory => ("type-change", Some("tar ends with 2")),
        EntryFault::CarriesData(_) | EntryFault::TwoSizes { .. } | EntryFault::TwoNames => {
            ("ambiguous", Some("which files come out depends on the tar program"))
        }
    }
}
