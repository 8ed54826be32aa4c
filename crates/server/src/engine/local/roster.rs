//! Which instances there are and what was last seen of each, so that a listing looks only at those that have changed. One is asked for at
//! every start; with hundreds of instances, reading the folder and the files of each would take longer than the start.
//!
//! A listing must hold everything that had happened when it was asked for. The kernel puts a change into the queue of an inotify before
//! the call that makes it returns: so the queue is emptied first, and what it names is looked at. Where there is no inotify to be
//! had, everything is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use captain_domain::InstanceId;

use super::events::Watch;
use super::failure::Failure;
use crate::engine::Sighting;

/// What changed less than this before it was looked at is looked at again: an event can come a moment before what it tells of (a lock
/// that is closed is let go of a moment later).
const SETTLED: Duration = Duration::from_secs(1);

/// The memory of listings.
#[derive(Debug, Default)]
pub(super) struct Roster {
    watch: Option<Watch>,
    /// What there is, with what was seen of it where that still counts.
    there: BTreeMap<InstanceId, Option<Sighting>>,
    changed: HashMap<InstanceId, Instant>,
}

impl Roster {
    /// Takes in what is there now, and forgets what may have changed.
    pub(super) fn catch_up(&mut self, instances: &Path) -> io::Result<()> {
        match self.watch.as_mut().map(Watch::changed) {
            Some(Ok(changed)) => {
                let now = Instant::now();
                for id in changed {
                    self.changed.insert(id, now);
                    if instances.join(id.to_string()).exists() {
                        self.there.insert(id, None);
                    } else {
                        self.there.remove(&id);
                    }
                }
                self.changed.retain(|_, at| now.duration_since(*at) < SETTLED);
            }
            // Not begun yet, or broken: from here on, and nothing seen before counts.
            None | Some(Err(_)) => {
                self.there.clear();
                self.changed.clear();
                self.watch = None;
                let watch = Watch::begin(instances).ok();
                // After the watch has begun: what comes in between is in both. Where this fails, there is nothing that a watch could go on from.
                let names = std::fs::read_dir(instances)?.flatten().map(|entry| entry.file_name());
                self.there = names.filter_map(|name| Some((name.to_str()?.parse().ok()?, None))).collect();
                self.watch = watch;
            }
        }
        Ok(())
    }

    /// How many instances there are.
    pub(super) fn count(&self) -> usize {
        self.there.len()
    }

    pub(super) fn has(&self, id: InstanceId) -> bool {
        self.there.contains_key(&id)
    }

    /// Each as it is: by memory, or by `look`, which answers nothing for one that is gone.
    pub(super) fn sightings(
        &mut self,
        look: impl Fn(InstanceId) -> Result<Option<Sighting>, Failure>,
    ) -> Result<Vec<Sighting>, Failure> {
        let mut all = Vec::with_capacity(self.there.len());
        for (id, seen) in &mut self.there {
            if let Some(seen) = seen {
                all.push(seen.clone());
                continue;
            }
            let Some(sighting) = look(*id)? else { continue };
            if self.watch.is_some() && !self.changed.contains_key(id) {
                *seen = Some(sighting.clone());
            }
            all.push(sighting);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use captain_domain::State;

    use super::*;
    use crate::engine::Owner;

    #[test]
    fn only_what_has_changed_is_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let ids = [1, 2, 3].map(|byte| InstanceId::from_bytes([byte; 32]));
        let folder = |id: InstanceId| dir.path().join(id.to_string());
        for id in ids {
            fs::create_dir(folder(id)).unwrap();
        }
        let (looks, mut roster) = (Cell::new(0), Roster::default());
        let mut list = || {
            roster.catch_up(dir.path()).unwrap();
            looks.set(0);
            let look = |id| {
                looks.set(looks.get() + 1);
                Ok(Some(Sighting { id, state: State::Running, owner: Owner::Foreign, port: None }))
            };
            (roster.sightings(look).unwrap().len(), looks.get())
        };
        assert_eq!(list(), (3, 3));
        assert_eq!(list(), (3, 0));
        fs::write(folder(ids[1]).join("state.new"), "").unwrap();
        fs::rename(folder(ids[1]).join("state.new"), folder(ids[1]).join("state.json")).unwrap();
        assert_eq!(list(), (3, 1));
        assert_eq!(list(), (3, 1), "it changed only just");
        fs::rename(folder(ids[0]), dir.path().join(".old")).unwrap();
        assert_eq!(list(), (2, 1));
        fs::rename(dir.path().join(".old"), folder(ids[0])).unwrap();
        assert_eq!(list(), (3, 2), "one that was not there is not remembered");
    }
}
