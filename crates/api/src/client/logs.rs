//! A log as it arrives: one JSON object a line.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;

use super::Error;
use crate::LogLine;

/// Engines cut lines at 16 KiB, and JSON makes at most six bytes of one. A stream with longer lines is no log.
const MAX_LINE: usize = 1 << 20;

type Body = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

/// The lines of a log: a stream that ends with the log, or with the first error.
pub struct LogLines<T = LogLine> {
    url: String,
    /// `None` once the stream has ended.
    body: Option<Body>,
    buffer: BytesMut,
    /// This much of the buffer has no line feed; it is not searched again when more arrives.
    searched: usize,
    line: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LogLines<T> {
    pub(super) fn new(url: String, body: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static) -> Self {
        Self { url, body: Some(Box::pin(body)), buffer: BytesMut::new(), searched: 0, line: PhantomData }
    }

    /// The next line; `None` at the end.
    pub async fn next_line(&mut self) -> Option<Result<T, Error>> {
        self.next().await
    }

    fn buffered(&mut self) -> Option<Bytes> {
        let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + at + 1).freeze();
        self.searched = 0;
        Some(line)
    }

    fn parse(&mut self, line: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(line).map_err(|source| {
            self.body = None;
            Error::Unexpected {
                url: self.url.clone(),
                status: reqwest::StatusCode::OK,
                excerpt: String::new(),
                source: Some(source),
            }
        })
    }
}

impl<T: DeserializeOwned> Stream for LogLines<T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            // Before each line: an error has ended the stream, whatever is still buffered.
            let Some(body) = this.body.as_mut() else { return Poll::Ready(None) };
            let arrived = match this.searched < this.buffer.len() {
                true => None,
                false => Some(ready!(body.as_mut().poll_next(cx))),
            };
            match arrived {
                None => {}
                Some(Some(Ok(bytes))) => this.buffer.extend_from_slice(&bytes),
                Some(Some(Err(source))) => {
                    this.body = None;
                    let source = source.without_url();
                    return Poll::Ready(Some(Err(Error::Interrupted { url: this.url.clone(), source })));
                }
                Some(None) => {
                    let rest = std::mem::take(&mut this.buffer);
                    let last = (!rest.trim_ascii().is_empty()).then(|| this.parse(&rest));
                    this.body = None;
                    return Poll::Ready(last);
                }
            }
            if let Some(line) = this.buffered() {
                if !line.trim_ascii().is_empty() {
                    return Poll::Ready(Some(this.parse(&line)));
                }
            } else if this.buffer.len() > MAX_LINE {
                this.body = None;
                return Poll::Ready(Some(Err(Error::TooLarge { url: this.url.clone(), limit: MAX_LINE })));
            }
        }
    }
}

impl<T> std::fmt::Debug for LogLines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogLines").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&str]) -> Vec<String> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk.as_bytes()))).collect();
        let mut lines = LogLines::<LogLine>::new("http://c/".into(), futures_util::stream::iter(chunks));
        let mut seen = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(line)) = lines.poll_next_unpin(&mut cx) {
            seen.push(line.map_or_else(|error| format!("error: {error}"), |line| line.msg));
        }
        seen
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let whole = "{\"msg\":\"a\\n\"}\n\n{\"msg\":\"ü\"}\r\n{\"msg\":\"end\"}";
        let bytes: Vec<&str> = (0..whole.len())
            .filter(|at| whole.is_char_boundary(*at))
            .map(|at| &whole[at..at + whole[at..].chars().next().map_or(0, char::len_utf8)])
            .collect();
        for chunks in [vec![whole], bytes, vec!["", whole, ""]] {
            assert_eq!(lines(&chunks), ["a\n", "ü", "end"]);
        }
    }

    #[test]
    fn the_first_line_that_makes_no_sense_is_the_last() {
        let seen = lines(&["{\"msg\":\"a\"}\nnonsense\n{\"msg\":\"b\"}\n"]);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], "a");
        assert!(seen[1].starts_with("error: http://c/ answered 200 OK"), "{seen:?}");
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let chunk = "x".repeat(MAX_LINE / 2 + 1);
        assert_eq!(lines(&[&chunk, &chunk, &chunk]), ["error: the answer of http://c/ is larger than 1048576 bytes"]);
    }
}
