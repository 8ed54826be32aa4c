//! `captain slug push`: a slug into a captain's own store. Also what `captain start --slug` does with a file or a folder.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use captain_api::client::Client;
use captain_slug::{Options, PackOptions};
use futures_util::Stream;
use serde_json::value::RawValue;
use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

use super::{SlugFailure, read};
use crate::connection::{Connection, document};
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::progress::{Progress, Transfer, size};
use crate::table::printable;

/// Bytes handed to the connection at once.
const PIECE: usize = 64 * 1024;

/// How often it is looked how much has gone.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `captain slug push`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The slug, or a folder to make one of
    file: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let client = args.connection.client()?;
    let local = Local::prepare(&args.file, printer)?;
    if args.connection.json {
        let answer: Box<RawValue> = local.push(&client, printer).await?;
        document(&answer, printer)?;
        return Ok(Exit::Done);
    }
    if client.has_slug(&local.sha256).await? {
        printer.say("the captain has it already");
    } else {
        let _: Box<RawValue> = local.push(&client, printer).await?;
        printer.say(&format!("pushed {} ({})", printable(&args.file.to_string_lossy()), size(local.bytes)));
    }
    printer.data(&format!("sha256:{}\n", local.sha256))?;
    Ok(Exit::Done)
}

/// Brings what is at the path to the captain, unless it is there already; answers its digest.
pub(crate) async fn push_path(path: &Path, client: &Client, printer: &mut Printer) -> Result<String, Failure> {
    let local = Local::prepare(path, printer)?;
    if !client.has_slug(&local.sha256).await? {
        let _: Box<RawValue> = local.push(client, printer).await?;
    }
    Ok(local.sha256)
}

/// A slug on this machine that has been looked through.
struct Local {
    shown: String,
    path: PathBuf,
    sha256: String,
    bytes: u64,
    /// A slug that was made of a folder; gone when this is.
    _packed: Option<NamedTempFile>,
}

impl Local {
    /// A file is inspected, so that one that no captain takes is not sent; of a folder a slug is made.
    fn prepare(path: &Path, printer: &mut Printer) -> Result<Self, SlugFailure> {
        let shown = path.display().to_string();
        if !path.is_dir() {
            let report = read(path, printer, |input| captain_slug::inspect(input, &Options::default()))?.report;
            let (sha256, bytes) = (report.sha256.to_string(), report.given_bytes);
            return Ok(Self { shown, path: path.to_owned(), sha256, bytes, _packed: None });
        }
        let unwritable = |source| SlugFailure::Write { path: tempfile::env::temp_dir(), source };
        let file = NamedTempFile::new().map_err(unwritable)?;
        let mut transfer = Transfer::new(Progress::new(printer, false), format!("packing {shown}"));
        let packed = captain_slug::pack(path, io::BufWriter::new(&file), &PackOptions::default(), &mut |done| {
            transfer.at(done.bytes, Some(done.bytes_total));
        })?;
        let (sha256, bytes) = (packed.sha256.to_string(), packed.bytes);
        Ok(Self { shown, path: file.path().to_owned(), sha256, bytes, _packed: Some(file) })
    }

    /// Sends it, and shows how far it is.
    async fn push(&self, client: &Client, printer: &mut Printer) -> Result<Box<RawValue>, Failure> {
        let opened = File::open(&self.path).await;
        let file = opened.map_err(|source| SlugFailure::Open { path: self.path.clone(), source })?;
        let gone = Arc::new(AtomicU64::new(0));
        let pieces = Pieces { file, buffer: vec![0; PIECE], gone: Arc::clone(&gone) };
        let mut transfer = Transfer::new(Progress::new(printer, false), format!("pushing {}", self.shown));
        let pushing = client.push_slug_as(&self.sha256, self.bytes, pieces);
        tokio::pin!(pushing);
        loop {
            tokio::select! {
                biased;
                answer = &mut pushing => return Ok(answer?),
                () = tokio::time::sleep(LOOK_EVERY) => transfer.at(gone.load(Ordering::Relaxed), Some(self.bytes)),
            }
        }
    }
}

/// The bytes of a file, counted as they go.
struct Pieces {
    file: File,
    buffer: Vec<u8>,
    gone: Arc<AtomicU64>,
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { file, buffer, gone } = self.get_mut();
        let mut room = ReadBuf::new(buffer);
        match Pin::new(file).poll_read(cx, &mut room) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if room.filled().is_empty() => Poll::Ready(None),
            Poll::Ready(Ok(())) => {
                gone.fetch_add(room.filled().len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Bytes::copy_from_slice(room.filled()))))
            }
        }
    }
}
