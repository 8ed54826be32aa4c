//! The few PAX records that matter. Everything else in a PAX header (owners, precise times, extended attributes and with them file
//! capabilities) is dropped by not being read.

/// What a PAX header says that changes the meaning of an entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) sparse: bool,
}

impl Pax {
    /// The first of the meaningful keys that is set.
    pub(crate) fn sets(&self) -> Option<&'static str> {
        let keys =
            [("path", self.path.is_some()), ("linkpath", self.linkpath.is_some()), ("size", self.size.is_some())];
        keys.into_iter().chain([("GNU.sparse", self.sparse)]).find(|(_, set)| *set).map(|(key, _)| key)
    }
}

/// Reads records of the form `LENGTH KEY=VALUE\n`, where the length counts the whole record. `None`: malformed, or a meaningful key twice.
pub(crate) fn parse(mut text: &[u8]) -> Option<Pax> {
    let mut pax = Pax::default();
    while !text.is_empty() {
        let blank = text.iter().take(20).position(|&b| b == b' ')?;
        let length: usize = decimal(&text[..blank])?.try_into().ok()?;
        let record = text.get(blank + 1..length)?.strip_suffix(b"\n")?;
        text = &text[length..];
        let equals = record.iter().position(|&b| b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let again = match key {
            b"path" => pax.path.replace(value.to_vec()).is_some(),
            b"linkpath" => pax.linkpath.replace(value.to_vec()).is_some(),
            b"size" => pax.size.replace(decimal(value)?).is_some(),
            _ => {
                pax.sparse |= key.starts_with(b"GNU.sparse.");
                false
            }
        };
        if again {
            return None;
        }
    }
    Some(pax)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |n, b| match b {
        b'0'..=b'9' => n.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Pax, parse};

    #[test]
    fn records() {
        let path = |p: &str| Some(Pax { path: Some(p.into()), ..Pax::default() });
        let cases: &[(&[u8], Option<Pax>)] = &[
            (b"", Some(Pax::default())),
            (b"8 path=a\n", None),
            (b"9 path=a\n", path("a")),
            (b"12 path=a=b\n", path("a=b")),
            (b"12 path=a\nb\n", path("a\nb")),
            (b"20 mtime=1.123456789\n", None),
            (b"21 mtime=1.123456789\n9 path=a\n", path("a")),
            (b"9 path=a\n9 path=b\n", None),
            (b"9 path=a", None),
            (b"99 path=a\n", None),
            (b"0 path=a\n", None),
            (b"99999999999999999999 path=a\n", None),
            (b"22 GNU.sparse.major=1\n", Some(Pax { sparse: true, ..Pax::default() })),
            (b"10 size=12\n", None),
            (b"11 size=12\n", Some(Pax { size: Some(12), ..Pax::default() })),
            (b"11 size=-1\n", None),
            (b"7 a b\n\n", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), *want, "{}", text.escape_ascii());
        }
    }
}
