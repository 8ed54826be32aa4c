//! Engines: what runs containers on a node. One trait, no more than is needed, and one error.
//!
//! What every implementation keeps (the suite in `crates/conformance` asks each):
//! - Every call ends within its engine's deadline; [`Engine::stop`] within the grace and the deadline; [`Engine::prepare`] within its
//!   own. Streams ([`Engine::events`], [`Engine::logs`]) have a deadline for their beginning only.
//! - A container whose creation has returned is in every later listing of anybody. Captain's exclusion rests on it
//!   (`captain_domain::claim`).
//! - A failed call says whether its outcome is known ([`EngineError::is_unknown`]). Unknown is not failed: look before retrying.
//! - Environment values are in no error and in no log.

pub mod docker;
pub mod local;
mod reading;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use captain_domain::label::{LabelError, Labels};
use captain_domain::{Environment, Hostname, Instance, InstanceId, NodeId, OperationId, State, Timestamp};
use captain_slug::Digest;
use futures_util::stream::BoxStream;
use thiserror::Error;

/// What an engine call gives.
pub type Result<T> = std::result::Result<T, EngineError>;

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `docker`, `podman` or `local`.
    pub kind: &'static str,
    /// Its version.
    pub version: String,
    /// The memory of its machine, in bytes; 0 where it does not say.
    pub memory_bytes: u64,
    /// The processors of its machine.
    pub cpus: u32,
    /// What it does not enforce, as sentences: `no memory limit support`.
    pub warnings: Vec<String>,
}

/// What a listing says of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The container.
    pub id: InstanceId,
    /// What it does.
    pub state: State,
    /// Whose it is.
    pub owner: Owner,
    /// The port of the node that leads to it, while it runs. Somebody may have restarted it, or its engine, and nobody was told: by
    /// its state alone that cannot be seen.
    pub port: Option<u16>,
}

/// Whose a container is, as far as a listing can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Captain's, by its labels.
    Captain(Labels),
    /// Captain's by the label that says so, but the rest cannot be read: reported, and not touched.
    Unreadable(LabelError),
    /// Has no labels of Captain's, but the shape of what the original Captain made (one port, 8080/tcp): only an inspection can tell.
    Perhaps,
    /// Somebody else's: never touched, never counted.
    Foreign,
}

/// What an inspection says of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspected {
    /// An instance of Captain's, made by it or by the original.
    Instance(Box<Instance>),
    /// Somebody else's.
    Foreign,
    /// Captain's, but it cannot be read: why.
    Unreadable(String),
}

/// What must be on a node before an instance can be created there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preparation {
    /// A runner image, which fetches and runs the slug itself: a reference with its tag, e.g. `flynn/slugrunner:0.0.0`.
    RunnerImage {
        /// The reference.
        image: String,
    },
    /// A slug on a stack, run by Captain's own runner.
    Slug(SlugOnStack),
}

/// A slug, verified and on this captain's disk, and what it is to stand on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlugOnStack {
    /// The sha256 of the slug's bytes.
    pub digest: Digest,
    /// Where its bytes are on this captain's disk. They are those of the digest: whoever put them there has checked.
    pub file: Arc<Path>,
    /// The image under it, e.g. `debian:stable-slim`; `scratch` for none. The embedded engine has the machine itself for a stack.
    pub stack: Arc<str>,
}

/// A slug that is prepared on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The slug.
    pub digest: Digest,
    /// What [`Engine::discard`] is told.
    pub reference: String,
    /// What it takes on the node's disk, in bytes; the stack under it not included.
    pub bytes: u64,
    /// When it was prepared, by the engine's clock.
    pub created: Timestamp,
    /// Whether a container, running or not, is made of it.
    pub in_use: bool,
}

/// Called with a sentence now and then while something long is under way: `pulling flynn/slugrunner:0.0.0: 12 MB of 80 MB`.
pub type Progress<'a> = &'a (dyn Fn(String) + Send + Sync);

/// A container to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSpec {
    /// Its name on the engine: `<app>_<operation>`. For people; an engine that keeps names may refuse one that is taken, and one
    /// that keeps none (the embedded one) does not.
    pub name: String,
    /// What it runs in: already prepared on the node.
    pub preparation: Preparation,
    /// What the runner is told: the command of a runner image (`start web`), or the process type (`web`) of a slug.
    pub command: Vec<String>,
    /// What is written on it.
    pub labels: Labels,
    /// The whole environment, Captain's own variables included.
    pub environment: Environment,
    /// Its host name; by default the first 12 digits of its id.
    pub hostname: Option<Hostname>,
    /// The most memory that it may take, swap included, in bytes.
    pub memory_bytes: u64,
    /// Its share of the processors, on the scale where 1024 is an ordinary container's default.
    pub cpu_shares: u32,
}

/// Which of its outputs an instance wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of an instance's output, cut anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where it was written.
    pub output: Output,
    /// What was written.
    pub bytes: Bytes,
}

/// Something may have happened to this container. A hint, not a fact: events get lost, doubled and reordered, so whoever hears
/// one looks for himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// The container.
    pub id: InstanceId,
    /// Whether it says that the container was created or started, as the start of an instance causes it. Not, where that is not known.
    pub begins: bool,
}

/// Output of an instance.
pub type Logs = BoxStream<'static, Result<LogChunk>>;
/// Events of an engine.
pub type Hints = BoxStream<'static, Result<Hint>>;

/// An engine on a node.
#[async_trait]
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// The node that the engine is on.
    fn node(&self) -> &NodeId;

    /// Asks the engine who it is.
    async fn facts(&self) -> Result<Facts>;

    /// Whether the engine answers. Short: its deadline is at most five seconds.
    async fn ping(&self) -> Result<()> {
        self.facts().await.map(drop)
    }

    /// Every container that is, running or not.
    async fn list(&self) -> Result<Vec<Sighting>>;

    /// One container. `NotFound` where there is none: only then are its slots free.
    async fn inspect(&self, id: InstanceId) -> Result<Inspected>;

    /// The containers that this operation made (at most one, unless something is very wrong).
    async fn find(&self, operation: OperationId) -> Result<Vec<Sighting>> {
        let mut sightings = self.list().await?;
        sightings.retain(|sighting| matches!(&sighting.owner, Owner::Captain(labels) if labels.operation == operation));
        Ok(sightings)
    }

    /// Brings what is needed to the node, unless it is there. Single flight and retries are the caller's.
    async fn prepare(&self, preparation: &Preparation, progress: Progress<'_>) -> Result<()>;

    /// The slugs of Captain's that are prepared on the node. None where the engine prepares none.
    async fn prepared(&self) -> Result<Vec<Prepared>> {
        Ok(Vec::new())
    }

    /// Takes a prepared slug off the node. `Conflict` where a container is made of it; never touches what is not Captain's.
    async fn discard(&self, reference: &str) -> Result<()> {
        let _ = reference;
        Err(EngineError {
            node: self.node().clone(),
            attempted: "discard a slug",
            kind: ErrorKind::Unsupported,
            message: "this engine prepares no slugs".to_owned(),
        })
    }

    /// Creates a container and does not start it. `ImageMissing` where the preparation has gone since.
    async fn create(&self, spec: &CreateSpec) -> Result<InstanceId>;

    /// Starts a created container. Starting one that runs succeeds.
    async fn start(&self, id: InstanceId) -> Result<()>;

    /// SIGTERM, then SIGKILL after the grace. Succeeds where it has ended already.
    async fn stop(&self, id: InstanceId, grace: Duration) -> Result<()>;

    /// Removes a container; with `force` also one that runs. `Conflict` where it runs and force was not asked, or where a removal
    /// is under way already. Success means accepted: only `NotFound` from [`Engine::inspect`] means gone.
    async fn remove(&self, id: InstanceId, force: bool) -> Result<()>;

    /// Output from the beginning; with `follow` it goes on until the instance ends. The stream is read at the reader's pace and
    /// never holds the instance up.
    async fn logs(&self, id: InstanceId, follow: bool) -> Result<Logs>;

    /// Hints from now on: one that concerns a change after this call returned is in the stream, unless the engine lost it.
    async fn events(&self) -> Result<Hints>;
}

/// What kind of failure it is: all that a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection could be made: nothing was done.
    Unreachable,
    /// Connected, but no answer within the deadline: the outcome is unknown.
    TimedOut,
    /// The connection broke before the answer was whole: the outcome is unknown.
    Interrupted,
    /// An answer that no engine gives: the outcome is unknown.
    Garbled,
    /// There is no such container.
    NotFound,
    /// The image is not on the node.
    ImageMissing,
    /// The image is not on the node and cannot be pulled.
    ImageUnavailable,
    /// The engine's state forbids it: name taken, removal under way, still running.
    Conflict,
    /// The engine refuses the values that it was given.
    Invalid,
    /// The node's disk is full.
    NoSpace,
    /// The engine failed (5xx): the outcome is unknown.
    Failed,
    /// The engine cannot do this at all.
    Unsupported,
}

/// A failed engine call.
#[derive(Debug, Error)]
#[error("could not {attempted} on {node}: {message}")]
pub struct EngineError {
    /// The node.
    pub node: NodeId,
    /// What was attempted, as a verb and its object: `create a container`.
    pub attempted: &'static str,
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The engine's words, or ours about the connection. Never holds environment values or credentials.
    pub message: String,
}

impl EngineError {
    /// Whether what was asked for may have happened all the same.
    pub const fn is_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::Garbled | ErrorKind::Failed)
    }

    /// Whether there is no such container.
    pub const fn is_not_found(&self) -> bool {
        matches!(self.kind, ErrorKind::NotFound)
    }
}
