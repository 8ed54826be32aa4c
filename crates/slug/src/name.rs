//! Names as they stand in archives: bytes that anyone may have written. [`EntryPath`] is one that has been checked; past this module no
//! other kind of path reaches a file system call or an output.

use std::fmt;

use crate::error::EntryFault;
use crate::limits::Limits;

/// The longest single component that Linux file systems take.
const COMPONENT_BYTES: usize = 255;

/// Where an app lives inside its instance: an absolute link below it stays inside the slug.
pub(crate) const APP_ROOT: &[u8] = b"/app";

/// An entry's name for people: control characters and bytes that are no UTF-8 are escaped, and what is very long is cut, so that it can
/// stand in a log line or on a terminal whoever wrote it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// How much of a name is shown.
    const SHOWN_CHARS: usize = 256;

    /// The name's own bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for EntryName {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut room = Self::SHOWN_CHARS;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if room == 0 {
                    return f.write_char('…');
                }
                room -= 1;
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// A relative path without `.`, `..`, empty components and NUL, within the limits. Empty: the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryPath(Box<[u8]>);

impl EntryPath {
    pub(crate) fn parse(raw: &[u8], limits: &Limits) -> Result<Self, EntryFault> {
        if raw.is_empty() {
            return Err(EntryFault::NoName);
        }
        if raw[0] == b'/' {
            return Err(EntryFault::AbsoluteName);
        }
        if raw.contains(&0) {
            return Err(EntryFault::NulInName);
        }
        if raw.len() > limits.path_bytes {
            return Err(EntryFault::NameTooLong { bytes: raw.len(), allowed: limits.path_bytes });
        }
        let mut clean = Vec::with_capacity(raw.len());
        for component in raw.split(|&b| b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(EntryFault::ParentInName),
                long if long.len() > COMPONENT_BYTES => {
                    return Err(EntryFault::NameTooLong { bytes: long.len(), allowed: COMPONENT_BYTES });
                }
                _ => {}
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(component);
        }
        Ok(Self(clean.into()))
    }

    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a component is one that engines read as "what lies below is deleted", and so would not unpack.
    pub(crate) fn has_whiteout(&self) -> bool {
        self.0.split(|&b| b == b'/').any(|component| component.starts_with(b".wh."))
    }

    /// The folder above and the last component. The root has itself as its folder and an empty last component.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b"", &self.0),
        }
    }

    /// All folders above, the topmost first, the root left out.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().enumerate().filter(|&(_, &b)| b == b'/').map(|(slash, _)| &self.0[..slash])
    }

    /// The path below `folder`, or `None` when it is not there. `folder` itself becomes the root.
    pub(crate) fn below(&self, folder: &[u8]) -> Option<Self> {
        let rest = self.0.strip_prefix(folder)?;
        match rest.split_first() {
            None => Some(Self::root()),
            Some((b'/', rest)) => Some(Self(rest.into())),
            Some(_) => None,
        }
    }

    pub(crate) fn name(&self) -> EntryName {
        if self.is_root() { EntryName(Box::from(*b"./")) } else { EntryName(self.0.clone()) }
    }

    /// From bytes that were part of a checked path.
    pub(crate) fn part(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

/// What became of a symbolic link's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Inside, climbing to this many components below the archive's root before it goes down again.
    Relative { turns_at_depth: usize },
    /// An absolute path, which is one inside the container.
    Absolute { in_app: bool },
}

/// Judges the target of a symbolic link at `at` without following anything.
///
/// `..` is allowed only before the first name. The folders above a link are real folders ([`crate::guard`] holds that), so leading `..` climb
/// exactly one folder each; after a name they could climb out of wherever a link in the middle leads. With that rule no chain of links,
/// each of which is accepted alone, can leave the tree, and nothing has to be remembered or resolved.
pub(crate) fn reach(target: &[u8], at: &EntryPath, limits: &Limits) -> Result<Reach, EntryFault> {
    let shown = || EntryName::from(target);
    if target.is_empty() {
        return Err(EntryFault::NoTarget);
    }
    if target.contains(&0) {
        return Err(EntryFault::NulInTarget);
    }
    if target.len() > limits.link_target_bytes {
        return Err(EntryFault::TargetTooLong { bytes: target.len(), allowed: limits.link_target_bytes });
    }
    let mut ups = 0;
    let mut named = false;
    for component in target.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if named => return Err(EntryFault::ParentAfterName { target: shown() }),
            b".." => ups += 1,
            _ => named = true,
        }
    }
    if target[0] == b'/' {
        if ups > 0 {
            return Err(EntryFault::TargetOutside { target: shown() });
        }
        let rest = target.strip_prefix(APP_ROOT);
        return Ok(Reach::Absolute { in_app: matches!(rest.map(<[u8]>::first), Some(None | Some(b'/'))) });
    }
    let depth = at.ancestors().count();
    match depth.checked_sub(ups) {
        Some(turns_at_depth) => Ok(Reach::Relative { turns_at_depth }),
        None => Err(EntryFault::TargetOutside { target: shown() }),
    }
}
