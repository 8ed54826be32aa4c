//! The containers of one engine: all that are derived, less what has changed, and what was made since.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use captain_domain::InstanceId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::facts::{Container, Plan};

/// Numbers of containers that were made since the beginning: derived ones never come so far.
const MADE_FROM: u32 = 1 << 31;

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Created, not started.
    Created,
    /// Runs.
    Running,
    /// Has ended with this code.
    Exited(u8),
}

impl Life {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited(_) => "exited",
        }
    }

    pub(super) const fn runs(self) -> bool {
        matches!(self, Self::Running)
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            _ => 0,
        }
    }
}

/// What a client said a container should be.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: Box<str>,
    pub(super) labels: Box<RawValue>,
    pub(super) environment: Box<RawValue>,
    pub(super) hostname: Box<str>,
    pub(super) memory: u64,
    pub(super) shares: u32,
}

impl Made {
    /// The labels without the braces around them.
    pub(super) fn label_pairs(&self) -> &str {
        self.labels.get().trim().trim_start_matches('{').trim_end_matches('}')
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Order {
    labels: Box<RawValue>,
    env: Box<RawValue>,
    #[serde(default)]
    hostname: Box<str>,
    host_config: HostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    memory: u64,
    cpu_shares: u32,
}

/// What is not as it was derived.
#[derive(Debug)]
struct Changed {
    life: Life,
    times: Times,
    made: Option<Box<Made>>,
    /// Its record in a listing, once one has been asked for: a machine of its own would not take the time for it from whoever asks.
    record: OnceCell<Record>,
}

/// A record that has been written.
#[derive(Debug)]
struct Record {
    bytes: Box<[u8]>,
    /// Where the words stand that tell how long it has been up. They change by themselves.
    words: Range<usize>,
}

impl Changed {
    fn new(life: Life, times: Times, made: Option<Box<Made>>) -> Self {
        Self { life, times, made, record: OnceCell::new() }
    }
}

impl Record {
    fn new(write: impl FnOnce(&mut Vec<u8>)) -> Self {
        const BEFORE: &[u8] = br#""Status":""#;
        let mut bytes = Vec::new();
        write(&mut bytes);
        // Behind it stands nothing that a client has written.
        let begin = bytes.windows(BEFORE.len()).rposition(|part| part == BEFORE).unwrap() + BEFORE.len();
        let end = begin + bytes[begin..].iter().position(|byte| *byte == b'"').unwrap();
        Self { bytes: bytes.into(), words: begin..end }
    }
}

/// Nanoseconds since 1970; 0 for what has not happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) created: i64,
    pub(super) started: i64,
    pub(super) finished: i64,
}

/// A container that is there.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) container: Container,
    pub(super) hex: [u8; 64],
    pub(super) app: u32,
    pub(super) life: Life,
    changed: Option<&'a Changed>,
    now: i64,
}

impl Found<'_> {
    pub(super) fn made(&self) -> Option<&Made> {
        self.changed?.made.as_deref()
    }

    /// How long it has been up, as Docker says it.
    pub(super) fn up_for(&self, out: &mut Vec<u8>) {
        match self.life {
            Life::Created => out.extend_from_slice(b"Created"),
            Life::Exited(code) => write!(out, "Exited ({code}) 2 minutes ago").unwrap(),
            Life::Running => match self.changed {
                Some(changed) => up_since(changed.times.started, self.now, out),
                None => out.extend_from_slice(b"Up 3 days"),
            },
        }
    }

    pub(super) fn times(&self) -> Times {
        self.changed.map_or_else(|| derived_times(self.container, self.now), |changed| changed.times)
    }
}

fn up_since(started: i64, now: i64, out: &mut Vec<u8>) {
    match (now - started) / 1_000_000_000 {
        ..1 => out.extend_from_slice(b"Up Less than a second"),
        1 => out.extend_from_slice(b"Up 1 second"),
        seconds @ 2..60 => write!(out, "Up {seconds} seconds").unwrap(),
        60..120 => out.extend_from_slice(b"Up About a minute"),
        seconds => write!(out, "Up {} minutes", seconds / 60).unwrap(),
    }
}

fn derived_times(container: Container, now: i64) -> Times {
    let created = now - i64::try_from(container.age()).unwrap();
    let delay = 200_000_000 + (container.chance(5) % 400_000_000) as i64;
    Times { created, started: created + delay, finished: 0 }
}

/// Why a change cannot be: the status, and an engine's words.
pub(super) type Refused = (u16, &'static str);

/// Nothing came of it, for it was so already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Done,
    WasSo,
}

/// What one engine knows.
#[derive(Debug)]
pub(super) struct Containers {
    engine: u32,
    /// How many derived ones there are.
    derived: u32,
    next: u32,
    /// None: removed.
    changed: HashMap<u32, Option<Changed>>,
    made: u32,
    /// Derived ones that were removed.
    gone: u32,
    /// When the simulation began: the derived ones' times are before it.
    epoch: i64,
}

fn clock() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap()
}

impl Containers {
    pub(super) fn new(engine: u32, derived: u32, epoch: i64) -> Self {
        Self { engine, derived, next: MADE_FROM, changed: HashMap::new(), made: 0, gone: 0, epoch }
    }

    /// Appends the records of a listing, which `write` makes one by one, with commas between them. What nothing has happened to is
    /// made anew each time: of millions, none is kept.
    pub(super) fn records(&self, plan: &Plan, out: &mut Vec<u8>, write: impl Fn(&Found<'_>, &mut Vec<u8>)) {
        let now = clock();
        let mut separator: &[u8] = b"";
        let derived = (0..self.derived).filter(|number| !self.changed.contains_key(number));
        for number in derived {
            out.extend_from_slice(std::mem::replace(&mut separator, b","));
            write(&self.found(plan, number, None), out);
        }
        for (number, changed) in &self.changed {
            let Some(changed) = changed else { continue };
            out.extend_from_slice(std::mem::replace(&mut separator, b","));
            let found = || Found { now, ..self.found(plan, *number, Some(changed)) };
            let record = changed.record.get_or_init(|| Record::new(|out| write(&found(), out)));
            if !changed.life.runs() {
                out.extend_from_slice(&record.bytes);
                continue;
            }
            out.extend_from_slice(&record.bytes[..record.words.start]);
            up_since(changed.times.started, now, out);
            out.extend_from_slice(&record.bytes[record.words.end..]);
        }
    }

    /// How many derived ones there are; what is beyond comes to be.
    pub(super) fn derive(&mut self, count: u32) -> std::ops::Range<u32> {
        let before = std::mem::replace(&mut self.derived, count);
        before..count
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        (self.derived - self.gone + self.made) as usize
    }

    fn found<'a>(&'a self, plan: &Plan, number: u32, changed: Option<&'a Changed>) -> Found<'a> {
        let container = Container { engine: self.engine, number };
        Found {
            container,
            hex: container.id().to_hex(),
            app: plan.app(container),
            life: changed.map_or(Life::Running, |changed| changed.life),
            changed,
            now: self.epoch,
        }
    }

    /// Every container.
    pub(super) fn all<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = Found<'a>> {
        let derived = (0..self.derived).filter_map(move |number| self.number(plan, number));
        let made = self.changed.iter().filter(|(number, _)| **number >= self.derived);
        derived
            .chain(made.filter_map(move |(number, changed)| Some(self.found(plan, *number, Some(changed.as_ref()?)))))
    }

    fn number<'a>(&'a self, plan: &Plan, number: u32) -> Option<Found<'a>> {
        match self.changed.get(&number) {
            Some(None) => None,
            Some(Some(changed)) => Some(self.found(plan, number, Some(changed))),
            None => (number < self.derived).then(|| self.found(plan, number, None)),
        }
    }

    /// The container with this id.
    pub(super) fn find<'a>(&'a self, plan: &Plan, id: InstanceId) -> Option<Found<'a>> {
        let container = Container::with_id(id).filter(|container| container.engine == self.engine)?;
        self.number(plan, container.number)
    }

    /// Makes one as a client ordered it.
    pub(super) fn create(&mut self, name: &str, body: &[u8]) -> Result<Container, Refused> {
        let order: Order = serde_json::from_slice(body).map_err(|_| (400, "no such order for a container"))?;
        let made = Made {
            name: name.into(),
            labels: order.labels,
            environment: order.env,
            hostname: order.hostname,
            memory: order.host_config.memory,
            shares: order.host_config.cpu_shares,
        };
        Ok(self.add(Some(Box::new(made))))
    }

    /// One more, which is derived and not started.
    pub(super) fn add(&mut self, made: Option<Box<Made>>) -> Container {
        let number = self.next;
        self.next += 1;
        self.made += 1;
        let times = Times { created: clock(), ..Times::default() };
        self.changed.insert(number, Some(Changed::new(Life::Created, times, made)));
        Container { engine: self.engine, number }
    }

    fn change(&mut self, id: InstanceId) -> Result<&mut Changed, Refused> {
        const NONE: Refused = (404, "No such container: ");
        let container = Container::with_id(id).filter(|container| container.engine == self.engine).ok_or(NONE)?;
        let (number, derived, epoch) = (container.number, self.derived, self.epoch);
        if number >= derived && !self.changed.contains_key(&number) {
            return Err(NONE);
        }
        let running = || Changed::new(Life::Running, derived_times(container, epoch), None);
        let changed = self.changed.entry(number).or_insert_with(|| Some(running())).as_mut().ok_or(NONE)?;
        changed.record.take();
        Ok(changed)
    }

    pub(super) fn start(&mut self, id: InstanceId) -> Result<Came, Refused> {
        let changed = self.change(id)?;
        if changed.life.runs() {
            return Ok(Came::WasSo);
        }
        changed.life = Life::Running;
        changed.times.started = clock();
        Ok(Came::Done)
    }

    /// It ends, by itself or because somebody wants it.
    pub(super) fn end(&mut self, id: InstanceId, code: u8) -> Result<Came, Refused> {
        let changed = self.change(id)?;
        if !changed.life.runs() {
            return Ok(Came::WasSo);
        }
        changed.life = Life::Exited(code);
        changed.times.finished = clock();
        Ok(Came::Done)
    }

    pub(super) fn remove(&mut self, id: InstanceId, force: bool) -> Result<(), Refused> {
        if self.change(id)?.life.runs() && !force {
            return Err((409, "You cannot remove a running container: stop it first, or force its removal"));
        }
        let number = Container::with_id(id).map_or(0, |container| container.number);
        if number < self.derived {
            self.changed.insert(number, None);
            self.gone += 1;
        } else {
            self.changed.remove(&number);
            self.made -= 1;
        }
        Ok(())
    }
}
