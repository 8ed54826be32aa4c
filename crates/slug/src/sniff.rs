//! Tells by its first bytes what a stream is. What is no slug is called by its name: "not a slug but an HTML page" saves the user a look.

use std::fmt;

/// How a slug is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, one or more members.
    Gzip,
    /// Zstandard, one or more frames.
    Zstd,
    /// A plain tar.
    None,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => "plain tar",
        })
    }
}

/// What a stream is that is no slug.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// No bytes at all.
    Nothing,
    /// A known thing, with its article.
    Known(&'static str),
    /// A squashfs image: Flynn's slugs from late 2016 on, some of them named `.tar.gz`.
    Squashfs,
    /// None of the above; its first bytes in hexadecimal.
    Unknown(String),
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("an empty file"),
            Self::Known(what) => f.write_str(what),
            Self::Squashfs => f.write_str(
                "a squashfs image (as Flynn made from late 2016 on); unpack it with `unsquashfs` and pack it again",
            ),
            Self::Unknown(start) => write!(f, "something unknown that begins with the bytes {start}"),
        }
    }
}

/// How many bytes a verdict needs: one tar header.
pub(crate) const SNIFF_BYTES: usize = 512;

/// Says how the stream that begins with `start` is compressed, or what it is instead.
pub(crate) fn compression(start: &[u8]) -> Result<Compression, Foreign> {
    match start {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // The second is a skippable frame, with which pzstd and seekable files begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        _ if is_tar(start) => Ok(Compression::None),
        _ => Err(foreign(start)),
    }
}

/// A header with the right checksum, or the zero block of an empty archive.
fn is_tar(start: &[u8]) -> bool {
    start.get(..SNIFF_BYTES).and_then(|block| <&[u8; SNIFF_BYTES]>::try_from(block).ok()).is_some_and(|block| {
        let header = tar::Header::from_byte_slice(block);
        block.iter().all(|&b| b == 0) || header.cksum().is_ok_and(|stated| checksum_matches(block, stated))
    })
}

/// Tar's checksum: the sum of all bytes, with the checksum field itself read as blanks. Some old writers summed signed bytes.
pub(crate) fn checksum_matches(block: &[u8; SNIFF_BYTES], stated: u32) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let bytes = || block.iter().enumerate().map(|(i, &b)| if FIELD.contains(&i) { b' ' } else { b });
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|b| i32::from(b.cast_signed())).sum();
    stated == unsigned || i64::from(stated) == i64::from(signed)
}

/// The name of something that is neither gzip, zstd nor tar.
pub(crate) fn foreign(start: &[u8]) -> Foreign {
    let known = match start {
        [] => return Foreign::Nothing,
        [b'h', b's', b'q', b's', ..] | [b's', b'q', b's', b'h', ..] => return Foreign::Squashfs,
        [0x1f, 0x8b, ..] => "gzip within gzip or zstd",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd within gzip or zstd",
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "an xz file",
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => "a bzip2 file",
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => "a zip file",
        [b'7', b'z', 0xbc, 0xaf, ..] => "a 7z file",
        [b'L', b'Z', b'I', b'P', ..] => "an lzip file",
        [0x1f, 0x9d, ..] => "a file of the old `compress`",
        [0x04, 0x22, 0x4d, 0x18, ..] => "an lz4 file",
        [0x7f, b'E', b'L', b'F', ..] => "an ELF program",
        [b'#', b'!', ..] => "a script",
        _ => match text(start) {
            Some(known) => known,
            None => {
                return Foreign::Unknown(
                    start.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
                );
            }
        },
    };
    Foreign::Known(known)
}

/// What servers send in place of a slug when something is wrong, and nobody looked at the status.
fn text(start: &[u8]) -> Option<&'static str> {
    let begin = start.trim_ascii_start();
    let begin = begin.strip_prefix(b"\xef\xbb\xbf").unwrap_or(begin);
    let starts = |with: &str| begin.get(..with.len()).is_some_and(|b| b.eq_ignore_ascii_case(with.as_bytes()));
    if starts("<!doctype html") || starts("<html") || starts("<head") || starts("<body") {
        return Some("an HTML page");
    }
    if starts("<?xml") || starts("<Error>") {
        return Some("an XML document (object stores answer so when they refuse)");
    }
    if starts("{") || starts("[") {
        return Some("a JSON document");
    }
    if starts("version https://git-lfs") {
        return Some("a Git LFS pointer; the file itself was not fetched");
    }
    let printable = |&b: &u8| b >= 0x80 || (b' '..=b'~').contains(&b) || b.is_ascii_whitespace();
    (std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true) && start.iter().all(printable))
        .then_some("a text")
}
