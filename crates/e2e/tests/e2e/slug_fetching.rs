//! Slugs that cannot be had: in runner-image mode the runner fails inside, and the instance says how.

use std::time::Duration;

use captain_e2e::origin::Manner;
use captain_e2e::slugs::{self, Slug};
use serde_json::Value;

use crate::{Stage, id};

/// Starts it and returns the instance when it has ended, and its log.
async fn fails(stage: &Stage, slug: &str) -> (Value, String) {
    let id = id(&stage.captain.started("broken", &stage.node().name, slug).await);
    let ended = stage.captain.instance_becomes(&id, "exited").await;
    let logs = stage.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text();
    (ended, logs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_is_not_there_or_broken_ends_the_instance_with_a_reason() {
    let stage = Stage::with(1).await;
    let broken = [
        stage.origin.uri("absent.tgz"),
        stage.origin.offer_badly("error.tgz", slugs::web(""), Manner::Status(500)),
        stage.origin.offer_badly("half.tgz", slugs::web("").ballast("ballast", 200_000), Manner::Truncated),
    ];
    for slug in broken {
        let (instance, logs) = fails(&stage, &slug).await;
        assert_ne!(instance["exit"]["code"], 0, "{slug}: {instance}");
        assert!(logs.contains("cannot fetch and unpack"), "{slug}: {logs}");
    }
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["used"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_without_the_process_type_ends_the_instance() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("worker.tgz", Slug::with_procfile("worker: sleep 1\n"));
    let (instance, logs) = fails(&stage, &slug).await;
    assert_eq!(instance["exit"]["code"], 64, "{instance}");
    assert!(logs.contains("no process type 'web'"), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_scripts_reach_the_app() {
    let stage = Stage::with(1).await;
    let slug = slugs::script(&format!("echo \"greeting is $GREETING\"\n{}", slugs::IDLE))
        .file(".profile.d/greeting.sh", b"export GREETING=hello\n");
    let slug = stage.origin.offer("profile.tgz", slug);
    let id = id(&stage.captain.started("profile", &stage.node().name, &slug).await);
    let mut logs = stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
    logs.until("greeting is hello", Duration::from_secs(10)).await;
}
