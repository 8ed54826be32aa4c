//! What the monitor writes down: `state.json`. Always replaced by rename, so a reader sees the old text or the new one, never half.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;
use crate::report::Limitation;
use crate::setup::SetupError;

/// What is known of an instance that was launched. No file at all: it was only created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum State {
    /// A monitor is preparing it.
    Starting {
        /// Who.
        monitor: ProcessRef,
        /// The control groups that it is going to make: written before they exist, so that none can be forgotten.
        groups: Vec<PathBuf>,
    },
    /// Its first process has executed its program.
    Running(Running),
    /// It is over, and nothing of it is left but its files.
    Exited(Exited),
}

/// A running instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The process that watches.
    pub monitor: ProcessRef,
    /// Pid 1 of the instance, as the host sees it.
    pub init: ProcessRef,
    /// Its control groups.
    pub groups: Vec<PathBuf>,
    /// When its program began.
    pub started_ms: u64,
    /// What this machine did not allow.
    pub limitations: Vec<Limitation>,
}

/// An instance that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// When its program began; `None` if it never did.
    pub started_ms: Option<u64>,
    /// When it ended, or (if its monitor was killed) when that was found out.
    pub finished_ms: u64,
    /// How it ended.
    pub ending: Ending,
    /// How many of its processes the kernel killed for want of memory.
    pub oom_kills: u64,
    /// Output that could not be written to the log files.
    pub output_bytes_lost: u64,
    /// Control groups that could not be removed; `Jail::clean` tries again.
    pub groups: Vec<PathBuf>,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The first process returned this.
    Code(i32),
    /// The first process was killed by this signal.
    Signal(i32),
    /// The program never began.
    NotStarted(SetupError),
    /// The monitor was killed; the instance died with it, and nobody saw its exit code.
    Lost,
}

impl Exited {
    /// The kernel ended it for want of memory: processes were killed for that and it did not end well.
    pub fn out_of_memory(&self) -> bool {
        self.oom_kills > 0 && self.ending != Ending::Code(0)
    }
}

/// A file of an instance that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path:?}")]
pub struct ReadError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

pub(crate) fn read(dir: &Path) -> Result<Option<State>, ReadError> {
    read_json(&dir.join("state.json"))
}

/// `None` when there is no such file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    let failed = |source| ReadError { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

pub(crate) fn write(dir: &Path, state: &State) -> io::Result<()> {
    write_json(&dir.join("state.json"), state)
}

/// No fsync: what has to survive is the death of processes. After a reboot the instance is over in any case, whichever text is found.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    fs::rename(&unfinished, path)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
