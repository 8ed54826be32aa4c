//! What a monitor is told, on its standard input, one JSON text a line: first what the machine is; then whose monitor it is, at once or after
//! a while in waiting; then what the instance's root is made of, for which the server needs as long as the monitor needs to get there. In
//! waiting it is told that too, so that it can prepare what is going to be the same.
//!
//! An end of the lines is the server's end, or means that the monitor is not needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::ground::Ground;
use crate::setup::{Attempt, SetupError, Step};

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The folder of the instance.
    Place(PathBuf),
    /// What its root is made of.
    Base(Base),
}

/// The lines that are still to be read.
pub(super) struct Orders(BufReader<File>);

impl Orders {
    /// What comes on standard input, which must not be read by anybody else.
    pub(super) fn begin() -> Result<Self, SetupError> {
        let held = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
        Ok(Self(BufReader::new(held.attempt(Step::Read, || "keep the pipe from the server".into())?.into())))
    }

    pub(super) fn ground(&mut self) -> Result<Ground, SetupError> {
        needed(self.next()?)
    }

    /// `None` where none is to come.
    pub(super) fn line(&mut self) -> Result<Option<Line>, SetupError> {
        self.next()
    }

    pub(super) fn base(&mut self) -> Result<Base, SetupError> {
        match self.line()? {
            Some(Line::Base(base)) => Ok(base),
            _ => needed(None),
        }
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SetupError> {
        let mut line = Vec::new();
        let read = self.0.read_until(b'\n', &mut line).and_then(|_| match line.last() {
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
            // Half a line is what a killed server leaves.
            _ => Ok(None),
        });
        read.attempt(Step::Read, || "understand what the server says".into())
    }
}

fn needed<T>(heard: Option<T>) -> Result<T, SetupError> {
    heard.ok_or(io::ErrorKind::UnexpectedEof).attempt(Step::Read, || "hear the server to the end".into())
}
