//! Looking: what an instance is, without touching it.

use std::io;
use std::path::{Path, PathBuf};

use super::Jail;
use crate::lock;
use crate::spec::{Id, Record, VERSION};
use crate::state::{self, Exited, ReadError, Running, State};

/// An instance as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What was asked for.
    pub record: Record,
    /// How far it is.
    pub phase: Phase,
}

/// How far an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It was created and never launched.
    Created,
    /// Its monitor is preparing it.
    Starting,
    /// It runs.
    Running(Running),
    /// It is over, and its monitor saw how.
    Exited(Exited),
    /// Its monitor was killed, and it died with it. [`Jail::recover`] makes sure of that, and turns this into `Exited`.
    Lost,
}

impl Jail {
    /// Observes an instance; `None` if there is none of this id. Changes nothing.
    pub fn inspect(&self, id: &Id) -> Result<Option<Observed>, ReadError> {
        let dir = self.dir(id);
        let record = match read_record(&dir) {
            Ok(record) => record,
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Observed { record, phase: phase(&dir)? }))
    }

    /// How far an instance is, for whoever has its record already. One that is no more looks like one that was never launched.
    pub fn phase(&self, id: &Id) -> Result<Phase, ReadError> {
        phase(&self.dir(id))
    }
}

/// The lock is asked first, then the state is read: if nobody held it, the state that follows is the last word; if somebody did, the
/// state is at least as new as that.
pub(super) fn phase(dir: &Path) -> Result<Phase, ReadError> {
    let path = dir.join("lock");
    let watched = lock::is_held(&path).map_err(|source| ReadError { path, source })?;
    Ok(match (state::read(dir)?, watched) {
        (None, false) => Phase::Created,
        (None | Some(State::Starting { .. }), true) => Phase::Starting,
        (Some(State::Running(running)), true) => Phase::Running(running),
        (Some(State::Exited(exited)), _) => Phase::Exited(exited),
        (Some(State::Starting { .. } | State::Running(_)), false) => Phase::Lost,
    })
}

/// `spec.json`.
pub(crate) fn read_record(dir: &Path) -> Result<Record, ReadError> {
    let path: PathBuf = dir.join("spec.json");
    let failed = |source| ReadError { path: path.clone(), source };
    let record: Record = state::read_json(&path)?.ok_or_else(|| failed(io::Error::from(io::ErrorKind::NotFound)))?;
    if record.version != VERSION {
        let text = format!("format {} is not known to this version of captain", record.version);
        return Err(failed(io::Error::new(io::ErrorKind::Unsupported, text)));
    }
    Ok(record)
}
