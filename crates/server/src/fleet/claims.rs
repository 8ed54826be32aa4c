//! Claims of this captain's own starts: slots taken in the view before anything is asked of an engine.

use std::collections::btree_map::Entry;

use captain_domain::{AppName, Health, InstanceId, NodeId, OperationId, Slots, Timestamp};

use super::view::View;

/// How far a start has come.
pub type Phase = captain_api::Phase;

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
    pub(super) instance: Option<InstanceId>,
    /// The node's place in the view: none while the node is not in the fleet.
    place: Option<u32>,
}

impl View {
    pub(super) fn reserve(
        &mut self,
        id: &NodeId,
        app: &AppName,
        slots: Slots,
        operation: OperationId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let Entry::Vacant(entry) = self.claims.entry(operation) else { return Err(Refusal::InProgress) };
        let place = self.node_by_id.get(id).copied();
        let node = place.and_then(|at| self.nodes.get_mut(at as usize)?.as_mut()).ok_or(Refusal::NoSuchNode)?;
        if node.health != Health::Healthy {
            return Err(Refusal::Unavailable(node.state()));
        }
        let free = node.free();
        if slots > free {
            return Err(Refusal::OverCapacity { free, total: node.total });
        }
        node.reserved += u64::from(slots.0);
        entry.insert(Claim {
            node: id.clone(),
            app: app.clone(),
            slots,
            phase: Phase::Queued,
            detail: None,
            since: now,
            instance: None,
            place,
        });
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
        if let Some(node) = claim.place.and_then(|at| self.node_at_mut(at)) {
            node.reserved = node.reserved.saturating_sub(u64::from(claim.slots.0));
        }
        if let Some(key) = claim.instance.and_then(|id| self.table.key(id)) {
            self.recount(key);
        }
    }

    /// A node that left and came back, perhaps to another place, while starts were under way: they still hold their slots. Answers
    /// how many.
    pub(super) fn claims_come_back(&mut self, id: &NodeId, at: u32) -> u64 {
        let mut reserved = 0;
        for claim in self.claims.values_mut().filter(|claim| claim.node == *id) {
            claim.place = Some(at);
            reserved += u64::from(claim.slots.0);
        }
        reserved
    }

    /// The place of a node that has left is another node's soon.
    pub(super) fn claims_lose_their_node(&mut self, at: u32) {
        for claim in self.claims.values_mut().filter(|claim| claim.place == Some(at)) {
            claim.place = None;
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
}
