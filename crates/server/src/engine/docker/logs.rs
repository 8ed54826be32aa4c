//! Output of a container: Docker's frames, taken apart.
//!
//! A frame is `[stream, 0, 0, 0, length as 4 bytes]` and its bytes. Frames are passed on piece by piece as they come, never
//! gathered: a frame's length is the engine's word, and our memory is not.

use bytes::{Buf, Bytes};
use captain_domain::InstanceId;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::failure::{Failure, one_line};
use super::inspect::{OutputShape, output_shape};
use super::pool::Answer;
use super::wire::{Call, Wire, within};
use crate::engine::{ErrorKind, LogChunk, Output};

const HEADER: usize = 8;

/// Opens the output of a container. That there is such a container is known when this returns.
///
/// Engines before Docker 26 send nothing, not even the answer's head, before a followed container's first output. So with
/// `follow` the head is awaited by the stream, and a missing container is found by an inspection, which is needed anyway to know
/// whether it writes as a terminal.
pub(super) async fn logs(
    wire: std::sync::Arc<Wire>,
    id: InstanceId,
    follow: bool,
) -> Result<BoxStream<'static, Result<LogChunk, Failure>>, Failure> {
    let shape = output_shape(&wire, id).await?;
    let call = Call::get(format!("/containers/{id}/logs?stdout=true&stderr=true&follow={follow}&tail=all"));
    let demultiplexer = Demultiplexer::new(&shape);
    let source = if follow {
        Source::Asking { wire, call }
    } else {
        let response = within(wire.timeout(), wire.send(&call)).await?;
        Source::Reading(response.into_body())
    };
    let reader = Reader { source, demultiplexer };
    Ok(stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
            Ok(None) => None,
            Err(failure) => Some((Err(failure), None)),
        }
    })
    .boxed())
}

enum Source {
    Asking { wire: std::sync::Arc<Wire>, call: Call },
    Reading(Answer),
}

struct Reader {
    source: Source,
    demultiplexer: Demultiplexer,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<LogChunk>, Failure> {
        loop {
            if let Some(chunk) = self.demultiplexer.take()? {
                return Ok(Some(chunk));
            }
            match &mut self.source {
                Source::Asking { wire, call } => self.source = Source::Reading(wire.send(call).await?.into_body()),
                Source::Reading(body) => match body.piece().await.transpose()? {
                    Some(piece) => self.demultiplexer.feed(piece),
                    None => return self.demultiplexer.end().map(|()| None),
                },
            }
        }
    }
}

/// Takes frames apart. Holds one piece of the body, as it came.
struct Demultiplexer {
    terminal: bool,
    piece: Bytes,
    /// The part of a header that has come.
    header: Vec<u8>,
    /// What is left of the frame at hand.
    frame: Option<Frame>,
}

struct Frame {
    stream: Stream,
    left: u32,
}

#[derive(Clone, Copy)]
enum Stream {
    Output(Output),
    /// The engine's own words: the output cannot be read further.
    Error,
}

impl Demultiplexer {
    fn new(shape: &OutputShape) -> Self {
        Self { terminal: shape.terminal, piece: Bytes::new(), header: Vec::with_capacity(HEADER), frame: None }
    }

    /// The next piece of the body; only when [`Self::take`] has given all of the last one.
    fn feed(&mut self, piece: Bytes) {
        self.piece = piece;
    }

    fn take(&mut self) -> Result<Option<LogChunk>, Failure> {
        if self.terminal {
            let bytes = std::mem::take(&mut self.piece);
            return Ok((!bytes.is_empty()).then_some(LogChunk { output: Output::Stdout, bytes }));
        }
        while !self.piece.is_empty() {
            let Some(frame) = &mut self.frame else {
                self.take_header()?;
                continue;
            };
            let length = self.piece.len().min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            let bytes = self.piece.split_to(length);
            frame.left = frame.left.saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
            let stream = frame.stream;
            if frame.left == 0 {
                self.frame = None;
            }
            match stream {
                Stream::Output(output) => return Ok(Some(LogChunk { output, bytes })),
                Stream::Error => {
                    let words = one_line(&String::from_utf8_lossy(&bytes));
                    return Err(Failure::new(ErrorKind::Failed, format!("its output cannot be read: {words}")));
                }
            }
        }
        Ok(None)
    }

    fn take_header(&mut self) -> Result<(), Failure> {
        let wanted = (HEADER - self.header.len()).min(self.piece.len());
        self.header.extend_from_slice(&self.piece[..wanted]);
        self.piece.advance(wanted);
        if let Ok([stream, 0, 0, 0, length @ ..]) = <[u8; HEADER]>::try_from(self.header.as_slice()) {
            let stream = match stream {
                1 => Stream::Output(Output::Stdout),
                2 => Stream::Output(Output::Stderr),
                3 => Stream::Error,
                _ => return Err(Failure::garbled("its output is not in Docker's frames")),
            };
            let left = u32::from_be_bytes(length);
            self.frame = (left > 0).then_some(Frame { stream, left });
            self.header.clear();
        } else if self.header.len() == HEADER {
            return Err(Failure::garbled("its output is not in Docker's frames"));
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        if self.frame.is_some() || !self.header.is_empty() {
            return Err(Failure::new(ErrorKind::Interrupted, "its output broke off in the middle"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut frame = vec![stream, 0, 0, 0];
        frame.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        frame.extend(text.as_bytes());
        frame
    }

    /// What comes out of a body cut into pieces of `size`: stdout, stderr, and whether it ended well.
    fn taken_apart(body: &[u8], size: usize) -> Result<(String, String), ErrorKind> {
        let mut demultiplexer = Demultiplexer::new(&OutputShape { terminal: false });
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for piece in body.chunks(size) {
            demultiplexer.feed(Bytes::copy_from_slice(piece));
            while let Some(chunk) = demultiplexer.take().map_err(|failure| failure.kind)? {
                match chunk.output {
                    Output::Stdout => out.extend(chunk.bytes),
                    Output::Stderr => err.extend(chunk.bytes),
                }
            }
        }
        demultiplexer.end().map_err(|failure| failure.kind)?;
        Ok((String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()))
    }

    #[test]
    fn frames_are_taken_apart_wherever_the_network_cuts_them() {
        let body = [frame(1, "one\n"), frame(2, "two\n"), frame(1, ""), frame(1, "three\n")].concat();
        for size in 1..=body.len() {
            assert_eq!(taken_apart(&body, size), Ok(("one\nthree\n".to_owned(), "two\n".to_owned())), "{size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_said() {
        assert_eq!(taken_apart(b"plain text", 4), Err(ErrorKind::Garbled));
        assert_eq!(taken_apart(&frame(7, "x"), 4), Err(ErrorKind::Garbled));
        assert_eq!(taken_apart(&frame(3, "log driver failed"), 64), Err(ErrorKind::Failed));
        let whole = frame(1, "one\n");
        assert_eq!(taken_apart(&whole[..9], 64), Err(ErrorKind::Interrupted));
        assert_eq!(taken_apart(&whole[..5], 64), Err(ErrorKind::Interrupted));
    }

    #[test]
    fn a_terminal_has_no_frames() {
        let mut demultiplexer = Demultiplexer::new(&OutputShape { terminal: true });
        demultiplexer.feed(Bytes::from_static(b"hello"));
        let chunk = demultiplexer.take().unwrap().unwrap();
        assert_eq!((chunk.output, &chunk.bytes[..]), (Output::Stdout, &b"hello"[..]));
        assert!(demultiplexer.take().unwrap().is_none() && demultiplexer.end().is_ok());
    }
}
