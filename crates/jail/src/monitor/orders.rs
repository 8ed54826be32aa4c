//! What a monitor is told, on its standard input, one JSON text a line: first what the machine is; then whose monitor it is, at once or after
//! a while in waiting; then what the instance's root is made of, for which the server needs as long as the monitor needs to get there.
//!
//! An end of the lines is the server's end, or means that the monitor is not needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::base::Base;
use crate::ground::Ground;
use crate::setup::{Attempt, SetupError, Step};

/// The lines that are still to be read.
pub(super) struct Orders(BufReader<File>);

impl Orders {
    /// What comes on standard input, which must not be read by anybody else.
    pub(super) fn begin() -> Result<Self, SetupError> {
        let held = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3);
        Ok(Self(BufReader::new(held.attempt(Step::Read, || "keep the pipe from the server".into())?.into())))
    }

    pub(super) fn ground(&mut self) -> Result<Ground, SetupError> {
        self.needed()
    }

    /// The folder of the instance; `None` where there is none to come.
    pub(super) fn place(&mut self) -> Result<Option<PathBuf>, SetupError> {
        self.next()
    }

    pub(super) fn base(&mut self) -> Result<Base, SetupError> {
        self.needed()
    }

    fn needed<T: DeserializeOwned>(&mut self) -> Result<T, SetupError> {
        let next = self.next()?.ok_or(io::ErrorKind::UnexpectedEof);
        next.attempt(Step::Read, || "hear the server to the end".into())
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
