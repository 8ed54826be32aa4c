//! Starts through the HTTP interface, on nodes that are held in memory.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use captain_domain::{Health, SlotSize, Slots, Timestamp};
use captain_server::captain::{Captain, Chance, Mode, Policy};
use captain_server::engine::{Engine, Preparation};
use captain_server::http::router;
use captain_server::slugs::Settings;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::engine::Fake;
use crate::origin::{Manner, Origin};
use crate::staging::{digest_of, settings, slug};

/// A captain of some nodes.
pub(crate) struct Fleet {
    pub(crate) folder: TempDir,
    pub(crate) nodes: Vec<Arc<Fake>>,
    captain: Captain,
    routes: Router,
}

pub(crate) fn stack() -> Mode {
    Mode::Stack { stack: "debian:stable-slim".into() }
}

fn policy(mode: Mode) -> Policy {
    Policy {
        slot_size: SlotSize::from_mib(NonZeroU64::MIN),
        default_slots: Slots(1),
        mode,
        slug_path: None,
        stop_grace: Duration::from_secs(1),
        exited_kept: Duration::from_secs(60),
        claim_patience: Duration::from_secs(10),
        claim_grace: Duration::from_secs(60),
        relist_every: Duration::from_secs(60),
        ping_every: Duration::from_secs(60),
        node_slug_bytes: 1 << 30,
    }
}

impl Fleet {
    pub(crate) async fn new(mode: Mode, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Timestamp(i64::try_from(now.as_millis()).unwrap())
        });
        let chance = Chance::new(SmallRng::seed_from_u64(7));
        let captain = Captain::new(policy(mode), settings(folder.path(), change), clock, chance);
        let nodes: Vec<_> = ["app-1", "app-2", "app-3"].map(|name| Arc::new(Fake::new(name))).into();
        for node in &nodes {
            captain.add_node(Arc::clone(node) as Arc<dyn Engine>, Slots(100));
        }
        let healthy = async {
            while !captain.fleet().read(|view| view.nodes().all(|node| node.health() == Health::Healthy)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), healthy).await.expect("nodes answer");
        Self { folder, nodes, routes: router(captain.clone(), "here".to_owned()), captain }
    }

    pub(crate) async fn ask(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, to_bytes(body, usize::MAX).await.unwrap().into())
    }

    async fn start(&self, node: usize, more: Value) -> (StatusCode, Value) {
        let mut body = json!({"app": "demo", "node": format!("app-{}", node + 1)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = Request::post("/instances/").header("content-type", "application/json");
        let (status, _, body) = self.ask(request.body(body.to_string().into()).unwrap()).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn creations(&self) -> usize {
        self.nodes.iter().map(|node| node.counts().1).sum()
    }
}

#[tokio::test]
async fn sixty_instances_on_three_nodes_are_one_fetch_and_three_preparations() {
    let (fleet, body) = (Fleet::new(stack(), |_| {}).await, slug(1, 500_000));
    let origin = Origin::proper(&body).await;
    let uri = origin.uri();
    let starts =
        join_all((0..60).map(|n| fleet.start(n % 3, json!({"slug_uri": uri, "environment": {"A": "b"}})))).await;
    for (status, body) in starts {
        assert_eq!((status, &body["state"]), (StatusCode::CREATED, &json!("running")), "{body}");
    }
    assert_eq!(origin.counts(), (1, body.len()));
    for node in &fleet.nodes {
        assert_eq!(node.counts().0, 1);
        assert_eq!(node.specs().len(), 20);
    }
    let spec = &fleet.nodes[0].specs()[0];
    let Preparation::Slug(slug) = &spec.preparation else { panic!("{spec:?}") };
    assert_eq!((slug.digest, &*slug.stack), (digest_of(&body), "debian:stable-slim"));
    assert_eq!((spec.command.as_slice(), spec.environment.get("PORT")), (&["web".to_owned()][..], Some("8080")));

    let (status, _) = fleet.start(0, json!({"slug_uri": uri, "process": "worker"})).await;
    assert_eq!((status, origin.counts()), (StatusCode::CREATED, (1, 0)), "a second start moves no bytes");
    assert!(fleet.nodes[0].specs().iter().any(|spec| spec.command == ["worker"]));
    origin.switch_off();
    let (status, _) = fleet.start(0, json!({"slug_uri": uri})).await;
    assert_eq!(status, StatusCode::CREATED, "its origin is off");
    assert_eq!(fleet.nodes[0].counts().0, 1);
}

#[tokio::test]
async fn a_node_that_has_the_slug_needs_neither_origin_nor_cache() {
    let (fleet, body) = (Fleet::new(stack(), |settings| settings.cache_bytes = 0).await, slug(1, 1000));
    let origin = Origin::proper(&body).await;
    assert_eq!(fleet.start(0, json!({"slug_uri": origin.uri()})).await.0, StatusCode::CREATED);
    fleet.captain.slugs().tidy().await;
    origin.switch_off();
    assert_eq!(fleet.start(0, json!({"slug_uri": origin.uri()})).await.0, StatusCode::CREATED);
    let (status, error) = fleet.start(1, json!({"slug_uri": origin.uri()})).await;
    assert_eq!(
        (status, &error["code"], &error["field"]),
        (StatusCode::BAD_GATEWAY, &json!("slug_origin_failed"), &json!("slug_uri"))
    );
    assert!(fleet.nodes[1].specs().is_empty());
    assert_eq!(fleet.captain.fleet().read(|view| view.node("app-2").unwrap().used()), Slots(0));
}

#[tokio::test]
async fn what_is_refused_touches_no_node_and_takes_no_slots() {
    let fleet = Fleet::new(stack(), |_| {}).await;
    let (good, page) = (slug(1, 1000), Origin::proper(b"<html>").await);
    let (good, gone) = (Origin::proper(&good).await, Origin::serving(b"", &[Manner::Status(403)]).await);
    let pin = "07".repeat(32);
    let cases = [
        (json!({"slug_uri": page.uri()}), 422, "slug_invalid", "slug_uri"),
        (json!({"slug_uri": gone.uri()}), 422, "slug_unavailable", "slug_uri"),
        (json!({"slug_uri": good.uri(), "slug_sha256": pin}), 422, "slug_mismatch", "slug_sha256"),
        (json!({"slug_uri": format!("sha256:{pin}")}), 422, "slug_unavailable", "slug_uri"),
        (json!({"slug_uri": "file:///etc/passwd"}), 422, "slug_unavailable", "slug_uri"),
        (json!({"slug_uri": "ftp://host/a"}), 422, "unprocessable", "slug_uri"),
        (json!({"slug_uri": good.uri(), "slug_sha256": "abc"}), 422, "unprocessable", "slug_sha256"),
        (json!({"slug_uri": good.uri(), "slug_sha256": 7}), 400, "bad_request", "slug_sha256"),
        (json!({"slug_uri": good.uri(), "process": "a b"}), 422, "unprocessable", "process"),
        (json!({"slug_uri": good.uri(), "slug_runner_version": "1.2"}), 422, "unprocessable", "slug_runner_version"),
    ];
    for (body, status, code, field) in cases {
        let (answered, error) = fleet.start(0, body.clone()).await;
        assert_eq!(
            (answered.as_u16(), &error["code"], &error["field"]),
            (status, &json!(code), &json!(field)),
            "{body}: {error}"
        );
    }
    assert_eq!(fleet.creations(), 0);
    assert_eq!(fleet.captain.fleet().read(|view| view.node("app-1").unwrap().used()), Slots(0));
}

#[tokio::test]
async fn a_runner_image_fetches_the_slug_itself() {
    let mode =
        Mode::RunnerImage { image: "sim".to_owned(), version: "1".to_owned(), command: vec!["start".to_owned()] };
    let fleet = Fleet::new(mode, |_| {}).await;
    let (status, instance) = fleet.start(0, json!({"slug_uri": "anything:goes"})).await;
    assert_eq!(status, StatusCode::CREATED, "{instance}");
    let spec = &fleet.nodes[0].specs()[0];
    assert_eq!(spec.preparation, Preparation::RunnerImage { image: "sim:1".to_owned() });
    assert_eq!(
        (spec.command.as_slice(), spec.environment.get("SLUG_URL")),
        (&["start".to_owned()][..], Some("anything:goes"))
    );
    for (body, field) in [
        (json!({"slug_uri": "http://s/a", "process": "web"}), "process"),
        (json!({"slug_uri": "http://s/a", "slug_sha256": "07".repeat(32)}), "slug_sha256"),
        (json!({"slug_uri": format!("sha256:{}", "07".repeat(32))}), "slug_uri"),
    ] {
        let (status, error) = fleet.start(0, body).await;
        assert_eq!((status, &error["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)), "{error}");
    }
    assert!(!fleet.folder.path().join("data").exists(), "nothing is kept by this captain");
}

#[tokio::test]
async fn a_slow_fetch_is_shown_by_its_claim() {
    let fleet = Arc::new(Fleet::new(stack(), |settings| settings.patience.whole = Duration::from_secs(30)).await);
    let origin = Origin::serving(&slug(1, 1000), &[Manner::Drip(Duration::from_millis(1))]).await;
    let (starting, uri) = (Arc::clone(&fleet), origin.uri());
    let start = tokio::spawn(async move { starting.start(0, json!({"slug_uri": uri})).await });
    let expected = format!("fetching {}: 1 kB of 2 kB", origin.uri());
    let shown = async {
        loop {
            let (_, _, claims) = fleet.ask(Request::get("/claims/").body(Body::empty()).unwrap()).await;
            let claims: Value = serde_json::from_slice(&claims).unwrap();
            if claims[0]["phase"] == "preparing" && claims[0]["detail"] == expected.as_str() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the claim says how far the fetch is");
    assert_eq!(start.await.unwrap().0, StatusCode::CREATED);
}
