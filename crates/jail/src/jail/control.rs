//! Acting on an instance that runs: signals, the end, waiting, figures, output.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Jail, Phase, observe};
use crate::cgroup::{Groups, Usage};
use crate::log::{Cursor, Reader};
use crate::process::wait_for_end;
use crate::spec::Id;
use crate::state::{ReadError, Running};

/// Something could not be done to an instance.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is none of this id, or its files cannot be read.
    #[error("cannot tell the state of instance {id}")]
    Unknown {
        /// Which instance.
        id: Id,
        /// Why.
        source: ReadError,
    },
    /// It runs, and must not.
    #[error("instance {0} is running")]
    Running(Id),
    /// The kernel refused.
    #[error("cannot {attempt} instance {id}")]
    Refused {
        /// Which instance.
        id: Id,
        /// What was attempted.
        attempt: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Jail {
    /// Sends a signal to the instance's first process. `false` if it does not run.
    pub fn signal(&self, id: &Id, signal: i32) -> Result<bool, ControlError> {
        let Some(running) = self.running(id)? else { return Ok(false) };
        running.init.signal(signal).map_err(|source| refused(id, "signal", source))
    }

    /// Whether a signal would be heard by the instance's first process now. Before it has said what it does with the signal, the kernel
    /// throws it away, as always for the first process of a pid namespace. One that does not run hears everything.
    pub fn hears(&self, id: &Id, signal: u32) -> Result<bool, ControlError> {
        let Some(running) = self.running(id)? else { return Ok(true) };
        match running.init.hears(signal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            heard => heard.map_err(|source| refused(id, "look at the signals of", source)),
        }
    }

    /// Kills everything in the instance: its pid namespace dies with its first process. `false` if it does not run.
    pub fn kill(&self, id: &Id) -> Result<bool, ControlError> {
        self.signal(id, libc::SIGKILL)
    }

    /// A descriptor that becomes readable when the instance is over and its end recorded (it is its monitor's pidfd). `None` if it does
    /// not run. For an event loop; [`Jail::wait`] is the same for a thread.
    pub fn watch(&self, id: &Id) -> Result<Option<OwnedFd>, ControlError> {
        let Some(running) = self.running(id)? else { return Ok(None) };
        running.monitor.open().map_err(|source| refused(id, "watch", source))
    }

    /// Waits for the end; `false` if it has not come in time.
    pub fn wait(&self, id: &Id, patience: Duration) -> Result<bool, ControlError> {
        match self.watch(id)? {
            None => Ok(true),
            Some(pidfd) => wait_for_end(&pidfd, patience).map_err(|source| refused(id, "wait for", source)),
        }
    }

    /// What it uses now; `None` if it does not run.
    pub fn usage(&self, id: &Id) -> Result<Option<Usage>, ControlError> {
        Ok(self.running(id)?.map(|running| Groups::new(running.groups).usage()))
    }

    /// Its output from a point on; `Cursor::default()` is the beginning of what is kept.
    pub fn log(&self, id: &Id, from: Cursor) -> Reader {
        Reader::new(&self.dir(id).join("log"), from)
    }

    /// Its last lines and what comes after.
    pub fn log_tail(&self, id: &Id, lines: usize) -> io::Result<Reader> {
        Reader::tail(&self.dir(id).join("log"), lines)
    }

    fn running(&self, id: &Id) -> Result<Option<Running>, ControlError> {
        match observe::phase(&self.dir(id)) {
            Ok(Phase::Running(running)) => Ok(Some(running)),
            Ok(_) => Ok(None),
            Err(source) => Err(ControlError::Unknown { id: id.clone(), source }),
        }
    }
}

pub(super) fn refused(id: &Id, attempt: &'static str, source: io::Error) -> ControlError {
    ControlError::Refused { id: id.clone(), attempt, source }
}
