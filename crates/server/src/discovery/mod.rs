//! Where the nodes come from: a list that is given once, or EC2, asked again and again.

pub mod ec2;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use captain_domain::{NodeId, Slots};
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::captain::Captain;
use crate::chain;
use crate::config::{EngineSpec, NodeSpec, Nodes};
use crate::engine::Engine;
use crate::engine::docker::{Docker, Endpoint, Settings};
use crate::engine::local::{Local, LocalSettings};
use ec2::Finder;

/// The port on which engines found through EC2 listen: the original's.
const EC2_ENGINE_PORT: u16 = 9400;

/// Takes nodes in, and goes on to do so where they change.
pub struct Discovery {
    /// The captain that gets them.
    pub captain: Captain,
    /// How Docker engines are spoken to.
    pub docker: Settings,
    /// What this machine needs to be a node by itself.
    pub local: LocalSettings,
    /// Slots of a node that has no number of its own.
    pub slots_per_node: Slots,
}

impl Discovery {
    /// Begins. Listed nodes are taken in before this returns.
    pub fn begin(self, nodes: Nodes) {
        match nodes {
            Nodes::Listed(specs, problems) => {
                for problem in problems {
                    error!(problem, "DOCKER_NODES: a node cannot be used; the others are");
                }
                for spec in specs {
                    self.add(spec);
                }
            }
            Nodes::Ec2(finder, every) => {
                let captain = self.captain.clone();
                captain.spawn(async move { self.follow(*finder, every).await });
            }
        }
    }

    fn add(&self, spec: NodeSpec) -> bool {
        let id = spec.id.clone();
        let engine: Result<Arc<dyn Engine>, String> = match spec.engine {
            EngineSpec::Docker(endpoint) => {
                Docker::new(id, endpoint, &self.docker).map(|it| Arc::new(it) as _).map_err(|error| chain(&error))
            }
            EngineSpec::Local => Local::new(id, &self.local).map(|it| Arc::new(it) as _).map_err(|error| chain(&error)),
        };
        match engine {
            Ok(engine) => {
                self.captain.add_node(engine, spec.slots.unwrap_or(self.slots_per_node));
                true
            }
            Err(error) => {
                error!(node = %spec.id, error, "a node cannot be used; the others are");
                false
            }
        }
    }

    async fn follow(self, mut finder: Finder, every: Duration) {
        let mut known: BTreeMap<IpAddr, NodeId> = BTreeMap::new();
        let closing = self.captain.closing().clone();
        loop {
            let asked = tokio::select! {
                biased;
                () = closing.cancelled() => return,
                asked = finder.addresses() => asked,
            };
            match asked {
                Ok(addresses) => self.reconcile(&mut known, &addresses),
                // What is known stays: EC2 being away says nothing of the nodes.
                Err(error) => warn!(error = chain(&error), "EC2 cannot be asked for nodes; those that are known stay"),
            }
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                () = sleep(every) => {}
            }
        }
    }

    fn reconcile(&self, known: &mut BTreeMap<IpAddr, NodeId>, addresses: &[IpAddr]) {
        known.retain(|address, id| {
            let stays = addresses.contains(address);
            if !stays {
                info!(node = %id, "node left");
                self.captain.remove_node(id);
            }
            stays
        });
        for address in addresses.iter().filter(|address| !known.contains_key(*address)).copied().collect::<Vec<_>>() {
            let host = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            let id = NodeId::trusted(&address.to_string());
            match Endpoint::parse(&format!("https://{host}:{EC2_ENGINE_PORT}")) {
                Ok(endpoint) => {
                    if self.add(NodeSpec { id: id.clone(), engine: EngineSpec::Docker(endpoint), slots: None }) {
                        info!(node = %id, "node found");
                        known.insert(address, id);
                    }
                }
                Err(error) => error!(%address, %error, "an EC2 instance cannot be used as a node"),
            }
        }
    }
}
