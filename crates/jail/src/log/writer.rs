//! The monitor's side: frames into files, within the bound, whatever the disk does.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Stream, file, numbers};
use crate::spec::LogBound;

/// Frames gathered before they are written: a few pages of memory per monitor, and one system call for hundreds of short lines.
const GATHERED_MOST: usize = 16 << 10;

/// The end of the log. One per instance, in its monitor.
pub(crate) struct Writer {
    dir: PathBuf,
    bound: LogBound,
    file: File,
    number: u64,
    /// The bytes of whole frames in the file.
    size: u64,
    gathered: Vec<u8>,
    /// Bytes of output in `gathered`, which are lost if it cannot be written.
    gathered_output: u64,
    /// Lost since the last remark about it.
    unmentioned: u64,
    pub(crate) lost: u64,
}

impl Writer {
    /// Begins after whatever is there: a torn frame of a predecessor stays in its own file.
    pub(crate) fn begin(dir: &Path, bound: LogBound) -> io::Result<Self> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let number = numbers(dir)?.last().map_or(1, |last| last + 1);
        Ok(Self {
            file: open(dir, number)?,
            dir: dir.to_owned(),
            bound,
            number,
            size: 0,
            gathered: Vec::with_capacity(GATHERED_MOST),
            gathered_output: 0,
            unmentioned: 0,
            lost: 0,
        })
    }

    /// Writes what a process wrote, a frame per line. Never fails: what cannot be kept is counted, and remarked in the log once it can.
    pub(crate) fn append(&mut self, stream: Stream, at_ms: u64, output: &[u8]) {
        if self.unmentioned > 0 {
            let remark = format!("captain: {} bytes of output could not be written to the log\n", self.unmentioned);
            self.gather(Stream::Captain, at_ms, remark.as_bytes(), 0);
            if self.flush() {
                self.unmentioned = 0;
            }
        }
        for line in output.split_inclusive(|b| *b == b'\n') {
            // 40 is more than a header takes.
            if self.gathered.len() + line.len() + 40 > GATHERED_MOST {
                self.flush();
            }
            self.gather(stream, at_ms, line, line.len() as u64);
        }
        self.flush();
    }

    fn gather(&mut self, stream: Stream, at_ms: u64, line: &[u8], output: u64) {
        let (end, bytes) = match line {
            [bytes @ .., b'\n'] => ('F', bytes),
            bytes => ('P', bytes),
        };
        // Writing to memory cannot fail.
        let _ = write!(self.gathered, "{at_ms} {} {end} ", char::from(stream.letter()));
        self.gathered.extend_from_slice(bytes);
        self.gathered.push(b'\n');
        self.gathered_output += output;
    }

    /// Whether all that was gathered is in the file now.
    fn flush(&mut self) -> bool {
        let len = self.gathered.len() as u64;
        let written = self.make_room(len).and_then(|()| self.file.write_all(&self.gathered));
        let output = std::mem::take(&mut self.gathered_output);
        self.gathered.clear();
        match written {
            Ok(()) => self.size += len,
            Err(_) => {
                self.lost += output;
                self.unmentioned += output;
                // Take back the part that may have been written: the next frame must begin on a line of its own.
                let _ = self.file.set_len(self.size);
            }
        }
        written.is_ok()
    }

    fn make_room(&mut self, len: u64) -> io::Result<()> {
        if self.size == 0 || self.size + len <= self.bound.file_bytes {
            return Ok(());
        }
        // The old file is complete before the next one exists: a reader that sees the next can finish the old.
        self.file = open(&self.dir, self.number + 1)?;
        self.number += 1;
        self.size = 0;
        if let Some(oldest) = self.number.checked_sub(self.bound.files)
            && let Err(error) = fs::remove_file(file(&self.dir, oldest))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        Ok(())
    }
}

fn open(dir: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(file(dir, number))
}
