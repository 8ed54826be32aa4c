//! Strings in what an engine says: lent by the answer wherever JSON allows it.
//!
//! An answer has hundreds of strings, of which a few are kept. (serde lends to `Cow` only where it is a field by itself, and not in an
//! `Option`, a list or a map.)

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A string; owned only where it had to be unescaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

// Found in maps by what it says.
impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taker;

        impl<'de> Visitor<'de> for Taker {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Taker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_escaped_is_copied() {
        let texts: Vec<Option<Text<'_>>> = serde_json::from_str(r#"["plain", "a\"b", null]"#).unwrap();
        let [Some(plain), Some(escaped), None] = texts.as_slice() else { panic!("{texts:?}") };
        assert!(matches!(plain.0, Cow::Borrowed("plain")), "{plain:?}");
        assert!(matches!(&escaped.0, Cow::Owned(text) if text == "a\"b"), "{escaped:?}");
    }
}
