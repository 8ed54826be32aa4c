//! The view as JSON: the types of `captain_api`, written without copying what the view holds.

use captain_api::InstanceState;
use captain_domain::{Exit, Instance, State, Timestamp};
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::fleet::{Claim, InstanceRef, NodeRef};

/// RFC 3339 in UTC, to the millisecond.
pub(super) fn moment(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// An instance, as `captain_api::Instance` reads it (a test holds the two together).
///
/// When its node was last heard is told where one instance is asked for. On each line of a listing it would say the same of every
/// instance of a lost node, and make the listing longer just when nodes are lost; `/nodes/` says it once.
pub(super) struct InstanceJson<'a> {
    pub(super) instance: InstanceRef<'a>,
    pub(super) listed: bool,
}

impl Serialize for InstanceJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let instance = self.instance;
        let id = instance.id().to_hex();
        let id = std::str::from_utf8(&id).unwrap_or_default();
        let node = instance.node();
        let mut out = serializer.serialize_struct("Instance", 15)?;
        out.serialize_field("id", id)?;
        out.serialize_field("app", instance.app())?;
        out.serialize_field("slug_uri", instance.slug_uri())?;
        out.serialize_field("node", node.id().as_str())?;
        out.serialize_field("port", &instance.port())?;
        out.serialize_field("environment", &EnvironmentJson(instance.environment()))?;
        out.serialize_field("slots", &instance.slots().0)?;
        out.serialize_field("hostname", instance.hostname().unwrap_or_else(|| id.get(..12).unwrap_or_default()))?;
        out.serialize_field("state", state_word(instance.state(), instance.is_certain()))?;
        if !instance.is_certain() {
            out.serialize_field("node_state", node.health().word())?;
            if !self.listed {
                out.serialize_field("confirmed", &node.heard().map(moment))?;
            }
        }
        out.serialize_field("created", &Some(instance.created()).filter(|at| at.0 != 0).map(moment))?;
        out.serialize_field("started", &instance.started().map(moment))?;
        out.serialize_field("exit", &instance.exit().map(exit))?;
        out.serialize_field("operation", &instance.operation().map(|operation| operation.to_string()))?;
        out.end()
    }
}

struct EnvironmentJson<'a>(&'a captain_domain::Environment);

impl Serialize for EnvironmentJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter() {
            out.serialize_entry(name, value)?;
        }
        out.end()
    }
}

/// What is said of an instance's state. Captain does not say that something runs when it does not know.
const fn state_word(state: State, certain: bool) -> &'static str {
    if certain || !state.is_running() { state.word() } else { "unknown" }
}

fn exit(exit: &Exit) -> captain_api::Exit {
    captain_api::Exit {
        code: exit.code,
        signal: exit.signal(),
        out_of_memory: exit.out_of_memory,
        at: exit.at.map(moment),
        reason: exit.reason(),
    }
}

/// An instance that has just been looked at on its engine.
pub(super) fn fresh(instance: &Instance) -> captain_api::Instance {
    captain_api::Instance {
        id: instance.id.to_string(),
        app: instance.app.to_string(),
        slug_uri: instance.slug_uri.to_string(),
        node: instance.node.to_string(),
        port: instance.port,
        environment: instance.environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        slots: instance.slots.0,
        hostname: instance.hostname.to_string(),
        state: api_state(instance.state),
        node_state: None,
        confirmed: None,
        created: Some(moment(instance.created)),
        started: instance.started.map(moment),
        exit: instance.exit.as_ref().map(exit),
        operation: instance.operation.map(|operation| operation.to_string()),
    }
}

const fn api_state(state: State) -> InstanceState {
    match state {
        State::Created => InstanceState::Created,
        State::Running => InstanceState::Running,
        State::Paused => InstanceState::Paused,
        State::Restarting => InstanceState::Restarting,
        State::Exited => InstanceState::Exited,
        State::Removing => InstanceState::Removing,
        State::Dead => InstanceState::Dead,
    }
}

/// A node.
pub(super) fn node(node: NodeRef<'_>, now: Timestamp) -> captain_api::Node {
    let known = captain_api::NodeSlots { free: node.free().0, total: node.total().0, used: node.used().0 };
    let healthy = node.health() == captain_domain::Health::Healthy;
    let none = captain_api::NodeSlots { free: 0, total: 0, used: 0 };
    captain_api::Node {
        id: node.id().to_string(),
        slots: if healthy { known } else { none },
        state: node.state(),
        since: Some(moment(node.since())),
        engine: node.facts().map(|facts| captain_api::EngineFacts {
            kind: facts.kind.to_owned(),
            version: facts.version.clone(),
            memory_bytes: facts.memory_bytes,
            cpus: facts.cpus,
        }),
        warnings: node.warnings(),
        last_known: node.heard().filter(|_| !healthy).map(|at| captain_api::LastKnown {
            slots: known,
            at: moment(at),
            age_seconds: now.millis_since(at) / 1000,
        }),
    }
}

/// A claim.
pub(super) fn claim(operation: captain_domain::OperationId, claim: &Claim) -> captain_api::Claim {
    captain_api::Claim {
        operation: operation.to_string(),
        app: claim.app.to_string(),
        node: claim.node.to_string(),
        slots: claim.slots.0,
        phase: claim.phase,
        detail: claim.detail.clone(),
        since: moment(claim.since),
    }
}
