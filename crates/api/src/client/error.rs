//! What can go wrong between a client and a captain, and how it is told apart.

use reqwest::{StatusCode, Url};
use thiserror::Error;

use super::shown;
use crate::{Code, ErrorBody};

/// Enough of an answer to recognise a proxy's page by.
const EXCERPT: usize = 120;

/// A request that did not get what it asked for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The captain answered with an error of its own.
    #[error("{}", .0.message)]
    Server(Box<ErrorBody>),
    /// The URL cannot be a captain's.
    #[error("`{url}` is no URL of a captain: it must be like http://host:8080 or https://host")]
    BadUrl {
        /// The URL, without what stands before an `@`.
        url: String,
    },
    /// A name that cannot be part of a URL.
    #[error("`{name}` is no name of an instance, a node or an operation")]
    BadName {
        /// The name.
        name: String,
    },
    /// The client cannot be set up, most often because the machine has no root certificates.
    #[error("TLS for {url} cannot be set up on this machine")]
    Setup {
        /// The captain's URL.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// No connection. Nothing was sent.
    #[error("no captain can be reached at {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The captain took the request and did not answer in time. What came of a start or a stop is not known.
    #[error("{url} did not answer in time")]
    TimedOut {
        /// What was asked.
        url: String,
        /// Why.
        source: Option<reqwest::Error>,
    },
    /// The connection ended before the answer did. What came of a start or a stop is not known.
    #[error("{url} gave no whole answer")]
    Interrupted {
        /// What was asked.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Something answers there that does not answer as a captain does.
    #[error("{url} answered {status} with what is no answer of a captain{excerpt}")]
    Unexpected {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the answer, as the end of the sentence; empty where it may hold secrets.
        excerpt: String,
        /// What is wrong with it as JSON, where it was to be read as such.
        source: Option<serde_json::Error>,
    },
    /// The answer is larger than any captain's.
    #[error("the answer of {url} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The bound.
        limit: usize,
    },
    /// Each captain that was asked to stop the instance handed the request on.
    #[error("{url} was handed on {times} times: every captain that was asked would have had to stop itself")]
    HandedAround {
        /// Where the last captain pointed.
        url: String,
        /// How often it was handed on.
        times: usize,
    },
}

impl Error {
    /// The code of an error that the captain answered with.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Server(body) => Some(body.code),
            _ => None,
        }
    }

    /// Whether the request may have been carried out although this client saw no answer to it.
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Interrupted { .. } | Self::Unexpected { .. } | Self::TooLarge { .. }
        )
    }
}

/// A request that got no answer, or half of one.
pub(super) fn transport(url: &Url, source: reqwest::Error) -> Error {
    let (url, source) = (shown(url), source.without_url());
    if source.is_connect() {
        Error::Unreachable { url, source }
    } else if source.is_timeout() {
        Error::TimedOut { url, source: Some(source) }
    } else {
        Error::Interrupted { url, source }
    }
}

/// An answer whose status is not a success: a captain's error, or a stranger's.
pub(super) fn refusal(url: &Url, status: StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => Error::Server(Box::new(error)),
        Err(_) => nonsense(url, status, body, None),
    }
}

/// An answer that makes no sense.
pub(super) fn nonsense(url: &Url, status: StatusCode, body: &[u8], source: Option<serde_json::Error>) -> Error {
    Error::Unexpected { url: shown(url), status, excerpt: excerpt(body), source }
}

/// The beginning of a body, on one line. JSON is not shown: it may be a list of instances, whose environments are secret.
fn excerpt(body: &[u8]) -> String {
    // Four bytes are the longest character of UTF-8, and white space is yet to be dropped.
    let text = String::from_utf8_lossy(&body[..body.len().min(EXCERPT * 8)]);
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line: String = words.join(" ").chars().take(EXCERPT).collect();
    if line.is_empty() || line.starts_with(['{', '[']) { String::new() } else { format!(": `{line}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_printable_and_never_json() {
        assert_eq!(excerpt(b"<html>\r\n  <h1>502\x1b[31m</h1>"), ": `<html> <h1>502 [31m</h1>`");
        assert_eq!(excerpt("ä".repeat(5000).as_bytes()).chars().filter(|c| *c == 'ä').count(), EXCERPT);
        assert_eq!(excerpt(br#" [{"environment":{"TOKEN":"hunter2"}}]"#), "");
        assert_eq!(excerpt(b""), "");
    }
}
