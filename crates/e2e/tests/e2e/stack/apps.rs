//! Real apps from the registries, packed by `captain slug pack`, on three nodes with a stack that has their language.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use captain_e2e::cluster::{Lease, Node, lease};
use captain_e2e::origin::Manner;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Stacked, stdout};
use crate::instances::page_at;
use crate::{id, third_party};

/// The library, at a version that is known to work.
const EXPRESS: &str = "express@4.21.2";

/// Answers what it was asked, as httpbin does, and what it is.
const SERVER: &str = r#"
const express = require("express");
const app = express();
app.use(express.json());
app.get("/get", (request, answer) => answer.json({ args: request.query, greeting: process.env.GREETING }));
app.post("/post", (request, answer) => answer.json({ json: request.body }));
app.get("/teapot", (request, answer) => answer.sendStatus(418));
app.listen(process.env.PORT, () => console.log(`Serving on ${process.env.PORT}`));
"#;

/// Runs the slug of a folder on each node, and asks each instance.
async fn run_everywhere(stacked: &Stacked, app: &Path, teapot: &str) -> Vec<Value> {
    let slug = app.with_extension("tgz");
    let (from, to) = (app.to_str().unwrap(), slug.to_str().unwrap());
    stdout(&stacked.stage.captain.cli(&["slug", "pack", from, "-o", to]));
    let uri = stacked.stage.origin.offer_bytes("app.tgz", std::fs::read(&slug).unwrap(), Manner::Properly);
    let mut answers = Vec::new();
    for node in stacked.stage.lease.nodes() {
        let instance = stacked.started(&node.name, &uri).await;
        assert_eq!(instance["node"], node.name);
        let mut logs = stacked.stage.captain.stream(&format!("/instances/{}/logs?follow=1", id(&instance))).await;
        logs.until("Serving on", Duration::from_secs(60)).await;
        answers.push(page_at(&stacked.stage, &instance, "/get?slug=travels").await);
        let port = node.port(&instance["port"]);
        assert_eq!(port.send("GET", teapot, &[], "").await.status, 418);
        let json = [("content-type", "application/json")];
        let echoed = port.send("POST", "/post", &json, r#"{"a": [1, 2]}"#).await.expect(200).json();
        assert_eq!(echoed["json"], json!({"a": [1, 2]}));
    }
    assert_eq!(stacked.stage.origin.counts("app.tgz").bodies, 1, "one fetch for all nodes");
    let answers: Vec<Value> = answers.iter().map(|answer| serde_json::from_str(answer).unwrap()).collect();
    assert!(answers.iter().all(|answer| answer["args"]["slug"] == "travels"), "{answers:?}");
    answers
}

/// A folder with these files and, as `name`, a copy of this folder.
fn app(files: &[(&str, &str)], name: &str, copied: &Path) -> (TempDir, PathBuf) {
    let work = tempfile::tempdir().unwrap();
    let app = work.path().join("app");
    for (path, content) in files {
        let path = app.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let status = Command::new("cp").arg("-a").arg(copied).arg(app.join(name)).status().unwrap();
    assert!(status.success());
    (work, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn httpbin_from_pypi_packed_by_captain_runs_on_three_nodes_with_python() {
    let lease = lease(3).await;
    let stack = format!("{}:0.0.0", lease.python_runner_image());
    let stacked = Stacked::on(lease, &stack).await;
    let files = [
        ("Procfile", "web: python3 -m waitress --listen=0.0.0.0:$PORT httpbin:app\n"),
        (".profile.d/python.sh", "export PYTHONPATH=/app/vendor PYTHONUNBUFFERED=1\n"),
    ];
    let (_work, app) = app(&files, "vendor", &third_party::installed());
    run_everywhere(&stacked, &app, "/status/418").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn express_from_npm_packed_by_captain_runs_on_three_nodes_with_node() {
    let lease = lease(3).await;
    let programs = node_and_what_it_needs();
    for node in lease.nodes() {
        with_node(node, &lease, &programs).await;
    }
    let stacked = Stacked::on(lease, NODE_STACK).await;
    let files = [
        ("Procfile", "web: node server.js\n"),
        ("server.js", SERVER),
        (".profile.d/node.sh", "export NODE_ENV=production GREETING=\"from .profile.d\"\n"),
    ];
    let (_work, app) = app(&files, "node_modules", &installed().join("node_modules"));
    let answers = run_everywhere(&stacked, &app, "/teapot").await;
    assert!(answers.iter().all(|answer| answer["greeting"] == "from .profile.d"), "{answers:?}");
}

/// Installs the library with all that it needs into a folder, which is kept for the next run.
fn installed() -> PathBuf {
    let cache = std::env::var("CLUSTER_CACHE").unwrap_or_else(|_| "/var/tmp/captain-e2e-cache".into());
    let target = Path::new(&cache).join("npm").join(EXPRESS);
    if !target.exists() {
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let work = tempfile::tempdir_in(&cache).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix"]);
        stdout(&npm.arg(work.path()).arg(EXPRESS).output().unwrap());
        std::fs::rename(work.keep(), &target).unwrap();
    }
    target
}

pub(super) const NODE_STACK: &str = "captain-e2e-node:1";

/// This machine's Node.js and every shared library that it names, as a tar.
pub(super) fn node_and_what_it_needs() -> Vec<u8> {
    let found = stdout(&Command::new("sh").args(["-c", "readlink -f \"$(command -v node)\""]).output().unwrap());
    let node = found.trim();
    let libraries = stdout(&Command::new("ldd").arg(node).output().unwrap());
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    let mut tar = Command::new("tar");
    tar.args(["--dereference", "--hard-dereference", "--absolute-names", "--owner=0", "--group=0"]);
    // Wherever it is here, a slug finds it on its PATH.
    tar.args(["--transform", &format!("s,^{node}$,/usr/bin/node,"), "-cf", "-", node]).args(libraries);
    let output = tar.output().unwrap();
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Makes the stack on a node, unless it is there: the small image, and Node.js.
pub(super) async fn with_node(node: &Node, lease: &Lease, programs: &[u8]) {
    let engine = node.engine();
    if engine.has_image(NODE_STACK).await {
        return;
    }
    let base = lease.runner_image();
    engine.pull(&base, "0.0.0").await;
    let donor = engine.create("with-node", json!({"Image": format!("{base}:0.0.0")})).await;
    engine.unpack(&donor, programs.to_vec()).await;
    let (repository, tag) = NODE_STACK.split_once(':').unwrap();
    engine.commit(&donor, repository, tag).await;
    engine.remove(&donor).await;
}
