//! Listing: whose each container is, record by record.
//!
//! A record that cannot be read is skipped and reported: one odd container of a foreign tool must not hide a node's instances. But
//! whatever bears Captain's label counts, however odd its state: a state of unknown name holds its slots.

use std::fmt;
use std::ops::Range;

use captain_domain::label::{self, Labels};
use captain_domain::{InstanceId, OperationId, State};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::failure::Failure;
use super::known::{Found, Known, Memory};
use super::text::Text;
use super::wire::{Call, Wire, within};
use crate::engine::{Owner, Sighting};

/// A summary takes 1 to 2 kB (labels, mounts, networks): room for 30,000 containers, more than any engine bears.
const LIMIT: usize = 64 << 20;
/// A record that is not whole is looked at again with as much as most take.
const USUAL: usize = 2 << 10;
/// The port that an instance listens on, inside.
pub(super) const INSTANCE_PORT: u16 = 8080;
/// The same as inspections name it.
pub(super) const INSTANCE_PORT_NAME: &str = "8080/tcp";

/// A listing, and how many of its records could not be read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) sightings: Vec<Sighting>,
    pub(super) skipped: usize,
}

/// The parts of a record that matter. Each claim reads such a list, so that nothing is copied that is not kept.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary<'a> {
    id: &'a str,
    #[serde(default, borrow)]
    names: Option<&'a RawValue>,
    #[serde(default, borrow)]
    labels: Option<OurLabels<'a>>,
    #[serde(default, borrow)]
    state: Option<Text<'a>>,
    #[serde(default, borrow)]
    status: Option<&'a RawValue>,
    #[serde(default, borrow)]
    ports: Option<&'a RawValue>,
}

const OUR_LABELS: [&str; 5] = [label::APP, label::SLOTS, label::SLUG, label::OPERATION, label::ATTEMPT];

/// The values of Captain's labels, in the order above. Of others there may be any number.
#[derive(Default)]
struct OurLabels<'a>([Option<Text<'a>>; OUR_LABELS.len()]);

impl OurLabels<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0[OUR_LABELS.iter().position(|ours| *ours == name)?].as_deref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for OurLabels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Taker;

        impl<'de> Visitor<'de> for Taker {
            type Value = OurLabels<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
                let mut labels = OurLabels::default();
                while let Some(name) = pairs.next_key::<Text<'_>>()? {
                    match OUR_LABELS.iter().position(|ours| *ours == &*name) {
                        Some(at) => labels.0[at] = Some(pairs.next_value()?),
                        None => drop(pairs.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(labels)
            }
        }

        deserializer.deserialize_map(Taker)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port<'a> {
    #[serde(rename = "IP", default, borrow)]
    address: Option<Text<'a>>,
    private_port: u16,
    #[serde(default)]
    public_port: Option<u16>,
    #[serde(rename = "Type", borrow)]
    protocol: Text<'a>,
}

impl Port<'_> {
    fn is_an_instances(&self) -> bool {
        self.private_port == INSTANCE_PORT && &*self.protocol == "tcp"
    }
}

/// Every container.
pub(super) async fn list(wire: &Wire, memory: &Memory) -> Result<Listing, Failure> {
    let mut known = memory.begin(Instant::now(), wire.share());
    let listing = ask(wire, "/containers/json?all=true".to_owned(), &mut known).await?;
    memory.end(known);
    Ok(listing)
}

/// Those that an operation made.
pub(super) async fn find(wire: &Wire, operation: OperationId) -> Result<Listing, Failure> {
    let filter = serde_json::json!({ "label": [format!("{}={operation}", label::OPERATION)] }).to_string();
    ask(wire, format!("/containers/json?all=true&filters={}", super::encoded(&filter)), &mut Known::default()).await
}

async fn ask(wire: &Wire, path: String, known: &mut Known) -> Result<Listing, Failure> {
    let call = Call::get(path);
    within(wire.timeout(), async {
        let mut answer = wire.send(&call).await?.into_body();
        let (mut reading, mut length) = (Reading::new(known), 0);
        while let Some(piece) = answer.piece().await {
            let piece = piece?;
            length += piece.len();
            if length > LIMIT {
                return Err(Failure::garbled(format!("its list is larger than {} MiB", LIMIT >> 20)));
            }
            reading.take(&piece)?;
        }
        reading.end()
    })
    .await
}

/// A list that is read while it comes: it is never in memory as a whole, and no piece of it keeps others from the processor for long.
struct Reading<'a> {
    known: &'a mut Known,
    place: Place,
    /// What has come of a record that is not whole. The others are read in the pieces themselves, and not copied.
    pending: Vec<u8>,
    /// How much must be there before it is looked at again: twice what was too little, so that one that is huge is not read again
    /// for each piece of it. Always more than is there.
    again_at: usize,
    listing: Listing,
}

/// What comes next in a list.
#[derive(Default, Clone, Copy)]
enum Place {
    #[default]
    Beginning,
    FirstRecord,
    Record,
    Comma,
    Nothing,
}

impl<'a> Reading<'a> {
    fn new(known: &'a mut Known) -> Self {
        let listing = Listing { sightings: Vec::with_capacity(known.expected()), skipped: 0 };
        Self { known, place: Place::Beginning, pending: Vec::new(), again_at: USUAL, listing }
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<(), Failure> {
        while !self.pending.is_empty() && !piece.is_empty() {
            let more = piece.len().min(self.again_at - self.pending.len());
            self.pending.extend_from_slice(&piece[..more]);
            if self.pending.len() == self.again_at {
                self.read_pending()?;
            }
            // What is left came with this piece, and is read where it is.
            let again = if self.pending.len() <= more { self.pending.len() } else { 0 };
            piece = &piece[more - again..];
            self.pending.truncate(self.pending.len() - again);
        }
        if self.pending.is_empty() {
            let read = self.read(piece)?;
            self.pending.extend_from_slice(&piece[read..]);
            self.look_later();
        }
        Ok(())
    }

    fn read_pending(&mut self) -> Result<(), Failure> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.drain(..self.read(&pending)?);
        self.pending = pending;
        self.look_later();
        Ok(())
    }

    fn look_later(&mut self) {
        self.again_at = (self.pending.len() * 2).max(USUAL);
    }

    /// Reads all records that are whole, and answers how many bytes they took.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let mut at = 0;
        loop {
            at += bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let Some(mark) = bytes.get(at) else { return Ok(at) };
            self.place = match (self.place, mark) {
                (Place::Beginning, b'[') => Place::FirstRecord,
                // Perhaps all of it is `null`: known at the end.
                (Place::Beginning, b'n') => return Ok(at),
                (Place::FirstRecord | Place::Comma, b']') => Place::Nothing,
                (Place::Comma, b',') => Place::Record,
                (Place::FirstRecord | Place::Record, _) => match self.record(&bytes[at..])? {
                    Some((sighting, length)) => {
                        self.listing.skipped += usize::from(sighting.is_none());
                        self.listing.sightings.extend(sighting);
                        at += length - 1;
                        Place::Comma
                    }
                    None => return Ok(at),
                },
                (Place::Beginning | Place::Comma | Place::Nothing, _) => {
                    return Err(Failure::garbled("its answer is no list of containers"));
                }
            };
            at += 1;
        }
    }

    /// The record at the beginning, as far as it can be understood, and its length; none where it is not whole.
    fn record(&mut self, bytes: &[u8]) -> Result<Option<(Option<Sighting>, usize)>, Failure> {
        match self.known.find(bytes) {
            Found::Known(sighting, length) => Ok(Some((Some(sighting), length))),
            Found::Partly => Ok(None),
            Found::New => {
                let Some(Record { sighting, status, length }) = record(bytes)? else { return Ok(None) };
                if let Some(sighting) = &sighting {
                    self.known.keep(&bytes[..length], status, sighting);
                }
                Ok(Some((sighting, length)))
            }
        }
    }

    fn end(mut self) -> Result<Listing, Failure> {
        self.read_pending()?;
        match self.place {
            Place::Nothing => Ok(self.listing),
            // Podman's word for none.
            Place::Beginning if self.pending.trim_ascii_end() == b"null" => Ok(self.listing),
            _ => Err(Failure::garbled("its list of containers breaks off")),
        }
    }
}

/// A record that was read.
struct Record {
    /// None where it cannot be understood.
    sighting: Option<Sighting>,
    /// The words that say how long its container has been up, within it.
    status: Option<Range<usize>>,
    length: usize,
}

/// Reads the record at the beginning; none where it is not whole.
fn record(bytes: &[u8]) -> Result<Option<Record>, Failure> {
    match first::<Summary<'_>>(bytes) {
        Ok((summary, length)) => {
            let status = summary.status.map(|status| place(bytes, status.get()));
            return Ok(Some(Record { sighting: sighting(&summary), status, length }));
        }
        Err(error) if error.is_eof() => return Ok(None),
        Err(_) => {}
    }
    // Passed over as a whole.
    match first::<IgnoredAny>(bytes) {
        // What ends where the bytes end may go on, if it is a number.
        Ok((_, length)) => Ok((length < bytes.len()).then_some(Record { sighting: None, status: None, length })),
        Err(error) if error.is_eof() => Ok(None),
        Err(error) => Err(Failure::undecodable(&error)),
    }
}

/// Where a part of them is.
fn place(bytes: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - bytes.as_ptr().addr();
    start..start + part.len()
}

fn first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<(T, usize)> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<T>();
    let value = values.next().unwrap_or_else(|| Err(serde::de::Error::custom("there is nothing")))?;
    Ok((value, values.byte_offset()))
}

fn sighting(summary: &Summary<'_>) -> Option<Sighting> {
    let id: InstanceId = summary.id.parse().ok()?;
    let state = state(summary.state.as_deref().unwrap_or_default());
    let labels = summary.labels.as_ref();
    // What does not run has none, whatever is said.
    let ports = summary.ports.filter(|_| state.is_running());
    let ports: Vec<Port<'_>> = ports.and_then(|ports| serde_json::from_str(ports.get()).ok()).unwrap_or_default();
    let owner = match Labels::read(|name| labels.and_then(|labels| labels.get(name))) {
        Some(Ok(labels)) => Owner::Captain(labels),
        Some(Err(error)) => Owner::Unreadable(error),
        None if is_perhaps_the_originals(summary, state, &ports) => Owner::Perhaps,
        None => Owner::Foreign,
    };
    Some(Sighting { id, state, owner, port: bound_port(&ports) })
}

/// The one that an inspection tells, too: on IPv4 where there is one.
fn bound_port(ports: &[Port<'_>]) -> Option<u16> {
    let bound = ports.iter().filter(|port| port.is_an_instances() && port.public_port.is_some_and(|port| port != 0));
    let ipv6 = |port: &&Port<'_>| port.address.as_deref().is_some_and(|address| address.contains(':'));
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
fn is_perhaps_the_originals(summary: &Summary<'_>, state: State, ports: &[Port<'_>]) -> bool {
    if !state.is_running() {
        let names = summary.names.and_then(|names| serde_json::from_str::<Vec<Text<'_>>>(names.get()).ok());
        return names.iter().flatten().any(|name| originals_app(name.trim_start_matches('/')).is_some());
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

    /// A list that comes in pieces of so many bytes.
    fn read_in(size: usize, body: &str) -> Result<Listing, Failure> {
        let mut known = Known::default();
        let mut reading = Reading::new(&mut known);
        body.as_bytes().chunks(size).try_for_each(|piece| reading.take(piece))?;
        reading.end()
    }

    fn seen(record: &Value) -> Sighting {
        read_in(usize::MAX, &json!([record]).to_string()).unwrap().sightings.remove(0)
    }

    fn owner(record: Value) -> Owner {
        seen(&record).owner
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
            seen(&json!({"Id": id(1), "State": state, "Labels": labels(), "Ports": ports})).port
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
        let body = json!([{"Id": 7}, good, {"Id": "short"}, {"Id": id(2), "Labels": ["odd"]}, null, "x", 12, [[]]]);
        for body in [body.to_string(), serde_json::to_string_pretty(&body).unwrap()] {
            for size in [1, 2, 3, 64, 4096] {
                let listing = read_in(size, &body).unwrap_or_else(|failure| panic!("{size}: {failure:?}"));
                assert_eq!((listing.sightings.len(), listing.skipped), (1, 7), "{size}");
            }
        }
    }

    #[test]
    fn a_list_is_read_to_its_end_or_not_at_all() {
        let record = |n| json!({"Id": id(n), "State": "running", "Labels": labels()}).to_string();
        let all: Vec<String> = (0..200).map(record).collect();
        let body = format!(" [{}]\n", all.join(" ,\n"));
        for size in [1, 7, 1000, 4096, usize::MAX] {
            let listing = read_in(size, &body).unwrap_or_else(|failure| panic!("{failure:?}"));
            let ids: Vec<String> = listing.sightings.iter().map(|sighting| sighting.id.to_string()).collect();
            assert_eq!((ids, listing.skipped), ((0..200).map(id).collect(), 0), "{size}");
            for empty in ["null", "[]", " [ ]\n", "null\n"] {
                let listing = read_in(size, empty).unwrap_or_else(|failure| panic!("{empty}: {failure:?}"));
                assert_eq!((listing.sightings.len(), listing.skipped), (0, 0), "{empty}");
            }
            let (one, two) = (record(1), record(2));
            for broken in [
                "",
                "{}",
                "7",
                "nul",
                "nullx",
                "[",
                "[{}",
                "[{]",
                "[,]",
                "[{},]",
                "[{}] x",
                "[{}][]",
                "[{} {}]",
                "<html>",
                &body[..body.len() - 3],
                &body[..body.len() / 2],
                &format!("[{one}{two}]"),
                &format!("{one},{two}"),
            ] {
                assert!(read_in(size, broken).is_err(), "{size}: {broken}");
            }
        }
    }

    #[test]
    fn what_is_known_again_is_what_was_read() {
        let record = |n: u8, state: &str, status: &str| {
            let ports = json!([{"IP": "::", "PrivatePort": 8080, "PublicPort": 40_000 + u16::from(n), "Type": "tcp"}]);
            json!({"Id": id(n), "Labels": labels(), "Ports": ports, "State": state, "Status": status, "Mounts": []})
                .to_string()
        };
        let (memory, share) = (Memory::default(), super::super::share::Shares::default().take());
        let read = |size: usize, body: &str| {
            let mut known = memory.begin(Instant::now(), &share);
            let mut reading = Reading::new(&mut known);
            body.as_bytes().chunks(size).try_for_each(|piece| reading.take(piece)).unwrap();
            let listing = reading.end().unwrap();
            memory.end(known);
            (listing.sightings, listing.skipped)
        };
        let list = |records: Vec<String>| format!("[{}]", records.join(","));
        let odd = json!({"Id": "short", "State": "running", "Status": "Up"}).to_string();
        let running = |n| record(n, "running", &format!("Up {n} seconds"));
        let first = list((0..50).map(running).chain([odd.clone()]).collect());
        // One is new, one is gone, one has ended, and all have been up for longer.
        let later = |n| match n {
            7 => record(n, "exited", "Exited (0) 1 second ago"),
            n => record(n, "running", &format!("Up {n} minutes")),
        };
        let second = list((0..50).filter(|n| *n != 20).map(later).chain([odd, running(99)]).collect());
        for size in [1, 7, 1000, 4096, usize::MAX] {
            for body in [&first, &first, &second, &first, &second, &second] {
                let plainly = read_in(usize::MAX, body).unwrap();
                assert_eq!(read(size, body), (plainly.sightings, plainly.skipped), "{size}");
            }
        }
    }

    #[test]
    fn a_huge_record_is_read_a_few_times_and_not_for_each_piece() {
        let huge = json!([{"Id": id(1), "State": "running", "Labels": {"x": "y".repeat(1 << 20)}}]).to_string();
        let mut known = Known::default();
        let (mut reading, mut looked_at) = (Reading::new(&mut known), std::collections::BTreeSet::new());
        for piece in huge.as_bytes().chunks(100) {
            reading.take(piece).unwrap();
            looked_at.insert(reading.again_at);
        }
        assert_eq!(reading.end().unwrap().sightings.len(), 1);
        assert!((5..20).contains(&looked_at.len()), "{looked_at:?}");
    }

    #[test]
    fn escapes_are_undone() {
        let mut record = json!({"Id": id(1), "State": "running", "Labels": labels()}).to_string();
        for (plain, escaped) in
            [("running", "runn\\u0069ng"), ("captain.app", "captain.\\u0061pp"), ("http://s/d", "http:\\/\\/s\\/d")]
        {
            assert!(record.contains(plain));
            record = record.replace(plain, escaped);
        }
        let seen = read_in(usize::MAX, &format!("[{record}]")).unwrap().sightings.remove(0);
        let Owner::Captain(labels) = seen.owner else { panic!("{seen:?}") };
        assert_eq!(
            (seen.state, labels.app.as_str(), labels.slug_uri.as_str()),
            (State::Running, "demo", "http://s/d.tgz")
        );
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
