//! A captain whose way to its node can be tapped, cut and held, and what must hold of a node whatever happened on that way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, Node, lease_on_tcp};
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::slugs;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::id;

/// A node, and slugs for it: what several captains share.
pub(crate) struct Ground {
    pub(crate) lease: Lease,
    /// Serves them as long as it lives.
    _origin: Origin,
    /// A slug that waits for SIGTERM.
    pub(crate) idle: String,
}

impl Ground {
    pub(crate) async fn lay() -> Self {
        let lease = lease_on_tcp(1).await;
        let origin = Origin::start(&lease).await;
        let idle = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
        Self { lease, _origin: origin, idle }
    }

    pub(crate) fn node(&self) -> &'static Node {
        self.lease.node(0)
    }

    /// Settings of a captain that goes straight to the node.
    pub(crate) fn settings(&self) -> Settings {
        Settings::of(&self.lease)
    }

    /// A start of the slug that waits.
    pub(crate) fn order(&self, app: &str) -> Value {
        json!({"app": app, "node": self.node().name, "slug_uri": self.idle})
    }

    /// Starts an instance of it, which must work, and answers its id.
    pub(crate) async fn started(&self, captain: &Captain, app: &str) -> String {
        id(&captain.start(self.order(app)).await.expect(201).json())
    }

    /// A captain at the end of a wire to the node.
    pub(crate) async fn at_a_wire(&self, further: impl FnOnce(Settings) -> Settings) -> (Captain, Proxy) {
        let wire = Proxy::to(self.node().engine_address()).await;
        let settings = self.settings().set("DOCKER_NODES", format!("{}={}", self.node().name, wire.uri()));
        (further(settings).start().await, wire)
    }
}

/// One captain and its wire. The fields go in this order: the captain before the wire and the node that it uses.
pub(crate) struct Wired {
    pub(crate) captain: Captain,
    pub(crate) wire: Proxy,
    pub(crate) ground: Ground,
}

impl Wired {
    /// One node, a slug server, and a captain at the other end of a wire, with further settings.
    pub(crate) async fn set(further: impl FnOnce(Settings) -> Settings) -> Self {
        let ground = Ground::lay().await;
        let (captain, wire) = ground.at_a_wire(further).await;
        Self { captain, wire, ground }
    }

    /// The same with the user's minimum of settings.
    pub(crate) async fn up() -> Self {
        Self::set(|settings| settings).await
    }

    pub(crate) fn node(&self) -> &'static Node {
        self.ground.node()
    }

    /// Starts an instance that waits for SIGTERM, and answers its id.
    pub(crate) async fn started(&self, app: &str) -> String {
        self.ground.started(&self.captain, app).await
    }
}

fn text<'a>(container: &'a Value, label: &str) -> Option<&'a str> {
    container["Labels"][label].as_str()
}

fn slots(container: &Value) -> u64 {
    text(container, "captain.slots").and_then(|slots| slots.parse().ok()).unwrap_or(0)
}

fn runs(container: &Value) -> bool {
    container["State"] == "running" || container["State"] == "paused"
}

/// I1 and I3 while something goes on: looks at the engine again and again. Of each operation at most one container runs.
pub(crate) struct Watch {
    done: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Watch {
    pub(crate) fn over(node: &'static Node) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let watching = tokio::spawn(async move {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                let containers = node.engine().containers().await;
                let running: Vec<&Value> = containers.iter().filter(|container| runs(container)).collect();
                most = most.max(running.iter().map(|container| slots(container)).sum());
                let mut operations = BTreeMap::new();
                for operation in running.iter().filter_map(|container| text(container, "captain.operation")) {
                    *operations.entry(operation.to_owned()).or_insert(0) += 1;
                }
                assert!(operations.values().all(|count| *count == 1), "an operation runs twice: {operations:?}");
            }
            most
        });
        Self { done, watching }
    }

    /// The most slots that were ever in use at once.
    pub(crate) async fn most(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.watching.await.unwrap()
    }
}

/// I2 to I4 when it is over: waits until every captain's picture is what the engine says, no claim and no half-done removal is left,
/// and no slot is lost. Answers the containers that are there.
pub(crate) async fn settles(node: &Node, captains: &[&Captain], bound: Duration) -> Vec<Value> {
    let begin = Instant::now();
    loop {
        let containers = node.engine().containers().await;
        let mut different = None;
        for captain in captains {
            different = different.or(difference(node, captain, &containers).await);
        }
        let Some(different) = different else { return containers };
        assert!(begin.elapsed() < bound, "{bound:?} later: {different}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn difference(node: &Node, captain: &Captain, containers: &[Value]) -> Option<String> {
    let own = containers.iter().filter(|container| text(container, "captain.app").is_some());
    let truth: BTreeMap<&str, &str> = own
        .clone()
        .map(|container| (container["Id"].as_str().unwrap(), container["State"].as_str().unwrap()))
        .collect();
    if let Some((id, state)) = truth.iter().find(|(_, state)| !["running", "paused", "exited"].contains(state)) {
        return Some(format!("{id} is {state}"));
    }
    let shown = captain.node(&node.name).await;
    let used: u64 = own.filter(|container| runs(container)).map(slots).sum();
    if shown["state"] != "healthy" || shown["slots"]["used"] != used {
        return Some(format!("{used} slots are in use, and the node is shown as {shown}"));
    }
    let list = captain.get("/instances/?state=all").await.expect(200).json();
    let of_node = list.as_array().unwrap().iter().filter(|instance| instance["node"] == node.name.as_str());
    let seen: BTreeMap<&str, &str> =
        of_node.map(|one| (one["id"].as_str().unwrap(), one["state"].as_str().unwrap())).collect();
    (seen != truth).then(|| format!("{seen:?} is shown where {truth:?} is"))
}
