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
use captain_e2e::figures::Report;
use captain_scale::client::Client;
use captain_scale::engines::{Container, Engines, Happening, IMAGE, Plan, app_name};
use http::Method;
use serde_json::{Value, json};

use crate::stage::{self, Stage};
use captain_e2e::process::{self, Stolen};

const ENGINES: u32 = 300;
const STARTS: u64 = 30_000;
/// Of the rate that the engines allow.
const SHARE: f64 = 0.9;
/// Of the rate of the first thousand.
const FLAT: f64 = 0.9;
/// Starts under way at once for each engine: it is never without the next one.
const AT_ONCE: u32 = 4;

pub(crate) async fn starts(report: &mut Report) {
    report.section(&format!("starts: {STARTS} by `POST`, {ENGINES} engines, 50 ms a start, one after another on each"));
    let engines = stage::engines(Plan { apps: 300, ..Plan::of(ENGINES, 0) }).await;
    let allowed = f64::from(ENGINES) / engines.plan().start_takes.as_secs_f64();
    report.note("starts a second that the engines allow by construction", format!("{allowed:.0}"));
    let stolen = Stolen::since_now();
    let (bare, cpu) = timed(std::process::id(), run(&engines, Route::Bare)).await;
    report.note("  by a bare client: create, start, inspect", format!("{:.0}, {}", bare.rate(), bare.thousands()));
    report.note("  processor time of engines and client, a start", micros(cpu));
    report.note("  of the processors were the host's", stolen.until_now());
    let (stage, _) = Stage::up(&engines).await;
    let before = engines.counted();
    let stolen = Stolen::since_now();
    let ours = run(&engines, Route::Captain(stage.captain.address()));
    let ((ours, cpu), others) = timed(std::process::id(), timed(stage.pid(), ours)).await;
    let asked = engines.counted();
    report.note("starts a second through Captain", format!("{:.0}, {}", ours.rate(), ours.thousands()));
    report.note("  processor time of the captain, a start", micros(cpu));
    report.note("  processor time of engines and client, a start", micros(others));
    // Of one machine at one time, so that it says what the captain costs and not how fast the machine is today.
    report.note("  the captain's over theirs", format!("{:.2}", cpu / others));
    report.note("  of the processors were the host's", stolen.until_now());
    let started = (asked.starts - before.starts) as f64;
    let listed = (asked.listings - before.listings) as f64 / started;
    let inspected = (asked.inspections - before.inspections) as f64 / started;
    report.note("  listings and inspections, a start", format!("{listed:.2} and {inspected:.2}"));
    let ratio = ours.rate() / bare.rate();
    report.at_least("  of the bare client's rate", ratio, SHARE, format!("{ratio:.2}"));
    let ratio = ours.rate() / allowed;
    report.note("  of what the engines allow by construction", format!("{ratio:.2}"));
    let flat = ours.flatness();
    report.at_least("  the last thousand's rate, of the first's", flat, FLAT, format!("{flat:.2}"));
    stage.counts_all().await;
    report.note("instances in the end, by the engines and by the captain", engines.containers());
    stage.end().await;
}

/// Does it, and tells the processor time of a process meanwhile, in µs, shared out among the starts.
async fn timed<T>(pid: u32, work: impl Future<Output = T>) -> (T, f64) {
    let before = process::cpu(pid);
    let done = work.await;
    let took = (process::cpu(pid) - before).as_secs_f64();
    (done, took * 1e6 / STARTS as f64)
}

fn micros(time: f64) -> String {
    format!("{time:.0} µs")
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

    fn thousands(&self) -> String {
        let mut rates = self.of_thousands();
        let (first, last) = (rates[0], rates[rates.len() - 1]);
        rates.sort_by(f64::total_cmp);
        let (least, most) = (rates[0], rates[rates.len() - 1]);
        format!("the first thousand {first:.0}, the last {last:.0}, between {least:.0} and {most:.0}")
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
