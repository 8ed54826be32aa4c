//! Reads of a large fleet, by one client that keeps its connection, at a modest rate: it is the server that is measured, and not
//! how it shares two processors with whoever asks it all at once.
//!
//! A tail of milliseconds may be the machine's. So half way between two requests there is a control: as many bytes of a thread that
//! sends them and does nothing else. Nobody's tail is much shorter than that.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use captain_e2e::figures::{Latencies, Report};
use captain_e2e::process::{self, Stolen};
use captain_scale::client::{Answer, Client};
use captain_scale::engines::{Engines, app_name};
use http::Method;
use http::header::{ETAG, IF_NONE_MATCH};
use http_body_util::BodyExt;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::stage::Stage;

/// The bounds: milliseconds, 99 of 100.
const BY_ID: f64 = 2.0;
const BY_APP: f64 = 10.0;
const SUMMARY: f64 = 5.0;
const NODES: f64 = 50.0;
const NO_NEWS: f64 = 1.0;
/// MiB that the captain may take more while somebody reads everything. A page is 2,000 instances, about 1.3 MiB; some lie in
/// between on their way.
const STREAMING: f64 = 32.0;

pub(crate) async fn read(report: &mut Report, stage: &Stage) {
    let (address, pid) = (stage.captain.address(), stage.pid());
    report.section("read: one client, connection kept, a modest rate");
    let engines = std::sync::Arc::clone(&stage.engines);
    // On a thread of its own: the engines' tasks are not to stand in its way more than the captain's do.
    let measured = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure(address, pid, &engines))
    });
    let measured = tokio::task::spawn_blocking(|| measured.join().unwrap()).await.unwrap();
    measured.by_id.report(report, "`GET /instances/{id}`, 300/s", BY_ID);
    measured.by_app.report(report, "`GET /instances/?app=` of 1,000, 20/s", BY_APP);
    measured.summary.report(report, "`GET /instances_summary/`, 50/s", SUMMARY);
    measured.nodes.report(report, "`GET /nodes/`, 10/s", NODES);
    measured.no_news.report(report, "`GET /instances/` with its ETag, 304, 100/s", NO_NEWS);
    report.note("  answered in full, for there was news", measured.news);
    let Whole { instances, bytes, took, grown, slow_grown } = measured.whole;
    let shown = format!("{instances} instances, {:.0} MiB in {:.1} s", bytes as f64 / MIB, took.as_secs_f64());
    report.holds("`GET /instances/`, the full list", instances == stage.engines.containers(), shown);
    report.at_most("  MiB that the captain grows meanwhile", grown, STREAMING, format!("{grown:.1}"));
    let shown = format!("{slow_grown:.1}; 1 MiB/s for {} s", SLOWLY.as_secs());
    report.at_most("  the same with a client that reads slowly", slow_grown, STREAMING, shown);
    report.holds("`GET /instances/?limit=2000`, gzip", measured.gzip.0, measured.gzip.1);
    report.holds("50 pages by `limit` and `Link`, in order, none twice", measured.pages.0, measured.pages.1);
}

const MIB: f64 = 1024.0 * 1024.0;

struct Measured {
    by_id: Paced,
    by_app: Paced,
    summary: Paced,
    nodes: Paced,
    no_news: Paced,
    news: u32,
    whole: Whole,
    gzip: (bool, String),
    pages: (bool, String),
}

async fn measure(address: SocketAddr, pid: u32, engines: &Engines) -> Measured {
    let mut client = Client::to(address).await;
    let mut control = Client::to(control()).await;
    let mut both = Both { client: &mut client, control: &mut control };
    let mut chance = SmallRng::seed_from_u64(5);
    let plan = engines.plan().clone();
    let id = |chance: &mut SmallRng| plan.nth(chance.random_range(0..plan.instances)).id();
    let apps = plan.apps;
    let by_id = both.paced(300, 3_000, |_| format!("/instances/{}", id(&mut chance))).await;
    let mut chance = SmallRng::seed_from_u64(6);
    let app = |_| format!("/instances/?app={}", app_name(chance.random_range(0..apps)));
    let by_app = both.paced(20, 400, app).await;
    let summary = both.paced(50, 500, |_| "/instances_summary/".to_owned()).await;
    let nodes = both.paced(10, 200, |_| "/nodes/".to_owned()).await;
    let (no_news, news) = both.without_news().await;
    let whole = whole(address, pid).await;
    let gzip = compressed(&mut client).await;
    let pages = paged(&mut client).await;
    Measured { by_id, by_app, summary, nodes, no_news, news, whole, gzip, pages }
}

/// How long the captain took, and the control for as many bytes.
struct Paced {
    ours: Latencies,
    control: Latencies,
    stolen: String,
}

impl Paced {
    fn report(&self, report: &mut Report, name: &str, bound: f64) {
        let Self { ours, control, stolen } = self;
        let shown = format!("{ours}; the control {control}; {stolen} of the processors were the host's");
        report.at_most(&format!("{name}, p99, ms"), ours.part(0.99), bound, shown);
    }
}

struct Both<'a> {
    client: &'a mut Client,
    control: &'a mut Client,
}

impl Both<'_> {
    /// Asks `times` times, so many a second. A request that is late because the one before took long counts from when it was due.
    async fn paced(&mut self, rate: u32, times: u32, mut path: impl FnMut(u32) -> String) -> Paced {
        let _ = self.client.get(&path(0)).await.expect(200);
        let (mut ours, mut control) = (Latencies::default(), Latencies::default());
        let (stolen, pause) = (Stolen::since_now(), Duration::from_secs(1) / rate);
        let begin = tokio::time::Instant::now();
        for number in 0..times {
            let (path, due) = (path(number), begin + pause * number);
            let late = tokio::time::Instant::now().saturating_duration_since(due);
            tokio::time::sleep_until(due).await;
            let answer = self.client.get(&path).await.expect(200);
            ours.push(answer.took + late);
            tokio::time::sleep_until(due + pause / 2).await;
            control.push(self.control(answer.body.len()).await);
        }
        Paced { ours, control, stolen: stolen.until_now() }
    }

    /// A poller: it asks for everything, and has the tag of what it was told last.
    async fn without_news(&mut self) -> (Paced, u32) {
        let (mut ours, mut control) = (Latencies::default(), Latencies::default());
        let (mut tag, mut news, stolen) = (tag_of(self.client).await, 0, Stolen::since_now());
        while ours.len() < 500 && news < 500 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let begin = Instant::now();
            let headers = [(IF_NONE_MATCH.as_str(), tag.as_str())];
            let response = self.client.open(Method::GET, "/instances/", &headers, Bytes::new()).await;
            if response.status() == http::StatusCode::NOT_MODIFIED {
                let _ = response.into_body().collect().await;
                ours.push(begin.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
                control.push(self.control(0).await);
            } else {
                news += 1;
                drop(response); // gigabytes, which nobody reads: the connection goes with them
                tag = tag_of(self.client).await;
            }
        }
        (Paced { ours, control, stolen: stolen.until_now() }, news)
    }

    async fn control(&mut self, bytes: usize) -> Duration {
        self.control.get(&format!("/{bytes}")).await.expect(200).took
    }
}

/// A thread that answers `GET /N` with N bytes, to one connection, and does nothing else. It ends with the connection.
fn control() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.set_nodelay(true).unwrap();
        let (mut asked, mut answer) = ([0; 4096], Vec::new());
        while let Ok(read) = stream.read(&mut asked)
            && read > 0
        {
            let path = std::str::from_utf8(&asked[..read]).unwrap().split(' ').nth(1).unwrap();
            let bytes: usize = path.trim_start_matches('/').parse().unwrap();
            answer.clear();
            write!(answer, "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").unwrap();
            answer.resize(answer.len() + bytes, b' ');
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

async fn tag_of(client: &mut Client) -> String {
    client.get("/instances/?limit=1").await.expect(200).header(ETAG.as_str()).to_owned()
}

struct Whole {
    instances: u64,
    bytes: u64,
    took: Duration,
    grown: f64,
    slow_grown: f64,
}

/// How long a slow reader reads.
const SLOWLY: Duration = Duration::from_secs(8);

async fn whole(address: SocketAddr, pid: u32) -> Whole {
    let rss = || process::resident(pid, "VmRSS");
    let before = rss();
    let (mut opened, mut bytes, mut most) = (0, 0, before);
    let begin = Instant::now();
    let mut client = Client::to(address).await;
    let mut body = client.open(Method::GET, "/instances/", &[], Bytes::new()).await.into_body();
    let mut looked = Instant::now();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.unwrap().into_data() else { continue };
        bytes += data.len() as u64;
        opened += braces(&data);
        if looked.elapsed() > Duration::from_millis(100) {
            most = rss().max(most);
            looked = Instant::now();
        }
    }
    let (took, grown) = (begin.elapsed(), most - before);
    drop(client);
    let slow_grown = slowly(address, rss).await;
    Whole { instances: opened / 2, bytes, took, grown, slow_grown }
}

/// Instances in a piece of the list: each has two opening braces, its own and that of its environment. Braces within strings
/// there are none, for the simulated ones have none.
fn braces(data: &[u8]) -> u64 {
    data.iter().filter(|byte| **byte == b'{').count() as u64
}

async fn slowly(address: SocketAddr, rss: impl Fn() -> f64) -> f64 {
    let before = rss();
    let mut most = before;
    let mut client = Client::to(address).await;
    let mut body = client.open(Method::GET, "/instances/", &[], Bytes::new()).await.into_body();
    let (begin, mut bytes) = (Instant::now(), 0.0);
    while begin.elapsed() < SLOWLY {
        if bytes / MIB < begin.elapsed().as_secs_f64() {
            let Some(Ok(frame)) = body.frame().await else { break };
            bytes += frame.into_data().map_or(0.0, |data| data.len() as f64);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        most = rss().max(most);
    }
    most - before
}

async fn compressed(client: &mut Client) -> (bool, String) {
    let path = "/instances/?limit=2000";
    let plain = client.get(path).await.expect(200);
    let zipped = client.ask(Method::GET, path, &[("accept-encoding", "gzip")], Bytes::new()).await.expect(200);
    if zipped.header("content-encoding") != "gzip" {
        return (false, "not compressed".to_owned());
    }
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(&zipped.body[..]).read_to_end(&mut unzipped).unwrap();
    let shown =
        format!("{} bytes as {}, {:.1} ms", plain.body.len(), zipped.body.len(), zipped.took.as_secs_f64() * 1e3);
    (unzipped == plain.body, shown)
}

async fn paged(client: &mut Client) -> (bool, String) {
    let (mut path, mut last, mut seen) = ("/instances/?limit=1000".to_owned(), String::new(), 0);
    let mut latencies = Latencies::default();
    for _ in 0..50 {
        let answer: Answer = client.get(&path).await.expect(200);
        latencies.push(answer.took);
        for instance in answer.json().as_array().unwrap() {
            let id = instance["id"].as_str().unwrap().to_owned();
            if id <= last {
                return (false, format!("{id} comes after {last}"));
            }
            last = id;
            seen += 1;
        }
        match answer.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) {
            Some((next, _)) => next.clone_into(&mut path),
            None => break,
        }
    }
    (true, format!("{seen} instances; p99 {:.1} ms a page of 1,000", latencies.part(0.99)))
}
