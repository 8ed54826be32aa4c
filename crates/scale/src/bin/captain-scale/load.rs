//! A captain finds a large fleet: how long that takes, and what it holds in memory.

use captain_e2e::figures::Report;
use captain_e2e::process;
use captain_scale::engines::Plan;

use crate::stage::{self, Stage};

/// The fleet of the promises.
pub(crate) const NODES: u32 = 6_100;
pub(crate) const INSTANCES: u64 = 2_000_000;

/// MiB, resident, with all of it in the view.
pub(crate) const RESIDENT: f64 = 600.0;

pub(crate) async fn load(report: &mut Report, plan: Plan) -> Stage {
    let (nodes, instances) = (plan.engines, plan.instances);
    report.section(&format!("load: {nodes} nodes with {instances} instances are there when a captain starts"));
    let engines = stage::engines(plan).await;
    let (stage, ready) = Stage::up(&engines).await;
    report.note("all nodes healthy, all instances with details, s", format!("{:.1}", ready.took.as_secs_f64()));
    let each = ready.cpu.as_secs_f64() * 1e6 / instances as f64;
    report
        .note("processor time of the captain, s", format!("{:.1}; {each:.1} µs an instance", ready.cpu.as_secs_f64()));
    let counted = engines.counted();
    report
        .note("inspections, listings by the engines' count", format!("{}, {}", counted.inspections, counted.listings));
    let loaded = stage.rss();
    let resident = stage.rss_at_rest().await;
    let greatest = process::resident(stage.pid(), "VmHWM");
    let shown = format!("{resident:.0} ({loaded:.0} when it was ready, {greatest:.0} at the most)");
    report.at_most("resident, MiB", resident, RESIDENT, shown);
    report.note("connections that it keeps", engines.counted().connections);
    report.note("complaints in its log", stage.captain.logs().lines().count());
    stage
}
