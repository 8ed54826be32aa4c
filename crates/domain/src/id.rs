//! Identifiers of instances and operations.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The identifier of an instance: the engine's full container id, 32 bytes written as 64 lower-case hex digits.
///
/// Kept as bytes, not text: a view of two million instances holds each id once at half the size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId([u8; 32]);

/// The identifier of one operation (a start): 16 random bytes chosen by the captain or its client, written as a UUID.
///
/// It is on every container that the operation made, so that an operation whose outcome is unknown can be looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId([u8; 16]);

/// The text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    /// Not 64 hex digits.
    #[error("an instance id is 64 lower-case hex digits")]
    Instance,
    /// Not a UUID.
    #[error("an operation id is a UUID, e.g. 0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11")]
    Operation,
    /// Not a prefix of an instance id.
    #[error("a prefix of an instance id is 12 to 64 lower-case hex digits")]
    Prefix,
}

fn nibble(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

fn unhex<const N: usize>(text: impl Iterator<Item = u8>) -> Option<[u8; N]> {
    let mut out = [0u8; N];
    let mut digits = 0;
    for c in text {
        let place = out.get_mut(digits / 2)?;
        *place = (*place << 4) | nibble(c)?;
        digits += 1;
    }
    (digits == 2 * N).then_some(out)
}

fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

impl InstanceId {
    /// The id with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without allocating.
    pub fn to_hex(&self) -> [u8; 64] {
        let mut out = [0; 64];
        hex(&self.0, &mut out);
        out
    }

    /// The first 12 hex digits: Docker's short id, and the default host name of an instance.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl FromStr for InstanceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        unhex(text.bytes()).map(Self).ok_or(IdError::Instance)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.to_hex();
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl OperationId {
    /// The operation with these bytes (16 random ones; the version bits of a UUID are not looked at).
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for OperationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let dashes_right =
            text.len() == 36 && text.bytes().enumerate().all(|(at, c)| (c == b'-') == matches!(at, 8 | 13 | 18 | 23));
        if !dashes_right {
            return Err(IdError::Operation);
        }
        unhex(text.bytes().filter(|c| *c != b'-').map(|c| c.to_ascii_lowercase())).map(Self).ok_or(IdError::Operation)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'-'; 36];
        let (mut at, mut bytes) = (0, self.0.as_slice());
        for group in [4, 2, 2, 2, 6] {
            let (these, others) = bytes.split_at(group);
            hex(these, &mut text[at..at + group * 2]);
            (at, bytes) = (at + group * 2 + 1, others);
        }
        // All of it at once: a string that it is written to then grows once.
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A full instance id, or an unambiguous beginning of one, as Docker takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdPrefix {
    low: InstanceId,
    high: InstanceId,
}

impl IdPrefix {
    /// The fewest digits taken: Docker's short id. Shorter ones are guesses.
    pub const MIN_DIGITS: usize = 12;

    /// The first and the last id that begin with the prefix.
    pub fn range(&self) -> std::ops::RangeInclusive<InstanceId> {
        self.low..=self.high
    }

    /// The id itself, when all of it was given.
    pub fn exact(&self) -> Option<InstanceId> {
        (self.low == self.high).then_some(self.low)
    }
}

impl FromStr for IdPrefix {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if !(Self::MIN_DIGITS..=64).contains(&text.len()) {
            return Err(IdError::Prefix);
        }
        let filled = |fill: u8| unhex(text.bytes().chain(std::iter::repeat_n(fill, 64 - text.len()))).map(InstanceId);
        match (filled(b'0'), filled(b'f')) {
            (Some(low), Some(high)) => Ok(Self { low, high }),
            _ => Err(IdError::Prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_round_trips() {
        let text = "888f02560d34aa0011223344556677889900aabbccddeeff0123456789abcdef";
        let id: InstanceId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.short(), "888f02560d34");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "888f", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            assert_eq!(text.parse::<InstanceId>(), Err(IdError::Instance), "{text}");
        }
        for text in ["", "0b8c2d0e7d3c4a539d6f2f4f0a6a1c11", "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c1g"] {
            assert_eq!(text.parse::<OperationId>(), Err(IdError::Operation), "{text}");
        }
        for text in ["888f02560d3", "888f02560d3x", &"a".repeat(65)] {
            assert_eq!(text.parse::<IdPrefix>(), Err(IdError::Prefix), "{text}");
        }
    }

    #[test]
    fn a_prefix_spans_the_ids_that_begin_with_it() {
        let prefix: IdPrefix = "888f02560d345".parse().unwrap();
        let inside: InstanceId = format!("888f02560d345{}", "7".repeat(51)).parse().unwrap();
        let outside: InstanceId = format!("888f02560d346{}", "0".repeat(51)).parse().unwrap();
        assert!(prefix.range().contains(&inside));
        assert!(!prefix.range().contains(&outside));
        assert_eq!(prefix.exact(), None);
        assert_eq!(inside.to_string().parse::<IdPrefix>().unwrap().exact(), Some(inside));
    }

    #[test]
    fn operation_id_round_trips() {
        let text = "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11";
        assert_eq!(text.parse::<OperationId>().unwrap().to_string(), text);
        assert_eq!(text.to_uppercase().parse::<OperationId>().unwrap().to_string(), text);
    }
}
