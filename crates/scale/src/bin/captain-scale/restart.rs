//! A captain is killed and started again: how soon it knows everything.

use captain_e2e::figures::{Report, Series};
use captain_scale::engines::Plan;

use crate::stage::{self, Stage};

const NODES: u32 = 1_000;
const INSTANCES: u64 = 100_000;
/// Seconds from the start of the process until every node is healthy and every instance is listed with its details.
const READY: f64 = 5.0;
const ROUNDS: usize = 3;

pub(crate) async fn restart(report: &mut Report) {
    report.section(&format!("restart: kill -9 and start again, {INSTANCES} instances on {NODES} engines"));
    let engines = stage::engines(Plan::of(NODES, INSTANCES)).await;
    let (mut stage, _) = Stage::up(&engines).await;
    let (mut seconds, mut cpu) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        stage.captain.crash();
        let (again, ready) = Stage::up(&engines).await;
        stage = again;
        seconds.push(ready.took.as_secs_f64());
        cpu.push(ready.cpu.as_secs_f64());
    }
    report.at_most(
        "ready after a restart, s",
        seconds.median(),
        READY,
        format!("{}, {ROUNDS} times", seconds.shown(2)),
    );
    report.note("  processor time of the captain, s", cpu.shown(1));
    report.note("  resident, MiB", format!("{:.0}", stage.rss()));
    stage.end().await;
}
