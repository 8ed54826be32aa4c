//! Docker Engine, on a node of the cluster that the end-to-end tests use.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_conformance::{App, Recipe, Subject, run_all};
use captain_domain::{InstanceId, NodeId};
use captain_e2e::cluster::{Lease, lease, lease_on_tcp};
use captain_server::engine::docker::{Docker, Endpoint, Settings, Tls, TlsMaterial};
use captain_server::engine::{Engine, ErrorKind, Preparation, Result};
use tempfile::TempDir;

use crate::local::{runner, slug};
use crate::scripts::{ENTRYPOINT, image, script};

const IMAGE: &str = "captain-conformance:1";

struct Subjected {
    lease: Lease,
}

fn connect(lease: &Lease, timeout: Duration) -> Arc<dyn Engine> {
    connect_with(lease, timeout, None)
}

fn connect_with(lease: &Lease, timeout: Duration, runner: Option<Arc<[u8]>>) -> Arc<dyn Engine> {
    let node = lease.node(0);
    let uri = format!("tcp://{}", node.engine_address());
    let settings = Settings::new(timeout, Duration::from_secs(60), Tls::new(TlsMaterial { ca: None, identity: None }));
    let settings = match runner {
        Some(runner) => settings.with_runner(runner),
        None => settings,
    };
    Arc::new(Docker::new(NodeId::trusted(&node.name), Endpoint::parse(&uri).unwrap(), &settings).unwrap())
}

impl Subject for Subjected {
    fn name(&self) -> &str {
        "docker"
    }

    fn engine(&self) -> Arc<dyn Engine> {
        connect(&self.lease, Duration::from_secs(30)) // fifty creations at once, on a busy machine
    }

    fn recipe(&self, app: &App) -> Recipe {
        Recipe { preparation: Preparation::RunnerImage { image: IMAGE.to_owned() }, command: vec![script(app)] }
    }

    fn unprepared(&self) -> Recipe {
        let image = format!("{}:0.0.0-never-pulled", self.lease.runner_image());
        Recipe { preparation: Preparation::RunnerImage { image }, ..self.recipe(&App::Idle) }
    }

    fn unavailable(&self) -> (Preparation, String) {
        let image = format!("{}:9.9.9", self.lease.runner_image());
        (Preparation::RunnerImage { image: image.clone() }, image)
    }

    fn reach(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.lease.node(0).address, port))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_the_contract() {
    let lease = lease_on_tcp(1).await;
    lease.node(0).engine().import(IMAGE, image(), &format!("ENTRYPOINT {ENTRYPOINT}")).await;
    run_all(Subjected { lease }).await;
}

/// The same engine, with Captain's own runner on a stack instead of a runner image.
struct OnStack {
    images: Subjected,
    directory: TempDir,
}

impl OnStack {
    fn slug(&self, script: &str) -> Preparation {
        slug(self.directory.path(), script, IMAGE)
    }
}

impl Subject for OnStack {
    fn name(&self) -> &str {
        "docker with slugs on a stack"
    }

    fn engine(&self) -> Arc<dyn Engine> {
        connect_with(&self.images.lease, Duration::from_secs(30), Some(runner()))
    }

    fn recipe(&self, app: &App) -> Recipe {
        Recipe { preparation: self.slug(&script(app)), command: vec!["web".to_owned()] }
    }

    fn unprepared(&self) -> Recipe {
        Recipe { preparation: self.slug("echo never prepared"), ..self.recipe(&App::Idle) }
    }

    fn unavailable(&self) -> (Preparation, String) {
        let (_, stack) = self.images.unavailable();
        (slug(self.directory.path(), "echo no stack", &stack), stack)
    }

    fn reach(&self, port: u16) -> SocketAddr {
        self.images.reach(port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_the_contract_with_slugs_on_a_stack() {
    let lease = lease_on_tcp(1).await;
    lease.node(0).engine().import(IMAGE, image(), &format!("ENTRYPOINT {ENTRYPOINT}")).await;
    let directory = tempfile::tempdir().unwrap();
    run_all(OnStack { images: Subjected { lease }, directory }).await;
}

/// What an engine does that has been stopped where it stands, the suite cannot ask of all.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_to_a_hung_docker_ends_within_its_deadline() {
    let lease = lease(1).await;
    let node = lease.node(0);
    let uri = format!("unix://{}", node.socket().display());
    let (deadline, grace) = (Duration::from_secs(2), Duration::from_secs(1));
    let settings = Settings::new(deadline, deadline, Tls::new(TlsMaterial { ca: None, identity: None }));
    let engine = Docker::new(NodeId::trusted(&node.name), Endpoint::parse(&uri).unwrap(), &settings).unwrap();
    engine.facts().await.unwrap();
    node.hang();
    let id = InstanceId::from_bytes([7; 32]);
    ends("facts", deadline, engine.facts()).await;
    ends("ping", deadline, engine.ping()).await;
    ends("list", deadline, engine.list()).await;
    ends("inspect", deadline, engine.inspect(id)).await;
    ends("start", deadline, engine.start(id)).await;
    ends("stop", deadline + grace, engine.stop(id, grace)).await;
    ends("remove", deadline, engine.remove(id, true)).await;
    ends("logs", deadline, engine.logs(id, false)).await;
    ends("followed logs", deadline, engine.logs(id, true)).await;
    ends("events", deadline, engine.events()).await;
    let image = Preparation::RunnerImage { image: IMAGE.to_owned() };
    ends("prepare", deadline, engine.prepare(&image, &|_| {})).await;
    node.wake();
}

async fn ends<T>(call: &str, deadline: Duration, work: impl Future<Output = Result<T>>) {
    let begin = Instant::now();
    let error = work.await.err().unwrap_or_else(|| panic!("{call} succeeds on a hung engine"));
    let took = begin.elapsed();
    assert!(took < deadline + Duration::from_secs(2), "{call} took {took:?}, and has {deadline:?}");
    // An outcome that is known to be nothing would be a lie: a hung engine does what it was asked when it wakes.
    assert_eq!(error.kind, ErrorKind::TimedOut, "{call}: {error}");
}
