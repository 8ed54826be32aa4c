//! What everything else works on: the fleet, the engines, and the few things that come from outside (clock, chance).

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use captain_domain::{NodeId, OperationId, SlotSize, Slots, Timestamp};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::listing::Listings;
use crate::actions::making::Making;
use crate::engine::{Engine, EngineError, Preparation};
use crate::fleet::Fleet;
use crate::node_slugs::SlugUse;
use crate::slugs::{self, Slugs};

/// What decides how instances are made.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What a slot is worth.
    pub slot_size: SlotSize,
    /// Slots of an instance that asks for none.
    pub default_slots: Slots,
    /// What runs slugs.
    pub mode: Mode,
    /// Makes a slug's URI of an app and a version: `{app_name}`, `{app_version}`.
    pub slug_path: Option<String>,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// How long an exited instance stays readable.
    pub exited_kept: Duration,
    /// How long a claim may wait for claims of other captains to go.
    pub claim_patience: Duration,
    /// How long somebody's claim may stay unstarted before it counts as left behind by a captain that died.
    pub claim_grace: Duration,
    /// How often a node is listed even though no event came.
    pub relist_every: Duration,
    /// How often a node is asked whether it is there, between listings.
    pub ping_every: Duration,
    /// What the prepared slugs on a node may take together before those that nothing is made of go, in bytes.
    pub node_slug_bytes: u64,
}

/// What runs slugs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A foreign image, which fetches and runs the slug itself.
    RunnerImage {
        /// The image without its tag.
        image: String,
        /// Its tag where the start names none.
        version: String,
        /// The command given to it.
        command: Vec<String>,
    },
    /// Captain's own runner. Captain fetches the slug.
    Stack {
        /// The image under the slug.
        stack: Arc<str>,
    },
}

/// A clock for moments that people see. Deadlines use tokio's.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Random numbers, from a seed where a run must be repeatable.
pub struct Chance(Mutex<SmallRng>);

impl Chance {
    /// Random numbers drawn from this source.
    pub const fn new(source: SmallRng) -> Self {
        Self(Mutex::new(source))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut SmallRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new operation id: a version 4 UUID.
    pub fn operation(&self) -> OperationId {
        let mut bytes = [0; 16];
        self.with(|source| source.fill_bytes(&mut bytes));
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        OperationId::from_bytes(bytes)
    }

    /// Any number.
    pub fn number(&self) -> u32 {
        self.with(|source| source.next_u32())
    }

    /// A duration from `low` up to `high`.
    pub fn between(&self, low: Duration, high: Duration) -> Duration {
        self.with(|source| source.random_range(low..=high))
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

/// How a preparation stands: what it does, and how it ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Preparing {
    pub(crate) detail: String,
    pub(crate) outcome: Option<Result<(), Arc<EngineError>>>,
}

/// A preparation under way, and those who wait for it.
///
/// Not a `tokio::sync::watch`: that wakes its waiters in a random order, and a simulated run is the same each time.
#[derive(Debug, Default)]
pub(crate) struct Preparations {
    state: Mutex<Preparing>,
    changed: Notify,
}

impl Preparations {
    /// Changes how it stands and tells everybody who waits.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Preparing)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    /// Waits for its outcome, and hands over what it does meanwhile.
    pub(crate) async fn outcome(&self, mut detail: impl FnMut(String)) -> Result<(), Arc<EngineError>> {
        loop {
            // Before the look, so that no change falls between the two.
            let changed = self.changed.notified();
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(outcome) = state.outcome {
                return outcome;
            }
            detail(state.detail);
            changed.await;
        }
    }
}

/// A node's engine, with what this captain keeps for it.
#[derive(Debug)]
pub struct NodeHandle {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// Changes under way on the node at once. An engine does its starts one after another where it matters (networking), and
    /// slows down for everybody when hundreds wait inside it: they wait here, with a deadline, instead.
    pub changes: Semaphore,
    /// Wakes the node's watcher: list again now.
    pub poke: Notify,
    /// Preparations under way: one per node and thing at a time, however many starts wait for it.
    pub(crate) preparing: Mutex<BTreeMap<Preparation, Arc<Preparations>>>,
    /// Containers of starts that are under way.
    pub(crate) making: Making,
    /// Listings that starts wait for.
    pub(crate) listings: Listings,
    /// Which prepared slugs starts need, and when they needed them last.
    pub(crate) slug_use: SlugUse,
    /// Ends the node's watcher.
    pub leaves: CancellationToken,
}

/// Nodes that are listed and inspected for the first time at once. Each takes some hundred kilobytes meanwhile.
const INTRODUCTIONS: usize = 32;

/// A node's turn to be listed and inspected for the first time, or to be listed again.
pub(crate) type Introduction = OwnedSemaphorePermit;

/// Nodes that are listed again at once. Somebody may want all of them listed (`DELETE /cache`), at half a megabyte each.
const RELISTINGS: usize = 32;

/// Changes under way on one node at once.
pub const CHANGES_PER_NODE: usize = 32;

impl NodeHandle {
    /// A node with this engine.
    pub fn new(engine: Arc<dyn Engine>, leaves: CancellationToken) -> Self {
        Self {
            engine,
            changes: Semaphore::new(CHANGES_PER_NODE),
            poke: Notify::new(),
            preparing: Mutex::default(),
            making: Making::default(),
            listings: Listings::default(),
            slug_use: SlugUse::default(),
            leaves,
        }
    }
}

/// The captain: one per process. A cheap clone.
#[derive(Clone)]
pub struct Captain(Arc<Inner>);

struct Inner {
    fleet: Fleet,
    /// Ordered, so that a simulated run is the same each time.
    nodes: RwLock<BTreeMap<NodeId, Arc<NodeHandle>>>,
    policy: Policy,
    clock: Clock,
    chance: Arc<Chance>,
    slugs: Slugs,
    introductions: Arc<Semaphore>,
    relistings: Arc<Semaphore>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl fmt::Debug for Captain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captain").finish_non_exhaustive()
    }
}

impl Captain {
    /// A captain of no nodes yet. Touches no disk and no network.
    pub fn new(policy: Policy, slugs: slugs::Settings, clock: Clock, chance: Chance) -> Self {
        let (chance, tasks) = (Arc::new(chance), TaskTracker::new());
        Self(Arc::new(Inner {
            slugs: Slugs::new(slugs, Arc::clone(&chance), tasks.clone()),
            fleet: Fleet::default(),
            nodes: RwLock::default(),
            policy,
            clock,
            chance,
            introductions: Arc::new(Semaphore::new(INTRODUCTIONS)),
            relistings: Arc::new(Semaphore::new(RELISTINGS)),
            tasks,
            closing: CancellationToken::new(),
        }))
    }

    /// The view.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// Slugs.
    pub fn slugs(&self) -> &Slugs {
        &self.0.slugs
    }

    /// How instances are made.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// What time it is, for people.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// Chance.
    pub fn chance(&self) -> &Chance {
        &self.0.chance
    }

    /// Cancelled when the captain closes: streams end, watchers end, actions finish.
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// A node's handle.
    pub fn node(&self, id: &NodeId) -> Option<Arc<NodeHandle>> {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// All handles.
    pub fn nodes(&self) -> Vec<Arc<NodeHandle>> {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Waits for a node's turn to be introduced. Whoever has it must not keep it for long, whatever its node does.
    pub(crate) async fn introduction(&self) -> Option<Introduction> {
        // Never closed.
        Arc::clone(&self.0.introductions).acquire_owned().await.ok()
    }

    /// Waits for a node's turn to be listed again. The same holds for it.
    pub(crate) async fn relisting(&self) -> Option<Introduction> {
        Arc::clone(&self.0.relistings).acquire_owned().await.ok()
    }

    /// Takes a node in and begins to watch it.
    pub fn add_node(&self, engine: Arc<dyn Engine>, total: Slots) {
        let id = engine.node().clone();
        let handle = Arc::new(NodeHandle::new(engine, self.0.closing.child_token()));
        self.0.fleet.write(|view| view.add_node(id.clone(), total, self.now()));
        self.0.nodes.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&handle));
        self.spawn(crate::watch::watch(self.clone(), handle));
    }

    /// Forgets a node. What runs on it is not touched.
    pub fn remove_node(&self, id: &NodeId) {
        let handle = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(handle) = handle {
            handle.leaves.cancel();
        }
        self.0.fleet.write(|view| view.remove_node(id));
    }

    /// Runs a task that [`Captain::close`] waits for.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.tasks.spawn(task)
    }

    /// Tells everything to finish, and waits for it, at most for `patience`. Answers whether everything did.
    pub async fn close(&self, patience: Duration) -> bool {
        self.0.closing.cancel();
        self.0.tasks.close();
        tokio::time::timeout(patience, self.0.tasks.wait()).await.is_ok()
    }
}
