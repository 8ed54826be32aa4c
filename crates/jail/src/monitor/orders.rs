//! What a monitor is told, on its standard input, one JSON text a line: first what the machine is; then whose monitor it is, at once or after
//! a while in waiting; then what the instance's root is made of, for which the server needs as long as the monitor needs to get there.
//!
//! An end of the lines is the server's end, or means that the monitor is not needed.
//!
//! Its standard error, of which nobody hears, is where it is given the mount namespace that the server keeps ([`Template`]), if it keeps one.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::ground::Ground;
use crate::init::Template;
use crate::setup::{Attempt, SetupError, Step};

/// A line after the first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The folder of the instance.
    Place(PathBuf),
    /// What its root is made of, and whether the mount namespace that was given holds just that.
    Base { base: Base, prepared: bool },
}

/// What is still to be taken.
pub(super) struct Orders {
    lines: BufReader<File>,
    given: Option<OwnedFd>,
}

impl Orders {
    /// What comes on standard input, which must not be read by anybody else, and what standard error is.
    pub(super) fn begin() -> Result<Self, SetupError> {
        let hold = |stream| rustix::io::fcntl_dupfd_cloexec(stream, 3);
        let read = hold(rustix::stdio::stdin()).attempt(Step::Read, || "keep the pipe from the server".into())?;
        let given = hold(rustix::stdio::stderr()).attempt(Step::Read, || "keep what the server gives".into())?;
        Ok(Self { lines: BufReader::new(read.into()), given: Some(given) })
    }

    pub(super) fn ground(&mut self) -> Result<Ground, SetupError> {
        needed(self.next()?)
    }

    /// The folder of the instance; `None` where none is to come.
    pub(super) fn place(&mut self) -> Result<Option<PathBuf>, SetupError> {
        match self.next()? {
            None => Ok(None),
            Some(Line::Place(dir)) => Ok(Some(dir)),
            Some(Line::Base { .. }) => needed(None),
        }
    }

    pub(super) fn base(&mut self) -> Result<(Base, Option<Template>), SetupError> {
        match self.next()? {
            Some(Line::Base { base, prepared }) => {
                Ok((base, self.given.take().filter(|_| prepared).map(Template::new)))
            }
            _ => needed(None),
        }
    }

    /// Waits until the server has nothing more to say, or is gone.
    pub(super) fn end(&mut self) -> Result<(), SetupError> {
        self.next::<Line>().map(drop)
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SetupError> {
        let mut line = Vec::new();
        let read = self.lines.read_until(b'\n', &mut line).and_then(|_| match line.last() {
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
