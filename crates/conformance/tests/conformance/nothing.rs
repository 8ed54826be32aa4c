//! The suite itself on trial: an engine that does nothing passes no check of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use captain_conformance::{App, Recipe, Subject, names, run_all};
use captain_domain::{InstanceId, NodeId};
use captain_server::engine::{
    CreateSpec, Engine, EngineError, ErrorKind, Facts, Hints, Inspected, Logs, Preparation, Progress, Result, Sighting,
};

#[derive(Debug)]
struct Nothing(NodeId);

impl Nothing {
    fn no<T>(&self) -> Result<T> {
        let (attempted, message) = ("do anything", "it does nothing".to_owned());
        Err(EngineError { node: self.0.clone(), attempted, kind: ErrorKind::Unsupported, message })
    }
}

#[async_trait]
impl Engine for Nothing {
    fn node(&self) -> &NodeId {
        &self.0
    }
    async fn facts(&self) -> Result<Facts> {
        self.no()
    }
    async fn list(&self) -> Result<Vec<Sighting>> {
        self.no()
    }
    async fn inspect(&self, _: InstanceId) -> Result<Inspected> {
        self.no()
    }
    async fn prepare(&self, _: &Preparation, _: Progress<'_>) -> Result<()> {
        self.no()
    }
    async fn create(&self, _: &CreateSpec) -> Result<InstanceId> {
        self.no()
    }
    async fn start(&self, _: InstanceId) -> Result<()> {
        self.no()
    }
    async fn stop(&self, _: InstanceId, _: Duration) -> Result<()> {
        self.no()
    }
    async fn remove(&self, _: InstanceId, _: bool) -> Result<()> {
        self.no()
    }
    async fn logs(&self, _: InstanceId, _: bool) -> Result<Logs> {
        self.no()
    }
    async fn events(&self) -> Result<Hints> {
        self.no()
    }
}

struct Subjected;

impl Subject for Subjected {
    fn name(&self) -> &str {
        "nothing"
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(Nothing(NodeId::trusted("nowhere")))
    }

    fn recipe(&self, _: &App) -> Recipe {
        Recipe { preparation: self.unavailable().0, command: Vec::new() }
    }

    fn unprepared(&self) -> Recipe {
        self.recipe(&App::Idle)
    }

    fn unavailable(&self) -> (Preparation, String) {
        let image = "nothing:1".to_owned();
        (Preparation::RunnerImage { image: image.clone() }, image)
    }

    fn reach(&self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_nothing_passes_no_check() {
    let panic = tokio::spawn(run_all(Subjected)).await.unwrap_err().into_panic();
    let told = panic.downcast_ref::<String>().unwrap();
    let checks = names().count();
    assert!(told.starts_with(&format!("{checks} of {checks} checks failed on nothing")), "{told}");
    for name in names() {
        assert!(told.contains(&format!("\n{name}: ")), "{name} does not say why it failed: {told}");
    }
}
