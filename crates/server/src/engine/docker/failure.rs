//! What goes wrong with a call, read from three sources: the engine's refusals, the connection, and bytes that make no sense.
//!
//! Invariants: a kind whose outcome is known is given only on evidence (`NotFound`, which frees slots, only in an engine's own
//! words: a proxy's 404 is none). Messages are one bounded line. What a decoder quotes from a document is never passed on, for it
//! may be an environment value.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;

use super::connect::ConnectError;
use crate::engine::ErrorKind;

/// Enough for an engine's longest useful sentence (an OCI error), short enough for a table.
const MESSAGE_LIMIT: usize = 400;

/// A failed call, without what was attempted and where: the caller knows.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// The status, where the engine refused.
    pub(super) status: Option<StatusCode>,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl AsRef<str>) -> Self {
        Self { kind, message: one_line(message.as_ref()), status: None }
    }

    pub(super) fn timed_out(deadline: Duration) -> Self {
        Self::new(ErrorKind::TimedOut, format!("no whole answer within {deadline:?}"))
    }

    pub(super) fn garbled(what: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Garbled, what)
    }

    /// An answer that cannot be decoded. Only the place is told: serde's own text quotes the value.
    pub(super) fn undecodable(error: &serde_json::Error) -> Self {
        Self::garbled(format!("its answer is not what an engine answers ({})", place(error)))
    }

    /// Whether what was asked for may have happened all the same.
    pub(super) const fn is_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::Garbled | ErrorKind::Failed)
    }

    /// Whether the engine wants another version of its API than was sent.
    pub(super) fn refuses_version(&self) -> bool {
        self.status == Some(StatusCode::BAD_REQUEST)
            && self.message.contains("client version")
            && (self.message.contains("too new") || self.message.contains("too old"))
    }

    /// An answer with a status that is no success.
    pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Self {
        let words = words(body);
        let kind = match &words {
            Words::Engine(text) => known(status, &text.to_ascii_lowercase()),
            Words::Other(text) => by_status(status, &text.to_ascii_lowercase()),
        };
        let message = match words {
            Words::Engine(text) => text,
            Words::Other(text) if text.is_empty() => format!("it answered {status}"),
            Words::Other(text) => format!("it answered {status}: {text}"),
        };
        let message = match kind {
            ErrorKind::Unreachable if status == StatusCode::BAD_REQUEST => {
                "it speaks TLS: write https:// in its URI".into()
            }
            ErrorKind::Unreachable => format!("it refuses Captain's credentials: {message}"),
            _ => message,
        };
        Self { kind, message: one_line(&message), status: Some(status) }
    }

    /// What the connection says.
    pub(super) fn transport(error: &(dyn Error + 'static)) -> Self {
        let mut last = String::new();
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(known) = known_cause(cause) {
                return known;
            }
            last = cause.to_string();
            next = cause.source();
        }
        Self::new(ErrorKind::Interrupted, format!("the connection broke before the answer was whole: {last}"))
    }
}

fn known_cause(cause: &(dyn Error + 'static)) -> Option<Failure> {
    if let Some(error) = cause.downcast_ref::<ConnectError>() {
        return Some(Failure::new(ErrorKind::Unreachable, &error.0));
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        if error.is_parse() {
            return Some(Failure::garbled(format!("it does not speak HTTP as engines do: {error}")));
        }
        if error.is_incomplete_message() {
            return Some(Failure::new(ErrorKind::Interrupted, "it closed the connection before its answer was whole"));
        }
    }
    let error = cause.downcast_ref::<io::Error>()?;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // In TLS 1.3 a client's certificate is judged after the handshake; nothing is asked of the engine before that.
        Some(rustls::Error::AlertReceived(alert)) => Some(Failure::new(
            ErrorKind::Unreachable,
            format!("it refuses Captain's certificate, or wants one: {alert:?}"),
        )),
        Some(error) => Some(Failure::new(ErrorKind::Interrupted, format!("TLS broke: {error}"))),
        // So hyper reports chunks whose sizes are no numbers.
        None if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Some(Failure::garbled(format!("it does not speak HTTP as engines do: {error}")))
        }
        None => None,
    }
}

enum Words {
    /// An engine's own error document.
    Engine(String),
    /// Somebody's plain text; empty where it is a page or nothing.
    Other(String),
}

fn words(body: &[u8]) -> Words {
    #[derive(Deserialize)]
    struct Document {
        message: String,
    }
    match serde_json::from_slice::<Document>(body) {
        Ok(document) => Words::Engine(document.message),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            Words::Other(if text.contains('<') { String::new() } else { one_line(&text) })
        }
    }
}

fn known(status: StatusCode, words: &str) -> ErrorKind {
    let says = |any: &[&str]| any.iter().any(|part| words.contains(part));
    if says(&["no space left on device", "disk quota exceeded"]) {
        return ErrorKind::NoSpace;
    }
    if status == StatusCode::NOT_FOUND || says(&["no such container", "no such image"]) {
        if says(&["no such container", "no container with name or id"]) {
            return ErrorKind::NotFound;
        }
        if says(&["no such image", "image not known", "image not found"]) {
            return ErrorKind::ImageMissing;
        }
    }
    let state_forbids = [
        "port is already allocated",
        "address already in use",
        "is already in use",
        "already in progress",
        "marked for removal",
        "container state improper", // Podman's words for a running container
    ];
    if says(&state_forbids) {
        return ErrorKind::Conflict;
    }
    let command_cannot_run = says(&["executable file not found", "exec format error"])
        || (says(&["starting container process", "oci runtime", "oci permission denied", "crun:", "runc:"])
            && says(&["no such file or directory", "permission denied"])
            && says(&["exec"]));
    if command_cannot_run {
        return ErrorKind::Invalid;
    }
    by_status(status, words)
}

fn by_status(status: StatusCode, words: &str) -> ErrorKind {
    match status.as_u16() {
        400 if words.contains("http request to an https server") => ErrorKind::Unreachable,
        401 | 403 | 407 => ErrorKind::Unreachable,
        405 | 501 => ErrorKind::Unsupported,
        409 => ErrorKind::Conflict,
        // What an engine says is not there, in words that we do not know: not a container, as far as we can tell.
        404 => ErrorKind::Garbled,
        408 | 425 | 429 | 500..=599 => ErrorKind::Failed,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Garbled,
    }
}

/// Where in a document a decoder stopped.
pub(super) fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a value of another kind",
        serde_json::error::Category::Eof => "it ends early",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

/// One bounded line of it.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > MESSAGE_LIMIT {
            line.truncate(line.floor_char_boundary(MESSAGE_LIMIT));
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: u16, message: &str) -> ErrorKind {
        let body = serde_json::json!({ "message": message }).to_string();
        Failure::refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes()).kind
    }

    #[test]
    fn engines_words_have_their_kinds() {
        use ErrorKind::*;
        let cases = [
            (404, "No such container: 888f02560d34", NotFound),
            (404, r#"no container with name or ID "888f" found: no such container"#, NotFound),
            (404, "No such image: flynn/slugrunner:0.0.0", ImageMissing),
            (404, "docker.io/flynn/slugrunner:0.0.0: image not known", ImageMissing),
            (404, "network captain not found", Garbled),
            (409, "Conflict. The container name \"/a\" is already in use by container \"8\".", Conflict),
            (409, "removal of container 888f is already in progress", Conflict),
            (409, "container is marked for removal and cannot be started", Conflict),
            (500, "cannot remove container 8 as it is running: container state improper", Conflict),
            (500, "driver failed programming: Bind for 0.0.0.0:80 failed: port is already allocated", Conflict),
            (500, "write /var/lib/docker/tmp/x: no space left on device", NoSpace),
            (400, "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH: unknown", Invalid),
            (500, "runc: runc create failed: exec: \"/nope\": stat /nope: no such file or directory", Invalid),
            (400, "invalid reference format", Invalid),
            (422, "unprocessable", Invalid),
            (403, "authorization denied by plugin", Unreachable),
            (501, "not implemented", Unsupported),
            (500, "open /var/lib/docker/x: no such file or directory", Failed),
            (503, "try later", Failed),
        ];
        for (status, message, expected) in cases {
            assert_eq!(kind(status, message), expected, "{status} {message}");
        }
    }

    #[test]
    fn a_proxys_answer_is_not_the_engines() {
        let refusal = |status, body: &str| Failure::refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes());
        assert_eq!(refusal(404, "404 page not found\n").kind, ErrorKind::Garbled);
        assert_eq!(refusal(404, "No such container: x").kind, ErrorKind::Garbled);
        let page = refusal(502, "<html>nginx says hunter2</html>");
        assert_eq!((page.kind, page.message.as_str()), (ErrorKind::Failed, "it answered 502 Bad Gateway"));
        let https = refusal(400, "Client sent an HTTP request to an HTTPS server.\n");
        assert_eq!(
            (https.kind, https.message.as_str()),
            (ErrorKind::Unreachable, "it speaks TLS: write https:// in its URI")
        );
    }

    #[test]
    fn messages_are_one_bounded_line() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[31m  c "), "a b [31m c");
        let long = one_line(&"é".repeat(5000));
        assert!(long.len() <= MESSAGE_LIMIT + 3 && long.ends_with('…'));
    }

    #[test]
    fn a_decoder_quotes_nothing() {
        let error = serde_json::from_str::<u32>(r#""hunter2""#).unwrap_err();
        let failure = Failure::undecodable(&error);
        assert_eq!(failure.kind, ErrorKind::Garbled);
        assert!(!failure.message.contains("hunter2"), "{}", failure.message);
    }
}
