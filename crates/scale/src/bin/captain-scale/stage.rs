//! Engines, a captain that watches them, and how to wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_scale::client::Client;
use captain_scale::engines::{DOCKER_PORT, Engines, Plan};

use captain_e2e::process;

/// MiB in five seconds: what falls by less is at rest.
const SETTLED: f64 = 2.0;
/// From the start of a captain until it knows everything.
const PATIENCE: Duration = Duration::from_secs(600);

/// The two sides.
pub(crate) struct Stage {
    pub(crate) engines: Arc<Engines>,
    pub(crate) captain: Captain,
}

/// How a fleet is found.
pub(crate) struct Ready {
    /// From the start of the process until all nodes are healthy and all instances are known with details.
    pub(crate) took: Duration,
    /// Processor time of the captain.
    pub(crate) cpu: Duration,
}

/// The captain's settings for these engines: the documented minimum, and room for everything.
fn settings(engines: &Engines) -> Settings {
    Settings::default()
        .set("DOCKER_NODES", engines.list())
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", "registry.internal.example.com/slugrunner")
        .set("SLOTS_PER_NODE", 4_000)
        .set("CAPTAIN_LOG", "warn")
}

pub(crate) async fn engines(plan: Plan) -> Arc<Engines> {
    Engines::serve(plan, Some(DOCKER_PORT)).await
}

impl Stage {
    /// Starts a captain on these engines, and waits until it knows all of them.
    pub(crate) async fn up(engines: &Arc<Engines>) -> (Self, Ready) {
        let (begin, before) = (Instant::now(), engines.counted());
        let captain = settings(engines).start_anyhow().await;
        let stage = Self { engines: Arc::clone(engines), captain };
        stage.knows_all(before.inspections).await;
        let (took, cpu) = (begin.elapsed(), process::cpu(stage.pid()));
        (stage, Ready { took, cpu })
    }

    /// Takes everything down: the next stage is on the same port.
    pub(crate) async fn end(self) {
        drop(self.captain);
        self.engines.close().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.captain.pid()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::to(self.captain.address()).await
    }

    pub(crate) fn rss(&self) -> f64 {
        process::resident(self.pid(), "VmRSS")
    }

    /// What is resident when what it did last is over: its allocator gives back what is free within some ten seconds.
    pub(crate) async fn rss_at_rest(&self) -> f64 {
        self.rest(0.5, Duration::from_secs(20)).await;
        let (begin, mut before) = (Instant::now(), self.rss());
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let now = self.rss();
            if now > before - SETTLED || begin.elapsed() > Duration::from_secs(60) {
                return now;
            }
            before = now;
        }
    }

    /// Waits until every container has been inspected since the engines had counted `inspections`, every node is healthy, and
    /// the captain counts every instance. Costs the captain next to nothing until it is nearly done.
    pub(crate) async fn knows_all(&self, inspections: u64) {
        let (begin, all) = (Instant::now(), self.engines.containers());
        let mut client = self.client().await;
        let mut told = Instant::now();
        loop {
            let inspected = self.engines.counted().inspections - inspections;
            if inspected >= all && self.has_all(&mut client, all).await {
                break;
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                eprintln!(
                    "  … {:.0?}: {inspected} of {all} inspected, {:.0} MiB resident (greatest {:.0}), {:.0?} of processor time, {:?}",
                    begin.elapsed(),
                    self.rss(),
                    process::resident(self.pid(), "VmHWM"),
                    process::cpu(self.pid()),
                    self.engines.counted(),
                );
            }
            assert!(begin.elapsed() < PATIENCE, "the captain does not know all instances: {}", self.complaints());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the captain counts every instance that runs on the engines.
    pub(crate) async fn counts_all(&self) {
        let mut client = self.client().await;
        let begin = Instant::now();
        while !self.has_all(&mut client, self.engines.containers()).await {
            assert!(begin.elapsed() < PATIENCE, "the captain counts other instances: {}", self.complaints());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn has_all(&self, client: &mut Client, all: u64) -> bool {
        let summary = client.get("/instances_summary/").await.json();
        if summary["total_instances"] != all {
            return false;
        }
        let nodes = client.get("/nodes/").await.json();
        nodes.as_array().unwrap().iter().all(|node| node["state"] == "healthy")
    }

    /// The end of what the captain has complained of.
    pub(crate) fn complaints(&self) -> String {
        let logs = self.captain.logs();
        let lines: Vec<&str> = logs.lines().collect();
        format!("{} lines in its log, the last: {}", lines.len(), lines[lines.len().saturating_sub(5)..].join("\n"))
    }

    /// Waits until the captain uses little of the processors: `share` of one, over half a second.
    async fn rest(&self, share: f64, patience: Duration) {
        let begin = Instant::now();
        let pause = Duration::from_millis(500);
        while begin.elapsed() < patience {
            let before = process::cpu(self.pid());
            tokio::time::sleep(pause).await;
            if (process::cpu(self.pid()) - before).as_secs_f64() < share * pause.as_secs_f64() {
                return;
            }
        }
    }
}
