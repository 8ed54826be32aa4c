//! Finding out what this machine allows, by trying it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Jail;
use crate::monitor::{Line, rehearsal_record};
use crate::report::Report;
use crate::setup::SetupError;
use crate::state::write_json;

/// A rehearsal takes milliseconds; a machine on which it takes this long has worse troubles.
const PATIENCE: Duration = Duration::from_secs(20);

/// The rehearsal itself could not be held: nothing is known about this machine.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its folder cannot be made, or the hidden role not be executed.
    #[error("cannot rehearse a start in {path:?}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It failed before it could begin.
    #[error("the rehearsal of a start failed")]
    Failed(#[source] SetupError),
    /// It did not end, or said nothing that can be understood.
    #[error("the rehearsal of a start gave no answer within {PATIENCE:?}")]
    Silent,
}

impl Jail {
    /// Rehearses a whole start, in the same process role and by the same steps as a real one. Nothing is executed and nothing is left.
    pub fn probe(&self) -> Result<Report, ProbeError> {
        let name = format!("rehearsal-{}", std::process::id());
        let dir = self.state.join(&name);
        let spoken = self.rehearse(&dir, &name).map_err(|source| ProbeError::Io { path: dir.clone(), source });
        // If it cannot be removed now, a sweep will.
        let _ = fs::remove_dir_all(&dir);
        let spoken = spoken?.ok_or(ProbeError::Silent)?;
        serde_json::from_slice(&spoken).map_err(|_| match serde_json::from_slice(&spoken) {
            Ok(error) => ProbeError::Failed(error),
            Err(_) => ProbeError::Silent,
        })
    }

    fn rehearse(&self, dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
        let slug = dir.join("slug");
        fs::create_dir_all(&slug)?;
        let record = rehearsal_record(name, self.uids.start, self.group(name), &slug)?;
        write_json(&dir.join("spec.json"), &record)?;
        let mut rehearsing = self.execute("rehearse", dir.as_os_str(), None)?;
        let (base, _kept) = self.bases.current()?;
        rehearsing.tell(&Line::Base { base, prepared: false })?;
        rehearsing.hear(PATIENCE)
    }
}
