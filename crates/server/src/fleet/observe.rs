//! What listings and inspections change in the view.

use std::collections::HashSet;

use captain_domain::label::Labels;
use captain_domain::{Environment, Hostname, Instance, InstanceId, NodeId, Timestamp};

use super::Stamp;
use super::table::Key;
use super::view::View;
use crate::engine::{Owner, Sighting};

/// Removed ids kept per node, so that an observation which began before the removal cannot bring them back. Ids are never used
/// again; what is older than two listings cannot come any more.
const TOMBSTONES: usize = 1024;

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

impl View {
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
            // The first one seen. If another captain was given the same operation, its container is counted like any other.
            claim.instance.get_or_insert(instance.id);
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
            let about = &mut node.about;
            about.tombstones.push_back((id, stamp));
            if about.tombstones.len() > TOMBSTONES {
                about.tombstones.pop_front();
            }
            about.unreadable.remove(&id);
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

    /// Whether an observation that began after `stamp` has told how the container is, or that it is gone.
    pub fn knows_since(&self, node: &NodeId, id: InstanceId, stamp: Stamp) -> bool {
        let seen = self.table.get(id).is_some_and(|row| row.detailed && row.seen > stamp);
        let node = self.node_by_id.get(node).and_then(|at| self.node_at(*at));
        seen || node.is_some_and(|node| node.buried(id, stamp))
    }

    /// An inspection found that the container is not Captain's: it is not asked after again.
    pub fn foreign(&mut self, node: &NodeId, id: InstanceId) {
        if let Some(node) = self.node_mut(node) {
            node.about.foreign.insert(id);
        }
    }

    /// An inspection found that the container is Captain's and cannot be read.
    pub fn unreadable(&mut self, node: &NodeId, id: InstanceId, why: String) {
        if let Some(node) = self.node_mut(node) {
            node.about.unreadable.insert(id, why);
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
            let about = &mut node.about;
            let before = std::mem::replace(&mut about.last_listing, stamp);
            about.tombstones.retain(|(_, buried)| *buried > before);
            about.foreign.retain(|id| present.contains(id));
            about.unreadable.retain(|id, _| present.contains(id));
            about.heard = Some(now);
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
                if entry.about.unreadable.insert(sighting.id, error.to_string()).is_none() {
                    listed.unreadable.push((sighting.id, error.to_string()));
                    self.version += 1;
                }
            }
            Owner::Perhaps | Owner::Captain(_) => {
                if self.node_mut(node).is_none_or(|node| node.about.foreign.contains(&sighting.id)) {
                    listed.known += 1;
                    return;
                }
                if self.confirm(stamp, sighting) {
                    listed.known += 1;
                    return;
                }
                if let Owner::Captain(labels) = &sighting.owner
                    && self.table.get(sighting.id).is_none()
                {
                    self.put(stamp, &provisional(node, sighting, labels), false);
                }
                listed.inspect.push(sighting.id);
            }
        }
    }

    /// The listing agrees with what is known, or something newer is known: nothing to ask. Otherwise state and port are taken over at
    /// once, since the inspection that tells the rest may hang for one container only.
    fn confirm(&mut self, stamp: Stamp, sighting: &Sighting) -> bool {
        let Some(key) = self.table.key(sighting.id) else { return false };
        let Some(row) = self.table.row_mut(key) else { return false };
        if row.seen > stamp {
            return true;
        }
        row.seen = stamp;
        if row.state == sighting.state {
            return row.detailed && (!row.state.is_running() || row.port == sighting.port);
        }
        row.detailed = false;
        row.port = sighting.port; // what has ended has none
        self.uncount(key);
        self.table.set_state(key, sighting.state);
        self.recount(key);
        self.version += 1;
        false
    }

    /// Everything on a node wants a new inspection (`DELETE /cache`). What is known stays until then.
    pub fn doubt(&mut self, node: &NodeId) {
        let Some(at) = self.node_by_id.get(node).copied() else { return };
        for key in self.table.keys_of_node(at).to_vec() {
            if let Some(row) = self.table.row_mut(key) {
                row.detailed = false;
            }
        }
        if let Some(node) = self.node_mut(node) {
            node.about.foreign.clear();
        }
    }

    fn uncount(&mut self, key: Key) {
        let Some(row) = self.table.row_mut(key) else { return };
        if std::mem::replace(&mut row.counted, false) {
            let (at, slots) = (row.node, u64::from(row.slots.0));
            if let Some(node) = self.node_at_mut(at) {
                node.used = node.used.saturating_sub(slots);
            }
        }
    }

    pub(super) fn recount(&mut self, key: Key) {
        self.uncount(key);
        let claims = &self.claims;
        let Some(row) = self.table.row_mut(key) else { return };
        let claim = row.operation.and_then(|operation| claims.get(&operation));
        let claimed = claim.is_some_and(|claim| claim.instance == Some(row.id));
        if row.state.holds_slots() && !claimed {
            row.counted = true;
            let (at, slots) = (row.node, u64::from(row.slots.0));
            if let Some(node) = self.node_at_mut(at) {
                node.used += slots;
            }
        }
    }
}

/// What a listing alone tells of an instance: enough to count it and to name it.
fn provisional(node: &NodeId, sighting: &Sighting, labels: &Labels) -> Instance {
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
