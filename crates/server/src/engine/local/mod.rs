//! The embedded engine: this machine without Docker, on `captain_jail`.
//!
//! Invariants:
//! - The state directory is the truth. Several captains on one machine share it and see the same instances; nothing here has to
//!   survive but what is in it.
//! - Nothing blocks the runtime: file and kernel work is done on threads of its own ([`Local::blocking`]), at most
//!   [`BLOCKING_AT_ONCE`] of them, with a deadline.
//! - `PORT` is a port of the host that is reserved for the instance until it is removed.

mod events;
mod failure;
mod house;
mod logs;
mod ports;
mod render;
mod roster;
mod slugs;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use captain_domain::{InstanceId, NodeId};
pub use captain_jail::Helper;
use captain_jail::{Mode, SetupError, Step};
use futures_util::StreamExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use self::failure::Failure;
use self::house::House;
pub use self::ports::PORTS;
use crate::engine::reading::Reading;
use crate::engine::{
    CreateSpec, Engine, EngineError, ErrorKind, Facts, Hint, Hints, Inspected, Logs, Preparation, Prepared, Progress,
    Result, Sighting,
};

/// Calls at once. Starts are what is long, and [`crate::captain::CHANGES_PER_NODE`] of them leave half of these to others.
const BLOCKING_AT_ONCE: usize = 64;
/// The deadline of an ordinary call: the default of `DOCKER_TIMEOUT`. A start has ten seconds for itself within it.
const CALL: Duration = Duration::from_secs(20);
/// A sweep may have to kill and to delete before the first answer.
const BEGINNING: Duration = Duration::from_secs(120);
/// Unpacking the largest slug that is taken, on a slow disk, and syncing it.
const UNPACKING: Duration = Duration::from_secs(900);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// How long after a start a monitor is put in waiting for the next: the program that has just begun goes first.
const LULL: Duration = Duration::from_millis(20);
/// How long a killed instance may take to be over.
const DEATH: Duration = Duration::from_secs(5);

/// What an embedded engine needs to know.
#[derive(Debug, Clone)]
pub struct LocalSettings {
    /// Its state directory, shared by all captains on this machine that are to see each other's instances.
    pub state: PathBuf,
    /// The runner: a static program, which every instance begins with.
    pub runner: Arc<[u8]>,
    /// How the role of an instance's monitor is entered: this captain's own program, and hidden arguments.
    pub monitor: Helper,
    /// The ports of the host that instances get.
    pub ports: Range<u16>,
    /// How slugs are read. The digest is not for settings to say.
    pub slugs: captain_slug::Options,
}

/// An embedded engine. A cheap clone.
#[derive(Debug, Clone)]
pub struct Local(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeId,
    house: Arc<House>,
    /// Found out once: what the machine allows does not change.
    facts: OnceCell<Facts>,
    turns: Arc<Semaphore>,
    /// Whether somebody is about to put a monitor in waiting.
    standing_by: AtomicBool,
}

impl Local {
    /// An engine on this state directory. Makes the directory if need be; blocks for a moment.
    ///
    /// Where the server is an ordinary user's service, moves this process into a leaf of its control group: call it early.
    pub fn new(node: NodeId, settings: &LocalSettings) -> Result<Self> {
        match House::open(settings) {
            Ok(house) => Ok(Self(Arc::new(Inner {
                node,
                house: Arc::new(house),
                facts: OnceCell::new(),
                turns: Arc::new(Semaphore::new(BLOCKING_AT_ONCE)),
                standing_by: AtomicBool::new(false),
            }))),
            Err(failure) => Err(EngineError {
                node,
                attempted: "open the embedded engine",
                kind: failure.kind,
                message: failure.message,
            }),
        }
    }

    fn failed(&self, attempted: &'static str) -> impl FnOnce(Failure) -> EngineError {
        let node = self.0.node.clone();
        move |Failure { kind, message }| EngineError { node, attempted, kind, message }
    }

    /// Does blocking work on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnOnce(&House) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        self.blocking_for(CALL, attempted, work).await
    }

    /// The same with a deadline of its own. After it the work goes on, unseen: what came of it is unknown.
    async fn blocking_for<T: Send + 'static>(
        &self,
        patience: Duration,
        attempted: &'static str,
        work: impl FnOnce(&House) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let (house, turns) = (Arc::clone(&self.0.house), Arc::clone(&self.0.turns));
        let working = async move {
            let turn = turns.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                work(&house)
            })
            .await
        };
        let outcome = match timeout(patience, working).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Failure::new(ErrorKind::Failed, "the work ended without an answer")),
            Err(_) => Err(Failure::new(ErrorKind::TimedOut, format!("it took more than {} s", patience.as_secs()))),
        };
        outcome.map_err(self.failed(attempted))
    }

    async fn find_out(&self) -> Result<Facts> {
        let look = |house: &House| {
            house.sweep();
            let report = house.probe()?;
            if let Some(error) = report.unusable {
                return Err(unusable(&error, report.mode));
            }
            Ok(report.limitations.iter().map(ToString::to_string).collect())
        };
        let warnings = self.blocking_for(BEGINNING, "rehearse a start", look).await?;
        self.stand_by();
        let memory = tokio::fs::read_to_string("/proc/meminfo").await.unwrap_or_default();
        Ok(Facts {
            kind: "local",
            version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_bytes: total_memory(&memory),
            cpus: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
            warnings,
        })
    }

    /// Has a monitor in waiting for the next start, in a moment.
    fn stand_by(&self) {
        if self.0.standing_by.swap(true, Ordering::Relaxed) {
            return;
        }
        let engine = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(LULL).await;
            let Some(engine) = engine.upgrade().map(Self) else { return };
            engine.0.standing_by.store(false, Ordering::Relaxed);
            // It has said so if it did not succeed.
            let _ = engine
                .blocking("put a monitor in waiting", |house| {
                    house.stand_by();
                    Ok(())
                })
                .await;
        });
    }

    /// Waits for the end of an instance that was asked to end, and kills it when the grace is over.
    async fn see_end(&self, id: InstanceId, over: OwnedFd, until: Instant) -> Result<()> {
        const ATTEMPT: &str = "stop an instance";
        let over = awaitable(over).map_err(|error| self.failed(ATTEMPT)(Failure::io("watch the instance", &error)))?;
        if timeout_at(until, over.readable()).await.is_err() {
            self.blocking(ATTEMPT, move |house| house.kill(id)).await?;
            // What is not over then is found by the look that follows.
            let _ = timeout(DEATH, over.readable()).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for Local {
    fn node(&self) -> &NodeId {
        &self.0.node
    }

    async fn facts(&self) -> Result<Facts> {
        self.0.facts.get_or_try_init(|| self.find_out()).await.cloned()
    }

    async fn ping(&self) -> Result<()> {
        self.blocking_for(DEATH, "ping the embedded engine", House::ping).await
    }

    async fn list(&self) -> Result<Vec<Sighting>> {
        self.blocking("list the instances", House::list).await
    }

    async fn inspect(&self, id: InstanceId) -> Result<Inspected> {
        let node = self.0.node.clone();
        self.blocking("inspect an instance", move |house| house.inspect(&node, id)).await
    }

    async fn prepare(&self, preparation: &Preparation, progress: Progress<'_>) -> Result<()> {
        const ATTEMPT: &str = "prepare a slug";
        let slug = match preparation {
            Preparation::Slug(slug) => slug,
            Preparation::RunnerImage { image } => return Err(self.failed(ATTEMPT)(house::no_images(image))),
        };
        let opened = Reading::of(&slug.file).await;
        let opened = opened.map_err(|error| Failure::io(&format!("open the slug {:?}", slug.file), &error));
        let (file, digest) = (opened.map_err(self.failed(ATTEMPT))?, slug.digest);
        let progress = file.teller("unpacking", digest, progress);
        let unpacking = self.blocking_for(UNPACKING, ATTEMPT, move |house| house.unpack(digest, file));
        tokio::pin!(unpacking);
        let mut tell = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                outcome = &mut unpacking => return outcome,
                _ = tell.tick() => progress(),
            }
        }
    }

    async fn prepared(&self) -> Result<Vec<Prepared>> {
        self.blocking("list the prepared slugs", House::prepared).await
    }

    async fn discard(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.blocking("discard a slug", move |house| house.discard(&reference)).await
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InstanceId> {
        let spec = spec.clone();
        self.blocking("create an instance", move |house| house.create(&spec)).await
    }

    async fn start(&self, id: InstanceId) -> Result<()> {
        let started = self.blocking("start an instance", move |house| house.start(id)).await;
        self.stand_by();
        started
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<()> {
        let until = Instant::now() + grace;
        let over = self.blocking("stop an instance", move |house| house.terminate(id)).await?;
        if let Some(over) = over {
            self.see_end(id, over, until).await?;
        }
        match self.blocking("stop an instance", move |house| house.must_be_over(id)).await {
            // Removed by somebody else as soon as it was over.
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    async fn remove(&self, id: InstanceId, force: bool) -> Result<()> {
        self.blocking("remove an instance", move |house| house.remove(id, force)).await
    }

    async fn logs(&self, id: InstanceId, follow: bool) -> Result<Logs> {
        logs::logs(self, id, follow).await
    }

    async fn events(&self) -> Result<Hints> {
        const ATTEMPT: &str = "follow the events";
        let broken = |error: &io::Error| Failure::new(ErrorKind::Interrupted, error.to_string());
        let watch = self
            .blocking(ATTEMPT, move |house| events::Watch::begin(house.instances()).map_err(|error| broken(&error)))
            .await?;
        let ids = watch.into_stream().map_err(|error| self.failed(ATTEMPT)(broken(&error)))?;
        let engine = self.clone();
        Ok(ids
            .map(move |id| {
                id.map(|id| Hint { id, begins: false }).map_err(|error| engine.failed(ATTEMPT)(broken(&error)))
            })
            .boxed())
    }
}

/// Lets a descriptor be awaited.
#[expect(deprecated, reason = "the successor is unsafe for types that do not own their descriptor; this one does")]
fn awaitable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}

/// Why no instance can be started here at all, and what would help.
fn unusable(error: &SetupError, mode: Mode) -> Failure {
    let mut message = format!("this machine lets no instance be started: {error}");
    if mode == Mode::User && matches!(error.step, Step::Clone | Step::UserMap) {
        message.push_str(
            "; an ordinary user needs user namespaces: run captain as root, or allow them (user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
        );
    }
    Failure::new(ErrorKind::Unsupported, message)
}

/// `MemTotal`, in bytes; 0 where it cannot be read.
fn total_memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(total_memory("MemTotal:        8127412 kB\nMemFree: 1 kB\n"), 8_127_412 * 1024);
        assert_eq!(total_memory(""), 0);
    }
}
