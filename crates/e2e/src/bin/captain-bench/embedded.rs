//! The embedded engine: how long from a `POST` until the app's first instruction, beside Docker and beside the least that a start can be;
//! what hundreds of idle instances weigh; how many starts a second.
//!
//! What is timed ends with the app's first instruction on both engines: the app says what the clock says, before anything else
//! (`first.c`), and the clock is the same everywhere. It begins as the request is about to be sent. One captain drives both engines,
//! in stack mode, with the slug on the node already; the connection is warm.
//!
//! There are two yardsticks, each a clone into the same namespaces by a process that does nothing else (`bare.c`): one executes the app
//! itself, the other what a Procfile asks for, `bash -c ./first`. The promise is held to the second, since no start of a Procfile's command
//! can do without its shell; the first is told as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::{Lease, lease_on_tcp};
use captain_e2e::eventually;
use captain_e2e::figures::{Report, Series};
use captain_e2e::process;
use captain_e2e::slugs::Slug;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::wire::{Wire, text};

const ROUNDS: usize = 40;
/// Starts and stops for the rate, on each engine: Docker takes a second for each few.
const SUSTAINED: usize = 200;
const SUSTAINED_ON_DOCKER: usize = 24;
const AT_ONCE: usize = 4;
const MANY: usize = 500;
const FEW: usize = 5;
/// How often from few instances to many and back again, and samples each time of a call that takes microseconds to milliseconds.
const TURNS: usize = 12;
const SAMPLES: usize = 20;
/// Between one start and the next, so that each finds a monitor in waiting: without, it would be chance who does.
const PAUSE: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(30);
const EMBEDDED: &str = "embedded";

/// The programs, the captain, and the nodes. The captain goes before the folder that it keeps its slugs in.
struct Ground {
    captain: Captain,
    docker: String,
    slug: String,
    data: TempDir,
    programs: PathBuf,
    _lease: Lease,
}

pub(crate) async fn embedded(report: &mut Report) {
    let ground = Ground::up().await;
    ground.first_instruction(report).await;
    ground.sustained(report).await;
}

pub(crate) async fn many(report: &mut Report) {
    Ground::up().await.many(report).await;
}

impl Ground {
    async fn up() -> Self {
        let data = tempfile::tempdir().unwrap();
        let programs = data.path().join("programs");
        fs::create_dir(&programs).unwrap();
        compile(include_str!("bare.c"), &programs.join("bare"), &[]);
        let alone = ["-nostdlib", "-ffreestanding", "-fno-stack-protector"];
        compile(include_str!("first.c"), &programs.join("first"), &alone);
        let slug =
            Slug::with_procfile("web: ./first\n").file("first", &fs::read(programs.join("first")).unwrap()).pack();
        let lease = lease_on_tcp(1).await;
        let stack = format!("{}:0.0.0", lease.runner_image());
        let docker = lease.node(0).name.clone();
        let nodes = format!("{},{EMBEDDED}=local://?slots=2000", lease.node(0).entry());
        let captain = Settings::on_stack(&lease, &stack, data.path()).set("DOCKER_NODES", nodes).start().await;
        let kept = captain.endpoint().send("PUT", "/slugs/", &[], slug).await.expect(201).json();
        let slug = format!("sha256:{}", kept["sha256"].as_str().unwrap());
        let ground = Self { captain, docker, slug, data, programs, _lease: lease };
        let mut wire = ground.wire().await;
        for node in [&ground.docker, EMBEDDED] {
            // The first start brings the slug there.
            let id = ground.start(&mut wire, node).await;
            ground.stop(&mut wire, &id).await;
        }
        ground
    }

    async fn wire(&self) -> Wire {
        Wire::warm(self.captain.address(), "/ping/ping").await
    }

    fn order(&self, node: &str) -> Bytes {
        json!({"app": "first", "node": node, "slug_uri": self.slug, "slots": 1}).to_string().into()
    }

    async fn start(&self, wire: &mut Wire, node: &str) -> String {
        text(&wire.send("POST", "/instances/", &self.order(node), &[201]).await, "id")
    }

    async fn stop(&self, wire: &mut Wire, id: &str) {
        wire.send("DELETE", &format!("/instances/{id}"), &Bytes::new(), &[204]).await;
    }

    /// Milliseconds from the request until the app's first instruction.
    async fn until_first(&self, wire: &mut Wire, node: &str) -> f64 {
        let begin = now();
        let id = self.start(wire, node).await;
        let began = eventually("the app to say when it began", PATIENCE, || async {
            let said = self.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text();
            // One JSON object a line, each with a piece of the output.
            said.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find_map(|piece| piece["msg"].as_str()?.trim().parse::<u64>().ok())
        })
        .await;
        self.stop(wire, &id).await;
        self.rest().await;
        milliseconds(begin, began)
    }

    /// The same of the yardstick, which executes this.
    fn bare(&self, command: &[&str]) -> f64 {
        let mut bare = Command::new(self.programs.join("bare"));
        let output = bare.args(command).current_dir(&self.programs).output().unwrap();
        let mut times: Vec<u64> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
        times.sort_unstable();
        assert_eq!(times.len(), 2, "{command:?}");
        milliseconds(times[0], times[1])
    }

    async fn rest(&self) {
        process::rest(&[self.captain.pid()]).await;
    }

    async fn first_instruction(&self, report: &mut Report) {
        report.section("embedded: POST to the app's first instruction, over Docker's and over a bare clone and exec");
        let (mut ours, mut docker, mut shell, mut app) =
            (Series::default(), Series::default(), Series::default(), Series::default());
        let first = self.programs.join("first").display().to_string();
        let mut wire = self.wire().await;
        for round in 0..ROUNDS {
            // In turns. Docker takes a while, so it has a turn only every fourth time, and its neighbours stand for the others.
            if round % 4 == 0 {
                docker.push(self.until_first(&mut wire, &self.docker).await);
            }
            ours.push(self.until_first(&mut wire, EMBEDDED).await);
            shell.push(self.bare(&["/bin/bash", "-c", "./first done"]));
            app.push(self.bare(&[&first, "done"]));
        }
        let over_docker = ours.median() / docker.median();
        report.at_most("over Docker's (medians)", over_docker, 1.0 / 20.0, format!("1/{:.1}", 1.0 / over_docker));
        let ratio = ours.over(&shell);
        report.at_most("over bare clone + exec of bash -c ./first", ratio.median(), 3.0, ratio.shown(2));
        report.note("over bare clone + exec of ./first", ours.over(&app).shown(2));
        for (name, series) in
            [("POST, embedded, ms", ours), ("POST, Docker, ms", docker), ("bash, ms", shell), ("app alone, ms", app)]
        {
            report.note(&format!("  {name}"), series.shown(2));
        }
    }

    async fn sustained(&self, report: &mut Report) {
        report.section(&format!("embedded: starts and stops, {AT_ONCE} at once, a second"));
        let ours = self.rate(EMBEDDED, SUSTAINED).await;
        let docker = self.rate(&self.docker, SUSTAINED_ON_DOCKER).await;
        report.note("embedded", format!("{ours:.1}/s, {SUSTAINED} of them"));
        report.note("Docker", format!("{docker:.1}/s, {SUSTAINED_ON_DOCKER} of them"));
        report.note("ratio", format!("{:.1}", ours / docker));
    }

    async fn rate(&self, node: &str, count: usize) -> f64 {
        let begin = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (address, order) = (self.captain.address(), self.order(node));
            all.spawn(async move {
                let mut wire = Wire::warm(address, "/ping/ping").await;
                for _ in 0..count / AT_ONCE {
                    let id = text(&wire.send("POST", "/instances/", &order, &[201]).await, "id");
                    wire.send("DELETE", &format!("/instances/{id}"), &Bytes::new(), &[204]).await;
                }
            });
        }
        all.join_all().await;
        count as f64 / begin.elapsed().as_secs_f64()
    }

    async fn many(&self, report: &mut Report) {
        report.section(&format!("embedded: {MANY} idle instances"));
        let mut wire = self.wire().await;
        let mut ids = Vec::new();
        // In turns, and each look at many between two at few: what the machine does meanwhile comes to both.
        self.have(FEW, &mut ids, &mut wire).await;
        let (mut few, mut many) = (vec![self.calls(&mut wire, &ids[0], FEW).await], Vec::new());
        for _ in 0..TURNS {
            self.have(MANY, &mut ids, &mut wire).await;
            many.push(self.calls(&mut wire, &ids[0], MANY).await);
            if many.len() == 1 {
                let (own, shown) = self.weights(&ids);
                report.at_most("monitor and runner together, MiB each", own, 3.0, shown);
            }
            self.have(FEW, &mut ids, &mut wire).await;
            few.push(self.calls(&mut wire, &ids[0], FEW).await);
        }
        self.have(0, &mut ids, &mut wire).await;
        for (name, of) in KINDS {
            let medians = |calls: &[Calls]| calls.iter().map(|calls| of(calls).median()).collect::<Series>();
            let (few, many) = (medians(&few[..TURNS]).midpoint(&medians(&few[1..])), medians(&many));
            let ratio = many.over(&few);
            let shown = format!("{}: {} µs, with {FEW} {} µs", ratio.shown(2), many.shown(1), few.shown(1));
            // Medians of microseconds on a machine that others use as well: a fifth is noise.
            report.at_most(&format!("{name}, over the same with {FEW}"), ratio.median(), 1.2, shown);
        }
    }

    /// Starts or stops until so many are there.
    async fn have(&self, count: usize, ids: &mut Vec<String>, wire: &mut Wire) {
        while ids.len() < count {
            ids.push(self.start(wire, EMBEDDED).await);
        }
        for id in ids.drain(count..) {
            self.stop(wire, &id).await;
        }
    }

    /// Microseconds, with so many instances there. The list is divided by what it lists.
    async fn calls(&self, wire: &mut Wire, id: &str, there: usize) -> Calls {
        self.rest().await;
        let none = Bytes::new();
        let mut calls = Calls::default();
        for _ in 0..SAMPLES {
            tokio::time::sleep(PAUSE).await;
            let begin = Instant::now();
            let started = self.start(wire, EMBEDDED).await;
            calls.post.push(begin.elapsed().as_secs_f64() * 1e6);
            self.stop(wire, &started).await;
            let begin = Instant::now();
            wire.send("GET", &format!("/instances/{id}"), &none, &[200]).await;
            calls.one.push(begin.elapsed().as_secs_f64() * 1e6);
            let begin = Instant::now();
            wire.send("GET", "/instances/", &none, &[200]).await;
            calls.all.push(begin.elapsed().as_secs_f64() * 1e6 / there as f64);
        }
        calls
    }

    /// MiB of monitor and runner together, shared pages by their share: of each instance, and in words.
    fn weights(&self, ids: &[String]) -> (f64, String) {
        let (mut both, mut monitors) = (Series::default(), Series::default());
        for id in ids {
            let path = self.data.path().join("engine/instances").join(id).join("state.json");
            let state: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let of = |who: &str| {
                let pid = state[who]["pid"].as_u64().unwrap();
                process::memory(u32::try_from(pid).unwrap(), "Pss")
            };
            monitors.push(of("monitor"));
            both.push(of("monitor") + of("init"));
        }
        (both.median(), format!("{}, of which the monitor {}", both.shown(2), monitors.shown(2)))
    }
}

#[derive(Debug, Default)]
struct Calls {
    post: Series,
    one: Series,
    all: Series,
}

type Kind = (&'static str, fn(&Calls) -> &Series);
const KINDS: [Kind; 3] =
    [("POST", |calls| &calls.post), ("GET of one", |calls| &calls.one), ("GET of all, each", |calls| &calls.all)];

fn compile(source: &str, program: &Path, options: &[&str]) {
    let path = program.with_extension("c");
    fs::write(&path, source).unwrap();
    let compiler = Command::new("cc").args(["-O2", "-static"]).args(options).arg("-o").arg(program).arg(&path).status();
    assert!(compiler.expect("cc, which Rust links with").success(), "{path:?}");
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

fn milliseconds(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}
