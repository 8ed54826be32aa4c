//! An engine that holds containers and prepared slugs in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use captain_domain::{Hostname, Instance, InstanceId, NodeId, State, Timestamp};
use captain_server::engine::{
    CreateSpec, Engine, EngineError, ErrorKind, Facts, Hints, Inspected, Logs, Owner, Preparation, Progress, Result,
    Sighting,
};
use captain_slug::Digest;
use futures_util::StreamExt;

#[derive(Debug)]
pub(crate) struct Fake {
    node: NodeId,
    world: Mutex<World>,
}

#[derive(Debug, Default)]
struct World {
    containers: BTreeMap<InstanceId, (CreateSpec, State)>,
    /// The digest of each prepared slug.
    prepared: BTreeSet<Digest>,
    preparations: usize,
    creations: usize,
}

impl Fake {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: NodeId::trusted(node), world: Mutex::default() }
    }

    /// Preparations, and creations that were asked for.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let world = self.world.lock().unwrap();
        (world.preparations, world.creations)
    }

    /// What each container was told to be.
    pub(crate) fn specs(&self) -> Vec<CreateSpec> {
        self.world.lock().unwrap().containers.values().map(|(spec, _)| spec.clone()).collect()
    }

    fn error(&self, attempted: &'static str, kind: ErrorKind) -> EngineError {
        EngineError { node: self.node.clone(), attempted, kind, message: format!("{kind:?}") }
    }
}

#[async_trait]
impl Engine for Fake {
    fn node(&self) -> &NodeId {
        &self.node
    }

    async fn facts(&self) -> Result<Facts> {
        Ok(Facts { kind: "fake", version: "1".to_owned(), memory_bytes: 64 << 30, cpus: 8, warnings: Vec::new() })
    }

    async fn list(&self) -> Result<Vec<Sighting>> {
        let world = self.world.lock().unwrap();
        let sighting = |(id, (spec, state)): (&InstanceId, &(CreateSpec, State))| Sighting {
            id: *id,
            state: *state,
            owner: Owner::Captain(spec.labels.clone()),
            port: (*state == State::Running).then_some(49_000),
        };
        Ok(world.containers.iter().map(sighting).collect())
    }

    async fn inspect(&self, id: InstanceId) -> Result<Inspected> {
        let world = self.world.lock().unwrap();
        let Some((spec, state)) = world.containers.get(&id) else {
            return Err(self.error("inspect a container", ErrorKind::NotFound));
        };
        Ok(Inspected::Instance(Box::new(Instance {
            id,
            node: self.node.clone(),
            app: spec.labels.app.clone(),
            slug_uri: spec.labels.slug_uri.clone(),
            environment: spec.environment.clone().without_reserved(),
            slots: spec.labels.slots,
            port: (*state == State::Running).then_some(49_000),
            hostname: Hostname::trusted(&id.short()),
            state: *state,
            created: Timestamp(1),
            started: (*state == State::Running).then_some(Timestamp(2)),
            exit: None,
            operation: Some(spec.labels.operation),
        })))
    }

    async fn prepare(&self, preparation: &Preparation, progress: Progress<'_>) -> Result<()> {
        let Preparation::Slug(slug) = preparation else { panic!("a runner image is not on this node") };
        self.world.lock().unwrap().preparations += 1;
        progress("sending the slug".to_owned());
        let bytes = std::fs::read(&slug.file).expect("the slug is on the captain's disk while it is prepared");
        let report = captain_slug::inspect(&bytes[..], &captain_slug::Options::default()).unwrap().report;
        assert_eq!(report.sha256, slug.digest);
        // Others come meanwhile and wait.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.world.lock().unwrap().prepared.insert(slug.digest);
        Ok(())
    }

    async fn create(&self, spec: &CreateSpec) -> Result<InstanceId> {
        let mut world = self.world.lock().unwrap();
        world.creations += 1;
        if let Preparation::Slug(slug) = &spec.preparation
            && !world.prepared.contains(&slug.digest)
        {
            return Err(self.error("create a container", ErrorKind::ImageMissing));
        }
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(spec.labels.operation.as_bytes());
        let id = InstanceId::from_bytes(bytes);
        world.containers.insert(id, (spec.clone(), State::Created));
        Ok(id)
    }

    async fn start(&self, id: InstanceId) -> Result<()> {
        match self.world.lock().unwrap().containers.get_mut(&id) {
            Some((_, state)) => *state = State::Running,
            None => return Err(self.error("start a container", ErrorKind::NotFound)),
        }
        Ok(())
    }

    async fn stop(&self, _: InstanceId, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn remove(&self, id: InstanceId, _: bool) -> Result<()> {
        let removed = self.world.lock().unwrap().containers.remove(&id);
        removed.map(drop).ok_or_else(|| self.error("remove a container", ErrorKind::NotFound))
    }

    async fn logs(&self, _: InstanceId, _: bool) -> Result<Logs> {
        Ok(futures_util::stream::empty().boxed())
    }

    async fn events(&self) -> Result<Hints> {
        Ok(futures_util::stream::pending().boxed())
    }
}
