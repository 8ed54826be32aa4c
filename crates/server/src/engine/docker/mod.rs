//! Docker Engine, and whatever speaks its API (Podman), as an [`Engine`].
//!
//! Read `wire` first: every request passes through it. Each other module is one kind of question.
//!
//! Invariants: nothing is asked of the engine before the first call; every call is bounded in time and size, body included; no
//! credential and no environment value is in an error or in `Debug`.

mod connect;
mod create;
mod endpoint;
mod events;
mod failure;
mod images;
mod inspect;
mod known;
mod lines;
mod list;
mod logs;
mod negotiate;
mod pool;
mod share;
mod slugs;
mod ssh;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use captain_domain::{InstanceId, NodeId, OperationId};
use futures_util::StreamExt;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;
use tokio::time::Instant;

pub use self::endpoint::{Endpoint, EndpointError};
use self::failure::Failure;
use self::known::Memory;
use self::share::Shares;
pub use self::slugs::Runner;
use self::slugs::Slugs;
pub use self::tls::{Tls, TlsError, TlsMaterial};
use self::wire::{Call, Wire};
use crate::engine::{
    CreateSpec, Engine, EngineError, Facts, Hints, Inspected, Logs, Preparation, Prepared, Progress, Result, Sighting,
};

/// The answer to a start, a stop, a removal: nothing, or Podman's few words.
const LIMIT: usize = 1 << 20;
/// An engine that takes longer to say OK is not well, however patient its other calls are.
const PING_LIMIT: Duration = Duration::from_secs(5);

/// How engines are spoken to: the same for every node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The deadline of an ordinary call (`DOCKER_TIMEOUT`).
    pub timeout: Duration,
    /// The deadline of a pull, and of each other call that moves the bytes of an image or a slug.
    pub pull_timeout: Duration,
    /// TLS, for the engines that want it.
    pub tls: Tls,
    /// What runs slugs on a stack; without it, there are none.
    pub runner: Option<Runner>,
    /// How slugs are read on their way to a node. Owner and digest are not for settings to say.
    pub slugs: captain_slug::Options,
    /// Who else shares the process's open files: all engines that are made with clones of these settings.
    shares: Shares,
}

impl Settings {
    /// Settings of a captain that carries no runner.
    pub fn new(timeout: Duration, pull_timeout: Duration, tls: Tls) -> Self {
        Self {
            timeout,
            pull_timeout,
            tls,
            runner: None,
            slugs: captain_slug::Options::default(),
            shares: Shares::default(),
        }
    }

    /// The same with a runner: a static program, for it runs on any stack.
    #[must_use]
    pub fn with_runner(self, program: Arc<[u8]>) -> Self {
        Self { runner: Some(Runner::new(program)), ..self }
    }
}

/// Why an engine cannot even be tried.
#[derive(Debug, Error)]
#[error("node {node} cannot be used")]
pub struct SetupError {
    /// The node.
    pub node: NodeId,
    /// What is wrong.
    pub source: TlsError,
}

/// A Docker engine on a node.
pub struct Docker {
    node: NodeId,
    endpoint: Endpoint,
    pull_timeout: Duration,
    slugs: Slugs,
    wire: Arc<Wire>,
    /// How many records of the last listing could not be read: said when it changes, not at each listing.
    skipped: AtomicUsize,
    memory: Memory,
}

impl Docker {
    /// The engine at `endpoint`. Asks it nothing yet.
    pub fn new(node: NodeId, endpoint: Endpoint, settings: &Settings) -> std::result::Result<Self, SetupError> {
        match Wire::new(&endpoint, &settings.tls, settings.timeout, settings.shares.take()) {
            Ok(wire) => Ok(Self {
                node,
                endpoint,
                pull_timeout: settings.pull_timeout,
                slugs: Slugs::new(settings.runner.clone(), settings.slugs.clone(), settings.pull_timeout),
                wire: Arc::new(wire),
                skipped: AtomicUsize::new(0),
                memory: Memory::default(),
            }),
            Err(source) => Err(SetupError { node, source }),
        }
    }

    async fn command(&self, attempted: &'static str, call: &Call, deadline: Duration) -> Result<()> {
        self.wire.ask(call, deadline, LIMIT).await.map(drop).map_err(self.failed(attempted))
    }

    fn failed(&self, attempted: &'static str) -> impl Fn(Failure) -> EngineError + Send + Sync + 'static {
        let node = self.node.clone();
        move |failure| EngineError { node: node.clone(), attempted, kind: failure.kind, message: failure.message }
    }
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Docker").field("node", &self.node).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[async_trait]
impl Engine for Docker {
    fn node(&self) -> &NodeId {
        &self.node
    }

    async fn facts(&self) -> Result<Facts> {
        negotiate::facts(&self.wire, self.wire.timeout()).await.map_err(self.failed("ask the engine who it is"))
    }

    async fn ping(&self) -> Result<()> {
        let answered = self.command("ping the engine", &Call::get("/_ping"), PING_LIMIT.min(self.wire.timeout())).await;
        self.wire.rest();
        self.memory.rest(Instant::now());
        answered
    }

    async fn list(&self) -> Result<Vec<Sighting>> {
        let listing = list::list(&self.wire, &self.memory).await.map_err(self.failed("list containers"))?;
        if self.skipped.swap(listing.skipped, Ordering::Relaxed) != listing.skipped {
            tracing::warn!(node = %self.node, skipped = listing.skipped, "containers whose records cannot be read are left out");
        }
        Ok(listing.sightings)
    }

    async fn inspect(&self, id: InstanceId) -> Result<Inspected> {
        inspect::inspect(&self.wire, &self.node, id).await.map_err(self.failed("inspect a container"))
    }

    async fn find(&self, operation: OperationId) -> Result<Vec<Sighting>> {
        let listing = list::find(&self.wire, operation).await.map_err(self.failed("list containers"))?;
        Ok(listing.sightings)
    }

    async fn prepare(&self, preparation: &Preparation, progress: Progress<'_>) -> Result<()> {
        match preparation {
            Preparation::RunnerImage { image } => images::ensure(&self.wire, image, self.pull_timeout, progress)
                .await
                .map_err(self.failed("prepare the runner image")),
            Preparation::Slug(slug) => {
                self.slugs.prepare(&self.wire, slug, progress).await.map_err(self.failed("prepare the slug"))
            }
        }
    }

    async fn prepared(&self) -> Result<Vec<Prepared>> {
        slugs::prepared(&self.wire).await.map_err(self.failed("list the prepared slugs"))
    }

    async fn discard(&self, reference: &str) -> Result<()> {
        slugs::discard(&self.wire, reference).await.map_err(self.failed("discard a slug"))
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InstanceId> {
        let created = async {
            let image = match &spec.preparation {
                Preparation::RunnerImage { image } => image.clone(),
                Preparation::Slug(slug) => self.slugs.image(slug)?,
            };
            create::create(&self.wire, spec, &image).await
        };
        created.await.map_err(self.failed("create a container"))
    }

    async fn start(&self, id: InstanceId) -> Result<()> {
        let call = Call::post(format!("/containers/{id}/start"));
        self.command("start a container", &call, self.wire.timeout()).await
    }

    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<()> {
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let call = Call::post(format!("/containers/{id}/stop?t={seconds}"));
        self.command("stop a container", &call, Duration::from_secs(seconds) + self.wire.timeout()).await
    }

    async fn remove(&self, id: InstanceId, force: bool) -> Result<()> {
        // With the anonymous volumes that its image asked for: nobody else will ever use them.
        let call = Call::new(Method::DELETE, format!("/containers/{id}?force={force}&v=true"));
        self.command("remove a container", &call, self.wire.timeout()).await
    }

    async fn logs(&self, id: InstanceId, follow: bool) -> Result<Logs> {
        let failed = self.failed("read the output of a container");
        let chunks = logs::logs(Arc::clone(&self.wire), id, follow).await.map_err(&failed)?;
        Ok(chunks.map(move |chunk| chunk.map_err(&failed)).boxed())
    }

    async fn events(&self) -> Result<Hints> {
        let failed = self.failed("listen to the engine's events");
        let hints = events::events(&self.wire).await.map_err(&failed)?;
        Ok(hints.map(move |hint| hint.map_err(&failed)).boxed())
    }
}

/// All but what never needs encoding: right for the value of a query.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Image names have slashes, which are the path's own.
const PATH: &AsciiSet = &VALUE.remove(b'/').remove(b':').remove(b'@');

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, VALUE).to_string()
}

fn encoded_path(value: &str) -> String {
    utf8_percent_encode(value, PATH).to_string()
}
