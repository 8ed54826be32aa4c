//! Logs as JSON lines, at the reader's pace.
//!
//! A task takes pieces from the engine and passes whole lines on through a short queue; where the client does not read, the queue
//! fills and the task waits, so that memory stays bounded. A client that reads nothing for [`STALLED`] is let go. The app is never
//! held up: the engine reads its log from a file.

use std::time::Duration;

use axum::body::{Body, Bytes};
use captain_api::LogLine;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::engine::{Logs, Output};

/// A line longer than this is passed on in parts: an app that never ends its line must not fill memory.
const LONGEST_LINE: usize = 64 * 1024;

/// Pieces waiting for the client. Together with the parts of lines: at most 2 MiB a reader.
const QUEUE: usize = 16;

/// A client that takes nothing for so long is gone, whatever its connection says.
const STALLED: Duration = Duration::from_secs(300);

/// The body of an answer: `logs` as JSON lines, with the original's extra line at the end unless it follows.
pub(super) fn body(logs: Logs, follow: bool, place: OwnedSemaphorePermit, closing: CancellationToken) -> Body {
    let (send, receive) = mpsc::channel::<Result<Bytes, std::io::Error>>(QUEUE);
    tokio::spawn(async move {
        let _place = place;
        tokio::select! {
            biased;
            // Ends here when the captain closes, or the client goes while the app is silent.
            () = closing.cancelled() => {}
            () = send.closed() => {}
            () = pass_on(logs, follow, &send) => {}
        }
    });
    Body::from_stream(ReceiverStream::new(receive))
}

async fn pass_on(mut logs: Logs, follow: bool, send: &mpsc::Sender<Result<Bytes, std::io::Error>>) {
    let mut lines = Lines::default();
    while let Some(chunk) = logs.next().await {
        let out = match chunk {
            Ok(chunk) => lines.take(chunk.output, &chunk.bytes),
            Err(error) => {
                debug!(%error, "a log broke off");
                // The connection is broken off as well, so that the client does not take a part for the whole.
                let _ = send.send_timeout(Err(std::io::Error::other("the engine broke the log off")), STALLED).await;
                return;
            }
        };
        if !out.is_empty() && send.send_timeout(Ok(out.into()), STALLED).await.is_err() {
            return;
        }
    }
    let mut out = lines.rest();
    if !follow {
        write_line(&mut out, b"\n");
    }
    if !out.is_empty() {
        let _ = send.send_timeout(Ok(out.into()), STALLED).await;
    }
}

/// Cuts each output into lines. The two are kept apart: a piece of one in the middle of a line of the other belongs to neither.
#[derive(Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    fn take(&mut self, output: Output, mut bytes: &[u8]) -> Vec<u8> {
        let part = match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|c| *c == b'\n').map_or(bytes.len(), |at| at + 1);
            let room = LONGEST_LINE - part.len();
            let (now, rest) = bytes.split_at(end.min(room));
            bytes = rest;
            part.extend_from_slice(now);
            if part.ends_with(b"\n") || part.len() >= LONGEST_LINE {
                write_line(&mut out, part);
                part.clear();
            }
        }
        out
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in [&mut self.stdout, &mut self.stderr] {
            if !part.is_empty() {
                write_line(&mut out, part);
                part.clear();
            }
        }
        out
    }
}

fn write_line(out: &mut Vec<u8>, line: &[u8]) {
    let line = LogLine { msg: String::from_utf8_lossy(line).into_owned() };
    // Writing text to memory does not fail.
    if serde_json::to_writer(&mut *out, &line).is_ok() {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[(Output, &[u8])]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for (output, bytes) in pieces {
            out.extend(lines.take(*output, bytes));
        }
        out.extend(lines.rest());
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str::<LogLine>(line).unwrap().msg).collect()
    }

    #[test]
    fn pieces_become_lines_of_their_own_output() {
        use Output::{Stderr, Stdout};
        let pieces: [(Output, &[u8]); 4] =
            [(Stdout, b"on"), (Stderr, b"oops\n"), (Stdout, b"e\ntwo\nthr"), (Stdout, b"ee")];
        assert_eq!(all(&pieces), ["oops\n", "one\n", "two\n", "three"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(all(&[(Output::Stdout, b"a\xffb\n")]), ["a\u{fffd}b\n"]);
    }

    #[test]
    fn a_line_without_end_is_passed_on_in_parts() {
        let lines = all(&[(Output::Stdout, &vec![b'x'; 3 * LONGEST_LINE + 1])]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LONGEST_LINE, LONGEST_LINE, LONGEST_LINE, 1]);
    }
}
