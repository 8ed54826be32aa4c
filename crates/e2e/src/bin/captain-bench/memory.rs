//! The memory of a captain that has nothing to do.

use captain_e2e::captain::{Captain, Settings};
use captain_e2e::cluster::lease_on_tcp;
use captain_e2e::figures::Report;
use captain_e2e::process;

use crate::hundred::Hundred;

/// MiB of a captain without instances.
const IDLE: f64 = 25.0;

pub(crate) async fn idle(report: &mut Report) {
    report.section("memory: of a captain at rest, three nodes, resident (and its share of what is shared)");
    let lease = lease_on_tcp(3).await;
    let captain = Settings::of(&lease).start().await;
    let (resident, shown) = at_rest(&captain).await;
    report.at_most("no instances", resident, IDLE, shown);
}

pub(crate) async fn of_hundred(report: &mut Report, hundred: &Hundred) {
    let (_, shown) = at_rest(&hundred.captain).await;
    report.note("100 instances, after starting them", shown);
    let fresh = Settings::of(&hundred.lease).start().await;
    let (_, shown) = at_rest(&fresh).await;
    report.note("100 instances, found at its start", shown);
}

async fn at_rest(captain: &Captain) -> (f64, String) {
    process::rest(&[captain.pid()]).await;
    let (resident, share) = (process::memory(captain.pid(), "Rss"), process::memory(captain.pid(), "Pss"));
    (resident, format!("{resident:.1} MiB ({share:.1} MiB)"))
}
