//! A captain, one node, and the yardstick: the same container made by nobody but the engine.
//!
//! The yardstick's container is what Captain makes, read back from the engine: image, command, environment, labels, limits, port. While it
//! is measured Captain is stopped, for its watcher would look at that container too, and the yardstick must not pay for Captain.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, Node, lease_on_tcp};
use captain_e2e::origin::Origin;
use captain_e2e::process;
use captain_e2e::{eventually, slugs};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::wire::{Wire, text};

/// What pairs are measured on.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) captain: Captain,
    pub(crate) origin: Origin,
    pub(crate) lease: Lease,
    /// The body of a start through Captain.
    order: Bytes,
    /// The body of an equal creation on the engine.
    equal: Bytes,
    engine_pid: u32,
}

/// What one slug in `environment` and labels looks like in the field: a handful of settings.
pub(crate) fn order(node: &Node, slug: &str) -> Value {
    json!({"app": "random-frontend", "node": node.name, "slug_uri": slug, "environment": {
        "JAVA_OPTS": "-Xmx256m -Xms256m", "DATABASE_URL": "postgres://db.internal:5432/random", "LOG_LEVEL": "info",
    }})
}

impl Stage {
    /// Brings it up, with the image on the node, and makes sure that the yardstick's container is equal.
    pub(crate) async fn up() -> Self {
        Self::with(Settings::of).await
    }

    /// The same with a captain of these settings.
    pub(crate) async fn with(settings: impl FnOnce(&Lease) -> Settings) -> Self {
        let lease = lease_on_tcp(1).await;
        let origin = Origin::start(&lease).await;
        // Serves a page, so that it can be seen to be up, and ends at once at SIGTERM.
        let slug = origin.offer("bench.tgz", slugs::web("up"));
        let captain = settings(&lease).start().await;
        let node = lease.node(0);
        let order = Bytes::from(order(node, &slug).to_string());

        let first = captain.post("/instances/", order.clone()).await.expect(201).json();
        let id = first["id"].as_str().unwrap();
        let made = node.engine().inspect(id).await;
        let equal = Bytes::from(recipe(&made).to_string());
        let pid_file = node.socket().with_file_name("dockerd.pid");
        let engine_pid = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let stage = Self { captain, origin, lease, order, equal, engine_pid };
        stage.clear().await;
        stage.alone(async { stage.assert_equal(&made).await }).await;
        stage
    }

    async fn assert_equal(&self, made: &Value) {
        let id = self.raw_start(&mut self.to_engine().await, "yardstick-equal").await;
        let raw = self.node().engine().inspect(&id).await;
        assert_eq!(recipe(&raw), recipe(made), "the yardstick is not equal to what Captain makes");
    }

    pub(crate) fn node(&self) -> &'static Node {
        self.lease.node(0)
    }

    pub(crate) async fn to_captain(&self) -> Wire {
        Wire::warm(self.captain.address(), "/ping/ping").await
    }

    pub(crate) async fn to_engine(&self) -> Wire {
        let engine: SocketAddr = self.node().engine_address();
        Wire::warm(engine, "/_ping").await
    }

    /// A start through Captain; answers the id.
    pub(crate) async fn start(&self, wire: &mut Wire) -> String {
        text(&wire.send("POST", "/instances/", &self.order, &[201]).await, "id")
    }

    /// The yardstick of a start: create, start, inspect.
    pub(crate) async fn raw_start(&self, wire: &mut Wire, name: &str) -> String {
        let none = Bytes::new();
        let created = wire.send("POST", &format!("/containers/create?name={name}"), &self.equal, &[201]).await;
        let id = text(&created, "Id");
        wire.send("POST", &format!("/containers/{id}/start"), &none, &[204]).await;
        wire.send("GET", &format!("/containers/{id}/json"), &none, &[200]).await;
        id
    }

    /// A stop through Captain.
    pub(crate) async fn stop(&self, wire: &mut Wire, id: &str) {
        wire.send("DELETE", &format!("/instances/{id}"), &Bytes::new(), &[204]).await;
    }

    /// The yardstick of a stop: stop, remove.
    pub(crate) async fn raw_stop(&self, wire: &mut Wire, id: &str) {
        wire.send("POST", &format!("/containers/{id}/stop?t=10"), &Bytes::new(), &[204]).await;
        wire.send("DELETE", &format!("/containers/{id}?v=true"), &Bytes::new(), &[204]).await;
    }

    /// Waits until the app in a container answers.
    pub(crate) async fn serves(&self, id: &str) {
        let inspected = self.node().engine().inspect(id).await;
        let port = &inspected["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"];
        let port = json!(port.as_str().unwrap().parse::<u16>().unwrap());
        eventually("the app to answer", Duration::from_secs(20), || async {
            self.node().port(&port).try_get("/").await.ok()
        })
        .await;
    }

    /// Removes every container, and waits until nothing of that goes on.
    pub(crate) async fn clear(&self) {
        let engine = self.node().engine();
        let mut removals = tokio::task::JoinSet::new();
        for container in engine.containers().await {
            let (engine, id) = (engine.clone(), container["Id"].as_str().unwrap().to_owned());
            removals.spawn(async move { engine.remove(&id).await });
        }
        removals.join_all().await;
        eventually("an empty node", Duration::from_secs(30), || async {
            engine.containers().await.is_empty().then_some(())
        })
        .await;
        self.rest().await;
    }

    /// Does `work` while Captain stands still, clears the node, and lets Captain go on.
    pub(crate) async fn alone<T>(&self, work: impl Future<Output = T>) -> T {
        self.captain.signal(Signal::STOP);
        let done = work.await;
        self.clear().await;
        self.captain.signal(Signal::CONT);
        eventually("a healthy node without instances", Duration::from_secs(30), || async {
            let (node, ids) = (self.captain.node(&self.node().name).await, self.captain.ids().await);
            (node["state"] == "healthy" && node["slots"]["used"] == 0 && ids.is_empty()).then_some(())
        })
        .await;
        self.rest().await;
        done
    }

    /// Waits until neither Captain nor the engine has anything left to do.
    pub(crate) async fn rest(&self) {
        process::rest(&[self.captain.pid(), self.engine_pid]).await;
    }
}

/// What a container was made of, as a body for making another.
fn recipe(inspected: &Value) -> Value {
    let mut recipe = inspected["Config"].clone();
    recipe["Hostname"] = json!(""); // the engine's own choice, by its id
    recipe["HostConfig"] = inspected["HostConfig"].clone();
    recipe
}
