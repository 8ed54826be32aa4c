//! Listing: whose each container is, record by record.
//!
//! A record that cannot be read is skipped and reported: one odd container of a foreign tool must not hide a node's instances. But
//! whatever bears Captain's label counts, however odd its state: a state of unknown name holds its slots.

use std::collections::HashMap;

use captain_domain::label::{self, Labels};
use captain_domain::{InstanceId, OperationId, State};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::failure::Failure;
use super::wire::{Call, Wire, decode};
use crate::engine::{Owner, Sighting};

/// A summary takes 1 to 2 kB (labels, mounts, networks): room for 30,000 containers, more than any engine bears.
const LIMIT: usize = 64 << 20;
/// The port that an instance listens on, inside.
pub(super) const INSTANCE_PORT: u16 = 8080;

/// A listing, and how many of its records could not be read.
pub(super) struct Listing {
    pub(super) sightings: Vec<Sighting>,
    pub(super) skipped: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary<'a> {
    id: &'a str,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
    #[serde(default)]
    state: Option<String>,
    #[serde(default, borrow)]
    ports: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", default)]
    address: Option<String>,
    private_port: u16,
    #[serde(default)]
    public_port: Option<u16>,
    #[serde(rename = "Type")]
    protocol: String,
}

impl Port {
    fn is_an_instances(&self) -> bool {
        self.private_port == INSTANCE_PORT && self.protocol == "tcp"
    }
}

/// Every container, or those that an operation made.
pub(super) async fn list(wire: &Wire, operation: Option<OperationId>) -> Result<Listing, Failure> {
    let path = match operation {
        None => "/containers/json?all=true".to_owned(),
        Some(operation) => {
            let filter = serde_json::json!({ "label": [format!("{}={operation}", label::OPERATION)] }).to_string();
            format!("/containers/json?all=true&filters={}", super::encoded(&filter))
        }
    };
    let call = Call::get(path);
    read(&wire.share().listing(wire.ask(&call, wire.timeout(), LIMIT)).await?)
}

fn read(body: &[u8]) -> Result<Listing, Failure> {
    // Podman answers `null` for none.
    let records: Option<Vec<&RawValue>> = decode_borrowed(body)?;
    let records = records.unwrap_or_default();
    let total = records.len();
    let sightings: Vec<_> = records.into_iter().filter_map(|record| sighting(record.get())).collect();
    Ok(Listing { skipped: total - sightings.len(), sightings })
}

fn decode_borrowed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::undecodable(&error))
}

fn sighting(record: &str) -> Option<Sighting> {
    let summary: Summary<'_> = serde_json::from_str(record).ok()?;
    let id: InstanceId = summary.id.parse().ok()?;
    let state = state(summary.state.as_deref().unwrap_or_default());
    let labels = summary.labels.as_ref();
    let ports = summary.ports.and_then(|ports| decode::<Vec<Port>>(ports.get().as_bytes()).ok()).unwrap_or_default();
    let owner = match Labels::read(|name| labels.and_then(|labels| labels.get(name)).map(String::as_str)) {
        Some(Ok(labels)) => Owner::Captain(labels),
        Some(Err(error)) => Owner::Unreadable(error),
        None if is_perhaps_the_originals(&summary, state, &ports) => Owner::Perhaps,
        None => Owner::Foreign,
    };
    Some(Sighting { id, state, owner, port: bound_port(&ports).filter(|_| state.is_running()) })
}

/// The one that an inspection tells, too: on IPv4 where there is one.
fn bound_port(ports: &[Port]) -> Option<u16> {
    let bound = ports.iter().filter(|port| port.is_an_instances() && port.public_port.is_some_and(|port| port != 0));
    let ipv6 = |port: &&Port| port.address.as_deref().is_some_and(|address| address.contains(':'));
    let ipv4 = bound.clone().find(|port| !ipv6(port));
    ipv4.or_else(|| bound.clone().next()).and_then(|port| port.public_port)
}

/// Docker's words, and Podman's further ones. An unknown one holds its slots until it is known better.
pub(super) fn state(word: &str) -> State {
    State::from_word(word).unwrap_or(match word {
        "configured" | "initialized" => State::Created,
        "stopped" => State::Exited,
        "stopping" => State::Running,
        _ => State::Dead,
    })
}

/// The original took what runs and has one port, 8080/tcp (which is listed twice where it is published on IPv4 and IPv6). Ports
/// of what does not run are not listed, but the original's names are telling.
fn is_perhaps_the_originals(summary: &Summary<'_>, state: State, ports: &[Port]) -> bool {
    if !state.is_running() {
        return summary.names.iter().flatten().any(|name| originals_app(name.trim_start_matches('/')).is_some());
    }
    !ports.is_empty() && ports.iter().all(Port::is_an_instances)
}

/// The app in a name that the original gave: `<app>_<uuid4>`.
pub(super) fn originals_app(name: &str) -> Option<&str> {
    let (app, uuid) = name.rsplit_once('_')?;
    let is_uuid4 = uuid.parse::<OperationId>().is_ok() && uuid.as_bytes().get(14) == Some(&b'4');
    (is_uuid4 && !app.is_empty()).then_some(app)
}

#[cfg(test)]
mod tests {
    use captain_domain::label::LabelError;
    use serde_json::{Value, json};

    use super::*;

    const UUID: &str = "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11";

    fn id(n: u8) -> String {
        InstanceId::from_bytes([n; 32]).to_string()
    }

    fn owner(record: Value) -> Owner {
        sighting(&record.to_string()).unwrap().owner
    }

    fn labels() -> Value {
        json!({"captain.app": "demo", "captain.slots": "2", "captain.slug": "http://s/d.tgz", "captain.operation": UUID, "x": "y"})
    }

    #[test]
    fn labels_make_it_captains() {
        let Owner::Captain(labels) = owner(json!({"Id": id(1), "State": "created", "Labels": labels(), "Ports": []}))
        else {
            panic!("not Captain's")
        };
        assert_eq!((labels.app.as_str(), labels.slots.0, labels.operation.to_string().as_str()), ("demo", 2, UUID));
        let broken =
            owner(json!({"Id": id(1), "State": "running", "Labels": {"captain.app": "demo", "captain.slots": "x"}}));
        assert_eq!(broken, Owner::Unreadable(LabelError { name: label::OPERATION, value: String::new() }));
    }

    #[test]
    fn the_originals_shape_is_known_and_anything_else_is_foreign() {
        let with_ports = |ports: Value| owner(json!({"Id": id(1), "State": "running", "Ports": ports, "Labels": {}}));
        let port = |private: u16, ip: &str, protocol: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": 49153, "Type": protocol});
        assert_eq!(with_ports(json!([port(8080, "0.0.0.0", "tcp")])), Owner::Perhaps);
        assert_eq!(with_ports(json!([port(8080, "0.0.0.0", "tcp"), port(8080, "::", "tcp")])), Owner::Perhaps);
        assert_eq!(with_ports(json!([port(8080, "0.0.0.0", "tcp"), port(9090, "::", "tcp")])), Owner::Foreign);
        assert_eq!(with_ports(json!([port(8080, "0.0.0.0", "udp")])), Owner::Foreign);
        assert_eq!(with_ports(json!([port(80, "0.0.0.0", "tcp")])), Owner::Foreign);
        for ports in [json!([]), Value::Null, json!("odd"), json!([{"PrivatePort": "odd"}])] {
            assert_eq!(with_ports(ports.clone()), Owner::Foreign, "{ports}");
        }
    }

    #[test]
    fn the_port_is_that_of_an_inspection() {
        let port_of = |state: &str, ports: Value| {
            sighting(&json!({"Id": id(1), "State": state, "Labels": labels(), "Ports": ports}).to_string())
                .unwrap()
                .port
        };
        let port = |ip: &str, public: u16| json!({"IP": ip, "PrivatePort": 8080, "PublicPort": public, "Type": "tcp"});
        assert_eq!(port_of("running", json!([port("::", 49154), port("0.0.0.0", 49153)])), Some(49153));
        assert_eq!(port_of("paused", json!([port("::", 49154)])), Some(49154));
        assert_eq!(port_of("exited", json!([port("0.0.0.0", 49153)])), None);
        assert_eq!(port_of("running", json!([{"PrivatePort": 8080, "Type": "tcp"}])), None);
        assert_eq!(port_of("running", json!([])), None);
    }

    #[test]
    fn what_does_not_run_is_known_by_its_name() {
        let named =
            |name: &str, state: &str| owner(json!({"Id": id(1), "Names": [name], "State": state, "Labels": null}));
        assert_eq!(named(&format!("/demo_{UUID}"), "exited"), Owner::Perhaps);
        assert_eq!(named(&format!("/demo_{UUID}"), "running"), Owner::Foreign);
        assert_eq!(named("/demo", "exited"), Owner::Foreign);
        assert_eq!(originals_app(&format!("my_app_{UUID}")), Some("my_app"));
        assert_eq!(originals_app(&format!("_{UUID}")), None);
        assert_eq!(originals_app("demo_0b8c2d0e-7d3c-1a53-9d6f-2f4f0a6a1c11"), None);
    }

    #[test]
    fn a_poisoned_record_is_skipped_and_counted() {
        let good = json!({"Id": id(1), "State": "running", "Labels": labels()});
        let body = json!([{"Id": 7}, good, {"Id": "short"}, {"Id": id(2), "Labels": ["odd"]}, null, "x"]).to_string();
        let listing = read(body.as_bytes()).unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!((listing.sightings.len(), listing.skipped), (1, 5));
        assert_eq!(read(b"null").map(|listing| listing.sightings.len()).ok(), Some(0));
        assert!(read(b"{}").is_err() && read(b"[{}").is_err());
    }

    #[test]
    fn unknown_states_hold_their_slots() {
        for (word, expected) in
            [("running", State::Running), ("stopped", State::Exited), ("configured", State::Created)]
        {
            assert_eq!(state(word), expected);
        }
        for word in ["", "hibernating"] {
            assert!(state(word).holds_slots(), "{word}");
        }
    }
}
