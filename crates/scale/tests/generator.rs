//! The simulated engines under the real server, at a small size: what they promise the benchmark.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use captain_domain::Timestamp;
use captain_scale::client::Client;
use captain_scale::engines::{Container, Engines, Happening, IMAGE, Plan, app_name};
use captain_server::captain::{Captain, Chance};
use captain_server::config::EngineSpec;
use captain_server::config::{Config, Nodes, ServeArgs};
use captain_server::engine::docker::Docker;
use captain_server::http as server_http;
use clap::Parser;
use http::Method;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Far more than any of this takes on a machine that is not overloaded.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server's own parts, put together as `captain serve` does, on these engines.
struct Server {
    engines: Arc<Engines>,
    captain: Captain,
    address: SocketAddr,
}

impl Server {
    async fn on(plan: Plan) -> Self {
        let engines = Engines::serve(plan, None).await;
        let list = engines.list();
        let arguments =
            ["captain", "--nodes", &list, "--slug-runner-image", "runner", "--slug-runner-command", "start web"];
        let config = Config::parse(Command::parse_from(arguments).serve).unwrap();
        let clock = Arc::new(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Timestamp(i64::try_from(now.as_millis()).unwrap())
        });
        let captain = Captain::new(config.policy, config.slugs, clock, Chance::new(SmallRng::seed_from_u64(1)));
        let Nodes::Listed(nodes, _) = config.nodes else { panic!("the nodes are listed") };
        for node in nodes {
            let EngineSpec::Docker(endpoint) = node.engine else { panic!("{} is no Docker engine", node.id) };
            let engine = Docker::new(node.id, endpoint, &config.docker).unwrap();
            captain.add_node(Arc::new(engine), config.slots_per_node);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = server_http::router(captain.clone(), "test".to_owned());
        tokio::spawn(server_http::serve::serve(listener, router, captain.closing().clone(), PATIENCE));
        Self { engines, captain, address }
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = Client::to(self.address).await.get(path).await;
        (answer.status.as_u16(), answer.json())
    }

    /// Asks until the answer is as it should be.
    async fn becomes(&self, path: &str, so: impl Fn(u16, &Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let (status, answer) = self.get(path).await;
            if so(status, &answer) {
                return answer;
            }
            assert!(begin.elapsed() < PATIENCE, "{path} stays {status}: {answer}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn instance_becomes(&self, container: Container, state: &str) -> Value {
        let path = format!("/instances/{}", container.id());
        self.becomes(&path, |status, instance| status == 200 && instance["state"] == state).await
    }
}

fn plan(engines: u32, instances: u64) -> Plan {
    Plan { start_takes: Duration::from_millis(5), ..Plan::of(engines, instances) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captain_finds_every_container_with_its_details() {
    let server = Server::on(plan(3, 60)).await;
    let detailed = |list: &Value| list.as_array().is_some_and(|list| list.iter().all(|each| !each["port"].is_null()));
    let list = server.becomes("/instances/", |_, list| list.as_array().unwrap().len() == 60 && detailed(list)).await;
    let nodes = |nodes: &Value| nodes.as_array().unwrap().iter().all(|node| node["state"] == "healthy");
    server.becomes("/nodes/", |_, answer| nodes(answer)).await;
    let plan = server.engines.plan();
    for place in 0..60 {
        let container = plan.nth(place);
        let id = container.id().to_string();
        let found = list.as_array().unwrap().iter().find(|instance| instance["id"] == id).unwrap();
        assert_eq!(found["app"], app_name(plan.app(container)));
        assert_eq!(found["node"], server.engines.node(container.engine));
        assert_eq!(found["state"], "running");
        assert_eq!(found["environment"].as_object().unwrap().len(), 6, "{found}");
        let labels = plan.labels(container);
        assert_eq!(found["slug_uri"], labels.slug_uri.as_str());
        assert_eq!(found["operation"], labels.operation.to_string());
        assert!(found["started"].as_str() > found["created"].as_str(), "{found}");
    }
    let counted = server.engines.counted();
    assert_eq!((counted.inspections, counted.lost_events), (60, 0));
    server.captain.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_on_an_engine_is_seen() {
    let server = Server::on(plan(2, 10)).await;
    server.becomes("/nodes/", |_, nodes| nodes.as_array().unwrap().iter().all(|node| node["state"] == "healthy")).await;
    let container = server.engines.plan().nth(3);
    server.instance_becomes(container, "running").await;
    assert!(server.engines.happen(container, Happening::Die(3)));
    assert!(!server.engines.happen(container, Happening::Die(3)), "it has ended already");
    let ended = server.instance_becomes(container, "exited").await;
    assert_eq!((&ended["exit"]["code"], &ended["port"]), (&json!(3), &Value::Null));
    assert!(server.engines.happen(container, Happening::Remove));
    server.becomes(&format!("/instances/{}", container.id()), |status, _| status == 404).await;

    let new = server.engines.create(1);
    server.instance_becomes(new, "created").await;
    assert!(server.engines.happen(new, Happening::Start));
    server.instance_becomes(new, "running").await;

    server.engines.grow(25).await;
    server.becomes("/instances_summary/", |_, summary| summary["total_instances"] == 25).await;
    assert_eq!(server.engines.containers(), 25, "one was removed, one created");
    server.captain.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_and_stops_work_and_wait_in_line() {
    let server = Server::on(plan(1, 4)).await;
    server.becomes("/nodes/", |_, nodes| nodes[0]["state"] == "healthy").await;
    let order = json!({"app": "demo", "node": server.engines.node(0), "slug_uri": "http://slugs/demo.tgz",
        "environment": {"A": "1"}, "slots": 2});
    let begin = Instant::now();
    let start = || async {
        let mut client = Client::to(server.address).await;
        client.ask(Method::POST, "/instances/", &[], Bytes::from(order.to_string())).await.expect(201).json()
    };
    let (one, two, three) = tokio::join!(start(), start(), start());
    assert!(begin.elapsed() >= 3 * server.engines.plan().start_takes, "one start after another on an engine");
    assert_eq!((&one["environment"], &one["slots"], &one["state"]), (&json!({"A": "1"}), &json!(2), &json!("running")));
    for started in [&one, &two, &three] {
        let (_, found) = server.get(&format!("/instances/{}", started["id"].as_str().unwrap())).await;
        assert_eq!(found, *started);
    }
    assert_eq!(server.engines.counted().starts, 3);
    let path = format!("/instances/{}", one["id"].as_str().unwrap());
    let _ = Client::to(server.address).await.ask(Method::DELETE, &path, &[], Bytes::new()).await.expect(204);
    server.becomes(&path, |status, _| status == 404).await;
    assert_eq!(server.engines.containers(), 6);
    server.captain.close(PATIENCE).await;
}

/// The sizes that were seen on a real dockerd: 1.2 kB and 5.3 kB with short names and few variables.
#[tokio::test]
async fn documents_are_as_long_as_dockers() {
    let engines = Engines::serve(plan(2, 2), None).await;
    let mut client = Client::to(engines.address(1)).await;
    let listing = client.get("/v1.41/containers/json?all=true").await.expect(200);
    let list = listing.json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["Image"], IMAGE);
    assert!((1_100..1_600).contains(&listing.body.len()), "{} bytes", listing.body.len());
    let id = engines.plan().nth(1).id();
    let inspection = client.get(&format!("/v1.41/containers/{id}/json")).await.expect(200);
    assert!((5_000..6_000).contains(&inspection.body.len()), "{} bytes", inspection.body.len());
    assert_eq!(inspection.json()["Config"]["Labels"], list[0]["Labels"]);
    let elsewhere = engines.plan().nth(0).id();
    let answer = client.get(&format!("/v1.41/containers/{elsewhere}/json")).await.expect(404);
    assert!(answer.json()["message"].as_str().unwrap().starts_with("No such container"));
}

#[tokio::test]
async fn a_listing_is_filtered_by_label() {
    let engines = Engines::serve(plan(1, 30), None).await;
    let labels = engines.plan().labels(engines.plan().nth(7));
    let filters = format!("%7B%22label%22%3A%5B%22captain.operation%3D{}%22%5D%7D", labels.operation);
    let mut client = Client::to(engines.address(0)).await;
    let list = client.get(&format!("/v1.41/containers/json?all=true&filters={filters}")).await.expect(200).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["Id"], engines.plan().nth(7).id().to_string());
}
