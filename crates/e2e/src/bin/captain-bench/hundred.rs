//! A hundred instances, which run, on three nodes.

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, lease_on_tcp};
use captain_e2e::origin::Origin;
use captain_e2e::slugs;

use crate::stage::order;
use crate::wire::{Wire, text};

const INSTANCES: usize = 100;
const NODES: usize = 3;

/// The instances, and the captain that started them.
#[derive(Debug)]
pub(crate) struct Hundred {
    pub(crate) captain: Captain,
    /// One of the instances, on the first node.
    pub(crate) id: String,
    _origin: Origin,
    pub(crate) lease: Lease,
}

impl Hundred {
    /// Starts them, the nodes at the same time and those of a node one after another.
    pub(crate) async fn up() -> Self {
        let lease = lease_on_tcp(NODES).await;
        let origin = Origin::start(&lease).await;
        let slug = origin.offer("bench.tgz", slugs::web("up"));
        let captain = Settings::of(&lease).start().await;
        let mut starting = tokio::task::JoinSet::new();
        for (number, node) in lease.nodes().enumerate() {
            let (address, body) = (captain.address(), order(node, &slug).to_string().into());
            let share = (INSTANCES + NODES - 1 - number) / NODES;
            starting.spawn(async move {
                let mut wire = Wire::warm(address, "/ping/ping").await;
                let mut last = String::new();
                for _ in 0..share {
                    last = text(&wire.send("POST", "/instances/", &body, &[201]).await, "id");
                }
                (number, last)
            });
        }
        let ids = starting.join_all().await;
        let id = ids.into_iter().find(|(number, _)| *number == 0).map(|(_, id)| id).unwrap();
        assert_eq!(captain.ids().await.len(), INSTANCES);
        Self { captain, id, _origin: origin, lease }
    }
}
