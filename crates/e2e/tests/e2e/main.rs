//! The built binary against real engines. One binary for all tests: they share the cluster, and link once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a panic is how it reports"
)]

mod adoption;
mod calls;
mod capacity;
mod claims;
mod cli;
mod configuration;
mod discovery;
mod documents;
mod faults;
mod faults_captains;
mod faults_engines;
mod harness;
mod instances;
mod lifecycle;
mod listings;
mod logs;
mod malformed;
mod node_uris;
mod resilience;
mod routes;
mod slug_fetching;
mod stack;
mod third_party;
mod wired;

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, Node, lease};
use captain_e2e::http::Response;
use captain_e2e::origin::Origin;

/// What most tests stand on. The fields go in this order: the captain before the nodes it uses.
struct Stage {
    captain: Captain,
    origin: Origin,
    lease: Lease,
}

impl Stage {
    /// `nodes` nodes, a slug server, and a captain with the user's minimum of settings.
    async fn with(nodes: usize) -> Self {
        Self::set(nodes, |settings| settings).await
    }

    /// The same with further settings.
    async fn set(nodes: usize, further: impl FnOnce(Settings) -> Settings) -> Self {
        let lease = lease(nodes).await;
        let origin = Origin::start(&lease).await;
        let captain = further(Settings::of(&lease)).start().await;
        Self { captain, origin, lease }
    }

    /// The first node.
    fn node(&self) -> &'static Node {
        self.lease.node(0)
    }
}

/// Asserts that this is an error as every error of Captain must be, and returns its message.
#[track_caller]
fn assert_error(response: &Response, status: u16, code: &str) -> String {
    assert_eq!(response.status.as_u16(), status, "{}", response.text());
    assert_eq!(response.header("content-type"), "application/json");
    let body = response.json();
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["code"], code, "{body}");
    let message = body["message"].as_str().unwrap_or_else(|| panic!("no message: {body}"));
    assert!(!message.is_empty() && !message.contains('<'), "{body}");
    message.to_owned()
}

/// The id of an instance.
#[track_caller]
fn id(instance: &serde_json::Value) -> String {
    instance["id"].as_str().unwrap_or_else(|| panic!("no id: {instance}")).to_owned()
}
