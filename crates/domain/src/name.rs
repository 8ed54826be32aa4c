//! Names that people give: apps, nodes, host names, slugs. Each is checked once, at the edge, and trusted inside.
//!
//! All are reference-counted text: a fleet repeats few names millions of times.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Why a text cannot be such a name. Says what is allowed; the caller says which field it stood in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct NameError(pub(crate) &'static str);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name, where the text is one.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// A name read back from an engine, where whatever stands is so. Never for input.
            pub fn trusted(text: &str) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text itself, for whoever keeps many copies of few names.
            pub fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl From<Arc<str>> for $name {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

    };
}

macro_rules! shown_whole {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

shown_whole!(AppName, NodeId, Hostname, ImageTag);

impl fmt::Debug for SlugUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.redacted(), f)
    }
}

name! {
    /// The name that groups instances: what an engine takes at the beginning of a container's name, e.g. `my-app.1`.
    AppName, check_app
}

name! {
    /// The id of a node: the host name in its URI, or the name given to it.
    NodeId, check_node
}

name! {
    /// The host name of an instance.
    Hostname, check_hostname
}

name! {
    /// The tag of a runner image.
    ImageTag, check_image_tag
}

name! {
    /// Where a slug is, as the caller gave it. It may hold credentials: what is logged is [`SlugUri::redacted`].
    SlugUri, check_slug_uri
}

impl SlugUri {
    /// The URI without user, password, query and fragment: what may stand in a log (signed URLs carry their secret in the query).
    pub fn redacted(&self) -> String {
        let text = self.as_str();
        let text = &text[..text.find(['?', '#']).unwrap_or(text.len())];
        match text.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                format!("{scheme}://{host}{path}")
            }
            None => text.to_owned(),
        }
    }
}

fn check_app(text: &str) -> Result<(), NameError> {
    let mut bytes = text.bytes();
    let first_right = bytes.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest_right = bytes.all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'));
    if first_right && rest_right && text.len() <= 128 {
        Ok(())
    } else {
        Err(NameError(
            "an app name is 1 to 128 letters, digits, '_', '.' and '-' of ASCII, the first a letter or digit",
        ))
    }
}

fn check_node(text: &str) -> Result<(), NameError> {
    let right = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b':' | b'[' | b']');
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(right) {
        Ok(())
    } else {
        Err(NameError("a node's id is 1 to 253 letters, digits, '.', '-', '_' and ':' of ASCII"))
    }
}

fn check_hostname(text: &str) -> Result<(), NameError> {
    let label_right = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
    };
    // 64 is the kernel's limit (sethostname); DNS would allow more.
    if text.len() <= 64 && text.split('.').all(label_right) {
        Ok(())
    } else {
        Err(NameError(
            "a host name is at most 64 characters: labels of ASCII letters, digits, '-' and '_', joined by dots",
        ))
    }
}

fn check_image_tag(text: &str) -> Result<(), NameError> {
    let right = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    if (1..=128).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(right) {
        Ok(())
    } else {
        Err(NameError("an image tag is 1 to 128 letters, digits, '_', '.' and '-' of ASCII, the first not '.' or '-'"))
    }
}

fn check_slug_uri(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 4096 {
        return Err(NameError("a slug URI has 1 to 4096 characters"));
    }
    if text.bytes().any(|c| c.is_ascii_control() || c == b' ') {
        return Err(NameError("a slug URI holds no blanks and no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names() {
        for good in ["my-app.1", "MyApp", "a", "a_b", &"x".repeat(128)] {
            assert!(AppName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "é", &"x".repeat(129), "a\n"] {
            assert!(AppName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hostnames() {
        for good in ["web", "web-1.example", "a_b"] {
            assert!(Hostname::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "é", &"x".repeat(65)] {
            assert!(Hostname::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_redacted_uri_keeps_no_secret() {
        let cases = [
            ("https://user:pw@host/a.tgz", "https://host/a.tgz"),
            ("https://host/a.tgz?X-Amz-Signature=abc", "https://host/a.tgz"),
            ("https://u:p@host", "https://host"),
            ("sha256:abc", "sha256:abc"),
        ];
        for (given, shown) in cases {
            assert_eq!(SlugUri::parse(given).unwrap().redacted(), shown);
        }
    }
}
