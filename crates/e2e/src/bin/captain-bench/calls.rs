//! How many calls of the engine a request costs, counted on the wire between the two. Not a time: the same on every machine.
//!
//! The watcher calls the engine as well. Its events are kept from it here, so that it looks at nothing because of what is
//! counted; what it does on its timers is a ping, which is told apart by its path, and a listing, which it makes no earlier than 24 s
//! after the one before. What is counted must be done by then.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::lease_on_tcp;
use captain_e2e::origin::Origin;
use captain_e2e::proxy::Proxy;
use captain_e2e::slugs;

use crate::figures::Report;
use crate::process;
use crate::stage::order;

/// Before this the watcher makes no second listing (30 s, with a jitter of a fifth).
const UNTIL_RELIST: Duration = Duration::from_secs(24);

const GETS: usize = 50;
const MANY: usize = 20;

pub(crate) async fn count(report: &mut Report) {
    report.section("calls: requests to the engine, of each request to Captain");
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    node.engine().pull(&lease.runner_image(), "0.0.0").await;
    let proxy = Proxy::to(node.engine_address()).await;
    proxy.hush("/events");
    let begin = Instant::now(); // before its first listing
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, proxy.uri())).start().await;
    let body = order(node, &origin.offer("bench.tgz", slugs::web("up"))).to_string();

    let before = calls(&proxy).len();
    let started = captain.post("/instances/", body).await.expect(201).json();
    let post = calls(&proxy).split_off(before);
    report.exactly("POST /instances/", &post, &["create", "list", "start", "inspect"]);

    let id = started["id"].as_str().unwrap();
    let gets = gets(&captain, &proxy, &node.name, id).await;
    report.exactly(&format!("every GET but logs, {GETS} times each"), &gets, &[]);

    let before = calls(&proxy).len();
    let _ = captain.delete(&format!("/instances/{id}")).await.expect(204);
    let delete = calls(&proxy).split_off(before);
    report.exactly("DELETE /instances/{id}", &delete, &["stop", "remove", "inspect"]);
    assert!(begin.elapsed() < UNTIL_RELIST, "too slow to count: the watcher has made a listing of its own by now");
    drop(captain);
    drop(lease);
    of_many(report).await;
}

/// The same with the watcher listening, which looks at what events tell of: what all of it asks of an engine.
async fn of_many(report: &mut Report) {
    let lease = lease_on_tcp(1).await;
    let origin = Origin::start(&lease).await;
    let node = lease.node(0);
    node.engine().pull(&lease.runner_image(), "0.0.0").await;
    let proxy = Proxy::to(node.engine_address()).await;
    let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{}={}", node.name, proxy.uri())).start().await;
    let body = order(node, &origin.offer("bench.tgz", slugs::web("up"))).to_string();

    let before = calls(&proxy).len();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        let (endpoint, body) = (captain.endpoint(), body.clone());
        starts.spawn(async move {
            let headers = [("content-type", "application/json")];
            let _ = endpoint.send("POST", "/instances/", &headers, body).await.expect(201);
        });
    }
    starts.join_all().await;
    process::rest(&[captain.pid()]).await;
    let mut counts = BTreeMap::<String, usize>::new();
    for call in calls(&proxy).split_off(before) {
        *counts.entry(call).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(call, count)| format!("{count} {call}")).collect();
    report.note(&format!("{MANY} POSTs at once, watcher included"), counts.join(", "));
}

async fn gets(captain: &Captain, proxy: &Proxy, node: &str, id: &str) -> Vec<String> {
    let before = calls(proxy).len();
    let (node, instance, prefix) =
        (format!("/nodes/{node}"), format!("/instances/{id}"), format!("/instances/{}", &id[..12]));
    let filtered = "/instances/?app=random-frontend&state=all";
    let fixed =
        ["/instances/", filtered, "/instances_summary/", "/nodes/", "/claims/", "/cache", "/openapi.json", "/docs"];
    for _ in 0..GETS {
        for path in fixed.into_iter().chain([node.as_str(), &instance, &prefix]) {
            let _ = captain.get(path).await.expect(200);
        }
        let _ = captain.get("/ping/ping").await.expect(204);
        let _ = captain.get("/instances/ffffffffffff").await.expect(404);
    }
    calls(proxy).split_off(before)
}

/// What has been asked of the engine so far, without the pings.
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
