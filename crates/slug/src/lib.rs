//! Slugs: archives of a built app, as anyone may have made them. Reads them without trusting a byte, normalises them into a tar stream or a
//! folder, packs them, and says what is in them and what would go wrong with them.
//!
//! | to do | call |
//! | --- | --- |
//! | give a slug to a Docker node | [`normalise_to_tar`] |
//! | put a slug on this machine's disk | [`unpack_into`] |
//! | check a slug while it is stored | [`inspect`] |
//! | make a slug of a folder | [`pack`] |
//! | tell an author what is wrong | [`lint`] |
//!
//! Everything here is synchronous, bounded by [`Limits`], and knows nothing of instances, HTTP or the store. A call uses one thread beside the
//! caller's (decompression). The crate has no `unsafe` and is for Linux (`openat2`, kernel 5.6).
//!
//! # What comes out
//!
//! Whatever went in, the output has clean relative names, real folders above every entry, links that stay inside, one owner, no set-id bits, no
//! write permission for group and others, no extended attributes. Modification times of files are kept, to the second: Python
//! compares them with those noted in `.pyc` files and would compile again at each start, and web servers derive `Last-Modified` from them. Those of
//! folders are not part of a slug.

mod archive;
mod directory;
mod error;
mod guard;
mod inspect;
mod layers;
mod layout;
mod limits;
mod lint;
mod name;
mod normalise;
mod pack;
mod pax;
mod sink;
mod slugignore;
mod sniff;
mod stream;
mod tarball;

use std::fmt;
use std::str::FromStr;

pub use directory::{Durability, sweep_partials, unpack_into};
pub use error::{ArchiveFault, EntryFault, SlugError};
pub use guard::OutwardLinks;
pub use inspect::{Large, Summary, inspect};
pub use layers::{Layer, LayersError, normalise_to_layers};
pub use layout::Layout;
pub use limits::{Limit, Limits};
pub use lint::{Finding, Severity, lint, lint_with};
pub use name::EntryName;
pub use normalise::{Counts, Options, Owner, Report};
pub use pack::{PackError, PackOptions, PackProgress, Packed, SlugIgnoreFault, pack};
pub use sniff::{Compression, Foreign};
pub use tarball::normalise_to_tar;

/// The sha256 of a slug's bytes as given: its identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// In hexadecimal digits: all 64, or the first of them by precision (`{:.12}`).
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.take(f.precision().unwrap_or(64)).try_for_each(|digit| write!(f, "{digit:x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{self}")
    }
}

/// A text is not the 64 hexadecimal digits of a sha256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sha256 is 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotADigest);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotADigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, NotADigest};

    #[test]
    fn a_digest_reads_back_what_it_writes() {
        let text = "0123456789abcdef".repeat(4);
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(format!("{digest:.7}"), "0123456");
        assert_eq!(text.to_uppercase().parse(), Ok(digest));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+0".repeat(32)] {
            assert_eq!(bad.parse::<Digest>(), Err(NotADigest), "{bad}");
        }
    }
}
