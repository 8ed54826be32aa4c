//! Given bytes in, unpacked bytes out: hashing and decompression run in a thread of their own while the caller works on what came out
//! before (measured: 1.5 times the rate of doing both in turn).
//!
//! Invariants: at most [`CHUNKS`] chunks are in flight, so the faster side waits and memory stays bounded; when the consumer gives up, the
//! decoder stops at its next chunk; the thread never outlives [`with_stream`].

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::error::{ArchiveFault, SlugError};
use crate::limits::{Limit, Limits, RATIO_FREE_BYTES};
use crate::sniff::{self, Compression, Foreign, SNIFF_BYTES};
use crate::{Digest, EntryName};

/// One chunk of unpacked bytes: large enough that handing it over costs nothing beside decoding it.
const CHUNK_BYTES: usize = 128 << 10;

/// Chunks that may wait between the threads. Two keep both busy; four ride over an entry that takes longer.
const CHUNKS: usize = 4;

/// Why the stream broke. It travels inside an [`io::Error`], because decoders and readers in between speak that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamFault {
    #[error("cannot read the given bytes")]
    Input { bytes: u64, source: io::Error },
    #[error("damaged")]
    Damaged { compression: Compression, bytes: u64, source: io::Error },
    #[error("not a slug but {0}")]
    Foreign(Foreign),
    #[error("more than {allowed} {limit}")]
    Limit { limit: Limit, allowed: u64 },
    #[error("malformed at byte {offset}: {fault}")]
    Archive { offset: u64, fault: ArchiveFault },
}

impl From<StreamFault> for io::Error {
    fn from(fault: StreamFault) -> Self {
        Self::other(fault)
    }
}

impl SlugError {
    /// From an error that a reader of [`Chunks`] got while it was at `entry`.
    pub(crate) fn reading(error: io::Error, entry: Option<EntryName>) -> Self {
        match error.downcast::<StreamFault>() {
            Ok(StreamFault::Input { bytes, source }) => Self::Input { bytes, source },
            Ok(StreamFault::Damaged { compression, bytes, source }) => Self::Damaged { compression, bytes, source },
            Ok(StreamFault::Foreign(found)) => Self::NotASlug { found },
            Ok(StreamFault::Limit { limit, allowed }) => Self::Limit { limit, allowed, entry },
            Ok(StreamFault::Archive { offset, fault }) => Self::Archive { offset, fault },
            Err(source) => Self::Input { bytes: 0, source },
        }
    }
}

/// What the decoder knows when all given bytes went through it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) sha256: Digest,
    pub(crate) bytes: u64,
    pub(crate) compression: Compression,
}

/// Runs `consume` on the unpacked bytes of `input` and, when it is content, reads on to the very end, so that the digest covers every given
/// byte. If `expected` is given and the bytes have another digest, that is the error, whatever else the altered bytes led to.
///
/// `input` has to bring its own timeouts: a read that never returns holds up this function.
pub(crate) fn with_stream<R: Read + Send, T>(
    input: R,
    limits: &Limits,
    expected: Option<Digest>,
    consume: impl FnOnce(&mut Chunks) -> Result<T, SlugError>,
) -> Result<(T, Given), SlugError> {
    let (full_tx, full_rx) = sync_channel(CHUNKS);
    let (empty_tx, empty_rx) = channel();
    thread::scope(|scope| {
        let decoder =
            scope.spawn(move || Decoder { limits, out: full_tx, empty: empty_rx }.run(input, expected.is_some()));
        let mut chunks = Chunks { full: full_rx, empty: empty_tx, current: Vec::new(), position: 0 };
        let consumed = consume(&mut chunks).and_then(|value| chunks.drain().map(|()| value));
        drop(chunks);
        let given = decoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let (Some(expected), Some(Given { sha256: found, .. })) = (expected, given)
            && expected != found
        {
            return Err(SlugError::DigestDiffers { expected, found });
        }
        let value = consumed?;
        // Without an error the consumer has seen the end of the stream, which the decoder reaches only with a digest in its hand.
        let given = given.ok_or_else(|| SlugError::Input { bytes: 0, source: io::ErrorKind::UnexpectedEof.into() })?;
        Ok((value, given))
    })
}

/// The consumer's end: unpacked bytes, read chunk by chunk without copying.
pub(crate) struct Chunks {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

impl Chunks {
    fn drain(&mut self) -> Result<(), SlugError> {
        loop {
            let rest = self.fill_buf().map_err(|e| SlugError::reading(e, None))?.len();
            if rest == 0 {
                return Ok(());
            }
            self.consume(rest);
        }
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len()
            && let Ok(next) = self.full.recv()
        {
            let used = std::mem::replace(&mut self.current, next?);
            self.position = 0;
            let _ = self.empty.send(used); // The decoder may be done: then the buffer is simply freed.
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position = (self.position + amount).min(self.current.len());
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buf.len());
        buf[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

struct Decoder<'a> {
    limits: &'a Limits,
    out: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

impl Decoder<'_> {
    /// The digest is there when the input was read to its end. After a failure that happens only if it is wanted, to tell altered bytes
    /// from a slug that is bad in itself.
    fn run(self, input: impl Read, digest_wanted: bool) -> Option<Given> {
        let taken = Cell::new(0);
        let mut meter = Meter { inner: input, hash: Sha256::new(), taken: &taken, allowed: self.limits.given_bytes };
        let (compression, decoded) = self.decode(&mut meter);
        let complete = match decoded {
            Ok(complete) => complete,
            Err(fault) => {
                let _ = self.out.send(Err(fault)); // A consumer that is gone has its own error to tell.
                false
            }
        };
        // So that the consumer, which waits for the next chunk, can go on while the rest is hashed.
        drop(self.out);
        if !complete && (!digest_wanted || io::copy(&mut meter, &mut io::sink()).is_err()) {
            return None;
        }
        Some(Given { sha256: Digest(meter.hash.finalize().into()), bytes: taken.get(), compression })
    }

    fn decode<R: Read>(&self, meter: &mut Meter<'_, R>) -> (Compression, io::Result<bool>) {
        let taken = meter.taken;
        let mut start = Vec::with_capacity(SNIFF_BYTES);
        if let Err(error) = meter.by_ref().take(SNIFF_BYTES as u64).read_to_end(&mut start) {
            return (Compression::None, Err(error));
        }
        let compression = match sniff::compression(&start) {
            Ok(compression) => compression,
            Err(foreign) => return (Compression::None, Err(StreamFault::Foreign(foreign).into())),
        };
        let given = BufReader::with_capacity(CHUNK_BYTES, start.as_slice().chain(meter));
        let sent = match compression {
            Compression::Gzip => self.pump(MultiGzDecoder::new(given), taken),
            Compression::Zstd => zstd_decoder(given, self.limits).and_then(|decoder| self.pump(decoder, taken)),
            Compression::None => self.pump(given, taken),
        };
        let sent = sent.map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<StreamFault>() => error,
            _ => StreamFault::Damaged { compression, bytes: taken.get(), source: error }.into(),
        });
        (compression, sent)
    }

    /// Sends everything that `decoder` gives. False: the consumer hung up.
    fn pump(&self, mut decoder: impl Read, taken: &Cell<u64>) -> io::Result<bool> {
        let mut made = 0_u64;
        loop {
            let mut chunk = self.empty.try_recv().unwrap_or_default();
            chunk.resize(CHUNK_BYTES, 0);
            let filled = fill(&mut decoder, &mut chunk);
            let (filled, failed) = match filled {
                Ok(filled) => (filled, None),
                Err((filled, error)) => (filled, Some(error)),
            };
            chunk.truncate(filled);
            made += filled as u64;
            self.check(made, taken.get())?;
            // What was decoded before the damage goes first, so that the error names the entry in which it lies.
            if filled > 0 && self.out.send(Ok(chunk)).is_err() {
                return Ok(false);
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if filled == 0 {
                return Ok(true);
            }
        }
    }

    fn check(&self, made: u64, taken: u64) -> io::Result<()> {
        let Limits { unpacked_bytes, expansion_ratio, .. } = *self.limits;
        if made > unpacked_bytes {
            return Err(StreamFault::Limit { limit: Limit::UnpackedBytes, allowed: unpacked_bytes }.into());
        }
        if made > RATIO_FREE_BYTES && made / expansion_ratio.max(1) > taken {
            return Err(StreamFault::Limit { limit: Limit::ExpansionRatio, allowed: expansion_ratio }.into());
        }
        Ok(())
    }
}

fn zstd_decoder<'a>(given: impl BufRead + 'a, limits: &Limits) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::Decoder::with_buffer(given)?;
    decoder.window_log_max(limits.zstd_window_log)?;
    Ok(decoder)
}

/// Reads until the buffer is full or the end; on failure says how much was there before.
fn fill(from: &mut impl Read, buf: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut filled = 0;
    while filled < buf.len() {
        match from.read(&mut buf[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((filled, error)),
        }
    }
    Ok(filled)
}

/// Hashes and counts what is read through it. A failure of the reader is marked as one, so that it is not taken for damage of the slug.
struct Meter<'a, R> {
    inner: R,
    hash: Sha256,
    taken: &'a Cell<u64>,
    allowed: u64,
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.inner.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(StreamFault::Input { bytes: self.taken.get(), source }.into()),
                Ok(read) => break read,
            }
        };
        self.hash.update(&buf[..read]);
        self.taken.set(self.taken.get() + read as u64);
        if self.taken.get() > self.allowed {
            return Err(StreamFault::Limit { limit: Limit::GivenBytes, allowed: self.allowed }.into());
        }
        Ok(read)
    }
}
