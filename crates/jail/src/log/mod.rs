//! The output of an instance: what the monitor writes and what readers make of it.
//!
//! `log/<n>` are the files, `n` counting up for ever; the oldest are removed when there are more than the bound. A **frame** is a line
//!
//! ```text
//! 1732294663123 o F the bytes that the process wrote\n
//! ```
//!
//! milliseconds since 1970; the stream (`o` output, `e` error output, `c` a remark of captain's); `F` if the process ended its line here,
//! `P` if it did not (yet): then the newline belongs to the frame only. So nothing is held back or lost, lines can be read with `cat`,
//! and a torn frame costs itself alone, because the next one begins after the next newline.

mod reader;
mod writer;

pub use reader::{Batch, Cursor, Reader};
use serde::{Deserialize, Serialize};
pub(crate) use writer::Writer;

use std::path::{Path, PathBuf};

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Captain's own remarks: output that could not be kept.
    Captain,
}

impl Stream {
    fn letter(self) -> u8 {
        match self {
            Self::Stdout => b'o',
            Self::Stderr => b'e',
            Self::Captain => b'c',
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Captain].into_iter().find(|stream| stream.letter() == letter)
    }
}

/// Bytes that a process wrote in one go, at most one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When the monitor read them.
    pub at_ms: u64,
    /// Where they came from.
    pub stream: Stream,
    /// The bytes, with the newline if the process wrote one.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The frame in a line without its newline; `None` if this is no frame.
    fn parse(line: &[u8]) -> Option<Self> {
        let digits = line.iter().position(|b| *b == b' ')?;
        let at_ms = std::str::from_utf8(&line[..digits]).ok()?.parse().ok()?;
        let [b' ', stream, b' ', end, b' ', bytes @ ..] = &line[digits..] else { return None };
        let mut bytes = bytes.to_vec();
        match end {
            b'F' => bytes.push(b'\n'),
            b'P' => {}
            _ => return None,
        }
        Some(Self { at_ms, stream: Stream::from_letter(*stream)?, bytes })
    }
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(number.to_string())
}

/// The numbers of the files that are there, in order.
fn numbers(dir: &Path) -> std::io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> =
        std::fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests;
