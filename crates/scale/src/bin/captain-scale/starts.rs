//! Many starts at once: whether Captain lets the engines do all that they can.
//!
//! An engine takes 50 ms for a start and does one after another, so three hundred of them allow 6,000 a second. How many of those
//! this machine can carry, the simulation and a client included, is measured by a client that speaks to the engines itself:
//! create, start, inspect, the least that anybody could do. Both have as many starts under way at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use captain_domain::InstanceId;
use captain_e2e::figures::{Report, Series};
use captain_e2e::process;
use captain_scale::client::Client;
use captain_scale::engines::{Container, Engines, Happening, IMAGE, Plan, app_name};
use http::Method;
use serde_json::{Value, json};

use crate::stage::{self, Stage};

const ENGINES: u32 = 300;
const STARTS: u64 = 30_000;
const ROUNDS: u32 = 5;
/// Of the rate that the engines allow.
const SHARE: f64 = 0.9;
/// Of the rate of the first thousand.
const FLAT: f64 = 0.9;
/// Starts under way at once for each engine: it is never without the next one.
const AT_ONCE: u32 = 4;

pub(crate) async fn starts(report: &mut Report) {
    report.section(&format!("starts: {STARTS} by `POST`, {ENGINES} engines, 50 ms a start, one after another on each"));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(Round::measured().await);
    }
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Series>();
    report.note("starts a second by a bare client: create, start, inspect", of(|round| round.bare.rate()).shown(0));
    report.note("  processor time of engines and client, µs a start", of(|round| round.bare_cpu).shown(0));
    report.note("starts a second through Captain", of(|round| round.ours.rate()).shown(0));
    report.note("  processor time of the captain, µs a start", of(|round| round.our_cpu).shown(0));
    report.note("  processor time of engines and client, µs a start", of(|round| round.their_cpu).shown(0));
    // Of one machine at one time, so that it says what the captain costs and not how fast the machine is today.
    report.note("  the captain's over theirs", of(|round| round.our_cpu / round.their_cpu).shown(2));
    report.note("  listings a start", of(|round| round.listings).shown(2));
    report.note("  inspections a start", of(|round| round.inspections).shown(2));
    let ratio = of(|round| round.ours.rate() / round.bare.rate());
    report.at_least(
        "  of the bare client's rate",
        ratio.median(),
        SHARE,
        format!("{}, {ROUNDS} rounds", ratio.shown(2)),
    );
    let flat = of(|round| round.ours.flatness());
    let name = "  the last thousand's rate, of the first's";
    report.at_least(name, flat.median(), FLAT, format!("{}, {ROUNDS} rounds", flat.shown(2)));
}

/// The same starts by both, one after the other, on engines that have nothing yet.
struct Round {
    bare: Run,
    bare_cpu: f64,
    ours: Run,
    our_cpu: f64,
    their_cpu: f64,
    listings: f64,
    inspections: f64,
}

impl Round {
    async fn measured() -> Self {
        let engines = stage::engines(Plan { apps: 300, ..Plan::of(ENGINES, 0) }).await;
        let (bare, bare_cpu) = timed(std::process::id(), run(&engines, Route::Bare)).await;
        let (stage, _) = Stage::up(&engines).await;
        let before = engines.counted();
        let ours = run(&engines, Route::Captain(stage.captain.address()));
        let ((ours, our_cpu), their_cpu) = timed(std::process::id(), timed(stage.pid(), ours)).await;
        let asked = engines.counted();
        let started = (asked.starts - before.starts) as f64;
        let listings = (asked.listings - before.listings) as f64 / started;
        let inspections = (asked.inspections - before.inspections) as f64 / started;
        stage.counts_all().await;
        stage.end().await;
        Self { bare, bare_cpu, ours, our_cpu, their_cpu, listings, inspections }
    }
}

/// Does it, and tells the processor time of a process meanwhile, in µs, shared out among the starts.
async fn timed<T>(pid: u32, work: impl Future<Output = T>) -> (T, f64) {
    let before = process::cpu(pid);
    let done = work.await;
    let took = (process::cpu(pid) - before).as_secs_f64();
    (done, took * 1e6 / STARTS as f64)
}

#[derive(Clone, Copy)]
enum Route {
    Bare,
    Captain(std::net::SocketAddr),
}

/// When each start was done, in their order.
struct Run(Vec<Duration>);

impl Run {
    fn rate(&self) -> f64 {
        self.0.len() as f64 / self.0.last().unwrap().as_secs_f64()
    }

    /// The rates of each thousand. The first begins when the first start is done: before, the engines had only begun.
    fn of_thousands(&self) -> Vec<f64> {
        let rate = |part: &[Duration]| (part.len() - 1) as f64 / (part[part.len() - 1] - part[0]).as_secs_f64();
        self.0.chunks(1_000).map(rate).collect()
    }

    fn flatness(&self) -> f64 {
        let rates = self.of_thousands();
        rates[rates.len() - 1] / rates[0]
    }
}

/// Starts until so many are done. Those that are under way then are finished, and not counted: the engines are busy to the end.
async fn run(engines: &Arc<Engines>, route: Route) -> Run {
    let done = Arc::new(AtomicU64::new(0));
    let ready = Arc::new(tokio::sync::Barrier::new((ENGINES * AT_ONCE) as usize));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..ENGINES * AT_ONCE {
        let (engines, done, ready) = (Arc::clone(engines), Arc::clone(&done), Arc::clone(&ready));
        clients.spawn(async move {
            let engine = number % ENGINES;
            let address = match route {
                Route::Bare => engines.address(engine),
                Route::Captain(address) => address,
            };
            let mut client = Client::to(address).await;
            let order = order(&engines, engine, route);
            ready.wait().await;
            let begin = Instant::now();
            let mut times = Vec::new();
            while done.load(Ordering::Relaxed) < STARTS {
                match route {
                    Route::Bare => bare_start(&engines, &mut client, &order).await,
                    Route::Captain(_) => {
                        let _ = client.ask(Method::POST, "/instances/", &[], order.clone()).await.expect(201);
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
                times.push(begin.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = clients.join_all().await.concat();
    times.sort_unstable();
    times.truncate(STARTS as usize);
    Run(times)
}

fn order(engines: &Engines, engine: u32, route: Route) -> Bytes {
    let environment =
        json!({"JAVA_OPTS": "-Xmx96m", "DATABASE_URL": "postgres://db.internal:5432/shop", "LOG_LEVEL": "info"});
    let (app, slug) = (app_name(engine), "https://slugs.internal.example.com/shop/v41.tgz");
    let order = match route {
        Route::Captain(_) => json!({"app": app, "node": engines.node(engine), "slug_uri": slug, "slots": 1,
            "environment": environment}),
        Route::Bare => bare_order(&app, slug, &environment),
    };
    Bytes::from(order.to_string())
}

/// What Captain would send, as far as it matters to a simulated engine.
fn bare_order(app: &str, slug: &str, environment: &Value) -> Value {
    let pairs = environment.as_object().unwrap().iter();
    let environment: Vec<String> = pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
    json!({"Image": IMAGE, "Cmd": ["start", "web"], "Env": environment, "ExposedPorts": {"8080/tcp": {}},
        "Labels": {"app": app, "slug": slug}, "HostConfig": {"Memory": 1 << 27, "MemorySwap": 1 << 27, "CpuShares": 10}})
}

/// Leaves nothing: the engines are to be as empty for Captain.
async fn bare_start(engines: &Engines, client: &mut Client, order: &Bytes) {
    let created = client.ask(Method::POST, "/v1.41/containers/create?name=bare", &[], order.clone()).await.expect(201);
    let id: InstanceId = created.json()["Id"].as_str().unwrap().parse().unwrap();
    let path = format!("/v1.41/containers/{id}");
    let _ = client.ask(Method::POST, &format!("{path}/start"), &[], Bytes::new()).await.expect(204);
    let _ = client.get(&format!("{path}/json")).await.expect(200);
    assert!(engines.happen(Container::with_id(id).unwrap(), Happening::Remove));
}
