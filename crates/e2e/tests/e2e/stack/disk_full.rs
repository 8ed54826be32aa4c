//! Disks that are full: a node's and the captain's own. Whoever asks is told which, nothing half done stays, and what fits still works.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::cluster::{Node, lease};
use captain_e2e::eventually;
use captain_e2e::origin::{Manner, Origin};
use captain_e2e::slugs::{self, Slug};
use serde_json::{Value, json};

use super::{Stacked, files, image_ids};
use crate::instances::page;
use crate::{Stage, assert_error, id};

/// A file system in memory of a size of its own.
struct Small {
    folder: PathBuf,
}

impl Small {
    fn mount(folder: &Path, size: &str) -> Self {
        let options = format!("size={size},mode=0711");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "captain-small"]).arg(folder);
        assert!(mount.status().unwrap().success());
        Self { folder: folder.to_owned() }
    }

    /// Bytes that are taken.
    fn used(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.folder).unwrap();
        (space.f_blocks - space.f_bfree) * space.f_frsize
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// A node whose engine keeps all that it has on a small disk, until this is dropped.
struct Cramped {
    node: &'static Node,
    disk: Option<Small>,
}

impl Cramped {
    fn new(node: &'static Node, size: &str) -> Self {
        node.kill();
        let disk = Small::mount(&node.socket().with_file_name("data"), size);
        let cramped = Self { node, disk: Some(disk) };
        node.restart();
        cramped
    }

    fn disk(&self) -> &Small {
        self.disk.as_ref().unwrap()
    }
}

impl Drop for Cramped {
    fn drop(&mut self) {
        // An engine that comes back without its data knows of no containers, and theirs would be the addresses of others.
        let docker = format!("docker -H unix://{}", self.node.socket().display());
        let _ = Command::new("sh").args(["-c", &format!("{docker} rm -f -v $({docker} ps -aq)")]).output();
        self.node.kill();
        self.disk = None;
        self.node.restart();
    }
}

/// What an app on the node answers, once it listens.
async fn answer(node: &Node, instance: &Value) -> String {
    let port = node.port(&instance["port"]);
    eventually("the app to listen", Duration::from_secs(20), || async { port.try_get("/").await.ok() }).await;
    port.send("GET", "/", &[], "").await.expect(200).text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_that_does_not_fit_on_a_node_is_refused_and_leaves_room_for_what_does() {
    // In this order, for they go in the other: the captain, the small disk, and then the node may be another test's.
    let lease = lease(1).await;
    let (node, data) = (lease.node(0), tempfile::tempdir().unwrap());
    let cramped = Cramped::new(node, "40m");
    let origin = Origin::start(&lease).await;
    let stack = format!("{}:0.0.0", lease.runner_image());
    let captain = Settings::on_stack(&lease, &stack, data.path()).set("SLOTS_PER_NODE", 60).start().await;
    let order = |slug: &str| json!({"app": "stacked", "node": node.name, "slug_uri": slug, "slots": 1});

    // Brings the stack as well, so that afterwards only slugs come and go.
    let first = captain.start(order(&origin.offer("small.tgz", slugs::web("it fits")))).await.expect(201).json();
    let (images, used) = (image_ids(node).await, cramped.disk().used());

    // One that is more than the whole disk, and one of which some parts are there before the disk is full.
    for (name, megabytes) in [("whole.tgz", &[30, 30][..]), ("parts.tgz", &[12, 12, 12])] {
        let slug = Slug::with_procfile("web: exec sleep 86400\n");
        let slug = megabytes
            .iter()
            .enumerate()
            .fold(slug, |slug, (number, megabytes)| slug.ballast(&number.to_string(), megabytes * 1_000_000));
        let uri = origin.offer(name, slug);
        let message = assert_error(&captain.start(order(&uri)).await, 507, "node_out_of_space");
        assert!(message.contains(&node.name) && message.contains("no space left on device"), "{message}");
        nothing_else_is_on(node, &id(&first), &images).await;
        eventually("the disk as it was", Duration::from_secs(20), || async {
            (cramped.disk().used() < used + 1_000_000).then_some(())
        })
        .await;
    }
    let seen = captain.node_becomes(&node.name, "healthy").await;
    assert_eq!(seen["slots"]["used"], 1, "{seen}");

    let other = origin.offer("other.tgz", slugs::web("it fits too"));
    let second = captain.start(order(&other)).await.expect(201).json();
    assert_eq!(answer(node, &second).await, "it fits too");
    assert_eq!(answer(node, &first).await, "it fits");
}

/// What was made for a start that failed goes behind its answer.
async fn nothing_else_is_on(node: &Node, container: &str, images: &BTreeSet<String>) {
    eventually("nothing of a failed start", Duration::from_secs(20), || async {
        let containers = node.engine().containers().await;
        let only = containers.len() == 1 && containers[0]["Id"] == container;
        (only && image_ids(node).await == *images).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captain_without_room_for_a_slug_says_so_and_goes_on_with_what_it_has() {
    let lease = lease(1).await;
    let origin = Origin::start(&lease).await;
    let data = tempfile::tempdir().unwrap();
    let disk = Small::mount(data.path(), "2m");
    let stack = format!("{}:0.0.0", lease.runner_image());
    let captain = Settings::on_stack(&lease, &stack, data.path()).start().await;
    let stacked = Stacked { stage: Stage { captain, origin, lease }, data };
    let (captain, origin) = (&stacked.stage.captain, &stacked.stage.origin);

    let kept = captain.endpoint().send("PUT", "/slugs/", &[], slugs::web("kept").pack()).await.expect(201).json();
    let kept = kept["sha256"].as_str().unwrap();
    let small = origin.offer("small.tgz", slugs::web("it fits"));
    let first = stacked.started(stacked.node(), &small).await;
    let before = files(stacked.data.path());

    let large = Slug::with_procfile("web: exec sleep 86400\n").ballast("ballast", 4_000_000).pack();
    let uri = origin.offer_bytes("large.tgz", large.clone(), Manner::Properly);
    let fetched = captain.start(stacked.order(stacked.node(), &uri)).await;
    let pushed = captain.endpoint().send("PUT", "/slugs/", &[], large).await;
    for answer in [fetched, pushed] {
        let message = assert_error(&answer, 507, "captain_out_of_space");
        assert!(message.contains(stacked.data.path().to_str().unwrap()), "no folder is named: {message}");
        let help = answer.json()["help"].to_string();
        assert!(help.contains("CAPTAIN_DATA"), "no variable is named: {help}");
    }
    // The drafts go with the threads that wrote them.
    eventually("nothing but what was there", Duration::from_secs(20), || async {
        (files(stacked.data.path()) == before).then_some(())
    })
    .await;

    let _ = captain.get("/slugs/").await.expect(200);
    let read = captain.get(&format!("/slugs/{kept}")).await.expect(200);
    assert_eq!(super::sha256(&read.body), kept);
    assert_eq!(captain.node(stacked.node()).await["slots"]["used"], 1);
    assert_eq!(captain.ids().await, [id(&first)]);
    let second = stacked.started(stacked.node(), &format!("sha256:{kept}")).await;
    assert_eq!(page(&stacked.stage, &second).await, "kept");
    drop(stacked);
    drop(disk);
}
