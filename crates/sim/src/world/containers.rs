//! What an engine does with containers: each of these is one instant, as an engine's own lock makes it.

use std::time::Duration;

use captain_domain::label::{LabelError, Labels};
use captain_domain::{
    AppName, Environment, Exit, Hostname, Instance, InstanceId, NodeId, Slots, SlugUri, State as Doing, Timestamp,
};
use captain_server::engine::{CreateSpec, ErrorKind, Inspected, Owner, Sighting};
use rand::Rng;

use super::{Outcome, SECRET, State};

/// Whose a container is, in truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Made by a captain.
    Captain(Labels),
    /// Made by the original Captain: no labels, but its shape.
    Original {
        /// Its slots.
        slots: Slots,
    },
    /// Somebody's, in the shape of the original's.
    Lookalike,
    /// Somebody's.
    Foreign,
    /// Labelled as Captain's, and not readable.
    Poison,
}

/// A container.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) state: Doing,
    /// Whether it has processes: what takes the slots of a node in truth.
    pub(crate) runs: bool,
    pub(crate) environment: Environment,
    pub(crate) port: Option<u16>,
    pub(crate) exit: Option<Exit>,
    pub(crate) started: Option<Timestamp>,
    created: Timestamp,
    /// When it was created, in the run's time.
    pub(crate) since: Duration,
    /// The captain that made it.
    pub(crate) maker: Option<usize>,
    /// Whether listings go on to call it as it was before its removal failed, as those of Docker 20.10 do.
    pub(crate) listed_as_removing: bool,
    /// Whether its lock is held by something that does not end: only listings answer.
    pub(crate) stuck: bool,
}

impl Container {
    /// Slots that it takes while it runs.
    pub(crate) fn slots(&self) -> Slots {
        match &self.kind {
            Kind::Captain(labels) => labels.slots,
            Kind::Original { slots } => *slots,
            Kind::Lookalike | Kind::Foreign | Kind::Poison => Slots::ZERO,
        }
    }

    /// Whether a captain may do anything to it.
    pub(crate) const fn is_managed(&self) -> bool {
        matches!(self.kind, Kind::Captain(_) | Kind::Original { .. })
    }

    fn sighting(&self, id: InstanceId) -> Sighting {
        let owner = match &self.kind {
            Kind::Captain(labels) => Owner::Captain(labels.clone()),
            Kind::Original { .. } | Kind::Lookalike => Owner::Perhaps,
            Kind::Foreign => Owner::Foreign,
            Kind::Poison => Owner::Unreadable(LabelError { name: "captain.slots", value: "many".to_owned() }),
        };
        let state = if self.listed_as_removing { Doing::Removing } else { self.state };
        Sighting { id, state, owner, port: self.port }
    }

    fn inspected(&self, id: InstanceId, node: &NodeId) -> Inspected {
        let (app, slug, slots, operation) = match &self.kind {
            Kind::Captain(labels) => {
                (labels.app.clone(), labels.slug_uri.clone(), labels.slots, Some(labels.operation))
            }
            Kind::Original { slots } => {
                (AppName::trusted("original"), SlugUri::trusted("https://slugs/original.tgz"), *slots, None)
            }
            Kind::Lookalike | Kind::Foreign => return Inspected::Foreign,
            Kind::Poison => return Inspected::Unreadable("label captain.slots=\"many\" cannot be read".to_owned()),
        };
        Inspected::Instance(Box::new(Instance {
            id,
            node: node.clone(),
            app,
            slug_uri: slug,
            environment: self.environment.clone().without_reserved(),
            slots,
            port: self.port,
            hostname: Hostname::trusted(&id.short()),
            state: self.state,
            created: self.created,
            started: self.started,
            exit: self.exit,
            operation,
        }))
    }
}

impl State {
    fn new_id(&mut self) -> InstanceId {
        InstanceId::from_bytes(self.chance.random())
    }

    fn container(&self, node: usize, id: InstanceId) -> Outcome<&Container> {
        self.nodes[node].containers.get(&id).ok_or((ErrorKind::NotFound, "no such container"))
    }

    /// A change of one container: recorded, announced to whoever listens, and followed by the checks of every instant.
    fn change(&mut self, node: usize, id: InstanceId, what: &str, change: impl FnOnce(&mut Container)) {
        if let Some(container) = self.nodes[node].containers.get_mut(&id) {
            change(container);
            let (state, slots) = (container.state.word(), container.slots().0);
            self.say(format_args!("node {node}: {} {what}: {state}, {slots} slots", id.short()));
            self.emit(node, id);
            self.check_capacity(node);
        }
    }

    fn check_capacity(&mut self, node: usize) {
        let (running, total) = (self.nodes[node].running(), self.nodes[node].total);
        if running > total {
            let what = format!("{running} run on node {node}, which has {total}");
            self.violate("I1", what);
        }
    }

    /// Creates a container for a captain.
    pub(crate) fn create(&mut self, node: usize, spec: &CreateSpec, maker: usize) -> Outcome<InstanceId> {
        let site = &self.nodes[node];
        if !site.image {
            return Err((ErrorKind::ImageMissing, "no such image"));
        }
        if site.disk_full {
            return Err((ErrorKind::NoSpace, "no space left on device"));
        }
        if !site.nameless && site.containers.values().any(|container| container.name == spec.name) {
            self.count("name conflict");
            return Err((ErrorKind::Conflict, "the container name is already in use"));
        }
        let kind = Kind::Captain(spec.labels.clone());
        let id = self.put(node, spec.name.clone(), kind, spec.environment.clone(), Some(maker));
        self.change(node, id, &format!("created by captain {maker}, operation {}", spec.labels.operation), |_| {});
        Ok(id)
    }

    fn put(
        &mut self,
        node: usize,
        name: String,
        kind: Kind,
        environment: Environment,
        maker: Option<usize>,
    ) -> InstanceId {
        let (id, since) = (self.new_id(), self.now());
        let created = self.wall(self.nodes[node].skew_ms);
        let container = Container {
            name,
            kind,
            state: Doing::Created,
            runs: false,
            environment,
            port: None,
            exit: None,
            started: None,
            created,
            since,
            maker,
            listed_as_removing: false,
            stuck: false,
        };
        self.nodes[node].containers.insert(id, container);
        id
    }

    /// Somebody who is no captain starts a container.
    pub(crate) fn run_foreign(&mut self, node: usize, kind: Kind) -> InstanceId {
        let name = format!("somebody-{}", self.chance.random::<u32>());
        let environment = [("TOKEN", SECRET)].into_iter().collect();
        let id = self.put(node, name, kind, environment, None);
        self.set_going(node, id, "started by somebody");
        id
    }

    fn set_going(&mut self, node: usize, id: InstanceId, what: &str) {
        let started = self.wall(self.nodes[node].skew_ms);
        let port = 30_000 + self.chance.random_range(0..30_000);
        self.change(node, id, what, |container| {
            container.state = Doing::Running;
            container.runs = true;
            container.started = Some(started);
            container.port = Some(port);
            container.exit = None;
        });
    }

    /// Starts a container for a captain.
    pub(crate) fn start(&mut self, node: usize, id: InstanceId, captain: usize) -> Outcome<()> {
        let container = self.container(node, id)?;
        match container.state {
            Doing::Removing | Doing::Dead => return Err((ErrorKind::Conflict, "the container is marked for removal")),
            Doing::Running | Doing::Paused | Doing::Restarting => return Ok(()),
            Doing::Created | Doing::Exited => {}
        }
        if !container.is_managed() {
            self.violate("untouched", format!("captain {captain} starts {} on node {node}: not Captain's", id.short()));
        }
        if self.nodes[node].disk_full {
            return Err((ErrorKind::NoSpace, "no space left on device"));
        }
        if self.unlucky(self.plan.ports_taken) {
            self.count("port conflict");
            return Err((ErrorKind::Failed, "port is already allocated"));
        }
        self.set_going(node, id, &format!("started by captain {captain}"));
        self.check_operations(node, id);
        Ok(())
    }

    /// I3: of all containers of an operation on a node at most one runs. Across nodes nothing is promised: see
    /// `captain_domain::claim`.
    fn check_operations(&mut self, node: usize, id: InstanceId) {
        let operation_of = |container: &Container| match &container.kind {
            Kind::Captain(labels) => Some(labels.operation),
            _ => None,
        };
        let Some(operation) = self.container(node, id).ok().and_then(operation_of) else { return };
        let running = |container: &&Container| container.runs && operation_of(container) == Some(operation);
        let running = self.nodes[node].containers.values().filter(running).count();
        if running > 1 {
            self.violate("I3", format!("{running} containers of operation {operation} run on node {node}"));
        }
    }

    /// A captain asks for the end of a container: how long its processes take, `None` where it has none.
    pub(crate) fn begin_stop(
        &mut self,
        node: usize,
        id: InstanceId,
        captain: usize,
        grace: Duration,
    ) -> Outcome<Option<Duration>> {
        let container = self.container(node, id)?;
        let (managed, runs) = (container.is_managed(), container.runs);
        if !managed {
            self.violate("untouched", format!("captain {captain} stops {} on node {node}: not Captain's", id.short()));
        }
        if !runs {
            return Ok(None);
        }
        if self.unlucky(if self.nodes[node].disk_full { 300 } else { 20 }) {
            self.count("kill failed");
            return Err((ErrorKind::Failed, "tried to kill container, but did not receive an exit event"));
        }
        let ignores_it = self.chance.random_ratio(1, 4);
        Ok(Some(if ignores_it { grace } else { self.between(Duration::from_millis(5), grace / 2) }))
    }

    /// The stop of a captain has come to its end.
    pub(crate) fn end_stop(&mut self, node: usize, id: InstanceId, captain: usize) {
        if self.container(node, id).is_ok_and(|container| container.runs) {
            self.ended_by(captain, node, id);
            self.end(node, id, 143, "stopped");
        }
    }

    /// The processes of a container end.
    pub(crate) fn end(&mut self, node: usize, id: InstanceId, code: i64, why: &str) {
        let at = self.wall(self.nodes[node].skew_ms);
        self.change(node, id, why, |container| {
            container.runs = false;
            container.port = None;
            container.exit = Some(Exit { code, out_of_memory: false, at: Some(at) });
            if container.state.is_running() {
                container.state = Doing::Exited;
            }
        });
    }

    /// A removal begins: how long it takes.
    pub(crate) fn begin_removal(
        &mut self,
        node: usize,
        id: InstanceId,
        force: bool,
        captain: usize,
    ) -> Outcome<Duration> {
        let container = self.container(node, id)?;
        let (managed, runs, state) = (container.is_managed(), container.runs, container.state);
        if !managed {
            self.violate(
                "untouched",
                format!("captain {captain} removes {} on node {node}: not Captain's", id.short()),
            );
        }
        match state {
            Doing::Removing => return Err((ErrorKind::Conflict, "removal is already in progress")),
            Doing::Running | Doing::Paused | Doing::Restarting if !force => {
                return Err((ErrorKind::Conflict, "you cannot remove a running container"));
            }
            _ => {}
        }
        if runs {
            self.ended_by(captain, node, id);
        }
        // A removal that will fail half way may leave the processes: they are what Dead containers are feared for.
        let lives_on = runs && self.unlucky(100);
        self.change(node, id, &format!("removal begun by captain {captain}"), |container| {
            container.state = Doing::Removing;
            container.runs = lives_on;
        });
        Ok(if self.unlucky(200) { self.millis(500, 6_000) } else { self.millis(2, 60) })
    }

    /// A removal ends: the container is gone, or dead.
    pub(crate) fn end_removal(&mut self, node: usize, id: InstanceId) -> Outcome<()> {
        if self.container(node, id).is_ok_and(|container| container.state != Doing::Removing) {
            return Ok(());
        }
        if self.nodes[node].disk_full || self.unlucky(60) {
            self.count("dead container");
            // And it may be that nobody is told.
            let silent = self.chance.random_bool(0.5);
            let before = self.plan.events_lost;
            if silent {
                self.count("death not told");
                self.plan.events_lost = 1000;
            }
            self.change(node, id, "removal failed", |container| {
                container.state = Doing::Dead;
                container.listed_as_removing = silent;
            });
            self.plan.events_lost = before;
            return Err((ErrorKind::Failed, "unable to remove filesystem: device or resource busy"));
        }
        self.vanish(node, id);
        Ok(())
    }

    /// A container is gone.
    pub(crate) fn vanish(&mut self, node: usize, id: InstanceId) {
        if self.nodes[node].containers.remove(&id).is_some() {
            self.say(format_args!("node {node}: {} gone", id.short()));
            self.emit(node, id);
        }
    }

    /// The port of a container that runs is lost, as happens where its daemon comes back to it.
    pub(crate) fn lose_port(&mut self, node: usize, id: InstanceId) {
        self.count("port lost");
        self.change(node, id, "lost its port", |container| container.port = None);
    }

    /// An operator restarts a container: it has another port afterwards.
    pub(crate) fn restart(&mut self, node: usize, id: InstanceId) {
        if self.container(node, id).is_ok_and(|container| container.state == Doing::Running && container.runs) {
            self.set_going(node, id, "restarted by somebody");
        }
    }

    /// An operator freezes or thaws a container.
    pub(crate) fn freeze(&mut self, node: usize, id: InstanceId, frozen: bool) {
        let state = if frozen { Doing::Paused } else { Doing::Running };
        if self.container(node, id).is_ok_and(|container| container.state.is_running()) {
            self.change(node, id, if frozen { "frozen" } else { "thawed" }, |container| container.state = state);
        }
    }

    /// Everything on a node.
    pub(crate) fn list(&self, node: usize) -> Vec<Sighting> {
        self.nodes[node].containers.iter().map(|(id, container)| container.sighting(*id)).collect()
    }

    /// One container.
    pub(crate) fn inspect(&self, node: usize, id: InstanceId) -> Outcome<Inspected> {
        Ok(self.container(node, id)?.inspected(id, &self.nodes[node].id))
    }
}
