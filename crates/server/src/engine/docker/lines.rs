//! Streams of JSON documents, one a line: events, and the progress of a pull.

use bytes::{Buf, BytesMut};

use super::failure::Failure;
use super::pool::Answer;

/// Events carry a container's labels: kilobytes. More is no event.
const LINE_LIMIT: usize = 1 << 20;

/// Reads lines at the reader's pace.
pub(super) struct Lines {
    body: Answer,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line's end.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Answer) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line that is not empty; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<BytesMut>, Failure> {
        loop {
            while let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_LIMIT {
                return Err(Failure::garbled("it sent a line of more than 1 MiB"));
            }
            match self.body.piece().await.transpose()? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => {
                    self.searched = 0;
                    let rest = std::mem::take(&mut self.buffer);
                    return Ok((!rest.trim_ascii().is_empty()).then_some(rest));
                }
            }
        }
    }
}
