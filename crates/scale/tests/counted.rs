//! What must not grow with the fleet, counted: memory per instance, allocations per event, per reservation and per GET.
//!
//! A timing says little on a shared machine; an allocation is there or is not. Whatever copied the view, or a part of it that grows
//! with it, would allocate more in the large fleet than in the small one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

use std::sync::Arc;

use allocation_counter::measure;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use captain_domain::{AppName, Exit, OperationId, Slots, State, Timestamp};
use captain_scale::engines::{Plan, app_name, told};
use captain_server::captain::{Captain, Chance};
use captain_server::config::{Config, ServeArgs};
use captain_server::fleet::{Fleet, View};
use captain_server::http::router;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tower::ServiceExt;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    serve: ServeArgs,
}

const SMALL: u64 = 2_000;
const LARGE: u64 = 50_000;

/// The heap that the view takes for an instance whose slug, environment and app it shares with others, at any size.
const BYTES: f64 = 160.0;

/// A hundred instances on each node, ten of each app: an answer about one of them is as long in both.
fn plan(instances: u64) -> Plan {
    let apps = u32::try_from(instances / 10).unwrap();
    Plan { apps, ..Plan::of(u32::try_from(instances / 100).unwrap(), instances) }
}

struct Subject {
    plan: Plan,
    captain: Captain,
    routes: Router,
    runtime: tokio::runtime::Runtime,
}

impl Subject {
    fn of(instances: u64) -> Self {
        let arguments = [
            "captain",
            "--nodes",
            "http://127.0.0.1:1",
            "--slug-runner-image",
            "runner",
            "--slug-runner-command",
            "start",
        ];
        let config = Config::parse(Command::parse_from(arguments).serve).unwrap();
        let clock = Arc::new(|| Timestamp(1_795_000_000_000));
        let captain = Captain::new(config.policy, config.slugs, clock, Chance::new(SmallRng::seed_from_u64(1)));
        let plan = plan(instances);
        told::fill(captain.fleet(), &plan);
        let routes = router(captain.clone(), "test".to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { plan, captain, routes, runtime }
    }

    fn fleet(&self) -> &Fleet {
        self.captain.fleet()
    }

    /// How often it allocates for an answer, and how much.
    fn get(&self, path: &str, tag: &str, expected: StatusCode) -> (u64, u64) {
        let ask = || {
            let request = Request::get(path).header("if-none-match", tag).body(Body::empty()).unwrap();
            let routes = self.routes.clone();
            self.runtime.block_on(async move {
                let response = routes.oneshot(request).await.unwrap();
                assert_eq!(response.status(), expected, "{path}");
                to_bytes(response.into_body(), 1 << 20).await.unwrap().len()
            })
        };
        ask(); // what is made once, at the first request
        let counted = measure(|| {
            ask();
        });
        (counted.count_total, counted.bytes_total)
    }
}

#[test]
fn an_instance_takes_few_bytes_at_any_size() {
    let mut per_instance = Vec::new();
    for instances in [10_000, 20_000, 40_000] {
        // Apps of a thousand instances, as in the field.
        let plan = Plan::of(300, instances);
        let nodes = told::nodes(&plan);
        let counted = measure(|| told::observe(&nodes, &plan, 0..instances));
        assert_eq!(nodes.read(View::known_instances), usize::try_from(instances).unwrap());
        per_instance.push(counted.bytes_current as f64 / instances as f64);
    }
    println!("bytes per instance at 10,000, 20,000 and 40,000: {per_instance:.0?}");
    assert!(per_instance.iter().all(|bytes| *bytes <= BYTES), "{per_instance:?}");
    let (first, last) = (per_instance[0], per_instance[2]);
    assert!((last / first - 1.0).abs() < 0.15, "not linear: {per_instance:?}");
}

/// One test, for the two fleets take seconds to be made.
#[test]
fn nothing_allocates_more_in_a_large_fleet_than_in_a_small_one() {
    let (small, large) = (Subject::of(SMALL), Subject::of(LARGE));
    for (subject, instances) in [(&small, SMALL), (&large, LARGE)] {
        let known = subject.fleet().read(|view| (view.running_instances(), view.nodes().count() as u64));
        assert_eq!(known, (instances, instances / 100));
    }
    answers(&small, &large);
    assert_eq!(without_news(&small), without_news(&large), "a poller without news");
    let of_reservation = reservation(&large);
    assert_eq!(reservation(&small), of_reservation, "a reservation");
    assert!(of_reservation.0 <= 1, "{of_reservation:?}");
    let of_events = events(&large);
    assert_eq!(events(&small), of_events, "events");
    assert!(of_events.iter().all(|(count, _)| *count <= 1), "{of_events:?}");
}

fn answers(small: &Subject, large: &Subject) {
    type Path = fn(&Plan) -> String;
    let answers: [(&str, Path); 5] = [
        ("by id", |plan| format!("/instances/{}", plan.nth(1_234).id())),
        ("by app", |_| format!("/instances/?app={}", app_name(123))),
        ("by node", |_| format!("/instances/?node={}", told::node(12))),
        ("a page", |_| "/instances/?limit=20".to_owned()),
        ("one node", |_| format!("/nodes/{}", told::node(12))),
    ];
    for (what, path) in answers {
        let get = |subject: &Subject| subject.get(&path(&subject.plan), "none", StatusCode::OK);
        let (of_small, of_large) = (get(small), get(large));
        assert_eq!(of_small.0, of_large.0, "allocations {what}");
        // Numbers in names have not as many digits in both.
        let more = of_small.1.abs_diff(of_large.1);
        assert!(more * 50 <= of_small.1, "bytes {what}: {of_small:?} in the small one, {of_large:?} in the large one");
    }
}

fn without_news(subject: &Subject) -> u64 {
    let request = Request::get("/instances/?limit=1").body(Body::empty()).unwrap();
    let response = subject.runtime.block_on(subject.routes.clone().oneshot(request)).unwrap();
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    subject.get("/instances/", &tag, StatusCode::NOT_MODIFIED).0
}

fn reservation(subject: &Subject) -> (u64, u64) {
    let (node, app) = (told::node(3), AppName::parse(&app_name(3)).unwrap());
    let counted = measure(|| {
        let operation = OperationId::from_bytes([9; 16]);
        drop(subject.fleet().reserve(&node, &app, Slots(1), operation, Timestamp(1)).unwrap());
    });
    (counted.count_total, counted.bytes_total)
}

/// A container ends, runs again, ends again.
fn events(subject: &Subject) -> Vec<(u64, u64)> {
    let mut instance = told::instance(&subject.plan, subject.plan.nth(77));
    let of_event = |state| {
        instance.state = state;
        instance.exit = (state == State::Exited).then_some(Exit { code: 1, out_of_memory: false, at: None });
        let stamp = subject.fleet().stamp();
        let counted = measure(|| subject.fleet().write(|view| view.observe(stamp, &instance)));
        (counted.count_total, counted.bytes_total)
    };
    [State::Exited, State::Running, State::Exited].map(of_event).to_vec()
}
