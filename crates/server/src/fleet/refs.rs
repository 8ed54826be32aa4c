//! What readers of the view are given: one instance, one node, and how to ask for some of them.

use captain_domain::{Environment, Exit, Health, Hostname, InstanceId, NodeId, OperationId, Slots, State, Timestamp};

use super::table::Row;
use super::view::Node;
use crate::engine::Facts;

/// What was found for a full id or the beginning of one.
#[derive(Debug)]
pub enum Found<'a> {
    /// Nothing.
    None,
    /// One instance.
    One(InstanceRef<'a>),
    /// Several: the beginning is too short.
    Ambiguous,
}

/// Which instances by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateFilter {
    /// Those that run, as far as is known: the default.
    #[default]
    Running,
    /// All of them.
    All,
    /// Those in exactly this state.
    Only(State),
    /// Those that ran when their node was last heard.
    Unknown,
}

/// Which instances are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of this node only.
    pub node: Option<String>,
    /// Of this app only.
    pub app: Option<String>,
    /// By state.
    pub state: StateFilter,
}

/// One instance in the view.
#[derive(Debug, Clone, Copy)]
pub struct InstanceRef<'a> {
    row: &'a Row,
    app: &'a str,
    node: &'a Node,
}

/// One node in the view.
#[derive(Debug, Clone, Copy)]
pub struct NodeRef<'a>(&'a Node);

impl<'a> NodeRef<'a> {
    pub(super) const fn new(node: &'a Node) -> Self {
        Self(node)
    }

    /// Its id.
    pub fn id(&self) -> &'a NodeId {
        &self.0.about.id
    }

    /// Its health.
    pub const fn health(&self) -> Health {
        self.0.health
    }

    /// Its health in words, with the reason where it is not healthy.
    pub fn state(&self) -> String {
        self.0.state()
    }

    /// Since when its health has been so.
    pub fn since(&self) -> Timestamp {
        self.0.about.since
    }

    /// All its slots.
    pub const fn total(&self) -> Slots {
        self.0.total
    }

    /// Slots taken by instances and claims.
    pub fn used(&self) -> Slots {
        Slots(u32::try_from(self.0.used.saturating_add(self.0.reserved)).unwrap_or(u32::MAX))
    }

    /// Slots that a start may take.
    pub fn free(&self) -> Slots {
        self.0.free()
    }

    /// What its engine said of itself.
    pub fn facts(&self) -> Option<&'a Facts> {
        self.0.about.facts.as_ref()
    }

    /// What an operator should know.
    pub fn warnings(&self) -> Vec<String> {
        let unreadable =
            self.0.about.unreadable.iter().map(|(id, why)| format!("container {} is passed over: {why}", id.short()));
        self.0.about.warnings.iter().cloned().chain(unreadable).collect()
    }

    /// Whether an inspection has found that this container is not Captain's.
    pub fn is_foreign(&self, id: InstanceId) -> bool {
        self.0.about.foreign.contains(&id)
    }

    /// When it was last heard, if ever.
    pub fn heard(&self) -> Option<Timestamp> {
        self.0.about.heard
    }
}

impl<'a> InstanceRef<'a> {
    pub(super) const fn new(row: &'a Row, app: &'a str, node: &'a Node) -> Self {
        Self { row, app, node }
    }

    /// Its id.
    pub const fn id(&self) -> InstanceId {
        self.row.id
    }

    /// Its app.
    pub const fn app(&self) -> &'a str {
        self.app
    }

    /// Its slug.
    pub fn slug_uri(&self) -> &'a str {
        self.row.release.slug_uri.as_str()
    }

    /// Its environment.
    pub fn environment(&self) -> &'a Environment {
        &self.row.release.environment
    }

    /// Its host name, where it is not the beginning of its id.
    pub fn hostname(&self) -> Option<&'a str> {
        self.row.rare.as_ref()?.hostname.as_ref().map(Hostname::as_str)
    }

    /// Its slots.
    pub const fn slots(&self) -> Slots {
        self.row.slots
    }

    /// Its port on the node.
    pub const fn port(&self) -> Option<u16> {
        self.row.port
    }

    /// Its state when it was last seen.
    pub const fn state(&self) -> State {
        self.row.state
    }

    /// When it was created.
    pub const fn created(&self) -> Timestamp {
        self.row.created
    }

    /// When it was started.
    pub fn started(&self) -> Option<Timestamp> {
        self.row.started()
    }

    /// How it ended.
    pub fn exit(&self) -> Option<&'a Exit> {
        self.row.rare.as_ref()?.exit.as_ref()
    }

    /// The operation that made it.
    pub const fn operation(&self) -> Option<OperationId> {
        self.row.operation
    }

    /// Its node.
    pub const fn node(&self) -> NodeRef<'a> {
        NodeRef(self.node)
    }

    /// Whether what is said of it is true now, as far as anybody can know.
    pub fn is_certain(&self) -> bool {
        self.node.health == Health::Healthy
    }

    pub(super) fn fits(&self, filter: &Filter) -> bool {
        let running = self.row.state.is_running();
        let state = match filter.state {
            StateFilter::All => true,
            StateFilter::Running => running,
            StateFilter::Only(State::Running) => self.row.state == State::Running && self.is_certain(),
            StateFilter::Only(state) => self.row.state == state,
            StateFilter::Unknown => running && !self.is_certain(),
        };
        state
            && filter.app.as_deref().is_none_or(|app| app == self.app)
            && filter.node.as_deref().is_none_or(|node| node == self.node.about.id.as_str())
    }
}
