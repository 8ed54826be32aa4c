//! The blocking half: a state directory, and everything that is done with it. Any number of captains may do it at once.
//!
//! ```text
//! <state>/instances/  uids/  bases/  mounts/      the jail's (captain_jail)
//!         ports/<port>           who holds it
//!         slugs/<digest>/        unpacked slugs; slugs.lock
//!         runner/<sha256>        the static runner that instances begin with
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use captain_domain::label::LabelError;
use captain_domain::{InstanceId, NodeId, State};
use captain_jail::log::{Cursor, Reader};
use captain_jail::{Id, Jail, LaunchError, Phase, Record, Report};
use captain_slug::Digest;
use rand::RngCore;
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use super::LocalSettings;
use super::failure::Failure;
use super::ports::{Ports, is_older};
use super::render;
use super::roster::Roster;
use super::slugs::Slugs;
use crate::chain;
use crate::engine::reading::Reading;
use crate::engine::{CreateSpec, ErrorKind, Inspected, Owner, Preparation, Prepared, Sighting};

/// A start takes milliseconds. This long it takes only where the machine is past working.
const LAUNCH: Duration = Duration::from_secs(10);
/// How long a killed instance may take to be over: its monitor has a log to write to the end.
const DEATH: Duration = Duration::from_secs(5);
/// Half-made things younger than this may be in the making, by another captain on the same directory.
const YOUNG: Duration = Duration::from_secs(60);
/// How often what another process is just doing is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A runner says within a millisecond or two what it does with signals; on a busy machine it may wait for a processor first.
const LISTENING: Duration = Duration::from_secs(1);

/// SIGTERM and SIGKILL, as every Linux has them.
const TERM: i32 = 15;

/// A state directory in use.
#[derive(Debug)]
pub(super) struct House {
    jail: Jail,
    instances: PathBuf,
    runner: PathBuf,
    ports: Ports,
    slugs: Slugs,
    /// What instances were made of. It never changes, and a listing is asked for at every start.
    records: Mutex<HashMap<InstanceId, Arc<Record>>>,
    roster: Mutex<Roster>,
}

impl House {
    pub(super) fn open(settings: &LocalSettings) -> Result<Self, Failure> {
        let state = &settings.state;
        let jail = Jail::open(state, settings.monitor.clone())
            .map_err(|error| Failure::new(ErrorKind::Unreachable, chain(&error)))?;
        let failed = |error: io::Error| Failure::io(&format!("use {state:?}"), &error);
        let state = state.canonicalize().map_err(failed)?;
        Ok(Self {
            jail,
            instances: state.join("instances"),
            runner: put_runner(&state.join("runner"), &settings.runner).map_err(failed)?,
            ports: Ports::open(state.join("ports"), settings.ports.clone()).map_err(failed)?,
            slugs: Slugs::open(&state, settings.slugs.clone()).map_err(failed)?,
            records: Mutex::default(),
            roster: Mutex::default(),
        })
    }

    pub(super) fn instances(&self) -> &Path {
        &self.instances
    }

    /// What this machine allows.
    pub(super) fn probe(&self) -> Result<Report, Failure> {
        self.jail.probe().map_err(|error| Failure::new(ErrorKind::Unsupported, chain(&error)))
    }

    /// Whether the directory answers.
    pub(super) fn ping(&self) -> Result<(), Failure> {
        fs::read_dir(&self.instances)
            .map(drop)
            .map_err(|error| Failure::io(&format!("read {:?}", self.instances), &error))
    }

    fn ids(&self) -> Result<Vec<InstanceId>, Failure> {
        let ids = self.jail.list().map_err(|error| Failure::io(&format!("list {:?}", self.instances), &error))?;
        Ok(ids.iter().filter_map(|id| id.as_str().parse().ok()).collect())
    }

    pub(super) fn list(&self) -> Result<Vec<Sighting>, Failure> {
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let caught_up = roster.catch_up(&self.instances);
        caught_up.map_err(|error| Failure::io(&format!("list {:?}", self.instances), &error))?;
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() > roster.count() {
            records.retain(|id, _| roster.has(*id));
        }
        drop(records);
        roster.sightings(|id| self.sight(id))
    }

    fn sight(&self, id: InstanceId) -> Result<Option<Sighting>, Failure> {
        let seen = self.look(id);
        Ok(Some(match seen {
            Ok((record, phase)) => {
                let port = render::running_port(&record, &phase);
                Sighting { id, state: render::state(&phase), owner: render::owner(&record), port }
            }
            // Removed since it was listed.
            Err(failure) if failure.kind == ErrorKind::NotFound => return Ok(None),
            Err(failure) => {
                let owner = Owner::Unreadable(LabelError { name: "spec.json", value: failure.message });
                Sighting { id, state: State::Dead, owner, port: None }
            }
        }))
    }

    pub(super) fn inspect(&self, node: &NodeId, id: InstanceId) -> Result<Inspected, Failure> {
        let (record, phase) = match self.look(id) {
            Err(failure) if failure.kind != ErrorKind::NotFound => return Ok(Inspected::Unreadable(failure.message)),
            looked => looked?,
        };
        Ok(match render::labels(&record) {
            None => Inspected::Foreign,
            Some(Err(error)) => Inspected::Unreadable(error.to_string()),
            Some(Ok(labels)) => Inspected::Instance(Box::new(render::instance(node, id, &record, &phase, labels))),
        })
    }

    /// An instance as it is. One whose monitor was killed is made sure of first: it is over then, and the record says so.
    fn look(&self, id: InstanceId) -> Result<(Arc<Record>, Phase), Failure> {
        let name = name(id)?;
        let record = self.record(id, &name)?;
        let mut phase = self.jail.phase(&name)?;
        if phase == Phase::Lost {
            match self.jail.recover(&name) {
                Ok(_) => phase = self.jail.phase(&name)?,
                Err(error) => warn!(
                    instance = id.short(),
                    error = chain(&error),
                    "what is left of an instance whose monitor was killed cannot be ended"
                ),
            }
        }
        // An absent folder looks like one in which nothing was launched.
        if phase == Phase::Created && !self.jail.dir(&name).exists() {
            return Err(Failure::not_found(id));
        }
        Ok((record, phase))
    }

    fn record(&self, id: InstanceId, name: &Id) -> Result<Arc<Record>, Failure> {
        if let Some(record) = self.records.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(record));
        }
        let observed = self.jail.inspect(name)?.ok_or_else(|| Failure::not_found(id))?;
        let record = Arc::new(observed.record);
        self.records.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&record));
        Ok(record)
    }

    fn phase(&self, id: InstanceId) -> Result<Phase, Failure> {
        self.look(id).map(|(_, phase)| phase)
    }

    pub(super) fn create(&self, order: &CreateSpec) -> Result<InstanceId, Failure> {
        let slug = match &order.preparation {
            Preparation::Slug(slug) => slug,
            Preparation::RunnerImage { image } => return Err(no_images(image)),
        };
        // Held until the instance can be seen: from then on whoever wants to remove the slug sees it too.
        let _kept = self.slugs.keep().map_err(|error| Failure::io("lock the slugs", &error))?;
        let unpacked = self.slugs.path(slug.digest);
        if !unpacked.is_dir() {
            return Err(Failure::new(
                ErrorKind::ImageMissing,
                format!("the slug {} is not unpacked here", slug.digest),
            ));
        }
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let id = InstanceId::from_bytes(bytes);
        let port = self.ports.reserve(id).map_err(|error| Failure::io("reserve a port", &error))?;
        let spec = render::spec_of(id, order, unpacked, self.runner.clone(), port);
        match self.jail.create(&name(id)?, spec) {
            Ok(_) => Ok(id),
            Err(error) => {
                self.release(port, id);
                Err(error.into())
            }
        }
    }

    /// If it cannot be given back now, a sweep does it.
    fn release(&self, port: u16, id: InstanceId) {
        if let Err(error) = self.ports.release(port, id) {
            warn!(port, instance = id.short(), %error, "a port cannot be given back");
        }
    }

    pub(super) fn start(&self, id: InstanceId) -> Result<(), Failure> {
        match self.phase(id)? {
            Phase::Created => self.launch(id),
            Phase::Running(_) => Ok(()),
            Phase::Starting => self.settled(id).and_then(|phase| begun(id, &phase)),
            over @ (Phase::Exited(_) | Phase::Lost) => begun(id, &over),
        }
    }

    fn launch(&self, id: InstanceId) -> Result<(), Failure> {
        let error = match self.jail.launch(&name(id)?, LAUNCH) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match (&error, self.settled(id)?) {
            // Another captain launched it at the same moment.
            (LaunchError::Refused { .. }, Phase::Running(_)) => Ok(()),
            _ => Err(error.into()),
        }
    }

    /// Makes the next start quicker: see [`Jail::stand_by`]. Without it a start is only slower.
    pub(super) fn stand_by(&self) {
        if let Err(error) = self.jail.stand_by() {
            warn!(%error, "no monitor can be kept in waiting");
        }
    }

    /// Its phase when nobody is starting it any more. One that hangs there is ended.
    fn settled(&self, id: InstanceId) -> Result<Phase, Failure> {
        let deadline = Instant::now() + LAUNCH;
        loop {
            match self.phase(id)? {
                Phase::Starting if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
                Phase::Starting => {
                    self.jail.abandon(&name(id)?);
                    return self.phase(id);
                }
                settled => return Ok(settled),
            }
        }
    }

    /// Asks an instance to end. What is given back becomes readable when it is over; nothing where it is already.
    pub(super) fn terminate(&self, id: InstanceId) -> Result<Option<OwnedFd>, Failure> {
        if !matches!(self.settled(id)?, Phase::Running(_)) {
            return Ok(None);
        }
        let name = name(id)?;
        let over = self.jail.watch(&name)?;
        // A runner that has only just begun would not hear it, and be waited for to the end of the grace.
        let deadline = Instant::now() + LISTENING;
        while !self.jail.hears(&name, TERM.cast_unsigned())? && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
        self.jail.signal(&name, TERM)?;
        Ok(over)
    }

    pub(super) fn kill(&self, id: InstanceId) -> Result<(), Failure> {
        self.jail.kill(&name(id)?).map(drop).map_err(Failure::from)
    }

    /// Makes sure that an instance is over.
    pub(super) fn must_be_over(&self, id: InstanceId) -> Result<(), Failure> {
        match self.phase(id)? {
            Phase::Running(_) | Phase::Starting => {
                Err(Failure::new(ErrorKind::TimedOut, format!("{} goes on although it was killed", id.short())))
            }
            Phase::Created | Phase::Exited(_) | Phase::Lost => Ok(()),
        }
    }

    pub(super) fn remove(&self, id: InstanceId, force: bool) -> Result<(), Failure> {
        let name = name(id)?;
        let port = self.record(id, &name).ok().and_then(|record| render::port(&record));
        if force && matches!(self.settled(id), Ok(Phase::Running(_))) {
            self.jail.kill(&name)?;
            self.jail.wait(&name, DEATH)?;
        }
        if !self.jail.clean(&name)? {
            return Err(Failure::not_found(id));
        }
        if let Some(port) = port {
            self.release(port, id);
        }
        Ok(())
    }

    pub(super) fn unpack(&self, digest: Digest, slug: Reading) -> Result<(), Failure> {
        self.slugs.unpack(digest, slug)
    }

    pub(super) fn prepared(&self) -> Result<Vec<Prepared>, Failure> {
        self.slugs.all(&self.slugs_in_use()?)
    }

    pub(super) fn discard(&self, reference: &str) -> Result<(), Failure> {
        self.slugs.discard(reference, || self.slugs_in_use())
    }

    fn slugs_in_use(&self) -> Result<BTreeSet<PathBuf>, Failure> {
        let mut used = BTreeSet::new();
        for id in self.ids()? {
            match self.record(id, &name(id)?) {
                Ok(record) => used.insert(record.spec.slug.clone()),
                Err(failure) if failure.kind == ErrorKind::NotFound => false,
                // Then nobody knows which slug it is made of.
                Err(failure) => return Err(failure),
            };
        }
        Ok(used)
    }

    /// Its output from the beginning.
    pub(super) fn log(&self, id: InstanceId) -> Result<Reader, Failure> {
        self.look(id)?;
        Ok(self.jail.log(&name(id)?, Cursor::default()))
    }

    /// Whether nothing more will come from it.
    pub(super) fn is_over(&self, id: InstanceId) -> Result<bool, Failure> {
        match self.phase(id) {
            Ok(phase) => Ok(matches!(phase, Phase::Exited(_) | Phase::Lost)),
            Err(failure) if failure.kind == ErrorKind::NotFound => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// Deals with what crashes have left here: of this directory alone.
    pub(super) fn sweep(&self) {
        let cleaned = self.jail.sweep();
        for id in &cleaned.lost {
            warn!(instance = %id, "its monitor was killed, and it died with it");
        }
        for path in &cleaned.removed {
            info!(?path, "left by a crash: removed");
        }
        for (path, error) in &cleaned.failed {
            warn!(?path, error, "left by a crash, and cannot be dealt with");
        }
        let is_there = |id: InstanceId| self.instances.join(id.to_string()).exists();
        let swept = self
            .ports
            .sweep(YOUNG, is_there)
            .and_then(|ports| self.slugs.sweep().map(|slugs| ports.len() + slugs))
            .and_then(|count| self.sweep_runners().map(|runners| count + runners));
        match swept {
            Ok(0) => {}
            Ok(count) => info!(count, "ports, slugs and runners that nobody uses: removed"),
            Err(error) => warn!(%error, "what crashes have left cannot be swept"),
        }
    }

    /// Runners of other versions that no instance was created with.
    fn sweep_runners(&self) -> io::Result<usize> {
        let Some(dir) = self.runner.parent() else { return Ok(0) };
        let records = self.records_of_all();
        let mut swept = 0;
        for path in fs::read_dir(dir)?.flatten().map(|entry| entry.path()) {
            let used = path == self.runner || records.iter().any(|record| record.spec.runner.as_ref() == Some(&path));
            if !used && is_older(&path, YOUNG) {
                fs::remove_file(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn records_of_all(&self) -> Vec<Arc<Record>> {
        let ids = self.ids().unwrap_or_default();
        ids.into_iter().filter_map(|id| self.record(id, &name(id).ok()?).ok()).collect()
    }
}

pub(super) fn no_images(image: &str) -> Failure {
    Failure::new(
        ErrorKind::Unsupported,
        format!("the embedded engine runs no images ({image}), it runs slugs by itself: unset SLUG_RUNNER_IMAGE"),
    )
}

/// What has begun has been started, even where it has ended since.
fn begun(id: InstanceId, phase: &Phase) -> Result<(), Failure> {
    match phase {
        Phase::Running(_) => Ok(()),
        _ => Err(Failure::new(ErrorKind::Conflict, format!("{} has ended, and an instance starts once", id.short()))),
    }
}

fn name(id: InstanceId) -> Result<Id, Failure> {
    Id::try_from(id.to_string()).map_err(|error| Failure::new(ErrorKind::Invalid, error.to_string()))
}

/// Puts the runner where instances find it, under the name of its content: captains of several versions share the folder.
fn put_runner(dir: &Path, program: &[u8]) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let path = dir.join(format!("{:.12}", Digest(Sha256::digest(program).into())));
    if fs::read(&path).is_ok_and(|there| there == program) {
        return Ok(path);
    }
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&unfinished)?;
    file.write_all(program)?;
    drop(file);
    fs::rename(&unfinished, &path)?;
    Ok(path)
}
