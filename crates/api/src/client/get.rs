//! What can be read: one value for each GET route that answers with JSON.

use std::borrow::Cow;
use std::marker::PhantomData;

use crate::{Claim, Instance, Node, StoredSlug, Summary};

/// A question whose answer is a `T`.
#[derive(Debug, Clone)]
pub struct Get<T> {
    path: Vec<Cow<'static, str>>,
    parameters: Vec<(&'static str, String)>,
    answer: PhantomData<fn() -> T>,
}

/// Which instances to list. What is `None` does not limit the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// Those on this node.
    pub node: Option<String>,
    /// Those of this app.
    pub app: Option<String>,
    /// Those in this state: the word of a state, or `all`. By default those that run, or that ran when their node was last heard.
    pub state: Option<String>,
}

impl<T> Get<T> {
    fn new(path: impl IntoIterator<Item = impl Into<Cow<'static, str>>>) -> Self {
        Self { path: path.into_iter().map(Into::into).collect(), parameters: Vec::new(), answer: PhantomData }
    }

    pub(super) fn path(&self) -> Vec<&str> {
        self.path.iter().map(AsRef::as_ref).collect()
    }

    pub(super) fn parameters(&self) -> &[(&'static str, String)] {
        &self.parameters
    }
}

impl Get<Vec<Instance>> {
    /// The instances that the filter lets through.
    pub fn instances(filter: &InstanceFilter) -> Self {
        let mut get = Self::new(["instances", ""]);
        let parameters = [("node", &filter.node), ("app", &filter.app), ("state", &filter.state)];
        get.parameters = parameters.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect();
        get
    }
}

impl Get<Instance> {
    /// One instance.
    pub fn instance(id: &str) -> Self {
        Self::new([Cow::from("instances"), id.to_owned().into()])
    }
}

impl Get<Summary> {
    /// How many instances run.
    pub fn summary() -> Self {
        Self::new(["instances_summary", ""])
    }
}

impl Get<Vec<Node>> {
    /// All nodes.
    pub fn nodes() -> Self {
        Self::new(["nodes", ""])
    }
}

impl Get<Node> {
    /// One node.
    pub fn node(id: &str) -> Self {
        Self::new([Cow::from("nodes"), id.to_owned().into()])
    }
}

impl Get<Vec<Claim>> {
    /// The starts that are under way.
    pub fn claims() -> Self {
        Self::new(["claims", ""])
    }
}

impl Get<Vec<StoredSlug>> {
    /// The slugs in the captain's own store.
    pub fn slugs() -> Self {
        Self::new(["slugs", ""])
    }
}

impl Get<Claim> {
    /// A start that is under way.
    pub fn claim(operation: &str) -> Self {
        Self::new([Cow::from("claims"), operation.to_owned().into()])
    }
}
