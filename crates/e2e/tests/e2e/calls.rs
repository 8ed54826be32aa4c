//! How many calls of the engine a request costs, counted on the wire between the two: the same on every machine.
//!
//! The watcher calls the engine as well. Its events are kept from it here, so that it looks at nothing because of what is
//! counted; what it does on its timers is a ping, which is told apart by its path, and a listing, which it makes no earlier than 24 s
//! after the one before. What is counted must be done by then.

use std::time::{Duration, Instant};

use captain_e2e::captain::Settings;
use captain_e2e::cluster::lease_on_tcp;
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::slugs;

use crate::id;

/// Before this the watcher makes no second listing (30 s, with a jitter of a fifth).
const UNTIL_RELIST: Duration = Duration::from_secs(24);

/// What has been asked of the engine, without the pings.
fn calls(proxy: &Proxy) -> Vec<String> {
    proxy.requests().iter().map(|line| name(line)).filter(|name| name != "ping").collect()
}

fn name(line: &str) -> String {
    let (method, target) = line.split_once(' ').unwrap_or((line, ""));
    let path = target.split([' ', '?']).next().unwrap_or("");
    let path = path.find("/containers/").map_or(path, |at| &path[at + "/containers/".len()..]);
    match (method, path.rsplit('/').next().unwrap_or("")) {
        ("GET", "_ping") => "ping",
        ("GET", "json") if path == "json" => "list",
        ("GET", "json") => "inspect",
        ("POST", "create") => "create",
        ("POST", "start") => "start",
        ("POST", "stop") => "stop",
        ("DELETE", _) => "remove",
        _ => line,
    }
    .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_makes_four_calls_a_stop_three_and_a_get_none() {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    node.engine().pull(&lease.runner_image(), "0.0.0").await;
    let proxy = Proxy::to(node.engine_address()).await;
    proxy.hush("/events");
    let slug = origin.offer("web.tgz", slugs::web("up"));
    let begin = Instant::now(); // before the watcher's first listing
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, proxy.uri())).start().await;

    let before = calls(&proxy).len();
    let id = id(&captain.started("counted", &node.name, &slug).await);
    assert_eq!(calls(&proxy).split_off(before), ["create", "list", "start", "inspect"], "of a POST");

    let before = calls(&proxy).len();
    let (node, instance, prefix) =
        (format!("/nodes/{}", node.name), format!("/instances/{id}"), format!("/instances/{}", &id[..12]));
    for path in [
        "/instances/",
        "/instances/?app=counted&state=all",
        "/instances/?limit=5",
        "/instances_summary/",
        "/nodes/",
        &node,
        &instance,
        &prefix,
        "/claims/",
        "/slugs/",
        "/cache",
        "/openapi.json",
        "/docs",
    ] {
        for _ in 0..5 {
            let _ = captain.get(path).await.expect(200);
        }
    }
    let _ = captain.get("/ping/ping").await.expect(204);
    let _ = captain.get("/instances/ffffffffffff").await.expect(404);
    assert_eq!(calls(&proxy).split_off(before), [""; 0], "of every GET but logs");

    let before = calls(&proxy).len();
    let _ = captain.delete(&instance).await.expect(204);
    assert_eq!(calls(&proxy).split_off(before), ["stop", "remove", "inspect"], "of a DELETE");
    assert!(begin.elapsed() < UNTIL_RELIST, "too slow to count: the watcher has made a listing of its own by now");
}
