//! Launching: a monitor is told whose it is, and what it has recorded is read.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Jail, Phase, observe};
use crate::monitor::Line;
use crate::setup::SetupError;
use crate::spec::Id;
use crate::state::{self, Ending, Exited, ReadError, Running, State};

/// An instance could not be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The hidden role could not be executed.
    #[error("cannot execute {program:?} as the monitor of instance {id}")]
    Execute {
        /// Which instance.
        id: Id,
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine refused a step.
    #[error("instance {id} could not be started")]
    Refused {
        /// Which instance.
        id: Id,
        /// What was refused.
        source: SetupError,
    },
    /// The monitor was killed, or could not even say what is wrong.
    #[error("the monitor of instance {0} ended without a word")]
    Silent(Id),
    /// It took too long. The monitor was killed, and the instance with it.
    #[error("instance {id} was not started within {waited:?}")]
    Timeout {
        /// Which instance.
        id: Id,
        /// How long.
        waited: Duration,
    },
    /// The state cannot be read.
    #[error("cannot tell what became of instance {id}")]
    Unknown {
        /// Which instance.
        id: Id,
        /// Why.
        source: ReadError,
    },
}

/// How long a killed monitor is waited for.
const ABANDON_PATIENCE: Duration = Duration::from_secs(5);

impl Jail {
    /// Launches a created instance and waits until its program has begun (milliseconds, as a rule), failed to, or `patience` has ended.
    ///
    /// Blocks; an async caller wraps it. The phase is `Running`, or `Exited` when the program has ended already.
    pub fn launch(&self, id: &Id, patience: Duration) -> Result<Phase, LaunchError> {
        let dir = self.dir(id);
        let spoken = self.have_started(&dir, patience).map_err(|source| LaunchError::Execute {
            id: id.clone(),
            program: self.helper.program.clone(),
            source,
        })?;
        let Some(spoken) = spoken else {
            self.abandon(id);
            return Err(LaunchError::Timeout { id: id.clone(), waited: patience });
        };
        if !spoken.is_empty() {
            return Err(match serde_json::from_slice(&spoken) {
                Ok(source) => LaunchError::Refused { id: id.clone(), source },
                Err(_) => LaunchError::Silent(id.clone()),
            });
        }
        let unknown = |source| LaunchError::Unknown { id: id.clone(), source };
        match observe::phase(&dir).map_err(unknown)? {
            Phase::Exited(Exited { ending: Ending::NotStarted(source), .. }) => {
                Err(LaunchError::Refused { id: id.clone(), source })
            }
            begun @ (Phase::Running(_) | Phase::Exited(_)) => Ok(begun),
            Phase::Created | Phase::Starting | Phase::Lost => Err(LaunchError::Silent(id.clone())),
        }
    }

    /// What the instance's monitor says until it has seen to the start, which is nothing as a rule; `None` when patience ends first.
    fn have_started(&self, dir: &Path, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut monitor = self.monitor_of(dir)?;
        // While it begins with what it knows. Where this fails, it hears the end instead, and records the failure.
        let (base, kept) = self.bases.current()?;
        let prepared = monitor.template.as_ref().is_some_and(|template| template.serves(&base));
        monitor.tell(&Line::Base { base, prepared })?;
        let heard = monitor.hear(patience);
        // The monitor, which has spoken by now, keeps it itself.
        drop(kept);
        heard
    }

    /// Ends a start that takes too long, whoever launched it: the monitor, hence the instance.
    pub fn abandon(&self, id: &Id) {
        let monitor = match state::read(&self.dir(id)) {
            Ok(Some(State::Starting { monitor, .. } | State::Running(Running { monitor, .. }))) => monitor,
            _ => return,
        };
        // If it cannot be killed it can still be seen: the instance stays "starting", and whoever looks tries again.
        let _ = monitor.signal(libc::SIGKILL);
        // Its lock is free when it and (a moment later) the first process are dead.
        let deadline = Instant::now() + ABANDON_PATIENCE;
        while !matches!(self.recover(id), Ok(true)) && Instant::now() < deadline {
            if matches!(observe::phase(&self.dir(id)), Ok(Phase::Exited(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
