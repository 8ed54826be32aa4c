//! Readers: from any point, across the files, as far as the output goes at this moment; called again, it goes on.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Frame, file, numbers};

/// A point in the log, valid for ever: files are numbered on and never written again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// The number of the file; 0 is before the first.
    pub file: u64,
    /// The byte in it at which a frame begins.
    pub offset: u64,
}

/// What there was to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which the monitor read them.
    pub frames: Vec<Frame>,
    /// Files had been removed by the bound before they were read: there is a gap before these frames.
    pub skipped: bool,
    /// There is nothing more at this moment. To follow, ask again after a short while, or when the folder
    /// changes (inotify on [`Reader::dir`]).
    pub end: bool,
}

/// Reads the log of one instance. Holds no lock and disturbs nobody.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    cursor: Cursor,
    open: Option<(u64, File)>,
}

/// A line cannot be longer than what the monitor reads at a time, with its header; what is longer is damage.
const LINE_MOST: usize = 64 << 10;

impl Reader {
    /// Reads on from the cursor; `Cursor::default()` is the beginning.
    pub fn new(dir: &Path, cursor: Cursor) -> Self {
        Self { dir: dir.to_owned(), cursor, open: None }
    }

    /// Reads the last `lines` lines and what comes after.
    pub fn tail(dir: &Path, lines: usize) -> io::Result<Self> {
        Ok(Self::new(dir, tail(dir, lines)?))
    }

    /// Where the next frame will be read.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The folder that changes when there is more.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads up to about `most` bytes.
    pub fn read(&mut self, most: usize) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let mut budget = most.max(LINE_MOST);
        while budget > 0 {
            if !self.open_current(&mut batch)? {
                batch.end = true;
                break;
            }
            // Asked before reading: what is in this file when the next one exists is all there will ever be.
            let complete = file(&self.dir, self.cursor.file + 1).exists();
            let read = self.read_some(budget, complete, &mut batch)?;
            budget = budget.saturating_sub(read);
            if read == 0 {
                if !complete {
                    batch.end = true;
                    break;
                }
                self.cursor = Cursor { file: self.cursor.file + 1, offset: 0 };
            }
        }
        Ok(batch)
    }

    /// Opens the file of the cursor, or the next one that is left. `false`: there is none yet.
    fn open_current(&mut self, batch: &mut Batch) -> io::Result<bool> {
        if self.open.as_ref().is_some_and(|(number, _)| *number == self.cursor.file) {
            return Ok(true);
        }
        loop {
            match File::open(file(&self.dir, self.cursor.file)) {
                Ok(opened) => {
                    self.open = Some((self.cursor.file, opened));
                    return Ok(true);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
            let all = match numbers(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                all => all?,
            };
            let Some(next) = all.into_iter().find(|number| *number > self.cursor.file) else { return Ok(false) };
            batch.skipped |= next != self.cursor.file + 1;
            self.cursor = Cursor { file: next, offset: 0 };
        }
    }

    /// Reads whole lines of the open file; 0 when there are none. An unfinished line is left for later, unless the file is complete.
    fn read_some(&mut self, budget: usize, complete: bool, batch: &mut Batch) -> io::Result<usize> {
        let Some((_, opened)) = &mut self.open else { return Ok(0) };
        let mut bytes = Vec::with_capacity(budget.min(256 << 10));
        opened.seek(SeekFrom::Start(self.cursor.offset))?;
        opened.take(budget.max(LINE_MOST) as u64).read_to_end(&mut bytes)?;
        let mut used = 0;
        while let Some(len) = bytes[used..].iter().position(|b| *b == b'\n') {
            // What is no frame is the rest of a torn one.
            batch.frames.extend(Frame::parse(&bytes[used..used + len]));
            used += len + 1;
        }
        if used == 0 && (complete || bytes.len() >= LINE_MOST) {
            batch.frames.extend(Frame::parse(&bytes));
            used = bytes.len();
        }
        self.cursor.offset += used as u64;
        Ok(used)
    }
}

/// The point from which on there are `lines` lines, found by counting line ends backwards through the files. An unfinished line at the
/// very end counts as one.
fn tail(dir: &Path, lines: usize) -> io::Result<Cursor> {
    let all = match numbers(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cursor::default()),
        all => all?,
    };
    let mut met = 0;
    let mut from: Option<Cursor> = None;
    for number in all.into_iter().rev() {
        // Removed by the bound since it was listed: the log begins after it.
        let Ok(bytes) = fs::read(file(dir, number)) else { break };
        let (frames, end) = frames_of(&bytes);
        for (offset, ends_line) in frames.into_iter().rev() {
            let at_end = from.is_none();
            let after = *from.get_or_insert(Cursor { file: number, offset: end });
            if ends_line || at_end {
                if met == lines {
                    return Ok(after);
                }
                met += 1;
            }
            from = Some(Cursor { file: number, offset });
        }
    }
    Ok(from.unwrap_or_default())
}

/// The offset of each frame and whether it ends a line, and where the last of them ends.
fn frames_of(bytes: &[u8]) -> (Vec<(u64, bool)>, u64) {
    let mut frames = Vec::new();
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Some(frame) = Frame::parse(&line[..line.len() - 1]) {
            frames.push((at, frame.bytes.ends_with(b"\n")));
        }
        at += line.len() as u64;
    }
    (frames, at)
}
