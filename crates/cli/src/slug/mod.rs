//! `captain slug …`: makes slugs and looks into them, on this machine and without a server; and pushes them to one.

mod inspect;
mod lint;
mod pack;
mod push;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use captain_slug::{PackError, SlugError};

use crate::exit::{Exit, Failure};
use crate::printer::Printer;
use crate::progress::{Progress, Transfer};

pub(crate) use push::push_path;

/// The commands of `captain slug`.
#[derive(Debug, clap::Subcommand)]
pub enum SlugCommand {
    /// Make a slug of a folder; the same tree gives the same bytes
    Pack(pack::Args),
    /// Put a slug into a captain's store and print its digest
    Push(push::Args),
    /// Say what is in a slug
    Inspect(inspect::Args),
    /// Say what is wrong with a slug, and what the classic runners would take otherwise
    Lint(lint::Args),
}

/// Why a command about slugs failed.
#[derive(Debug, thiserror::Error)]
pub enum SlugFailure {
    /// It cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be read, or is refused as a slug.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SlugError,
    },
    /// A folder cannot be made a slug.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The slug cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SlugFailure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Read { source, .. } if source.is_slugs_fault() => Exit::Refused,
            Self::Pack(PackError::Changed { .. } | PackError::Ignore { .. } | PackError::Refused { .. }) => {
                Exit::Refused
            }
            _ => Exit::Usage,
        }
    }
}

pub(crate) async fn run(command: SlugCommand, printer: &mut Printer) -> Result<Exit, Failure> {
    match command {
        SlugCommand::Pack(args) => pack::run(&args, printer),
        SlugCommand::Push(args) => push::run(args, printer).await,
        SlugCommand::Inspect(args) => inspect::run(&args, printer),
        SlugCommand::Lint(args) => lint::run(&args, printer),
    }
}

/// Hands the bytes of a file, or of stdin for `-`, to the reader, and shows how far it is.
fn read<T>(
    path: &Path,
    printer: &mut Printer,
    reader: impl FnOnce(Watched<'_>) -> Result<T, SlugError>,
) -> Result<T, SlugFailure> {
    let (input, total): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|source| SlugFailure::Open { path: path.to_owned(), source })?;
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let transfer = Transfer::new(Progress::new(printer, false), format!("reading {}", path.display()));
    reader(Watched { input, transfer, done: 0, total })
        .map_err(|source| SlugFailure::Read { path: path.to_owned(), source })
}

/// Tells of each read.
struct Watched<'a> {
    input: Box<dyn Read + Send>,
    transfer: Transfer<'a>,
    done: u64,
    total: Option<u64>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.done += count as u64;
        self.transfer.at(self.done, self.total);
        Ok(count)
    }
}
