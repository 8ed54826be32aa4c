//! A real web app that somebody else wrote, from PyPI, as a slug.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::cluster::lease;
use captain_e2e::origin::Origin;
use captain_e2e::slugs::Slug;
use serde_json::{Value, json};

use crate::instances::page_at;
use crate::{Stage, id};

/// The app and its server, each at a version that is known to work.
const PACKAGES: [&str; 2] = ["httpbin==0.10.2", "waitress==3.0.2"];

/// Installs the packages into a directory, which is kept for the next run.
pub(crate) fn installed() -> PathBuf {
    let cache = std::env::var("CLUSTER_CACHE").unwrap_or_else(|_| "/var/tmp/captain-e2e-cache".into());
    let target = Path::new(&cache).join("pypi").join(PACKAGES.join("+"));
    static TURN: Mutex<()> = Mutex::new(()); // two tests want it, and only one can give it its name
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !target.exists() {
        std::fs::create_dir_all(&cache).unwrap();
        let work = tempfile::tempdir_in(&cache).unwrap();
        let python = Path::new("/usr/bin/python3"); // the one that the runner image has a copy of
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target"])
            .arg(work.path())
            .args(PACKAGES);
        let output = pip.output().unwrap();
        assert!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::rename(work.keep(), &target).unwrap();
    }
    target
}

#[tokio::test(flavor = "multi_thread")]
async fn httpbin_from_pypi_runs_as_a_slug() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let captain = Settings::of(&lease).set("SLUG_RUNNER_IMAGE", lease.python_runner_image()).start().await;
    let stage = Stage { captain, origin, lease };
    let slug = Slug::with_procfile("web: exec python3 -m waitress --listen=0.0.0.0:$PORT httpbin:app\n")
        .file(".profile.d/python.sh", b"export PYTHONPATH=/app/vendor PYTHONUNBUFFERED=1\n")
        .directory("vendor", &installed());
    let slug = stage.origin.offer("httpbin-v1.tgz", slug);

    let body = json!({"app": "httpbin", "node": stage.node().name, "slug_uri": slug, "slots": 2, "environment": {"STAGE": "test"}});
    let instance = stage.captain.start(body).await.expect(201).json();
    let mut logs = stage.captain.stream(&format!("/instances/{}/logs?follow=1", id(&instance))).await;
    logs.until("Serving on", Duration::from_secs(60)).await;

    let answer: Value = serde_json::from_str(&page_at(&stage, &instance, "/get?slug=travels").await).unwrap();
    assert_eq!(answer["args"]["slug"], "travels", "{answer}");
    let port = stage.node().port(&instance["port"]);
    assert_eq!(port.send("GET", "/status/418", &[], "").await.status, 418);
    let echoed = port
        .send("POST", "/post", &[("content-type", "application/json")], r#"{"a": [1, 2]}"#)
        .await
        .expect(200)
        .json();
    assert_eq!(echoed["json"], json!({"a": [1, 2]}));
    let page = port.send("GET", "/html", &[], "").await.expect(200).text();
    assert!(page.contains("Moby-Dick"), "{page}");

    assert_eq!(
        stage.captain.get("/instances_summary/").await.json(),
        json!({"total_instances": 1, "apps": {"httpbin": 1}})
    );
    let _ = stage.captain.delete(&format!("/instances/{}", id(&instance))).await.expect(204);
    assert!(port.try_get("/get").await.is_err(), "it still answers");
}
