//! Reads a tar stream, entry by entry. Strict where readers differ: whatever two readers could take for two different archives is refused,
//! since that is how files are smuggled past the one that checks.
//!
//! It judges form only; what an entry may be and where it may lie is [`crate::guard`]'s.

use std::io::{self, BufRead, Read};

use crate::error::{ArchiveFault, EntryFault, SlugError};
use crate::limits::{Limit, Limits};
use crate::name::EntryName;
use crate::pax::{self, Pax};
use crate::sniff;
use crate::stream::StreamFault;

pub(crate) const BLOCK: usize = 512;

/// What an entry says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// Something that no slug may hold, with its article.
    Other(&'static str),
}

/// One entry, as it stands in the archive; nothing in it has been checked.
#[derive(Clone, Debug)]
pub(crate) struct RawEntry {
    pub(crate) kind: Kind,
    pub(crate) name: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) mtime: u64,
}

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Before {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    pax: Option<Pax>,
}

impl Before {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.target.is_none() && self.pax.is_none()
    }
}

pub(crate) struct Reader<S> {
    stream: S,
    metadata_bytes: u64,
    /// Bytes read so far.
    offset: u64,
    /// What is left of the current body, and the padding after it.
    body: u64,
    padding: u64,
    current: Option<EntryName>,
}

impl<S: BufRead> Reader<S> {
    pub(crate) fn new(stream: S, limits: &Limits) -> Self {
        Self { stream, metadata_bytes: limits.metadata_bytes, offset: 0, body: 0, padding: 0, current: None }
    }

    /// The next entry, after skipping what is left of the current one.
    pub(crate) fn next_entry(&mut self) -> Result<Option<RawEntry>, SlugError> {
        self.skip(self.body)?;
        self.skip(self.padding)?;
        (self.body, self.padding) = (0, 0);
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else {
                return if before.is_empty() { Ok(None) } else { Err(self.fault(ArchiveFault::Dangling)) };
            };
            let size = self.number("size", &header.as_old().size)?;
            match header.as_old().linkflag[0] {
                b'L' => self.once(&mut before.name, size, "long names", |_, text| Ok(text))?,
                b'K' => self.once(&mut before.target, size, "long link targets", |_, text| Ok(text))?,
                b'x' | b'X' => self.once(&mut before.pax, size, "PAX headers", |reader, text| {
                    pax::parse(&text).ok_or_else(|| reader.fault(ArchiveFault::Pax))
                })?,
                b'g' => {
                    let text = self.metadata(size)?;
                    let global = pax::parse(&text).ok_or_else(|| self.fault(ArchiveFault::Pax))?;
                    if let Some(key) = global.sets() {
                        return Err(self.fault(ArchiveFault::GlobalPax(key)));
                    }
                }
                flag => return self.entry(&header, flag, size, before).map(Some),
            }
        }
    }

    /// The current entry's contents.
    pub(crate) fn body(&mut self) -> Body<'_, S> {
        Body { reader: self }
    }

    fn entry(&mut self, header: &tar::Header, flag: u8, size: u64, before: Before) -> Result<RawEntry, SlugError> {
        let old = header.as_old();
        let pax = before.pax.unwrap_or_default();
        let long_names =
            (before.name.is_some() && pax.path.is_some()) || (before.target.is_some() && pax.linkpath.is_some());
        let name = pax.path.or(before.name.map(untailed)).unwrap_or_else(|| header.path_bytes().into_owned());
        let target = pax.linkpath.or(before.target.map(untailed));
        let target = target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let refused = |fault| SlugError::Entry { entry: EntryName::from(name.as_slice()), fault };
        if long_names {
            return Err(refused(EntryFault::TwoNames));
        }
        if pax.sparse {
            return Err(refused(EntryFault::Unsupported("a sparse file")));
        }
        if let Some(pax) = pax.size.filter(|&pax| pax != size) {
            return Err(refused(EntryFault::TwoSizes { header: size, pax }));
        }
        let kind = kind(flag, name.ends_with(b"/"));
        if flag == b'S' {
            // Its header goes on in further blocks that only GNU tar understands: nothing after it could be trusted.
            return Err(refused(EntryFault::Unsupported("a sparse file")));
        }
        let mode = self.number("mode", &old.mode)? as u32 & 0o7777;
        let (uid, mtime) = (number(&old.uid).unwrap_or(0), number(&old.mtime).unwrap_or(0));
        self.current = Some(EntryName::from(name.as_slice()));
        self.body = size;
        self.padding = padding(size);
        Ok(RawEntry { kind, name, target, size, mode, uid, mtime })
    }

    /// The next header, or `None` at the end-of-archive mark. What follows the mark is not looked at, as every reader does.
    fn header(&mut self) -> Result<Option<tar::Header>, SlugError> {
        let first = self.offset == 0;
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let read = self.block(block)?;
        if read < BLOCK && first {
            return Err(SlugError::NotASlug { found: sniff::foreign(&block[..read]) });
        }
        match read {
            BLOCK => {}
            0 => return Err(self.fault(ArchiveFault::NoEndMark)),
            _ => return Err(self.fault(ArchiveFault::Truncated)),
        }
        if block.iter().all(|&b| b == 0) {
            // The mark is two zero blocks; one at the very end is common enough and as clear.
            let read = self.block(block)?;
            let lone = block[..read].iter().any(|&b| b != 0);
            return if lone { Err(self.fault(ArchiveFault::LoneZeroBlock)) } else { Ok(None) };
        }
        let copy = *header.as_bytes();
        if number(&header.as_old().cksum)
            .is_some_and(|sum| u32::try_from(sum).is_ok_and(|sum| sniff::checksum_matches(&copy, sum)))
        {
            return Ok(Some(header));
        }
        if first {
            return Err(SlugError::NotASlug { found: sniff::foreign(&copy) });
        }
        Err(self.fault(ArchiveFault::Checksum))
    }

    /// Fills the block as far as the stream goes.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<usize, SlugError> {
        let mut read = 0;
        while read < BLOCK {
            let n = self.stream.read(&mut block[read..]).map_err(|e| SlugError::reading(e, self.current.clone()))?;
            if n == 0 {
                break;
            }
            read += n;
        }
        self.offset += read as u64;
        Ok(read)
    }

    /// Reads a long name or PAX header into its place, which must be free: on which of two counts, readers differ.
    fn once<T>(
        &mut self,
        place: &mut Option<T>,
        size: u64,
        what: &'static str,
        parse: impl FnOnce(&Self, Vec<u8>) -> Result<T, SlugError>,
    ) -> Result<(), SlugError> {
        let text = self.metadata(size)?;
        let value = parse(self, text)?;
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(self.fault(ArchiveFault::Repeated(what))),
        }
    }

    fn metadata(&mut self, size: u64) -> Result<Vec<u8>, SlugError> {
        let allowed = self.metadata_bytes;
        if size > allowed {
            return Err(SlugError::Limit { limit: Limit::MetadataBytes, allowed, entry: self.current.clone() });
        }
        let mut text = Vec::new();
        let read = (&mut self.stream).take(size).read_to_end(&mut text);
        let read = read.map_err(|e| SlugError::reading(e, self.current.clone()))?;
        self.offset += read as u64;
        if (read as u64) < size {
            return Err(self.fault(ArchiveFault::Truncated));
        }
        self.skip(padding(size))?;
        Ok(text)
    }

    fn skip(&mut self, mut amount: u64) -> Result<(), SlugError> {
        while amount > 0 {
            let available = self.stream.fill_buf().map_err(|e| SlugError::reading(e, self.current.clone()))?.len();
            if available == 0 {
                return Err(self.fault(ArchiveFault::Truncated));
            }
            let step = available.min(usize::try_from(amount).unwrap_or(usize::MAX));
            self.stream.consume(step);
            self.offset += step as u64;
            amount -= step as u64;
        }
        Ok(())
    }

    fn number(&self, field: &'static str, bytes: &[u8]) -> Result<u64, SlugError> {
        number(bytes).ok_or_else(|| self.fault(ArchiveFault::Number(field)))
    }

    fn fault(&self, fault: ArchiveFault) -> SlugError {
        SlugError::Archive { offset: self.offset, fault }
    }
}

/// The contents of the current entry; ends where they end, fails where the archive ends before.
pub(crate) struct Body<'r, S> {
    reader: &'r mut Reader<S>,
}

impl<S: BufRead> BufRead for Body<'_, S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = usize::try_from(self.reader.body).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(&[]);
        }
        let offset = self.reader.offset;
        let available = self.reader.stream.fill_buf()?;
        if available.is_empty() {
            return Err(StreamFault::Archive { offset, fault: ArchiveFault::Truncated }.into());
        }
        Ok(&available[..available.len().min(left)])
    }

    fn consume(&mut self, amount: usize) {
        let amount = (amount as u64).min(self.reader.body);
        self.reader.stream.consume(amount as usize);
        self.reader.body -= amount;
        self.reader.offset += amount;
    }
}

impl<S: BufRead> Read for Body<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

fn kind(flag: u8, slash: bool) -> Kind {
    match flag {
        // Old writers mark a directory by nothing but the slash at its end, and all readers honour that.
        b'0' | 0 | b'7' if slash => Kind::Directory,
        b'0' | 0 | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Other("a character device"),
        b'4' => Kind::Other("a block device"),
        b'5' => Kind::Directory,
        b'6' => Kind::Other("a named pipe"),
        b's' => Kind::Other("a socket"),
        b'M' => Kind::Other("a part of a multi-volume archive"),
        b'V' => Kind::Other("a volume label"),
        b'D' => Kind::Other("a directory of an incremental dump"),
        _ => Kind::Other("of a type that tar does not define"),
    }
}

/// GNU long names end with a NUL that is not part of the name.
fn untailed(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() == Some(&0) {
        text.pop();
    }
    text
}

pub(crate) fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// A number of a header: octal with blanks or NULs around it (nothing at all is 0), or binary with the topmost bit set. `tar::Header`'s own
/// reading takes the last eight bytes of the binary form without a look at the others.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let bytes = std::iter::once(first & 0x7f).chain(rest.iter().copied());
        return bytes.into_iter().try_fold(0_u64, |n, b| Some(n.checked_mul(256)? + u64::from(b)));
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'7' => Some(n.checked_mul(8)? + u64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_of_a_header() {
        let cases: &[(&[u8], Option<u64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000008\0", None),
            (b"+000064\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"777777777777", Some(0o777_777_777_777)),
        ];
        for (field, want) in cases {
            assert_eq!(number(field), *want, "{}", field.escape_ascii());
        }
    }
}
