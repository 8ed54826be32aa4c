//! Stack mode: no runner image; Captain fetches the slug itself, puts it on the node once, and runs it with its own pid 1.

mod apps;
mod disk_full;
mod hardening;
mod itself;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::cluster::{Lease, Node, lease};
use captain_e2e::origin::{Counts, Manner, Origin};
use captain_e2e::proxy::Proxy;
use captain_e2e::slugs::{self, Slug};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::instances::page;
use crate::{Stage, assert_error, id};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// A captain without a runner image. The captain goes before the folder that it keeps its slugs in.
struct Stacked {
    stage: Stage,
    data: TempDir,
}

impl Stacked {
    /// On the small image that has a shell, which the nodes pull.
    async fn with(nodes: usize) -> Self {
        let lease = lease(nodes).await;
        let stack = format!("{}:0.0.0", lease.runner_image());
        Self::on(lease, &stack).await
    }

    async fn on(lease: Lease, stack: &str) -> Self {
        let origin = Origin::start(&lease).await;
        let data = tempfile::tempdir().unwrap();
        let captain = Settings::on_stack(&lease, stack, data.path()).set("SLOTS_PER_NODE", 60).start().await;
        Self { stage: Stage { captain, origin, lease }, data }
    }

    /// Starts an instance of one slot, which must work.
    async fn started(&self, node: &str, slug: &str) -> Value {
        self.stage.captain.start(self.order(node, slug)).await.expect(201).json()
    }

    fn order(&self, node: &str, slug: &str) -> Value {
        json!({"app": "stacked", "node": node, "slug_uri": slug, "slots": 1})
    }

    fn node(&self) -> &str {
        &self.stage.node().name
    }

    /// How an instance ended, and what it said.
    async fn ended(&self, id: &str) -> (Value, Vec<String>) {
        let instance = self.stage.captain.instance_becomes(id, "exited").await;
        let logs = self.stage.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text();
        (instance["exit"]["code"].clone(), lines(&logs))
    }

    /// The images of the first node, those without a name too.
    async fn images(&self) -> BTreeSet<String> {
        image_ids(self.stage.node()).await
    }
}

/// The images of a node, those without a name too.
async fn image_ids(node: &Node) -> BTreeSet<String> {
    let list = node.engine().call("GET", "/images/json?all=1", Value::Null).await.expect(200).json();
    list.as_array().unwrap().iter().map(|image| image["Id"].as_str().unwrap().to_owned()).collect()
}

/// The lines that an app wrote, out of a log as Captain gives it. It ends with an empty line of its own.
fn lines(log: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| line["msg"].as_str().unwrap().trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The digest of the bytes, by another program than Captain.
fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    stdout(&Command::new("sha256sum").arg(file.path()).output().unwrap())[..64].to_owned()
}

/// All files below a folder with their lengths.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => drop(found.insert(entry.path(), entry.metadata().unwrap().len())),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_instances_at_once_on_three_nodes_fetch_their_slug_once_and_later_ones_fetch_nothing() {
    let stacked = Stacked::with(3).await;
    let (captain, origin) = (&stacked.stage.captain, &stacked.stage.origin);
    let slug = Slug::with_procfile("web: exec sleep 86400\n").ballast("ballast", 2_000_000).pack();
    let length = slug.len();
    origin.offer_bytes("sixty.tgz", slug, Manner::Properly);
    // Two seconds for the slug, so that the starts do meet.
    let wire = Proxy::between(stacked.stage.lease.gateway(), origin.address()).await;
    wire.throttle(1_000_000);
    let uri = format!("http://{}/sixty.tgz", wire.address());
    let nodes: Vec<&str> = stacked.stage.lease.nodes().map(|node| node.name.as_str()).collect();

    let address = captain.endpoint();
    let starts: Vec<_> = (0..60)
        .map(|number| (address.clone(), stacked.order(nodes[number % 3], &uri).to_string()))
        .map(|(captain, body)| tokio::spawn(async move { captain.send("POST", "/instances/", &JSON, body).await }))
        .collect();
    for start in starts {
        let _ = start.await.unwrap().expect(201);
    }
    for node in stacked.stage.lease.nodes() {
        assert_eq!(node.engine().running().await.len(), 20, "on {}", node.name);
    }
    let first = origin.counts("sixty.tgz");
    assert_eq!(first, Counts { requests: 1, bodies: 1, bytes: length });

    stacked.started(nodes[0], &uri).await;
    let second = origin.counts("sixty.tgz");
    assert_eq!((second.bodies, second.bytes), (first.bodies, first.bytes), "{second:?}");
    assert!(
        second.requests > first.requests,
        "the origin was not asked whether the slug is still the same: {second:?}"
    );

    origin.switch_off();
    drop(wire);
    let without = stacked.started(nodes[1], &uri).await;
    assert_eq!(captain.instance_becomes(&id(&without), "running").await["slug_uri"], uri);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_differs_from_its_pin_by_one_byte_is_refused_and_leaves_nothing() {
    let stacked = Stacked::with(1).await;
    let slug = Slug::with_procfile("web: exec sleep 86400\n").ballast("ballast", 100_000).pack();
    let pin = sha256(&slug);
    let flipped = |at: usize| {
        let mut slug = slug.clone();
        slug[at] ^= 1;
        stacked.stage.origin.offer_bytes(&format!("flipped-{at}.tgz"), slug, Manner::Properly)
    };
    // The time in gzip's header, which changes nothing that is unpacked; and a byte of the content.
    for uri in [flipped(4), flipped(slug.len() / 2)] {
        let (images, files_before) = (stacked.images().await, files(stacked.data.path()));
        let mut order = stacked.order(stacked.node(), &uri);
        order["slug_sha256"] = json!(pin);
        let message = assert_error(&stacked.stage.captain.start(order).await, 422, "slug_mismatch");
        assert!(message.contains(&pin), "{message}");
        assert_eq!(stacked.stage.node().engine().containers().await, Vec::<Value>::new());
        assert_eq!(stacked.images().await, images);
        assert_eq!(files(stacked.data.path()), files_before);
        assert_eq!(stacked.stage.captain.node(stacked.node()).await["slots"]["used"], 0);
    }
    let uri = stacked.stage.origin.offer_bytes("unflipped.tgz", slug, Manner::Properly);
    let mut order = stacked.order(stacked.node(), &uri);
    order["slug_sha256"] = json!(pin);
    let _ = stacked.stage.captain.start(order.clone()).await.expect(201);
    order["slug_sha256"] = json!("0".repeat(64)); // no better for a slug that is known already
    assert_error(&stacked.stage.captain.start(order).await, 422, "slug_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_that_gives_another_slug_than_before_runs_the_other_slug() {
    let stacked = Stacked::with(1).await;
    for content in ["the first", "the other"] {
        let uri = stacked.stage.origin.offer("changing.tgz", slugs::web(content));
        let instance = stacked.started(stacked.node(), &uri).await;
        assert_eq!(page(&stacked.stage, &instance).await, content);
    }
    assert_eq!(stacked.stage.origin.counts("changing.tgz").bodies, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_slug_is_refused_by_what_is_wrong_with_it_before_a_node_is_touched() {
    let stacked = Stacked::with(1).await;
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../escape"); // the library would refuse to write it
    header.set_size(0);
    header.set_cksum();
    hostile.append(&header, std::io::empty()).unwrap();
    let wrong =
        [("escape.tar", hostile.into_inner().unwrap(), "../escape"), ("squash.tgz", b"hsqs".repeat(256), "squashfs")];
    for (name, bytes, named) in wrong {
        let uri = stacked.stage.origin.offer_bytes(name, bytes, Manner::Properly);
        let answer = stacked.stage.captain.start(stacked.order(stacked.node(), &uri)).await;
        let message = assert_error(&answer, 422, "slug_invalid");
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(stacked.stage.node().engine().containers().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_brings_all_it_needs_runs_on_nothing() {
    let stacked = Stacked::on(lease(1).await, "scratch").await;
    let found = stdout(&Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap());
    let slug = Slug::with_procfile("web: ./busybox httpd -f -p 8080 -h www\n")
        .file("busybox", &std::fs::read(found.trim()).unwrap())
        .file("www/index.html", b"on nothing");
    let uri = stacked.stage.origin.offer("alone.tgz", slug);
    let instance = stacked.started(stacked.node(), &uri).await;
    assert_eq!(page(&stacked.stage, &instance).await, "on nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_was_put_into_the_store_runs_the_process_type_that_is_asked_for() {
    let stacked = Stacked::with(1).await;
    let captain = &stacked.stage.captain;
    let slug = Slug::with_procfile("web: echo it is the web\nworker: echo it is the worker; exit 7\n").pack();
    let digest = sha256(&slug);
    let kept = captain.endpoint().send("PUT", "/slugs/", &[], slug).await.expect(201).json();
    assert_eq!(kept["sha256"], digest, "{kept}");
    let order = |process: &str| {
        let mut order = stacked.order(stacked.node(), &format!("sha256:{digest}"));
        order["process"] = json!(process);
        order
    };

    let worker = captain.start(order("worker")).await.expect(201).json();
    assert_eq!(stacked.ended(&id(&worker)).await, (json!(7), vec!["it is the worker".to_owned()]));

    let unknown = captain.start(order("clock")).await.expect(201).json();
    let (code, said) = stacked.ended(&id(&unknown)).await;
    assert_eq!((&code, said.len()), (&json!(64), 1), "{said:?}");
    assert!(["clock", "web", "worker"].iter().all(|name| said[0].contains(name)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signal_of_a_stop_reaches_the_app() {
    let stacked = Stacked::with(1).await;
    let captain = &stacked.stage.captain;
    let uri = stacked.stage.origin.offer("web.tgz", slugs::web("until SIGTERM"));
    let signalled = stacked.started(stacked.node(), &uri).await;
    assert_eq!(page(&stacked.stage, &signalled).await, "until SIGTERM");
    stacked.stage.node().engine().signal(&id(&signalled), "TERM").await;
    let (code, said) = stacked.ended(&id(&signalled)).await;
    // The web server got the signal too and may be gone before the shell ends it, which then says so, sooner or later than this.
    assert!(code == 0 && said.iter().any(|line| line == "ended by SIGTERM"), "{code}: {said:?}");

    let stopped = stacked.started(stacked.node(), &uri).await;
    let mut logs = captain.stream(&format!("/instances/{}/logs?follow=1", id(&stopped))).await;
    logs.until("listening", Duration::from_secs(20)).await;
    let _ = captain.delete(&format!("/instances/{}", id(&stopped))).await.expect(204);
    logs.until("ended by SIGTERM", Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_packed_pushed_and_started_by_one_command() {
    let stacked = Stacked::with(1).await;
    let app = tempfile::tempdir().unwrap();
    std::fs::write(app.path().join("Procfile"), "web: exec busybox httpd -f -p $PORT -h www\n").unwrap();
    std::fs::write(app.path().join(".slugignore"), "secrets\n").unwrap();
    std::fs::create_dir(app.path().join("www")).unwrap();
    std::fs::write(app.path().join("www/index.html"), "from a folder").unwrap();
    std::fs::create_dir(app.path().join("www/secrets")).unwrap();
    std::fs::write(app.path().join("www/secrets/key"), "not for the world").unwrap();
    let folder = app.path().to_str().unwrap();

    let output = stacked.stage.captain.cli(&["start", "web", "--node", stacked.node(), "--slug", folder, "--json"]);
    let instance: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(page(&stacked.stage, &instance).await, "from a folder");
    let port = stacked.stage.node().port(&instance["port"]);
    assert_eq!(port.send("GET", "/secrets/key", &[], "").await.status, 404);
    let kept = stacked.stage.captain.get("/slugs/").await.expect(200).json();
    assert_eq!(instance["slug_uri"], format!("sha256:{}", kept[0]["sha256"].as_str().unwrap()), "{kept}");
}
