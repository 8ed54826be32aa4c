//! Pipes between what is written and read in threads and what goes over the wire. A slug is in neither memory nor temporary file as a
//! whole: the engine's pace is the writer's.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::failure::Failure;
use super::super::pool::Answer;
use super::super::wire::{Body, Wire, within};
use crate::engine::ErrorKind;

/// Large enough that a thread seldom waits for another, small enough to be of no account.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces under way: a megabyte.
const PIECES: usize = 8;
/// How often whoever watches is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

enum Piece {
    Data(Bytes),
    /// The writer has written all. A channel that ends without it was left by a writer that failed.
    End,
}

/// The writing end of a request's body, for a blocking thread.
pub(super) struct Writer {
    sender: mpsc::Sender<Piece>,
    runtime: Handle,
    /// The request is over: whatever its outcome, nobody reads any more.
    over: CancellationToken,
    broken: Arc<AtomicBool>,
    buffer: BytesMut,
}

impl Writer {
    fn send(&self, piece: Piece) -> io::Result<()> {
        let sent = self.runtime.block_on(async {
            tokio::select! {
                sent = self.sender.send(piece) => sent.is_ok(),
                () = self.over.cancelled() => false,
            }
        });
        if sent {
            return Ok(());
        }
        self.broken.store(true, Ordering::SeqCst);
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the engine reads no further"))
    }

    /// The engine may have answered already, for the archive has an end mark of its own: so this cannot fail.
    fn end(mut self) {
        let _ = self.flush().and_then(|()| self.send(Piece::End));
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PIECE_BYTES));
        self.send(Piece::Data(full.freeze()))
    }
}

fn body(receiver: mpsc::Receiver<Piece>) -> Body {
    let pieces = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Data(bytes)) => Some((Ok(Frame::data(bytes)), Some(receiver))),
            Some(Piece::End) => None,
            // The request breaks off, so that no engine takes what came so far for the whole.
            None => Some((Err(io::Error::other("the archive could not be made")), None)),
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Sends what `write` writes, and gives the answer. Its own failure comes before what that made of the request.
pub(super) async fn upload(
    wire: &Wire,
    method: Method,
    path: &str,
    deadline: Duration,
    write: impl FnOnce(&mut Writer) -> Result<(), Failure> + Send + 'static,
    tell: &(dyn Fn() + Send + Sync),
) -> Result<Bytes, Failure> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let over = CancellationToken::new();
    let broken = Arc::new(AtomicBool::new(false));
    let buffer = BytesMut::with_capacity(PIECE_BYTES);
    let mut writer =
        Writer { sender, runtime: Handle::current(), over: over.clone(), broken: Arc::clone(&broken), buffer };
    // Also where this call is dropped half-way: the thread ends.
    let guard = over.drop_guard();
    let writing = tokio::task::spawn_blocking(move || {
        write(&mut writer)?;
        writer.end();
        Ok(())
    });
    let sent = telling(within(deadline, wire.upload(method, path, body(receiver))), tell).await;
    drop(guard);
    let written = writing.await.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Failed, "its reader panicked")));
    match (written, sent) {
        (Err(failure), _) if !broken.load(Ordering::SeqCst) => Err(failure),
        (_, Err(failure)) => Err(failure),
        (Err(_), Ok(_)) => Err(Failure::garbled("it answered before it had the whole archive")),
        (Ok(()), Ok(answer)) => Ok(answer),
    }
}

async fn telling<T>(work: impl Future<Output = T>, tell: &(dyn Fn() + Send + Sync)) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(TELL_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => tell(),
        }
    }
}

/// The reading end of an answer's body, for a blocking thread.
struct Reader {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Reads an answer in a thread. That the answer broke off comes before what the reader made of that.
pub(super) async fn download<T: Send + 'static>(
    mut answer: Answer,
    deadline: Duration,
    read: impl FnOnce(&mut dyn Read) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = mpsc::channel(PIECES);
    let mut reader = Reader { receiver, piece: Bytes::new() };
    let reading = tokio::task::spawn_blocking(move || read(&mut reader));
    let fetched = within(deadline, async move {
        while let Some(piece) = answer.piece().await.transpose()? {
            if sender.send(piece).await.is_err() {
                break; // the reader has what it wants, or wants no more
            }
        }
        Ok(())
    })
    .await;
    let read = reading.await.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Failed, "its reader panicked")));
    fetched.and(read)
}
