//! Launching: the hidden role is executed, and what it has recorded is read.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Jail, Phase, observe};
use crate::base::Kept;
use crate::ground::Briefing;
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

/// What the hidden role said, at most: an error fits, and nothing else is ever said.
const SPOKEN_MOST: u64 = 64 << 10;

/// How long a killed monitor is waited for.
const ABANDON_PATIENCE: Duration = Duration::from_secs(5);

impl Jail {
    /// Launches a created instance and waits until its program has begun (milliseconds, as a rule), failed to, or `patience` has ended.
    ///
    /// Blocks; an async caller wraps it. The phase is `Running`, or `Exited` when the program has ended already.
    pub fn launch(&self, id: &Id, patience: Duration) -> Result<Phase, LaunchError> {
        let dir = self.dir(id);
        let spoken = self.hear("monitor", &dir, patience).map_err(|source| LaunchError::Execute {
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

    /// Executes a role and hears it to the end of its standard output; `None` when patience ends first.
    pub(super) fn hear(&self, role: &str, place: &Path, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let mut child = Command::new(&self.helper.program)
            .args(&self.helper.arguments)
            .arg(role)
            .arg(place)
            .arg0("captain-monitor") // a carried program has no name of its own
            .env_clear() // the server's environment holds secrets, and the monitor needs nothing of it
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // While it is being loaded. The base is kept until the monitor, which has spoken by then, keeps it itself.
        let heard = self.brief(&mut child).and_then(|kept| {
            let heard = child.stdout.take().map_or(Ok(None), |stdout| read_until(stdout, Instant::now() + patience));
            drop(kept);
            heard
        });
        reap(child, matches!(heard, Ok(Some(_))))?;
        heard
    }

    fn brief(&self, child: &mut Child) -> io::Result<Kept> {
        let (base, kept) = self.bases.current()?;
        let text = serde_json::to_vec(&Briefing { ground: (*self.ground).clone(), base })?;
        match child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&text)) {
            // Dead already: that it said nothing tells the rest.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(kept),
        }
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

/// The process that was executed ends by itself when it has spoken to the end; otherwise it is made to.
fn reap(mut child: Child, finished: bool) -> io::Result<()> {
    if !finished {
        child.kill()?;
    }
    child.wait().map(drop)
}

fn read_until(mut stdout: ChildStdout, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut spoken = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut chunk = [0; 4096];
        match stdout.read(&mut chunk)? {
            0 => return Ok(Some(spoken)),
            read => spoken.extend_from_slice(&chunk[..read]),
        }
        if spoken.len() as u64 > SPOKEN_MOST {
            return Ok(Some(spoken));
        }
    }
}
