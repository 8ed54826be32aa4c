//! The view: what is known of nodes, instances and claims, each with the time it was last confirmed. Pure data and rules.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};

use captain_domain::id::IdPrefix;
use captain_domain::{AppName, Health, InstanceId, NodeId, OperationId, Slots, Timestamp};

use super::Stamp;
use super::claims::Claim;
use super::refs::{Filter, Found, InstanceRef, NodeRef};
use super::table::{Row, Table};
use crate::engine::Facts;

/// Rows looked at for one page. A filter that few instances pass must not keep the view from its writers for long.
const LOOKED_AT: usize = 4096;

/// A node: what a reservation looks at, and a way to the rest. Two to a line of the processor's cache, so that of thousands of nodes
/// it has all that reservations need at hand; with the rest between, each would wait for memory.
#[derive(Debug)]
#[repr(align(32))]
pub(super) struct Node {
    pub(super) used: u64,
    pub(super) reserved: u64,
    pub(super) total: Slots,
    pub(super) health: Health,
    pub(super) about: Box<About>,
}

/// What else is kept for a node.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: NodeId,
    pub(super) reason: String,
    pub(super) since: Timestamp,
    pub(super) facts: Option<Facts>,
    pub(super) warnings: Vec<String>,
    pub(super) heard: Option<Timestamp>,
    pub(super) tombstones: VecDeque<(InstanceId, Stamp)>,
    pub(super) last_listing: Stamp,
    pub(super) foreign: HashSet<InstanceId>,
    pub(super) unreadable: BTreeMap<InstanceId, String>,
}

/// The picture of the fleet.
#[derive(Debug)]
pub struct View {
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) node_by_id: HashMap<NodeId, u32>,
    pub(super) table: Table,
    pub(super) claims: BTreeMap<OperationId, Claim>,
    pub(super) version: u64,
    /// Containers in listings that needed no inspection, and inspections asked for.
    pub(super) inspections: (u64, u64),
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

    /// Adds a node, of which nothing is known yet.
    pub fn add_node(&mut self, id: NodeId, total: Slots, now: Timestamp) {
        if self.node_by_id.contains_key(&id) {
            return;
        }
        let about = About {
            id: id.clone(),
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
        let reserved = self.claims_come_back(&id, at as u32);
        self.nodes[at] = Some(Node { used: 0, reserved, total, health: Health::Unknown, about: Box::new(about) });
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
        self.claims_lose_their_node(at);
        self.version += 1;
    }

    /// Records what the engine says of itself.
    pub fn set_facts(&mut self, id: &NodeId, facts: Facts, warnings: Vec<String>) {
        if let Some(node) = self.node_mut(id) {
            node.about.facts = Some(facts);
            node.about.warnings = warnings;
            self.version += 1;
        }
    }

    /// Records how the node is. Answers whether that is news.
    pub fn set_health(&mut self, id: &NodeId, health: Health, reason: &str, now: Timestamp) -> bool {
        let Some(node) = self.node_mut(id) else { return false };
        if health == Health::Healthy {
            node.about.heard = Some(now);
        }
        if node.health == health && node.about.reason == reason {
            return false;
        }
        let news = node.health != health;
        if news {
            node.about.since = now;
        }
        node.health = health;
        reason.clone_into(&mut node.about.reason);
        self.version += 1;
        news
    }

    /// The node answered: what is known of it is true now.
    pub fn heard(&mut self, id: &NodeId, now: Timestamp) {
        if let Some(node) = self.node_mut(id) {
            node.about.heard = Some(now);
        }
    }

    pub(super) fn node_mut(&mut self, id: &NodeId) -> Option<&mut Node> {
        let at = *self.node_by_id.get(id)?;
        self.node_at_mut(at)
    }

    pub(super) fn node_at_mut(&mut self, at: u32) -> Option<&mut Node> {
        self.nodes.get_mut(at as usize)?.as_mut()
    }

    pub(super) fn node_at(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)?.as_ref()
    }

    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> impl Iterator<Item = NodeRef<'_>> {
        self.nodes_from(0).map(|(_, node)| node)
    }

    /// The nodes from a place on, each with its place: for who looks at thousands and lets others at the view in between.
    pub fn nodes_from(&self, place: usize) -> impl Iterator<Item = (usize, NodeRef<'_>)> {
        let nodes = self.nodes.iter().enumerate().skip(place);
        nodes.filter_map(|(place, node)| Some((place, NodeRef::new(node.as_ref()?))))
    }

    /// One node.
    pub fn node(&self, id: &str) -> Option<NodeRef<'_>> {
        self.node_by_id.get(&NodeId::trusted(id)).and_then(|at| self.node_at(*at)).map(NodeRef::new)
    }

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
        let range = prefix.range();
        let mut fitting = self.table.rows_from(Included(*range.start())).take_while(|row| range.contains(&row.id));
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
        Some(InstanceRef::new(row, self.table.app_name(row), self.node_at(row.node)?))
    }

    /// Calls `each` with the instances that fit, in the order of their ids, beginning after `after`, at most `limit` of them.
    /// Answers the last id looked at where there may be more: also when so many did not fit that it is time to let others at the
    /// view. Costs what it looks at: the node's or the app's instances where one is named.
    pub fn page<'a>(
        &'a self,
        filter: &Filter,
        after: Option<InstanceId>,
        limit: usize,
        mut each: impl FnMut(InstanceRef<'a>),
    ) -> Option<InstanceId> {
        let mut taken = 0;
        let mut last = None;
        for (looked_at, row) in self.candidates(filter, after).enumerate() {
            if taken == limit || looked_at == LOOKED_AT {
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
        let from = after.map_or(Unbounded, Excluded);
        match (&filter.node, &filter.app) {
            (Some(node), _) => Box::new(self.rows_of_node(node, after).into_iter()),
            (None, Some(app)) => Box::new(self.table.rows_of_app(app, from)),
            (None, None) => Box::new(self.table.rows_from(from)),
        }
    }

    /// A node's rows in order. Put in order at each page: a machine has hundreds of instances, and not a hundred thousand.
    fn rows_of_node(&self, node: &str, after: Option<InstanceId>) -> Vec<&Row> {
        let at = self.node_by_id.get(&NodeId::trusted(node));
        let keys = at.map_or(&[][..], |at| self.table.keys_of_node(*at));
        let rows = keys.iter().filter_map(|key| self.table.row(*key));
        let mut rows: Vec<&Row> = rows.filter(|row| after.is_none_or(|after| row.id > after)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Instances of a node, whatever their state, in no order.
    pub fn instances_of<'a>(&'a self, node: &NodeId) -> impl Iterator<Item = InstanceRef<'a>> {
        let at = self.node_by_id.get(node).copied();
        let keys = at.map_or(&[][..], |at| self.table.keys_of_node(at));
        keys.iter().filter_map(|key| self.reference(self.table.row(*key)?))
    }
}

impl Node {
    pub(super) fn free(&self) -> Slots {
        let free = u64::from(self.total.0).saturating_sub(self.used.saturating_add(self.reserved));
        Slots(u32::try_from(free).unwrap_or(u32::MAX))
    }

    pub(super) fn state(&self) -> String {
        match self.health {
            Health::Healthy => Health::Healthy.word().to_owned(),
            other => format!("{}: {}", other.word(), self.about.reason),
        }
    }

    /// Whether it was found to be gone by an observation that began later than `stamp`.
    pub(super) fn buried(&self, id: InstanceId, stamp: Stamp) -> bool {
        self.about.tombstones.iter().any(|(buried, at)| *buried == id && *at > stamp)
    }
}
