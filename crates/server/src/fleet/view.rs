//! The view: what is known of nodes, instances and claims, each with the time it was last confirmed. Pure data and rules.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use captain_domain::id::IdPrefix;
use captain_domain::{
    AppName, Environment, Exit, Health, Hostname, Instance, InstanceId, NodeId, OperationId, Slots, State, Timestamp,
};

use super::Stamp;
use super::table::{self, Key, Row, Table};
use crate::engine::{Facts, Owner, Sighting};

/// How far a start has come.
pub type Phase = captain_api::Phase;

/// Removed ids kept per node, so that an observation which began before the removal cannot bring them back. Ids are never used
/// again; what is older than two listings cannot come any more.
const TOMBSTONES: usize = 1024;

/// Why slots could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such node.
    NoSuchNode,
    /// The node is not healthy: its state in words.
    Unavailable(String),
    /// Not enough free slots.
    OverCapacity {
        /// Free slots.
        free: Slots,
        /// Slots in all.
        total: Slots,
    },
    /// This operation holds a reservation already.
    InProgress,
}

/// Slots taken by one of this captain's starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The node.
    pub node: NodeId,
    /// The app.
    pub app: AppName,
    /// The slots.
    pub slots: Slots,
    /// How far the start has come.
    pub phase: Phase,
    /// More about the phase.
    pub detail: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// The container that carries the operation, once seen: its slots are counted here and not there, until the claim ends.
    instance: Option<InstanceId>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    total: Slots,
    used: u64,
    reserved: u64,
    health: Health,
    reason: String,
    since: Timestamp,
    facts: Option<Facts>,
    warnings: Vec<String>,
    heard: Option<Timestamp>,
    tombstones: VecDeque<(InstanceId, Stamp)>,
    last_listing: Stamp,
    foreign: HashSet<InstanceId>,
    unreadable: BTreeMap<InstanceId, String>,
}

/// What came of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Containers of which more must be known: they want an inspection.
    pub inspect: Vec<InstanceId>,
    /// Containers that needed none.
    pub known: usize,
    /// Containers that are Captain's and cannot be read, newly seen: for the log.
    pub unreadable: Vec<(InstanceId, String)>,
}

/// What was found for a full id or the beginning of one.
#[derive(Debug)]
pub enum Found<'a> {
    /// Nothing.
    None,
    /// One instance.
    One(InstanceRef<'a>),
    /// Several: the beginning is too short.
    Ambiguous,
}

/// Which instances by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateFilter {
    /// Those that run, as far as is known: the default.
    #[default]
    Running,
    /// All of them.
    All,
    /// Those in exactly this state.
    Only(State),
    /// Those that ran when their node was last heard.
    Unknown,
}

/// Which instances are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of this node only.
    pub node: Option<String>,
    /// Of this app only.
    pub app: Option<String>,
    /// By state.
    pub state: StateFilter,
}

/// One instance in the view.
#[derive(Debug, Clone, Copy)]
pub struct InstanceRef<'a> {
    row: &'a Row,
    app: &'a str,
    node: &'a Node,
}

/// One node in the view.
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'a>(&'a Node);

/// The picture of the fleet.
#[derive(Debug)]
pub struct View {
    nodes: Vec<Option<Node>>,
    node_by_id: HashMap<NodeId, u32>,
    table: Table,
    claims: BTreeMap<OperationId, Claim>,
    version: u64,
    /// Containers in listings that needed no inspection, and inspections asked for.
    inspections: (u64, u64),
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            node_by_id: HashMap::new(),
            table: Table::new(),
            claims: BTreeMap::new(),
            version: 0,
            inspections: (0, 0),
        }
    }

    // --- nodes

    /// Adds a node, of which nothing is known yet.
    pub fn add_node(&mut self, id: NodeId, total: Slots, now: Timestamp) {
        if self.node_by_id.contains_key(&id) {
            return;
        }
        let node = Node {
            id: id.clone(),
            total,
            used: 0,
            reserved: 0,
            health: Health::Unknown,
            reason: "its first listing is under way".to_owned(),
            since: now,
            facts: None,
            warnings: Vec::new(),
            heard: None,
            tombstones: VecDeque::new(),
            last_listing: Stamp::default(),
            foreign: HashSet::new(),
            unreadable: BTreeMap::new(),
        };
        let at = self.nodes.iter().position(Option::is_none).unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() - 1
        });
        self.nodes[at] = Some(node);
        self.node_by_id.insert(id, at as u32);
        self.version += 1;
    }

    /// Forgets a node that is no longer in the node list, and its instances with it.
    pub fn remove_node(&mut self, id: &NodeId) {
        let Some(at) = self.node_by_id.remove(id) else { return };
        let ids: Vec<_> = self.table.keys_of_node(at).iter().filter_map(|key| Some(self.table.row(*key)?.id)).collect();
        for id in ids {
            self.table.remove(id);
        }
        self.nodes[at as usize] = None;
        self.version += 1;
    }

    /// Records what the engine says of itself.
    pub fn set_facts(&mut self, id: &NodeId, facts: Facts, warnings: Vec<String>) {
        if let Some(node) = self.node_mut(id) {
            node.facts = Some(facts);
            node.warnings = warnings;
            self.version += 1;
        }
    }

    /// Records how the node is. Answers whether that is news.
    pub fn set_health(&mut self, id: &NodeId, health: Health, reason: &str, now: Timestamp) -> bool {
        let Some(node) = self.node_mut(id) else { return false };
        if health == Health::Healthy {
            node.heard = Some(now);
        }
        if node.health == health && node.reason == reason {
            return false;
        }
        let news = node.health != health;
        if news {
            node.since = now;
        }
        node.health = health;
        reason.clone_into(&mut node.reason);
        self.version += 1;
        news
    }

    /// The node answered: what is known of it is true now.
    pub fn heard(&mut self, id: &NodeId, now: Timestamp) {
        if let Some(node) = self.node_mut(id) {
            node.heard = Some(now);
        }
    }

    fn node_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        let at = *self.node_by_id.get(id)?;
        self.nodes.get_mut(at as usize)?.as_mut()
    }

    fn node_at(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)?.as_ref()
    }

    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> impl Iterator<Item = NodeRef<'_>> {
        self.nodes.iter().flatten().map(NodeRef)
    }

    /// One node.
    pub fn node(&self, id: &str) -> Option<NodeRef<'_>> {
        self.node_by_id.get(&NodeId::trusted(id)).and_then(|at| self.node_at(*at)).map(NodeRef)
    }

    // --- claims of this captain

    pub(super) fn reserve(
        &mut self,
        id: &NodeId,
        app: &AppName,
        slots: Slots,
        operation: OperationId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.claims.contains_key(&operation) {
            return Err(Refusal::InProgress);
        }
        let node = self.node_mut(id).ok_or(Refusal::NoSuchNode)?;
        if node.health != Health::Healthy {
            return Err(Refusal::Unavailable(node.state()));
        }
        let free = node.free();
        if slots > free {
            return Err(Refusal::OverCapacity { free, total: node.total });
        }
        node.reserved += u64::from(slots.0);
        let claim = Claim {
            node: id.clone(),
            app: app.clone(),
            slots,
            phase: Phase::Queued,
            detail: None,
            since: now,
            instance: None,
        };
        self.claims.insert(operation, claim);
        Ok(())
    }

    pub(super) fn set_phase(&mut self, operation: OperationId, phase: Phase, detail: Option<String>) {
        if let Some(claim) = self.claims.get_mut(&operation) {
            claim.phase = phase;
            claim.detail = detail;
        }
    }

    pub(super) fn release(&mut self, operation: OperationId) {
        let Some(claim) = self.claims.remove(&operation) else { return };
        if let Some(node) = self.node_mut(&claim.node) {
            node.reserved = node.reserved.saturating_sub(u64::from(claim.slots.0));
        }
        if let Some(key) = claim.instance.and_then(|id| self.table.key(id)) {
            self.recount(key);
        }
    }

    /// The claims of this captain, by operation.
    pub fn claims(&self) -> impl Iterator<Item = (OperationId, &Claim)> {
        self.claims.iter().map(|(operation, claim)| (*operation, claim))
    }

    /// The instance on this node that an operation made. Looks through the node's instances: two million operations are not
    /// indexed for the few that are asked for again.
    pub fn instance_of(&self, node: &NodeId, operation: OperationId) -> Option<InstanceId> {
        self.instances_of(node).find(|instance| instance.operation() == Some(operation)).map(|instance| instance.id())
    }

    /// One claim.
    pub fn claim(&self, operation: OperationId) -> Option<&Claim> {
        self.claims.get(&operation)
    }

    // --- observations

    /// An inspection that began at `stamp` found this instance.
    pub fn observe(&mut self, stamp: Stamp, instance: &Instance) {
        self.put(stamp, instance, true);
    }

    fn put(&mut self, stamp: Stamp, instance: &Instance, detailed: bool) {
        let Some(at) = self.node_by_id.get(&instance.node).copied() else { return };
        let buried = self.node_at(at).is_some_and(|node| node.buried(instance.id, stamp));
        let outdated = self.table.get(instance.id).is_some_and(|row| row.seen > stamp);
        if buried || outdated {
            return;
        }
        if let Some(claim) = instance.operation.and_then(|operation| self.claims.get_mut(&operation)) {
            claim.instance = Some(instance.id);
        }
        if let Some(key) = self.table.key(instance.id) {
            self.uncount(key);
        }
        let key = self.table.put(instance, at, stamp, detailed);
        self.recount(key);
        self.version += 1;
    }

    /// An inspection that began at `stamp` found that there is no such container: its slots are free.
    pub fn gone(&mut self, stamp: Stamp, node: &NodeId, id: InstanceId) {
        if self.table.get(id).is_some_and(|row| row.seen > stamp) {
            return;
        }
        if let Some(node) = self.node_mut(node) {
            node.tombstones.push_back((id, stamp));
            if node.tombstones.len() > TOMBSTONES {
                node.tombstones.pop_front();
            }
            node.unreadable.remove(&id);
        }
        self.take_out(id);
    }

    fn take_out(&mut self, id: InstanceId) {
        if let Some(key) = self.table.key(id) {
            self.uncount(key);
            self.table.remove(id);
            self.version += 1;
        }
    }

    /// An inspection found that the container is not Captain's: it is not asked after again.
    pub fn foreign(&mut self, node: &NodeId, id: InstanceId) {
        if let Some(node) = self.node_mut(node) {
            node.foreign.insert(id);
        }
    }

    /// An inspection found that the container is Captain's and cannot be read.
    pub fn unreadable(&mut self, node: &NodeId, id: InstanceId, why: String) {
        if let Some(node) = self.node_mut(node) {
            node.unreadable.insert(id, why);
            self.version += 1;
        }
    }

    /// A listing of a node that began at `stamp`: everything that is there, and nothing else.
    pub fn listed(&mut self, stamp: Stamp, id: &NodeId, sightings: &[Sighting], now: Timestamp) -> Listed {
        let mut listed = Listed::default();
        let Some(at) = self.node_by_id.get(id).copied() else { return listed };
        let present: HashSet<InstanceId> = sightings.iter().map(|sighting| sighting.id).collect();
        let absent: Vec<InstanceId> = self
            .table
            .keys_of_node(at)
            .iter()
            .filter_map(|key| self.table.row(*key))
            .filter(|row| row.seen < stamp && !present.contains(&row.id))
            .map(|row| row.id)
            .collect();
        for id in absent {
            self.take_out(id);
        }
        for sighting in sightings {
            self.sighted(stamp, id, sighting, &mut listed);
        }
        if let Some(node) = self.node_mut(id) {
            let before = std::mem::replace(&mut node.last_listing, stamp);
            node.tombstones.retain(|(_, buried)| *buried > before);
            node.foreign.retain(|id| present.contains(id));
            node.unreadable.retain(|id, _| present.contains(id));
            node.heard = Some(now);
        }
        self.inspections.0 += listed.known as u64;
        self.inspections.1 += listed.inspect.len() as u64;
        listed
    }

    fn sighted(&mut self, stamp: Stamp, node: &NodeId, sighting: &Sighting, listed: &mut Listed) {
        match &sighting.owner {
            Owner::Foreign => {}
            Owner::Unreadable(error) => {
                let Some(entry) = self.node_mut(node) else { return };
                if entry.unreadable.insert(sighting.id, error.to_string()).is_none() {
                    listed.unreadable.push((sighting.id, error.to_string()));
                    self.version += 1;
                }
            }
            Owner::Perhaps | Owner::Captain(_) => {
                if self.node_mut(node).is_none_or(|node| node.foreign.contains(&sighting.id)) {
                    listed.known += 1;
                    return;
                }
                if self.confirm(stamp, sighting) {
                    listed.known += 1;
                    return;
                }
                if let Owner::Captain(labels) = &sighting.owner {
                    if self.table.get(sighting.id).is_none() {
                        self.put(stamp, &provisional(node, sighting, labels), false);
                    }
                }
                listed.inspect.push(sighting.id);
            }
        }
    }

    /// The listing agrees with what is known, or something newer is known: nothing to ask. Otherwise the state is taken over at
    /// once, since the inspection that tells the rest may hang for one container only.
    fn confirm(&mut self, stamp: Stamp, sighting: &Sighting) -> bool {
        let Some(key) = self.table.key(sighting.id) else { return false };
        let Some(row) = self.table.row_mut(key) else { return false };
        if row.seen > stamp {
            return true;
        }
        row.seen = stamp;
        if row.state == sighting.state {
            return row.detailed;
        }
        row.detailed = false;
        self.uncount(key);
        self.table.set_state(key, sighting.state);
        self.recount(key);
        self.version += 1;
        false
    }

    /// Everything wants a new inspection (`DELETE /cache`). What is known stays until then. Answers which nodes are concerned.
    pub fn doubt_everything(&mut self) {
        let ids: Vec<InstanceId> = self.table.range(..).map(|row| row.id).collect();
        for id in ids {
            if let Some(row) = self.table.key(id).and_then(|key| self.table.row_mut(key)) {
                row.detailed = false;
            }
        }
        for node in self.nodes.iter_mut().flatten() {
            node.foreign.clear();
        }
    }

    fn uncount(&mut self, key: Key) {
        let Some(row) = self.table.row_mut(key) else { return };
        if std::mem::replace(&mut row.counted, false) {
            let (at, slots) = (row.node, u64::from(row.slots.0));
            if let Some(node) = self.nodes.get_mut(at as usize).and_then(Option::as_mut) {
                node.used = node.used.saturating_sub(slots);
            }
        }
    }

    fn recount(&mut self, key: Key) {
        self.uncount(key);
        let claims = &self.claims;
        let Some(row) = self.table.row_mut(key) else { return };
        let claimed = row.operation.is_some_and(|operation| claims.contains_key(&operation));
        if row.state.holds_slots() && !claimed {
            row.counted = true;
            let (at, slots) = (row.node, u64::from(row.slots.0));
            if let Some(node) = self.nodes.get_mut(at as usize).and_then(Option::as_mut) {
                node.used += slots;
            }
        }
    }

    // --- reading

    /// Changes with everything that a listing of instances can show.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// How many containers in listings needed no inspection so far, and how many did.
    pub const fn inspections(&self) -> (u64, u64) {
        self.inspections
    }

    /// How many instances are known, in whatever state.
    pub fn known_instances(&self) -> usize {
        self.table.len()
    }

    /// How many run, as far as is known.
    pub fn running_instances(&self) -> u64 {
        self.table.running()
    }

    /// How many of each app run, by the app's name.
    pub fn running_by_app(&self) -> impl Iterator<Item = (&AppName, u64)> {
        self.table.running_by_app()
    }

    /// The instance with this id, or with the only id that begins so.
    pub fn find(&self, prefix: &IdPrefix) -> Found<'_> {
        if let Some(id) = prefix.exact() {
            return self.instance(id).map_or(Found::None, Found::One);
        }
        let mut fitting = self.table.range(prefix.range());
        match (fitting.next(), fitting.next()) {
            (None, _) => Found::None,
            (Some(row), None) => self.reference(row).map_or(Found::None, Found::One),
            _ => Found::Ambiguous,
        }
    }

    /// The instance with this id.
    pub fn instance(&self, id: InstanceId) -> Option<InstanceRef<'_>> {
        self.reference(self.table.get(id)?)
    }

    fn reference<'a>(&'a self, row: &'a Row) -> Option<InstanceRef<'a>> {
        Some(InstanceRef { row, app: self.table.app_name(row), node: self.node_at(row.node)? })
    }

    /// Calls `each` with the instances that fit, in the order of their ids, beginning after `after`, at most `limit` of them.
    /// Answers the last id looked at where there may be more. Costs what it looks at: the app's or the node's instances where one
    /// is named, else the page.
    pub fn page<'a>(
        &'a self,
        filter: &Filter,
        after: Option<InstanceId>,
        limit: usize,
        mut each: impl FnMut(InstanceRef<'a>),
    ) -> Option<InstanceId> {
        let mut taken = 0;
        let mut last = None;
        for row in self.candidates(filter, after) {
            if taken == limit {
                return last;
            }
            last = Some(row.id);
            if let Some(instance) = self.reference(row).filter(|instance| instance.fits(filter)) {
                each(instance);
                taken += 1;
            }
        }
        None
    }

    fn candidates<'a>(&'a self, filter: &Filter, after: Option<InstanceId>) -> Box<dyn Iterator<Item = &'a Row> + 'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let keys = match (&filter.app, &filter.node) {
            (Some(app), _) => self.table.keys_of_app(app),
            (None, Some(node)) => {
                self.node_by_id.get(&NodeId::trusted(node)).map_or(&[][..], |at| self.table.keys_of_node(*at))
            }
            (None, None) => return Box::new(self.table.range((after.map_or(Unbounded, Excluded), Unbounded))),
        };
        let mut rows: Vec<&Row> = keys
            .iter()
            .filter_map(|key| self.table.row(*key))
            .filter(|row| after.is_none_or(|after| row.id > after))
            .collect();
        rows.sort_unstable_by_key(|row| row.id);
        Box::new(rows.into_iter())
    }

    /// Instances of a node, whatever their state, in no order.
    pub fn instances_of<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = InstanceRef<'a>> {
        let at = self.node_by_id.get(node).copied();
        let keys = at.map_or(&[][..], |at| self.table.keys_of_node(at));
        keys.iter().filter_map(|key| self.reference(self.table.row(*key)?))
    }
}

/// What a listing alone tells of an instance: enough to count it and to name it.
fn provisional(node: &NodeId, sighting: &Sighting, labels: &captain_domain::label::Labels) -> Instance {
    Instance {
        id: sighting.id,
        node: node.clone(),
        app: labels.app.clone(),
        slug_uri: labels.slug_uri.clone(),
        environment: Environment::new(),
        slots: labels.slots,
        port: None,
        hostname: Hostname::trusted(&sighting.id.short()),
        state: sighting.state,
        created: Timestamp::default(),
        started: None,
        exit: None,
        operation: Some(labels.operation),
    }
}

impl Node {
    fn free(&self) -> Slots {
        let free = u64::from(self.total.0).saturating_sub(self.used.saturating_add(self.reserved));
        Slots(u32::try_from(free).unwrap_or(u32::MAX))
    }

    fn state(&self) -> String {
        match self.health {
            Health::Healthy => Health::Healthy.word().to_owned(),
            other => format!("{}: {}", other.word(), self.reason),
        }
    }

    /// Whether it was found to be gone by an observation that began later than `stamp`.
    fn buried(&self, id: InstanceId, stamp: Stamp) -> bool {
        self.tombstones.iter().any(|(buried, at)| *buried == id && *at > stamp)
    }
}

impl<'a> NodeRef<'a> {
    /// Its id.
    pub fn id(&self) -> &'a NodeId {
        &self.0.id
    }

    /// Its health.
    pub const fn health(&self) -> Health {
        self.0.health
    }

    /// Its health in words, with the reason where it is not healthy.
    pub fn state(&self) -> String {
        self.0.state()
    }

    /// Since when its health has been so.
    pub const fn since(&self) -> Timestamp {
        self.0.since
    }

    /// All its slots.
    pub const fn total(&self) -> Slots {
        self.0.total
    }

    /// Slots taken by instances and claims.
    pub fn used(&self) -> Slots {
        Slots(u32::try_from(self.0.used.saturating_add(self.0.reserved)).unwrap_or(u32::MAX))
    }

    /// Slots that a start may take.
    pub fn free(&self) -> Slots {
        self.0.free()
    }

    /// What its engine said of itself.
    pub const fn facts(&self) -> Option<&'a Facts> {
        self.0.facts.as_ref()
    }

    /// What an operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let unreadable =
            self.0.unreadable.iter().map(|(id, why)| format!("container {} is passed over: {why}", id.short()));
        self.0.warnings.iter().cloned().chain(unreadable).collect()
    }

    /// Whether an inspection has found that this container is not Captain's.
    pub fn is_foreign(&self, id: InstanceId) -> bool {
        self.0.foreign.contains(&id)
    }

    /// When it was last heard, if ever.
    pub const fn heard(&self) -> Option<Timestamp> {
        self.0.heard
    }
}

impl<'a> InstanceRef<'a> {
    /// Its id.
    pub const fn id(&self) -> InstanceId {
        self.row.id
    }

    /// Its app.
    pub const fn app(&self) -> &'a str {
        self.app
    }

    /// Its slug.
    pub fn slug_uri(&self) -> &'a str {
        &self.row.slug_uri
    }

    /// Its environment.
    pub fn environment(&self) -> &'a Environment {
        &self.row.environment
    }

    /// Its host name, where it is not the beginning of its id.
    pub fn hostname(&self) -> Option<&'a str> {
        self.row.hostname.as_deref().map(Hostname::as_str)
    }

    /// Its slots.
    pub const fn slots(&self) -> Slots {
        self.row.slots
    }

    /// Its port on the node.
    pub const fn port(&self) -> Option<u16> {
        self.row.port
    }

    /// Its state when it was last seen.
    pub const fn state(&self) -> State {
        self.row.state
    }

    /// When it was created.
    pub const fn created(&self) -> Timestamp {
        self.row.created
    }

    /// When it was started.
    pub const fn started(&self) -> Option<Timestamp> {
        self.row.started
    }

    /// How it ended.
    pub fn exit(&self) -> Option<&'a Exit> {
        self.row.exit.as_deref()
    }

    /// The operation that made it.
    pub const fn operation(&self) -> Option<OperationId> {
        self.row.operation
    }

    /// Its node.
    pub const fn node(&self) -> NodeRef<'a> {
        NodeRef(self.node)
    }

    /// All of it, apart from the view.
    pub fn to_instance(&self) -> Instance {
        table::instance(self.row, self.app, &self.node.id)
    }

    /// Whether what is said of it is true now, as far as anybody can know.
    pub fn is_certain(&self) -> bool {
        self.node.health == Health::Healthy
    }

    fn fits(&self, filter: &Filter) -> bool {
        let running = self.row.state.is_running();
        let state = match filter.state {
            StateFilter::All => true,
            StateFilter::Running => running,
            StateFilter::Only(State::Running) => self.row.state == State::Running && self.is_certain(),
            StateFilter::Only(state) => self.row.state == state,
            StateFilter::Unknown => running && !self.is_certain(),
        };
        state
            && filter.app.as_deref().is_none_or(|app| app == self.app)
            && filter.node.as_deref().is_none_or(|node| node == self.node.id.as_str())
    }
}
