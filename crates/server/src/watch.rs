//! One watcher per node: it keeps the view of the node true.
//!
//! Subscribe first, then list, then list again now and then: a change after the subscription is in the events, one before it in
//! the listing. Events are hints (engines drop, double and reorder them): each leads to an inspection, and whatever they
//! missed is found by the next listing. While an engine is away nothing of what is known of it is thrown away: its state says
//! what is wrong and since when.
//!
//! A watcher waits for nobody but its own node: one that hangs slows no other, and no reader.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use captain_domain::backoff::Backoff;
use captain_domain::{Health, InstanceId, State};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::captain::{Captain, Introduction, NodeHandle};
use crate::engine::{EngineError, ErrorKind, Facts, Hint, Hints, Inspected, Result, Sighting};
use crate::fleet::{InstanceRef, Stamp, View};

/// Inspections under way at once on one node: enough to hide the round trip, few enough to leave the engine to the starts.
const INSPECTIONS: usize = 16;

/// How long a node that has been listed may go on as "unknown" while its containers are being inspected for the first time. One
/// container whose inspection hangs must not keep a node out.
const FIRST_INSPECTIONS: Duration = Duration::from_secs(2);

/// How long a node may keep its turn to be introduced from others, whether it answers or not.
const INTRODUCTION: Duration = Duration::from_secs(2);

/// Containers that listings go through in a second, of all nodes together: some percent of a processor. Listings are there for what
/// events have missed, and take their time in a large fleet: two million instances are listed in 200 s.
const RELISTED_PER_SECOND: f64 = 10_000.0;

/// How long an event waits for its inspection: for the ones that follow it, and for the action that caused it to look by itself.
const SETTLING: Duration = Duration::from_millis(20);

/// Containers that may be due at once before more memory is taken for them. A first listing makes all of a node's due, once.
const DUE_AT_REST: usize = 16;

/// How long after an inspection failed for the first time the second one follows. Where many nodes come at once, a connection may be lost
/// that the next one would not lose.
const INSPECTED_AGAIN: Duration = Duration::from_secs(1);

/// Where a listing is asked for while one is under way: how soon the next begins.
const LISTING_AGAIN: Duration = Duration::from_millis(50);

/// Watches a node until it leaves.
pub async fn watch(captain: Captain, handle: Arc<NodeHandle>) {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let leaves = handle.leaves.clone();
    let node = handle.engine.node().clone();
    loop {
        let ended = tokio::select! {
            biased;
            () = leaves.cancelled() => return,
            ended = session(&captain, &handle, &mut backoff) => ended,
        };
        let (health, reason) = diagnosis(&ended);
        if captain.fleet().write(|view| view.set_health(&node, health, &reason, captain.now())) {
            warn!(%node, state = health.word(), reason, "node lost");
        }
        let pause = backoff.next(captain.chance().number());
        tokio::select! {
            biased;
            () = leaves.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

fn diagnosis(error: &EngineError) -> (Health, String) {
    let health = match error.kind {
        ErrorKind::Unreachable | ErrorKind::Interrupted => Health::Unreachable,
        ErrorKind::TimedOut => Health::Unresponsive,
        _ => Health::Failing,
    };
    (health, format!("could not {}: {}", error.attempted, error.message))
}

/// From the first call to the first failure.
async fn session(captain: &Captain, handle: &NodeHandle, backoff: &mut Backoff) -> EngineError {
    let engine = &handle.engine;
    match engine.facts().await {
        Ok(facts) => record_facts(captain, handle, facts),
        Err(error) => return error,
    }
    let mut turn = captain.introduction().await;
    let hints = {
        let mut hints = pin!(engine.events());
        match timeout(INTRODUCTION, &mut hints).await {
            Ok(hints) => hints,
            Err(_) => {
                turn = None;
                hints.await
            }
        }
    };
    let hints = match hints {
        Ok(hints) => hints,
        Err(error) => return error,
    };
    let now = Instant::now();
    let watching = Watching {
        captain,
        handle,
        turn,
        pending: BTreeMap::new(),
        due: VecDeque::new(),
        told: BTreeSet::new(),
        inspecting: 0,
        listing: false,
        list_at: now,
        listed_at: now,
        jitter: 1.0,
        list_again: false,
        ping_at: now + captain.policy().ping_every,
    };
    match watching.run(hints, backoff).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn record_facts(captain: &Captain, handle: &NodeHandle, facts: Facts) {
    let node = handle.engine.node();
    let mut warnings = facts.warnings.clone();
    let total = captain.fleet().read(|view| view.node(node.as_str()).map(|node| node.total()));
    let fitting = captain.policy().slot_size.fitting(facts.memory_bytes);
    if let Some(total) = total.filter(|total| facts.memory_bytes > 0 && u64::from(total.0) > fitting) {
        warnings.push(format!(
            "{total} need {} MiB of memory, and the machine has {} MiB: room for {fitting}",
            captain.policy().slot_size.memory_bytes(total) >> 20,
            facts.memory_bytes >> 20,
        ));
    }
    let news = captain.fleet().read(|view| view.node(node.as_str()).is_some_and(|node| node.facts() != Some(&facts)));
    if news {
        info!(%node, engine = facts.kind, version = facts.version, "engine found");
        for warning in &warnings {
            warn!(%node, warning, "node");
        }
    }
    captain.fleet().write(|view| view.set_facts(node, facts, warnings));
}

enum Never {}

struct Watching<'a> {
    captain: &'a Captain,
    handle: &'a NodeHandle,
    /// Held from the first listing until all of it is inspected, or has taken too long. Thousands of nodes that come at once, as at
    /// the start of a captain, would otherwise have all their listings in memory at the same time.
    turn: Option<Introduction>,
    /// Containers to be inspected: when each was last heard of. A burst of events about one container costs one inspection.
    pending: BTreeMap<InstanceId, Stamp>,
    /// The same in the order in which they are due.
    due: VecDeque<(Instant, InstanceId)>,
    /// Containers whose inspection failed and was told about: once is enough.
    told: BTreeSet<InstanceId>,
    inspecting: usize,
    listing: bool,
    list_at: Instant,
    /// When the last one began.
    listed_at: Instant,
    /// How much later or earlier than others the next one begins: keeps many nodes from being listed in step. Drawn for each
    /// listing, and not whenever its time is reckoned anew, or the earliest of many draws would win.
    jitter: f64,
    /// Whether another is wanted whenever that one ends.
    list_again: bool,
    ping_at: Instant,
}

/// What the engine answered to a question that was put to it without waiting.
enum Answer {
    Listing(Stamp, Result<Vec<Sighting>>),
    Inspection(Stamp, InstanceId, Result<Inspected>),
    Ping(Result<()>),
}

type Questions = FuturesUnordered<BoxFuture<'static, Answer>>;

impl Watching<'_> {
    /// The select only turns the world into an event. No arm waits, so that events are taken as fast as they come, even while a
    /// listing is under way.
    async fn run(mut self, mut hints: Hints, backoff: &mut Backoff) -> Result<Never> {
        let mut questions = Questions::new();
        let mut announced = false;
        let mut announce_at = None;
        let turn_ends = Instant::now() + INTRODUCTION;
        self.ask_for_listing(&mut questions);
        // One for all that has its time. It is set again when that of the first of them has changed, and not by every event.
        let mut alarm = pin!(sleep_until(self.list_at));
        loop {
            self.ask_for_inspections(&mut questions);
            let settled = !self.listing && self.inspecting == 0 && self.due.is_empty();
            if !announced && (settled || announce_at.is_some_and(|at| Instant::now() >= at)) {
                self.announce();
                backoff.reset();
                announced = true;
                self.turn = None;
            }
            let turn_ends = self.turn.is_some().then_some(turn_ends);
            let announce = announce_at.filter(|_| !announced);
            let next = [self.next_due(), turn_ends, announce]
                .into_iter()
                .flatten()
                .fold(self.list_at.min(self.ping_at), Instant::min);
            if alarm.deadline() != next {
                alarm.as_mut().reset(next);
            }
            tokio::select! {
                biased;
                hint = hints.next() => self.hinted(hint)?,
                Some(answer) = questions.next(), if !questions.is_empty() => {
                    let first_listing = matches!(answer, Answer::Listing(..)) && announce_at.is_none();
                    self.answered(answer)?;
                    if first_listing {
                        announce_at = Some(Instant::now() + FIRST_INSPECTIONS);
                    }
                }
                () = self.handle.poke.notified() => self.ask_for_listing(&mut questions),
                () = &mut alarm => {
                    let now = Instant::now();
                    if self.list_at <= now {
                        self.relist(&mut questions);
                    }
                    if self.ping_at <= now {
                        self.ask_for_ping(&mut questions);
                    }
                    if turn_ends.is_some_and(|at| at <= now) {
                        self.turn = None;
                    }
                }
            }
        }
    }

    /// How long after the last listing the next one begins.
    fn until_relist(&self) -> Duration {
        let known = self.captain.fleet().read(View::known_instances);
        let every = self.captain.policy().relist_every.max(Duration::from_secs_f64(known as f64 / RELISTED_PER_SECOND));
        every.mul_f64(self.jitter)
    }

    /// It is time for a listing, unless the fleet has grown so much meanwhile that this one may come later.
    fn relist(&mut self, questions: &mut Questions) {
        let next = self.listed_at + self.until_relist();
        if self.list_again || self.listing || next <= Instant::now() {
            self.ask_for_listing(questions);
        } else {
            self.list_at = next;
        }
    }

    fn ask_for_listing(&mut self, questions: &mut Questions) {
        self.jitter = 0.8 + 0.4 * f64::from(self.captain.chance().number()) / f64::from(u32::MAX);
        self.list_at = Instant::now() + self.until_relist();
        if std::mem::replace(&mut self.listing, true) {
            // One is under way, and may have begun before what this one is asked for: another follows it at once.
            self.list_at = Instant::now() + LISTING_AGAIN;
            self.list_again = true;
            return;
        }
        self.list_again = false;
        self.listed_at = Instant::now();
        let (engine, captain) = (Arc::clone(&self.handle.engine), self.captain.clone());
        let introduced = self.turn.is_some();
        questions.push(Box::pin(async move {
            let turn = if introduced { None } else { captain.relisting().await };
            let stamp = captain.fleet().stamp();
            let mut listing = pin!(engine.list());
            let Ok(listed) = timeout(INTRODUCTION, &mut listing).await else {
                drop(turn);
                return Answer::Listing(stamp, listing.await);
            };
            Answer::Listing(stamp, listed)
        }));
    }

    /// The container wants an inspection, after a while.
    fn want(&mut self, id: InstanceId, after: Duration) {
        if self.pending.insert(id, self.captain.fleet().stamp()).is_none() {
            let at = Instant::now() + after;
            // At the end, but for the few that wait longer than others.
            let place = self.due.iter().rposition(|(due, _)| *due <= at).map_or(0, |before| before + 1);
            self.due.insert(place, (at, id));
        }
    }

    /// When the next inspection is due; none where there is none to come, or it is a place for one more that is missing, and not time.
    fn next_due(&self) -> Option<Instant> {
        self.due.front().filter(|_| self.inspecting < INSPECTIONS).map(|(due, _)| *due)
    }

    /// The next container whose time has come, unless somebody has looked at it since it was last heard of, or will: a start and a
    /// stop cause events, and look for themselves.
    fn take_due(&mut self) -> Option<InstanceId> {
        let (fleet, node) = (self.captain.fleet(), self.handle.engine.node());
        while let Some((_, id)) = self.due.pop_front_if(|(due, _)| *due <= Instant::now()) {
            let heard = self.pending.remove(&id).unwrap_or_default();
            if !self.handle.making.takes(id, heard) && !fleet.read(|view| view.knows_since(node, id, heard)) {
                return Some(id);
            }
        }
        if self.due.is_empty() {
            self.due.shrink_to(DUE_AT_REST);
        }
        None
    }

    fn ask_for_inspections(&mut self, questions: &mut Questions) {
        while self.inspecting < INSPECTIONS {
            let Some(id) = self.take_due() else { return };
            let (engine, stamp) = (Arc::clone(&self.handle.engine), self.captain.fleet().stamp());
            self.inspecting += 1;
            questions.push(Box::pin(async move { Answer::Inspection(stamp, id, engine.inspect(id).await) }));
        }
    }

    fn ask_for_ping(&mut self, questions: &mut Questions) {
        self.ping_at = Instant::now() + self.captain.policy().ping_every;
        let engine = Arc::clone(&self.handle.engine);
        questions.push(Box::pin(async move { Answer::Ping(engine.ping().await) }));
    }

    fn announce(&self) {
        let node = self.handle.engine.node();
        if self.captain.fleet().write(|view| view.set_health(node, Health::Healthy, "", self.captain.now())) {
            info!(%node, "node healthy");
        }
    }

    fn hinted(&mut self, hint: Option<Result<Hint>>) -> Result<()> {
        match hint {
            Some(Ok(hint)) => {
                let fleet = self.captain.fleet();
                if !(self.handle.making.takes_hint(hint, fleet.stamp()) || hint.begins && self.is_known_to_run(hint.id))
                {
                    self.want(hint.id, SETTLING);
                }
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Err(EngineError {
                node: self.handle.engine.node().clone(),
                attempted: "follow the events",
                kind: ErrorKind::Interrupted,
                message: "the engine ended the stream".to_owned(),
            }),
        }
    }

    /// That it was created or started is then no news. Had it ended in between, another event would say so.
    fn is_known_to_run(&self, id: InstanceId) -> bool {
        let runs = |instance: InstanceRef<'_>| instance.state() == State::Running && instance.started().is_some();
        self.captain.fleet().read(|view| view.instance(id).is_some_and(runs))
    }

    fn answered(&mut self, answer: Answer) -> Result<()> {
        let (fleet, node) = (self.captain.fleet(), self.handle.engine.node());
        match answer {
            Answer::Listing(stamp, sightings) => {
                self.listing = false;
                let listed = fleet.write(|view| Ok(view.listed(stamp, node, &sightings?, self.captain.now())))?;
                for (id, why) in &listed.unreadable {
                    warn!(%node, container = id.short(), why, "a container of Captain's cannot be read: passed over");
                }
                for id in listed.inspect {
                    self.want(id, Duration::ZERO);
                }
            }
            Answer::Inspection(stamp, id, outcome) => {
                self.inspecting -= 1;
                self.inspected(stamp, id, outcome);
            }
            Answer::Ping(outcome) => {
                outcome?;
                fleet.write(|view| view.heard(node, self.captain.now()));
            }
        }
        Ok(())
    }

    fn inspected(&mut self, stamp: Stamp, id: InstanceId, outcome: Result<Inspected>) {
        let (fleet, node) = (self.captain.fleet(), self.handle.engine.node());
        match outcome {
            Ok(Inspected::Instance(instance)) => {
                self.told.remove(&id);
                fleet.write(|view| view.observe(stamp, &instance));
            }
            Ok(Inspected::Foreign) => fleet.write(|view| view.foreign(node, id)),
            Ok(Inspected::Unreadable(why)) => fleet.write(|view| view.unreadable(node, id, why)),
            Err(error) if error.is_not_found() => {
                self.told.remove(&id);
                fleet.write(|view| view.gone(stamp, node, id));
            }
            // What the listing said of it stands. It is asked for once more soon, and then by the next listing. If it is the whole
            // engine that fails, the ping says so soon.
            Err(error) => {
                if self.told.insert(id) {
                    warn!(%node, container = id.short(), %error, "a container cannot be inspected");
                    self.want(id, INSPECTED_AGAIN);
                }
            }
        }
    }
}
