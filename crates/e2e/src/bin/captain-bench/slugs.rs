//! Slugs on stacks: a start of one that is on the node, of one that nobody has seen yet, and what twenty of one take of the memory.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use captain_e2e::captain::Settings;
use captain_e2e::cluster::Lease;
use captain_e2e::figures::{Pairs, Report, Series};
use captain_e2e::origin::Manner;
use captain_e2e::slugs::Slug;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::changes::{in_turns, starts};
use crate::stage::Stage;
use crate::wire::text;

const COLD: usize = 7;
const TOGETHER: usize = 20;
/// The file that the instances of `pages` read.
const BALLAST: usize = 48 << 20;

/// A captain on a stack, with its slugs on the same disk as everything else here.
fn on_stack(lease: &Lease, data: &Path) -> Settings {
    let stack = format!("{}:0.0.0", lease.runner_image());
    Settings::on_stack(lease, &stack, data).set("SLOTS_PER_NODE", 60)
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("captain-bench.").tempdir_in("/var/tmp").unwrap()
}

pub(crate) async fn warm(report: &mut Report) {
    report.section("warm: POST /instances/ of a slug that is on the node, over raw create, start, inspect");
    let data = folder();
    let stage = Stage::with(|lease| on_stack(lease, data.path())).await;
    starts(&stage).await.report(report, "POST over raw create+start+inspect", 1.10);
}

pub(crate) async fn cold(report: &mut Report) {
    let content = Content::new();
    let size = content.slug(0).len();
    report.section(&format!(
        "cold: POST of a slug never seen, {} MB ({} MB unpacked), over curl | tar xz of it and a raw start",
        size / 1_000_000,
        content.unpacked() / 1_000_000
    ));
    let (data, work) = (folder(), folder());
    let stage = Stage::with(|lease| on_stack(lease, data.path())).await;
    let (mut pairs, mut floor, mut whole) = (Pairs::default(), Series::default(), Series::default());
    for pair in 0..COLD {
        let uri = stage.origin.offer_bytes(&format!("cold-{pair}.tgz"), content.slug(pair + 1), Manner::Properly);
        let order = json!({"app": "cold", "node": stage.node().name, "slug_uri": uri, "slots": 1});
        let order = Bytes::from(order.to_string());
        let (captain, raw) = in_turns(
            pair,
            async {
                settle().await;
                let mut wire = stage.to_captain().await;
                let begin = Instant::now();
                let instance = wire.send("POST", "/instances/", &order, &[201]).await;
                let took = begin.elapsed();
                let _ = text(&instance, "id");
                stage.clear().await;
                took
            },
            stage.alone(async {
                settle().await;
                let mut wire = stage.to_engine().await;
                let begin = Instant::now();
                fetch_and_unpack(&uri, &work.path().join(pair.to_string())).await;
                stage.raw_start(&mut wire, &format!("yardstick-{pair}")).await;
                begin.elapsed()
            }),
        )
        .await;
        pairs.push(captain, raw);
        let unpacked = work.path().join(pair.to_string());
        let (import, commit) = stage.alone(engines_own(&stage, &unpacked)).await;
        floor.push(import.as_secs_f64() * 1e3);
        whole.push(commit.as_secs_f64() * 1e3);
        std::fs::remove_dir_all(unpacked).unwrap();
    }
    pairs.report(report, "POST over curl | tar xz and a raw start", 1.5);
    report.note("  the engine alone: import of one layer, ms", floor.shown(1));
    report.note("  the engine alone: archive and commit, ms", whole.shown(1));
}

/// What was written before is not to be paid for by what is measured next.
async fn settle() {
    tokio::task::spawn_blocking(rustix::fs::sync).await.unwrap();
}

/// `curl | tar xz`.
async fn fetch_and_unpack(uri: &str, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let (uri, to) = (uri.to_owned(), to.to_owned());
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut curl = Command::new("curl").args(["-sf", &uri]).stdout(Stdio::piped()).spawn().unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xzC").arg(to).stdin(curl.stdout.take().unwrap());
        tar.status().unwrap().success() && curl.wait().unwrap().success()
    });
    assert!(unpacked.await.unwrap(), "curl | tar xz failed");
}

/// How long the engine needs to take in the same files as one layer, and how long to be given them as an archive and commit that.
async fn engines_own(stage: &Stage, files: &Path) -> (Duration, Duration) {
    settle().await;
    let engine = stage.node().engine();
    let mut tar = Vec::new();
    let mut packing = Command::new("tar").arg("-cC").arg(files).arg(".").stdout(Stdio::piped()).spawn().unwrap();
    packing.stdout.take().unwrap().read_to_end(&mut tar).unwrap();
    assert!(packing.wait().unwrap().success());
    let image = "captain-bench-floor:1";
    let begin = Instant::now();
    engine.import(image, tar.clone(), "CMD x").await;
    let import = begin.elapsed();
    engine.remove_image(image).await;
    let stack = format!("{}:0.0.0", stage.lease.runner_image());
    let id = engine.create("captain-bench-floor", json!({"Image": stack})).await;
    settle().await;
    let begin = Instant::now();
    engine.unpack(&id, tar).await;
    engine.commit(&id, "captain-bench-floor", "1").await;
    let commit = begin.elapsed();
    engine.remove(&id).await;
    engine.remove_image(image).await;
    (import, commit)
}

/// What an app of this size consists of: a few thousand sources, and some programs that are packed already.
struct Content {
    sources: Vec<(String, Vec<u8>)>,
    programs: Vec<(String, Vec<u8>)>,
}

impl Content {
    fn new() -> Self {
        let mut noise = Noise(7);
        let words: Vec<String> = (0..4000).map(|_| noise.word()).collect();
        let source = |noise: &mut Noise| {
            let length = 5_000 + noise.below(50_000);
            let mut text = String::with_capacity(length + 16);
            while text.len() < length {
                let _ = write!(text, "{} ", words[noise.below(words.len())]);
            }
            text.into_bytes()
        };
        let sources = (0..1750).map(|n| (format!("lib/part{}/source{n}.py", n % 60), source(&mut noise))).collect();
        let programs = (0..8).map(|n| (format!("bin/program{n}"), noise.bytes(2_000_000))).collect();
        Self { sources, programs }
    }

    fn unpacked(&self) -> usize {
        self.sources.iter().chain(&self.programs).map(|(_, content)| content.len()).sum()
    }

    /// The slug with this number: each is another, and every file of it is.
    fn slug(&self, number: usize) -> Vec<u8> {
        let slug = Slug::with_procfile("web: exec sleep 86400\n");
        let slug = slug.file("number", number.to_string().as_bytes());
        let all = self.sources.iter().chain(&self.programs);
        all.fold(slug, |slug, (path, content)| slug.file(path, content)).pack()
    }
}

/// xorshift: the same every time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    fn word(&mut self) -> String {
        let letters = 3 + self.below(7);
        (0..letters).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap())).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(count).collect()
    }
}

pub(crate) async fn pages(report: &mut Report) {
    report.section(&format!(
        "pages: memory of {TOGETHER} instances that each read the same {} MiB of their slug",
        BALLAST >> 20
    ));
    let data = folder();
    let stage = Stage::with(|lease| on_stack(lease, data.path())).await;
    let run = "cat ballast >/dev/null; echo read; exec sleep 86400";
    let own = "cp ballast mine; cat mine >/dev/null; echo read; exec sleep 86400";
    let slug = Slug::with_procfile(&format!("web: {run}\nown: {own}\n")).ballast("ballast", BALLAST);
    let uri = stage.origin.offer("pages.tgz", slug);
    let start = async |process: &str| {
        let mut order = json!({"app": "pages", "node": stage.node().name, "slug_uri": uri, "slots": 1});
        order["process"] = json!(process);
        let instance: Value = stage.captain.start(order).await.expect(201).json();
        let id = instance["id"].as_str().unwrap().to_owned();
        let mut logs = stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
        logs.until("read", Duration::from_secs(60)).await;
        id
    };
    // The engine has just written these pages, and they are on its account. Dropped, they are on that of whoever reads them next.
    let first = start("web").await;
    forget_pages(&stage, &first).await;
    stage.clear().await;
    let empty = used(&stage);
    start("web").await;
    let one = used(&stage) - empty;
    for _ in 1..TOGETHER {
        start("web").await;
    }
    let all = used(&stage) - empty;
    start("own").await;
    let own = used(&stage) - empty - all;
    let shown = format!("{:.2}: {all:.1} MiB over {one:.1} MiB", all / one);
    report.at_most(&format!("memory of {TOGETHER} over memory of one"), all / one, 2.0, shown);
    report.note("each of the others", format!("{:.1} MiB", (all - one) / (TOGETHER - 1) as f64));
    report.note("one with a copy of its own, for comparison", format!("{own:.1} MiB"));
}

/// Takes the file of the slug out of the page cache.
async fn forget_pages(stage: &Stage, id: &str) {
    settle().await;
    let pid = stage.node().engine().inspect(id).await["State"]["Pid"].as_u64().unwrap();
    let file = format!("if=/proc/{pid}/root/app/ballast");
    let dropped = Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status().unwrap();
    assert!(dropped.success());
}

/// The memory on the account of all containers of the node, in MiB: their own and what of the page cache they were first to need.
fn used(stage: &Stage) -> f64 {
    let name = &stage.node().name;
    let number = stage.lease.gateway().octets()[2];
    let group = |root: &str| PathBuf::from(root).join(format!("captain-cluster-{number}")).join(name);
    let files =
        [group("/sys/fs/cgroup/memory").join("memory.usage_in_bytes"), group("/sys/fs/cgroup").join("memory.current")];
    let read = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
    let read = read.unwrap_or_else(|| panic!("none of {files:?}"));
    read.trim().parse::<f64>().unwrap() / 1024.0 / 1024.0
}
