//! Bodies of requests and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The state of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Created and not yet started.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Being restarted by its engine.
    Restarting,
    /// Ended; readable until it is collected.
    Exited,
    /// Being removed.
    Removing,
    /// Its removal failed half way.
    Dead,
    /// It ran when its node was last heard; the node does not answer now (see `node_state`).
    Unknown,
    /// A state that this version of the client does not know.
    #[serde(other)]
    Other,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Exit {
    /// The exit code; 128 + n where signal n ended it.
    pub code: i64,
    /// The signal that ended it, if one did.
    pub signal: Option<i64>,
    /// Whether the kernel killed it because it used more memory than its slots.
    pub out_of_memory: bool,
    /// When it ended (RFC 3339, UTC).
    pub at: Option<String>,
    /// The same in a sentence.
    pub reason: String,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Instance {
    /// The engine's id of it, 64 hex digits.
    pub id: String,
    /// Its app.
    pub app: String,
    /// Where its slug came from.
    pub slug_uri: String,
    /// The node that it is on.
    pub node: String,
    /// The port on the node that leads to it; null when it does not run.
    pub port: Option<u16>,
    /// The environment that the start gave it. `HOME`, `PATH`, `PORT` and `SLUG_URL` are left out.
    pub environment: BTreeMap<String, String>,
    /// The slots it takes.
    pub slots: u32,
    /// Its host name.
    pub hostname: String,
    /// What it does now.
    pub state: InstanceState,
    /// The state of its node in a word, when that is not healthy: then what is said here was true when the node was last heard.
    /// `/nodes/` says when that was, and what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_state: Option<String>,
    /// When its node was last heard, if it cannot be heard now (RFC 3339, UTC). Not in listings, where it would be said many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// When its container was created, by the engine's clock (RFC 3339, UTC).
    #[serde(default)]
    pub created: Option<String>,
    /// When it was started, by the engine's clock (RFC 3339, UTC).
    #[serde(default)]
    pub started: Option<String>,
    /// How it ended; null while it has not.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// The operation that started it; null for instances that the original Captain started.
    #[serde(default)]
    pub operation: Option<String>,
}

/// What to start.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Start {
    /// The app: letters, digits, `_`, `.` and `-`; at most 128.
    pub app: String,
    /// The node to start it on.
    pub node: String,
    /// Where the slug is: https:, http:, s3:, file:, or `sha256:…` for one in Captain's own store. Either this or `version`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug_uri: Option<String>,
    /// The slug's version, from which Captain makes the URI by its `SLUG_PATH`. Ignored where `slug_uri` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Variables for the instance. A number becomes its text. `PORT` and `SLUG_URL` are always Captain's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Slots to take; absent, null or 0 mean the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// The host name of the instance; by default the first 12 digits of its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The tag of the runner image; null means the configured one. Only where the captain uses a runner image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug_runner_version: Option<String>,
    /// The process type of the slug's Procfile to run; null means `web`. Not where the captain uses a runner image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The sha256 that the slug must have: 64 hexadecimal digits, `sha256:` before them or not. A slug that has another one is refused.
    /// Not where the captain uses a runner image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug_sha256: Option<String>,
    /// Taken for the sake of old clients, and ignored: engines choose ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_port: Option<u16>,
}

/// Shows the names of variables, never their values.
impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("app", &self.app)
            .field("node", &self.node)
            .field("slots", &self.slots)
            .field("environment", &self.environment.keys())
            .finish_non_exhaustive()
    }
}

/// Slots of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeSlots {
    /// Slots that a start may take.
    pub free: u32,
    /// Slots in all.
    pub total: u32,
    /// Slots taken: by instances, and by claims for instances that are being started.
    pub used: u32,
}

/// What was last known of a node that cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LastKnown {
    /// Its slots then.
    pub slots: NodeSlots,
    /// When that was (RFC 3339, UTC).
    pub at: String,
    /// How many seconds ago that was.
    pub age_seconds: u64,
}

/// The engine of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EngineFacts {
    /// Its kind: `docker`, `podman`, `local`.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// The memory of its machine, in bytes.
    pub memory_bytes: u64,
    /// The processors of its machine.
    pub cpus: u32,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its slots. All zero while the node is not healthy; see `last_known` then.
    pub slots: NodeSlots,
    /// `healthy`, or what is wrong: `unreachable: …`, `unresponsive: …`, `failing: …`, `unknown: …`.
    pub state: String,
    /// Since when the state has been so (RFC 3339, UTC).
    #[serde(default)]
    pub since: Option<String>,
    /// Its engine, once it has answered.
    #[serde(default)]
    pub engine: Option<EngineFacts>,
    /// What an operator should know: a total of slots that the node's memory cannot hold, containers that cannot be read, limits
    /// that the machine does not enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What was known last, while the node is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known: Option<LastKnown>,
}

/// How many instances run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Summary {
    /// All of them.
    pub total_instances: u64,
    /// Of each app.
    pub apps: BTreeMap<String, u64>,
}

/// How far a start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its slots are taken; it waits for its turn on the node.
    Queued,
    /// The runner image or the slug is being brought to the node.
    Preparing,
    /// Its container is being created.
    Creating,
    /// Its claim is being checked against those of other captains.
    Claiming,
    /// It is being started.
    Starting,
    /// It failed or its outcome is unknown; Captain removes whatever may have come of it. Its slots are free after that.
    Withdrawing,
    /// A phase that this version of the client does not know.
    #[serde(other)]
    Other,
}

/// A claim: slots taken on a node for an instance that is not running yet. Of this captain's own starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Claim {
    /// The operation: the `Captain-Operation` header of the start.
    pub operation: String,
    /// The app.
    pub app: String,
    /// The node.
    pub node: String,
    /// The slots taken.
    pub slots: u32,
    /// How far the start has come.
    pub phase: Phase,
    /// More about the phase, for people: `pulling flynn/slugrunner:0.0.0: 12 MB of 80 MB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Since when (RFC 3339, UTC).
    pub since: String,
}

/// A slug in Captain's own store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoredSlug {
    /// The sha256 of its bytes, 64 hexadecimal digits. A start names it as `sha256:…`.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// When it was put there (RFC 3339, UTC).
    pub created: String,
    /// When it was used last, where the store knows (RFC 3339, UTC).
    #[serde(default)]
    pub last_used: Option<String>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// The line with its line feed. Bytes that are not UTF-8 are U+FFFD.
    pub msg: String,
}

/// What Captain remembers of containers between two listings, so as not to inspect them again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CacheInfo {
    /// Containers remembered.
    pub currsize: u64,
    /// Containers in listings that needed no inspection.
    pub hits: u64,
    /// The most that would be remembered; there is no bound but the fleet, so this equals `currsize`.
    pub maxsize: u64,
    /// Inspections made.
    pub misses: u64,
}
