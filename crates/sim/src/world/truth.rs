//! The truth about a node, to be held against what a captain's view says.

use std::collections::BTreeMap;

use captain_domain::{InstanceId, OperationId, Slots, State as Doing};

use super::{Kind, State};

/// What is compared of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) state: Doing,
    pub(crate) slots: Slots,
    pub(crate) port: Option<u16>,
    pub(crate) variables: usize,
}

impl State {
    /// The instances on a node.
    pub(crate) fn instances(&self, node: usize) -> BTreeMap<InstanceId, Shown> {
        let managed = self.nodes[node].containers.iter().filter(|(_, container)| container.is_managed());
        managed
            .map(|(id, container)| {
                let shown = Shown {
                    state: container.state,
                    slots: container.slots(),
                    port: container.port,
                    variables: container.environment.clone().without_reserved().len(),
                };
                (*id, shown)
            })
            .collect()
    }

    /// Slots on a node that are not free.
    pub(crate) fn taken(&self, node: usize) -> Slots {
        let holding = self.nodes[node].containers.values().filter(|container| container.state.holds_slots());
        holding.fold(Slots::ZERO, |sum, container| sum.plus(container.slots()))
    }

    /// Containers that neither run nor ended: claims left behind, removals that never end.
    pub(crate) fn unsettled(&self, node: usize) -> Vec<(InstanceId, Doing)> {
        let managed = self.nodes[node].containers.iter().filter(|(_, container)| container.is_managed());
        managed
            .filter(|(_, container)| matches!(container.state, Doing::Created | Doing::Removing | Doing::Dead))
            .map(|(id, container)| (*id, container.state))
            .collect()
    }

    /// Containers of an operation which this captain made since then.
    pub(crate) fn left_of(
        &self,
        operation: OperationId,
        maker: usize,
        since: std::time::Duration,
        until: std::time::Duration,
    ) -> Vec<InstanceId> {
        let of_it = |kind: &Kind| matches!(kind, Kind::Captain(labels) if labels.operation == operation);
        self.nodes
            .iter()
            .flat_map(|node| &node.containers)
            .filter(|(_, container)| of_it(&container.kind) && container.maker == Some(maker))
            .filter(|(_, container)| (since..until).contains(&container.since))
            .map(|(id, _)| *id)
            .collect()
    }
}
