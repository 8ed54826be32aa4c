//! Tidying up: after a monitor that was killed, after an instance that is no longer wanted, after a crash of anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::control::refused;
use super::{ControlError, Jail, Phase, observe};
use crate::cgroup::{self, Groups};
use crate::lock::{self, Lock};
use crate::process::wait_for_end;
use crate::spec::Id;
use crate::state::{self, Ending, Exited, ReadError, State, now_ms};
use crate::uids;

/// A killed process is dead within milliseconds unless a device holds it; a group is empty soon after.
const PATIENCE: Duration = Duration::from_secs(5);

/// Half-made things younger than this may be in the making, by another server on the same directory.
const IN_THE_MAKING: Duration = Duration::from_secs(60);

/// What a sweep found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Instances whose monitor had been killed; they are `Exited` now.
    pub lost: Vec<Id>,
    /// Half-made or half-removed directories, reservations and control groups that were removed.
    pub removed: Vec<PathBuf>,
    /// What could not be dealt with, and why.
    pub failed: Vec<(PathBuf, String)>,
}

impl Jail {
    /// Turns a lost instance into an exited one, making sure that nothing of it is left. `false` if it is not lost.
    pub fn recover(&self, id: &Id) -> Result<bool, ControlError> {
        let dir = self.dir(id);
        match self.take_lock(id)? {
            // Somebody lives: a monitor, or another server doing this very thing.
            None => Ok(false),
            Some(lock) => self.recover_locked(id, &dir, &lock),
        }
    }

    fn take_lock(&self, id: &Id) -> Result<Option<Lock>, ControlError> {
        let path = self.dir(id).join("lock");
        lock::take(&path).map_err(|source| ControlError::Unknown { id: id.clone(), source: ReadError { path, source } })
    }

    /// A monitor that has recorded the end holds its lock for a moment longer: that is waited for.
    fn take_lock_of_ended(&self, id: &Id, dir: &Path) -> Result<Option<Lock>, ControlError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = self.take_lock(id)? {
                return Ok(Some(lock));
            }
            if !matches!(observe::phase(dir), Ok(Phase::Exited(_))) || Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn recover_locked(&self, id: &Id, dir: &Path, _lock: &Lock) -> Result<bool, ControlError> {
        let unknown = |source| ControlError::Unknown { id: id.clone(), source };
        let (groups, started_ms) = match state::read(dir).map_err(unknown)? {
            None | Some(State::Exited(_)) => return Ok(false),
            Some(State::Starting { groups, .. }) => (groups, None),
            Some(State::Running(running)) => {
                // Normally it died with its monitor. A program can have asked the kernel not to.
                if let Some(pidfd) = running.init.open().map_err(|e| refused(id, "find", e))? {
                    running.init.signal(libc::SIGKILL).map_err(|e| refused(id, "kill", e))?;
                    wait_for_end(&pidfd, PATIENCE).map_err(|e| refused(id, "wait for", e))?;
                }
                (running.groups, Some(running.started_ms))
            }
        };
        let groups = Groups::new(groups);
        let oom_kills = groups.oom_kills();
        groups.kill().map_err(|e| refused(id, "kill", e))?;
        let exited = Exited {
            started_ms,
            finished_ms: now_ms(),
            ending: Ending::Lost,
            oom_kills,
            output_bytes_lost: 0,
            groups: groups.remove(PATIENCE),
        };
        state::write(dir, &State::Exited(exited)).map_err(|e| refused(id, "record the end of", e))?;
        Ok(true)
    }

    /// Removes an instance that does not run: control groups, files, uid. `false` if there is none of this id.
    pub fn clean(&self, id: &Id) -> Result<bool, ControlError> {
        let dir = self.dir(id);
        if !dir.exists() {
            return Ok(false);
        }
        let Some(lock) = self.take_lock_of_ended(id, &dir)? else { return Err(ControlError::Running(id.clone())) };
        self.recover_locked(id, &dir, &lock)?;
        if let Ok(Some(State::Exited(exited))) = state::read(&dir)
            && let Some(left) = Groups::new(exited.groups).remove(PATIENCE).first()
        {
            let source = io::Error::new(io::ErrorKind::ResourceBusy, format!("{left:?} cannot be removed"));
            return Err(refused(id, "clean up", source));
        }
        let uid = observe::read_record(&dir).ok().map(|record| record.uid);
        // Gone for everybody at once; if the rest is interrupted, a sweep goes on with it.
        let leaving = self.instances().join(format!(".old-{id}-{}", now_ms()));
        fs::rename(&dir, &leaving)
            .and_then(|()| fs::remove_dir_all(&leaving))
            .and_then(|()| uid.map_or(Ok(()), |uid| uids::release(&self.uid_dir(), uid)))
            .map_err(|source| refused(id, "remove the files of", source))?;
        Ok(true)
    }

    /// Deals with what a crash has left, of this state directory only. For the start of the server; harmless at any time.
    pub fn sweep(&self) -> Cleaned {
        let mut cleaned = Cleaned::default();
        for id in self.list().unwrap_or_default() {
            match observe::phase(&self.dir(&id)) {
                Ok(Phase::Lost) => match self.recover(&id) {
                    Ok(true) => cleaned.lost.push(id),
                    Ok(false) => {}
                    Err(error) => cleaned.failed.push((self.dir(&id), say(&error))),
                },
                Ok(_) => {}
                Err(error) => cleaned.failed.push((self.dir(&id), say(&error))),
            }
        }
        self.sweep_files(&mut cleaned);
        for (path, outcome) in self.bases.sweep() {
            cleaned.note(&path, outcome);
        }
        self.sweep_groups(&mut cleaned);
        cleaned
    }

    fn sweep_files(&self, cleaned: &mut Cleaned) {
        let unfinished = |name: &str| name.starts_with(".new-") || name.starts_with(".old-");
        let mut leftovers = entries(&self.instances(), unfinished);
        leftovers.extend(entries(&self.state, |name| name.starts_with("rehearsal-")));
        for path in leftovers.into_iter().filter(|path| is_old(path)) {
            cleaned.note(&path, fs::remove_dir_all(&path));
        }
        for (path, id) in uids::reservations(&self.uid_dir()).unwrap_or_default() {
            let wanted = Id::try_from(id).is_ok_and(|id| self.dir(&id).exists());
            if !wanted && is_old(&path) {
                cleaned.note(&path, fs::remove_file(&path));
            }
        }
    }

    /// Groups of instances whose directory is gone.
    fn sweep_groups(&self, cleaned: &mut Cleaned) {
        let prefix = self.group("");
        for path in cgroup::ours(&prefix).unwrap_or_default() {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_prefix(&prefix).map(str::to_owned));
            let wanted = name.is_some_and(|name| {
                // A rehearsal's folder is beside the instances.
                Id::try_from(name.clone()).is_ok_and(|id| self.dir(&id).exists()) || self.state.join(name).exists()
            });
            if !wanted {
                let groups = Groups::new(vec![path.clone()]);
                let outcome = groups.kill().and_then(|()| {
                    if groups.remove(PATIENCE).is_empty() { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
                });
                cleaned.note(&path, outcome);
            }
        }
    }
}

impl Cleaned {
    fn note(&mut self, path: &Path, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.removed.push(path.to_owned()),
            Err(error) => self.failed.push((path.to_owned(), error.to_string())),
        }
    }
}

fn entries(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(all) = fs::read_dir(dir) else { return Vec::new() };
    all.flatten().filter(|entry| entry.file_name().to_str().is_some_and(&wanted)).map(|entry| entry.path()).collect()
}

/// Whether nobody can still be making it.
pub(crate) fn is_old(path: &Path) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|m| m.modified());
    changed.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > IN_THE_MAKING))
}

/// An error with its causes, for a report of things that went wrong.
fn say(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
