//! Listings of many instances: whole, filtered, by pages, compressed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

use std::io::Write;
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use captain_domain::{
    AppName, Environment, Exit, Health, Hostname, Instance, InstanceId, NodeId, SlotSize, Slots, SlugUri, State,
    Timestamp,
};
use captain_server::captain::{Captain, Chance, Mode, Policy};
use captain_server::http::router;
use captain_server::slugs::Settings;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;
use tower::ServiceExt;

/// More than a listing looks at in one go (4,096), most of them ended.
const INSTANCES: u32 = 9_000;
const ENDED: u32 = 6_000;
const NODES: u32 = 1_200;

struct Big {
    captain: Captain,
    routes: Router,
    _folder: tempfile::TempDir,
}

fn id(number: u32) -> InstanceId {
    // Scattered like hashes; every tenth begins like its neighbour, as no hash does.
    let mut bytes = [7; 32];
    let head = u64::from(number - number % 10 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes[..8].copy_from_slice(&if number % 10 < 2 { head } else { head.rotate_left(number % 10) }.to_be_bytes());
    bytes[28..].copy_from_slice(&number.to_be_bytes());
    InstanceId::from_bytes(bytes)
}

fn instance(number: u32) -> Instance {
    let ended = number < ENDED;
    Instance {
        id: id(number),
        node: NodeId::trusted(&format!("node-{}", number % NODES)),
        app: AppName::trusted(&format!("app-{}", number % 3)),
        slug_uri: SlugUri::trusted("http://slugs/demo.tgz"),
        environment: Environment::from_entries(["A=b"]),
        slots: Slots(1),
        port: (!ended).then_some(49_000),
        hostname: Hostname::trusted(&id(number).short()),
        state: if ended { State::Exited } else { State::Running },
        created: Timestamp(1000),
        started: Some(Timestamp(2000)),
        exit: ended.then_some(Exit { code: 0, out_of_memory: false, at: Some(Timestamp(3000)) }),
        operation: None,
    }
}

impl Big {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy {
            slot_size: SlotSize::from_mib(NonZeroU64::MIN),
            default_slots: Slots(1),
            mode: Mode::Stack { stack: "debian:stable-slim".into() },
            slug_path: None,
            stop_grace: Duration::from_secs(1),
            exited_kept: Duration::from_secs(60),
            claim_patience: Duration::from_secs(10),
            claim_grace: Duration::from_secs(60),
            relist_every: Duration::from_secs(60),
            ping_every: Duration::from_secs(60),
            node_slug_bytes: 1 << 30,
        };
        let clock = Arc::new(|| Timestamp(5000));
        let chance = Chance::new(SmallRng::seed_from_u64(7));
        let captain = Captain::new(policy, Settings::below(folder.path().join("data")), clock, chance);
        let stamp = captain.fleet().stamp();
        captain.fleet().write(|view| {
            for node in 0..NODES {
                let node = NodeId::trusted(&format!("node-{node}"));
                view.add_node(node.clone(), Slots(100), Timestamp(0));
                view.set_health(&node, Health::Healthy, "", Timestamp(0));
            }
            for number in 0..INSTANCES {
                view.observe(stamp, &instance(number));
            }
        });
        Self { routes: router(captain.clone(), "here".to_owned()), captain, _folder: folder }
    }

    async fn ask(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.routes.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, to_bytes(body, usize::MAX).await.unwrap().into())
    }

    async fn ids(&self, path: &str) -> Vec<String> {
        let (status, _, body) = self.ask(path, &[]).await;
        assert_eq!(status, StatusCode::OK);
        ids(&body)
    }
}

fn ids(body: &[u8]) -> Vec<String> {
    let list: Value = serde_json::from_slice(body).expect("one JSON list");
    list.as_array().unwrap().iter().map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
}

fn expected(fits: impl Fn(u32) -> bool) -> Vec<String> {
    let mut ids: Vec<_> = (0..INSTANCES).filter(|number| fits(*number)).map(|number| id(number).to_string()).collect();
    ids.sort();
    ids
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn a_long_listing_has_every_instance_once_and_in_order() {
    let big = Big::new();
    for (path, expected) in [
        ("/instances/", expected(|n| n >= ENDED)),
        ("/instances/?state=all", expected(|_| true)),
        ("/instances/?state=exited", expected(|n| n < ENDED)),
        ("/instances/?state=exited&app=app-1", expected(|n| n < ENDED && n % 3 == 1)),
        ("/instances/?node=node-5", expected(|n| n >= ENDED && n % NODES == 5)),
        ("/instances/?node=node-5&app=app-1", expected(|n| n >= ENDED && n % NODES == 5 && n % 3 == 1)),
        ("/instances/?state=paused", Vec::new()),
        ("/instances/?app=app-9", Vec::new()),
    ] {
        assert_eq!(big.ids(path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn pages_lead_to_the_end_and_join_to_the_whole() {
    let big = Big::new();
    for (query, limit) in [("state=all&", 2_000), ("app=app-2&", 999), ("state=exited&", 7_000)] {
        let (mut joined, mut next) = (Vec::new(), Some(format!("/instances/?{query}limit={limit}")));
        while let Some(path) = next {
            let (_, headers, body) = big.ask(&path, &[]).await;
            let page = ids(&body);
            assert!(page.len() <= limit.min(2_000), "{path}");
            joined.extend(page);
            let link = headers.get("link").map(|link| link.to_str().unwrap());
            next = link.map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
        }
        assert_eq!(joined, big.ids(&format!("/instances/?{query}")).await, "{query}");
    }
}

#[tokio::test]
async fn a_long_answer_is_compressed_for_who_takes_it_so_and_a_short_one_is_not() {
    let big = Big::new();
    let gzip = [("accept-encoding", "gzip, deflate")];
    for (path, compressed) in [
        ("/instances/", true),
        ("/instances/?limit=2000", true),
        ("/instances/?limit=10", false),
        ("/nodes/", true),
        ("/instances_summary/", false),
    ] {
        let (_, headers, packed) = big.ask(path, &gzip).await;
        assert_eq!(headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip"), compressed, "{path}");
        let (_, headers, plain) = big.ask(path, &[]).await;
        assert!(!headers.contains_key("content-encoding"), "{path}");
        if compressed {
            assert!(gunzip(&packed) == plain && packed.len() * 4 < plain.len(), "{path}: {} bytes", packed.len());
        } else {
            assert_eq!(packed, plain, "{path}");
        }
    }
}

#[tokio::test]
async fn a_listing_without_news_is_not_made_again() {
    let big = Big::new();
    let (_, headers, _) = big.ask("/instances/", &[]).await;
    let etag = headers["etag"].to_str().unwrap().to_owned();
    let (status, _, body) = big.ask("/instances/", &[("if-none-match", &etag)]).await;
    assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
    let node = NodeId::trusted("node-5");
    let stamp = big.captain.fleet().stamp();
    big.captain.fleet().write(|view| view.gone(stamp, &node, id(ENDED + 5)));
    let (status, ..) = big.ask("/instances/", &[("if-none-match", &etag)]).await;
    assert_eq!(status, StatusCode::OK);
}
