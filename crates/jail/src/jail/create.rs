//! Creating: an instance that is visible to all, holds its uid, and does not run.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::Jail;
use crate::spec::{Id, Record, Spec, SpecError, VERSION};
use crate::state::{now_ms, write_json};
use crate::uids;

/// An instance cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The spec cannot be fulfilled anywhere.
    #[error("the spec of instance {id} is refused")]
    Spec {
        /// Which instance.
        id: Id,
        /// What is wrong.
        source: SpecError,
    },
    /// The id is taken.
    #[error("instance {0} exists already")]
    Exists(Id),
    /// The state directory does not cooperate.
    #[error("cannot create instance {id} in {path:?}")]
    Io {
        /// Which instance.
        id: Id,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Jail {
    /// Creates an instance. It appears all at once, with everything that is known about it, or not at all.
    pub fn create(&self, id: &Id, spec: Spec) -> Result<Record, CreateError> {
        spec.check().map_err(|source| CreateError::Spec { id: id.clone(), source })?;
        let failed = |source| CreateError::Io { id: id.clone(), path: self.dir(id), source };
        if self.dir(id).exists() {
            return Err(CreateError::Exists(id.clone()));
        }
        let uid = uids::reserve(&self.uid_dir(), self.uids.clone(), id).map_err(failed)?;
        let group = self.group(id.as_str());
        let record = Record { version: VERSION, id: id.clone(), uid, group, created_ms: now_ms(), spec };
        let unfinished = self.instances().join(format!(".new-{id}-{uid}"));
        let made = write(&unfinished, &record).and_then(|()| fs::rename(&unfinished, self.dir(id)));
        if let Err(source) = made {
            // Undone as far as it goes; what remains is swept at the next start.
            let _ = fs::remove_dir_all(&unfinished);
            let _ = uids::release(&self.uid_dir(), uid);
            return Err(match source.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => CreateError::Exists(id.clone()),
                _ => failed(source),
            });
        }
        Ok(record)
    }
}

fn write(dir: &Path, record: &Record) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    write_json(&dir.join("spec.json"), record)
}
