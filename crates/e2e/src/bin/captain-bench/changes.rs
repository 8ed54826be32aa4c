//! Starts and stops, over the same done with the raw engine. In turns, and whose turn is first changes, so that neither side always
//! finds what the other has left warm.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_e2e::figures::{Pairs, Report};
use tokio::task::JoinSet;

use crate::stage::Stage;
use crate::wire::Wire;

const STARTS: usize = 40;
const STOPS: usize = 30;
const ROUNDS: usize = 8;
const TOGETHER: usize = 20;

pub(crate) async fn start(report: &mut Report) {
    report.section("start: POST /instances/ over raw create, start, inspect");
    starts(&Stage::up().await).await.report(report, "POST over raw create+start+inspect", 1.10);
}

/// Starts through Captain and by the engine alone.
pub(crate) async fn starts(stage: &Stage) -> Pairs {
    let mut pairs = Pairs::default();
    for pair in 0..STARTS {
        let (captain, raw) = in_turns(
            pair,
            async {
                let mut wire = stage.to_captain().await;
                let begin = Instant::now();
                stage.start(&mut wire).await;
                let took = begin.elapsed();
                stage.clear().await;
                took
            },
            stage.alone(async {
                let mut wire = stage.to_engine().await;
                let begin = Instant::now();
                stage.raw_start(&mut wire, &format!("yardstick-{pair}")).await;
                begin.elapsed()
            }),
        )
        .await;
        pairs.push(captain, raw);
    }
    pairs
}

pub(crate) async fn stop(report: &mut Report) {
    report.section("stop: DELETE over raw stop, remove, of an app that ends at SIGTERM");
    let stage = Stage::up().await;
    let mut pairs = Pairs::default();
    for pair in 0..STOPS {
        let (captain, raw) = in_turns(
            pair,
            async {
                let mut wire = stage.to_captain().await;
                let id = stage.start(&mut wire).await;
                stage.serves(&id).await;
                stage.rest().await;
                let begin = Instant::now();
                stage.stop(&mut wire, &id).await;
                let took = begin.elapsed();
                stage.rest().await;
                took
            },
            stage.alone(async {
                let mut wire = stage.to_engine().await;
                let id = stage.raw_start(&mut wire, &format!("yardstick-{pair}")).await;
                stage.serves(&id).await;
                stage.rest().await;
                let begin = Instant::now();
                stage.raw_stop(&mut wire, &id).await;
                begin.elapsed()
            }),
        )
        .await;
        pairs.push(captain, raw);
    }
    pairs.report(report, "DELETE over raw stop+remove", 1.10);
}

pub(crate) async fn parallel(report: &mut Report) {
    report.section(&format!("parallel: {TOGETHER} starts at once over {TOGETHER} raw ones at once, on one engine"));
    let stage = Arc::new(Stage::up().await);
    let mut pairs = Pairs::default();
    for pair in 0..ROUNDS {
        let (captain, raw) = in_turns(
            pair,
            async {
                let wires = wires(|| stage.to_captain()).await;
                let took = together(wires, &stage, |stage, mut wire, _| async move {
                    stage.start(&mut wire).await;
                });
                let took = took.await;
                stage.clear().await;
                took
            },
            stage.alone(async {
                let wires = wires(|| stage.to_engine()).await;
                together(wires, &stage, |stage, mut wire, number| async move {
                    stage.raw_start(&mut wire, &format!("yardstick-{number}")).await;
                })
                .await
            }),
        )
        .await;
        pairs.push(captain, raw);
    }
    pairs.report(report, "all parallel POSTs over all raw starts", 1.05);
}

/// Carries out one and then the other; which is first depends on the number of the pair.
pub(crate) async fn in_turns<A, B>(
    pair: usize,
    captain: impl Future<Output = A>,
    raw: impl Future<Output = B>,
) -> (A, B) {
    if pair.is_multiple_of(2) {
        let captain = captain.await;
        (captain, raw.await)
    } else {
        let raw = raw.await;
        (captain.await, raw)
    }
}

async fn wires<F: Future<Output = Wire>>(open: impl Fn() -> F) -> Vec<Wire> {
    let mut wires = Vec::with_capacity(TOGETHER);
    for _ in 0..TOGETHER {
        wires.push(open().await);
    }
    wires
}

/// From the first request until the last answer.
async fn together<F>(wires: Vec<Wire>, stage: &Arc<Stage>, work: impl Fn(Arc<Stage>, Wire, usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let begin = Instant::now();
    let mut all = JoinSet::new();
    for (number, wire) in wires.into_iter().enumerate() {
        all.spawn(work(Arc::clone(stage), wire, number));
    }
    all.join_all().await;
    begin.elapsed()
}
