//! Instances in little memory: rows in fixed-size chunks, found by id, by app and by node.
//!
//! Cost follows the change, not the fleet: a row is added, changed and removed in O(log n), nothing is ever copied as a whole.
//! Chunks instead of one vector, because doubling a vector of millions of rows needs the memory three times over for a moment.
//! What repeats (slug and environment of a release) is shared between rows, what few instances have is kept beside them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use captain_domain::{AppName, Exit, Hostname, Instance, InstanceId, OperationId, Slots, State, Timestamp};

use super::Stamp;
use super::index::Index;
use super::releases::{Release, Releases};

const CHUNK: usize = 1024;

/// The place of a row in its table. Used again after the row is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) u32);

/// One instance. Every byte here is paid for each instance of the fleet.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: InstanceId,
    pub(super) release: Arc<Release>,
    pub(super) rare: Option<Box<Rare>>,
    pub(super) operation: Option<OperationId>,
    pub(super) created: Timestamp,
    /// Or [`NEVER`].
    started: Timestamp,
    /// When the observation that this row stems from began.
    pub(super) seen: Stamp,
    pub(super) node: u32,
    app: u32,
    in_node: u32,
    pub(super) slots: Slots,
    pub(super) port: Option<u16>,
    pub(super) state: State,
    /// Whether its slots are in its node's sum.
    pub(super) counted: bool,
    /// Whether an inspection has filled in what a listing does not say.
    pub(super) detailed: bool,
}

/// In place of no moment: an `Option` of one takes twice the bytes. No engine names a moment so long ago.
const NEVER: Timestamp = Timestamp(i64::MIN);

/// What most instances do not have.
#[derive(Debug)]
pub(super) struct Rare {
    /// None: the first 12 digits of the id.
    pub(super) hostname: Option<Hostname>,
    pub(super) exit: Option<Exit>,
}

impl Rare {
    fn of(instance: &Instance) -> Option<Box<Self>> {
        let id = instance.id.to_hex();
        let hostname = Some(&instance.hostname).filter(|name| name.as_str().as_bytes() != &id[..12]).cloned();
        let rare = Self { hostname, exit: instance.exit };
        (rare.hostname.is_some() || rare.exit.is_some()).then(|| Box::new(rare))
    }
}

impl Row {
    pub(super) fn started(&self) -> Option<Timestamp> {
        Some(self.started).filter(|at| *at != NEVER)
    }
}

#[derive(Debug)]
struct App {
    name: AppName,
    rows: Index,
    running: u64,
}

/// All instances that are known.
#[derive(Debug)]
pub(super) struct Table {
    chunks: Vec<Vec<Option<Row>>>,
    vacant: Vec<Key>,
    by_id: Index,
    apps: Vec<Option<App>>,
    vacant_apps: Vec<u32>,
    app_by_name: BTreeMap<AppName, u32>,
    /// Keys of the rows of each node, by the node's place in the view.
    by_node: Vec<Vec<Key>>,
    releases: Releases,
    running: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            vacant: Vec::new(),
            by_id: Index::default(),
            apps: Vec::new(),
            vacant_apps: Vec::new(),
            app_by_name: BTreeMap::new(),
            by_node: Vec::new(),
            releases: Releases::default(),
            running: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn running(&self) -> u64 {
        self.running
    }

    /// Name and number of running instances of each app that has any, by name.
    pub(super) fn running_by_app(&self) -> impl Iterator<Item = (&AppName, u64)> {
        self.app_by_name
            .iter()
            .filter_map(|(name, app)| Some((name, self.app(*app)?.running)))
            .filter(|(_, running)| *running > 0)
    }

    pub(super) fn key(&self, id: InstanceId) -> Option<Key> {
        self.by_id.find(&id, |key| self.row(key))
    }

    pub(super) fn row(&self, key: Key) -> Option<&Row> {
        self.chunks.get(key.0 as usize / CHUNK)?.get(key.0 as usize % CHUNK)?.as_ref()
    }

    pub(super) fn row_mut(&mut self, key: Key) -> Option<&mut Row> {
        self.chunks.get_mut(key.0 as usize / CHUNK)?.get_mut(key.0 as usize % CHUNK)?.as_mut()
    }

    pub(super) fn get(&self, id: InstanceId) -> Option<&Row> {
        self.row(self.key(id)?)
    }

    /// Rows in the order of their ids, from one on.
    pub(super) fn rows_from(&self, from: Bound<InstanceId>) -> impl Iterator<Item = &Row> {
        self.by_id.rows_from(from, |key| self.row(key))
    }

    /// An app's rows in the order of their ids, from one on.
    pub(super) fn rows_of_app<'a>(
        &'a self,
        name: &str,
        from: Bound<InstanceId>,
    ) -> impl Iterator<Item = &'a Row> + use<'a> {
        let app = self.app_by_name.get(&AppName::trusted(name)).and_then(|app| self.app(*app));
        app.into_iter().flat_map(move |app| app.rows.rows_from(from, |key| self.row(key)))
    }

    /// Keys of a node's rows, in no order.
    pub(super) fn keys_of_node(&self, node: u32) -> &[Key] {
        self.by_node.get(node as usize).map_or(&[], Vec::as_slice)
    }

    pub(super) fn app_name(&self, row: &Row) -> &str {
        self.app(row.app).map_or("", |app| app.name.as_str())
    }

    fn app(&self, app: u32) -> Option<&App> {
        self.apps.get(app as usize)?.as_ref()
    }

    fn app_mut(&mut self, app: u32) -> Option<&mut App> {
        self.apps.get_mut(app as usize)?.as_mut()
    }

    /// Puts an instance in, in place of what was known of it. The caller keeps the node's sums.
    pub(super) fn put(&mut self, instance: &Instance, node: u32, seen: Stamp, detailed: bool) -> Key {
        if let Some(key) = self.key(instance.id) {
            // The app of a container never changes: labels are fixed at its creation. Were it otherwise, the row moves.
            let same_place =
                self.row(key).is_some_and(|row| row.node == node && self.app_name(row) == instance.app.as_str());
            if same_place {
                self.refresh(key, instance, seen, detailed);
                return key;
            }
            self.remove(instance.id);
        }
        let app = self.app_for(&instance.app);
        let key = self.vacancy();
        while self.by_node.len() <= node as usize {
            self.by_node.push(Vec::new());
        }
        let in_node = place(&mut self.by_node[node as usize], key);
        if let Some(app) = self.app_mut(app) {
            app.rows.insert(&instance.id, key);
        }
        let row = Row {
            id: instance.id,
            release: self.releases.share(&instance.slug_uri, &instance.environment),
            rare: Rare::of(instance),
            operation: instance.operation,
            created: instance.created,
            started: instance.started.unwrap_or(NEVER),
            seen,
            node,
            app,
            in_node,
            slots: instance.slots,
            port: instance.port,
            state: instance.state,
            counted: false,
            detailed,
        };
        self.count_running(app, row.state, true);
        self.by_id.insert(&row.id, key);
        if let Some(place) = self.chunks[key.0 as usize / CHUNK].get_mut(key.0 as usize % CHUNK) {
            *place = Some(row);
        }
        key
    }

    fn refresh(&mut self, key: Key, instance: &Instance, seen: Stamp, detailed: bool) {
        let release = self.releases.share(&instance.slug_uri, &instance.environment);
        self.set_state(key, instance.state);
        if let Some(row) = self.row_mut(key) {
            row.release = release;
            row.rare = Rare::of(instance);
            row.operation = instance.operation;
            row.created = instance.created;
            row.started = instance.started.unwrap_or(NEVER);
            row.seen = seen;
            row.slots = instance.slots;
            row.port = instance.port;
            row.detailed = detailed;
        }
    }

    /// Changes the state alone.
    pub(super) fn set_state(&mut self, key: Key, state: State) {
        let Some(row) = self.row_mut(key) else { return };
        let (app, before) = (row.app, row.state);
        row.state = state;
        self.count_running(app, before, false);
        self.count_running(app, state, true);
    }

    fn count_running(&mut self, app: u32, state: State, more: bool) {
        if !state.is_running() {
            return;
        }
        let step = |count: u64| if more { count + 1 } else { count.saturating_sub(1) };
        self.running = step(self.running);
        if let Some(app) = self.app_mut(app) {
            app.running = step(app.running);
        }
    }

    /// Takes an instance out.
    pub(super) fn remove(&mut self, id: InstanceId) -> Option<Row> {
        let key = self.key(id)?;
        self.by_id.remove(&id, key);
        let row = self.chunks.get_mut(key.0 as usize / CHUNK)?.get_mut(key.0 as usize % CHUNK)?.take()?;
        self.vacant.push(key);
        self.count_running(row.app, row.state, false);
        let moved = self.by_node.get_mut(row.node as usize).and_then(|rows| unplace(rows, row.in_node));
        if let Some(moved) = moved.and_then(|key| self.row_mut(key)) {
            moved.in_node = row.in_node;
        }
        if let Some(app) = self.app_mut(row.app) {
            app.rows.remove(&id, key);
        }
        self.forget_empty_app(row.app);
        Some(row)
    }

    fn app_for(&mut self, name: &AppName) -> u32 {
        if let Some(app) = self.app_by_name.get(name) {
            return *app;
        }
        let entry = Some(App { name: name.clone(), rows: Index::default(), running: 0 });
        let app = match self.vacant_apps.pop() {
            Some(app) => {
                self.apps[app as usize] = entry;
                app
            }
            None => {
                self.apps.push(entry);
                (self.apps.len() - 1) as u32
            }
        };
        self.app_by_name.insert(name.clone(), app);
        app
    }

    fn forget_empty_app(&mut self, app: u32) {
        let empty = self.app(app).filter(|app| app.rows.is_empty()).map(|app| app.name.clone());
        if let Some(name) = empty {
            self.app_by_name.remove(&name);
            self.apps[app as usize] = None;
            self.vacant_apps.push(app);
        }
    }

    fn vacancy(&mut self) -> Key {
        if let Some(key) = self.vacant.pop() {
            return key;
        }
        let full = self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK);
        if full {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let at = self.chunks.len() - 1;
        self.chunks[at].push(None);
        Key((at * CHUNK + self.chunks[at].len() - 1) as u32)
    }
}

fn place(keys: &mut Vec<Key>, key: Key) -> u32 {
    keys.push(key);
    (keys.len() - 1) as u32
}

/// Takes the key at `at` out and says which one moved into its place.
fn unplace(keys: &mut Vec<Key>, at: u32) -> Option<Key> {
    if (at as usize) < keys.len() {
        keys.swap_remove(at as usize);
    }
    keys.get(at as usize).copied()
}
