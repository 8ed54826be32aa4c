//! Containers that Captain did not make: those of the original are adopted, those of others left alone. And the collection of
//! what has ended, which touches only Captain's own.

use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::engine::original_container;
use captain_e2e::origin::Origin;
use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

/// The image, on the node.
async fn image(stage: &Stage) -> String {
    stage.node().engine().pull(&stage.lease.runner_image(), "0.0.0").await;
    format!("{}:0.0.0", stage.lease.runner_image())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_the_original_is_adopted() {
    let stage = Stage::with(1).await;
    let image = image(&stage).await;
    let node = stage.node();
    let slug = stage.origin.offer("old.tgz", slugs::web("of old"));
    let container = original_container(&image, &slug, 3, &["JAVA_OPTS=-Xmx256m", "HOME=/app", "PATH=/bin:/usr/bin"]);
    let made = node.engine().run("random_backend_7b1d6f9a-7b1f-4e57-8f06-0b7d8a0f2b11", container).await;

    let instance = stage.captain.instance_becomes(&made, "running").await;
    assert_eq!(instance["app"], "random_backend", "the name was cut at the first _");
    assert_eq!(instance["slug_uri"], slug);
    assert_eq!(instance["slots"], 3);
    assert_eq!(instance["environment"], json!({"JAVA_OPTS": "-Xmx256m"}));
    assert_eq!(instance["node"], node.name);
    assert_eq!(crate::instances::page(&stage, &instance).await, "of old");
    assert_eq!(stage.captain.node(&node.name).await["slots"]["used"], 3);
    let logs = stage.captain.get(&format!("/instances/{made}/logs")).await.expect(200).text();
    assert!(logs.contains("listening"), "{logs}");
    let _ = stage.captain.delete(&format!("/instances/{made}")).await.expect(204);
    assert!(!node.engine().has(&made).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_others_are_neither_shown_nor_touched_nor_trip_captain_up() {
    let lease = captain_e2e::cluster::lease(1).await;
    let origin = Origin::start(&lease).await;
    let captain = Settings::of(&lease).set("DOCKER_GC_GRACE_PERIOD", 0).start().await;
    let stage = Stage { captain, origin, lease };
    let image = image(&stage).await;
    let engine = stage.node().engine();
    let sleeping = json!({"Image": image, "Entrypoint": ["sleep"], "Cmd": ["1000"]});
    let with = |more: Value| {
        let mut container = sleeping.clone();
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let published =
        json!({"ExposedPorts": {"8080/tcp": {}}, "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": ""}]}}});
    let mut foreign = vec![
        engine.run("plain", sleeping.clone()).await,
        engine.run("without_slug_url", with(published)).await,
        engine.run("slug_without_port", with(json!({"Env": ["SLUG_URL=http://x/", "PORT=8080"]}))).await,
        engine.run("odd_environment", with(json!({"Env": ["NOVALUE", "ÜMLAUT=ü", "EMPTY="]}))).await,
        engine
            .run(
                "many_ports",
                with(json!({"ExposedPorts": {"8080/tcp": {}, "1/udp": {}}, "HostConfig": {"PublishAllPorts": true}})),
            )
            .await,
        engine.create("merely_created", sleeping.clone()).await,
        engine.run("no_network", with(json!({"HostConfig": {"NetworkMode": "none"}}))).await,
    ];
    let ended = engine.run("ended", with(json!({"Entrypoint": ["true"], "Cmd": []}))).await;
    foreign.push(ended);
    let odd_labels = json!({"Labels": {"app": "x", "captain": "yes", "com.example/ü": "\u{1}"}});
    foreign.push(engine.run("odd_labels", with(odd_labels)).await);

    // Something of Captain's own is collected at this grace, so the collection has passed when it is gone.
    let brief = stage.origin.offer("brief.tgz", slugs::script("exit 0"));
    let own = id(&stage.captain.started("brief", &stage.node().name, &brief).await);
    eventually("the collection", Duration::from_secs(90), || async { (!engine.has(&own).await).then_some(()) }).await;

    assert!(stage.captain.ids().await.is_empty());
    let node = stage.captain.node(&stage.node().name).await;
    assert_eq!((&node["state"], &node["slots"]["used"]), (&json!("healthy"), &json!(0)), "{node}");
    for id in &foreign {
        assert!(engine.has(id).await, "a foreign container was removed");
        assert_error(&stage.captain.get(&format!("/instances/{id}")).await, 404, "no_such_instance");
        assert_error(&stage.captain.delete(&format!("/instances/{id}")).await, 404, "no_such_instance");
        assert_error(&stage.captain.get(&format!("/instances/{id}/logs")).await, 404, "no_such_instance");
    }
    let running = engine.running().await;
    assert_eq!(running.len(), foreign.len() - 2, "all but the created and the ended one run on");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_cannot_be_read_are_told_and_trip_nobody_up() {
    let stage = Stage::with(1).await;
    let image = image(&stage).await;
    let engine = stage.node().engine();
    let labels = [
        json!({"captain.app": "x", "captain.slots": "many", "captain.slug": "http://s/", "captain.operation": "?"}),
        json!({"captain.app": "not a name", "captain.slots": "-2"}),
        json!({"captain.app": ""}),
    ];
    let mut poison = Vec::new();
    for (number, labels) in labels.into_iter().enumerate() {
        let container = json!({"Image": image, "Entrypoint": ["sleep"], "Cmd": ["1000"], "Labels": labels});
        poison.push(engine.run(&format!("poison-{number}"), container).await);
    }
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let own = id(&stage.captain.started("idle", &stage.node().name, &slug).await);
    assert_eq!(stage.captain.ids().await, [own]);
    eventually("a warning", Duration::from_secs(10), || async {
        let node = stage.captain.node(&stage.node().name).await;
        assert_eq!(node["state"], "healthy", "{node}");
        node["warnings"].as_array().filter(|warnings| !warnings.is_empty()).map(|_| ())
    })
    .await;
    for id in poison {
        assert!(engine.has(&id).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_kept_for_the_grace() {
    let stage = Stage::set(1, |settings| settings.set("DOCKER_GC_GRACE_PERIOD", 3600)).await;
    let brief = stage.origin.offer("brief.tgz", slugs::script("exit 0"));
    let own = id(&stage.captain.started("brief", &stage.node().name, &brief).await);
    stage.captain.instance_becomes(&own, "exited").await;
    // Another captain, with no patience, collects it; the first one did not until then.
    assert!(stage.node().engine().has(&own).await);
    let hasty = Settings::of(&stage.lease).set("DOCKER_GC_GRACE_PERIOD", 0).start().await;
    let engine = stage.node().engine();
    eventually("the collection", Duration::from_secs(90), || async { (!engine.has(&own).await).then_some(()) }).await;
    // Its view learns a moment later what its collector has done.
    eventually("the collector's own view to agree", Duration::from_secs(20), || async {
        (hasty.get(&format!("/instances/{own}")).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_deletes_nothing() {
    let stage = Stage::with(1).await;
    let brief = stage.origin.offer("brief.tgz", slugs::script("exit 0"));
    let own = id(&stage.captain.started("brief", &stage.node().name, &brief).await);
    stage.captain.instance_becomes(&own, "exited").await;
    for path in ["/instances/", "/nodes/", "/instances_summary/", "/cache"] {
        let _ = stage.captain.get(path).await.expect(200);
    }
    assert!(stage.node().engine().has(&own).await);
}
