//! Reads: their rate, and that a node that hangs does not change it.

use std::time::Duration;

use captain_e2e::eventually;
use captain_e2e::figures::{Report, Series};
use captain_e2e::process;

use crate::hundred::Hundred;
use crate::wrk::{Bare, load};

const ROUNDS: usize = 6;

/// Requests a second.
const LIST: f64 = 10_000.0;
const ONE: f64 = 40_000.0;

/// Beside the rate with all nodes well.
const HUNG: f64 = 0.95;

#[derive(Debug, Default)]
struct Rates {
    list: Series,
    list_cpu: Series,
    bare_list: Series,
    one: Series,
    one_cpu: Series,
    bare_one: Series,
    list_before: Series,
    list_as_it_hangs: Series,
    list_hung: Series,
    list_after: Series,
    /// Captain's processor time a request: what a hung node costs, whatever the machine's mood.
    cpu_well: Series,
    cpu_hung: Series,
    bare_list_hung: Series,
    one_hung: Series,
    /// Of the answer with a hung node: its instances say what is wrong with it, which makes it longer.
    bytes_hung: usize,
}

pub(crate) async fn read(report: &mut Report, hundred: &Hundred) {
    report.section(
        "read: requests a second, 100 instances, wrk on the same machine; the yardstick sends the same bytes unread",
    );
    let one = format!("/instances/{}", hundred.id);
    let body = hundred.captain.get("/instances/").await.expect(200).body;
    let body_of_one = hundred.captain.get(&one).await.expect(200).body;
    let (bare_list, bare_one) = (Bare::serving(&body).await, Bare::serving(&body_of_one).await);
    let mut rates = Rates::default();
    for _ in 0..ROUNDS {
        well(&mut rates, hundred, &one, [&bare_list, &bare_one]).await;
        hanging(&mut rates, hundred, &one).await;
    }
    report.note("bytes of GET /instances/, of one instance", format!("{}, {}", body.len(), body_of_one.len()));
    say(report, &rates);
    process::rest(&[hundred.captain.pid()]).await;
    report.note("resident after all that", format!("{:.1} MiB", process::memory(hundred.captain.pid(), "Rss")));
}

async fn well(rates: &mut Rates, hundred: &Hundred, one: &str, [bare_list, bare_one]: [&Bare; 2]) {
    let (captain, pid) = (hundred.captain.address(), hundred.captain.pid());
    let list = load(captain, "/instances/", pid).await;
    rates.list.push(list.rate);
    rates.list_cpu.push(list.cpu);
    rates.bare_list.push(bare_list.rate().await);
    let one = load(captain, one, pid).await;
    rates.one.push(one.rate);
    rates.one_cpu.push(one.cpu);
    rates.bare_one.push(bare_one.rate().await);
}

/// Both while the calls of the node hang, which nobody knows yet, and when the node is known to be lost.
///
/// Its own rate is that of before and of after, since the machine's mood changes within a round; and each is the second of two loads,
/// for what comes first after the wait in between is slower, the yardstick too.
async fn hanging(rates: &mut Rates, hundred: &Hundred, one: &str) {
    let (captain, pid) = (hundred.captain.address(), hundred.captain.pid());
    let list = async || {
        load(captain, "/instances/", pid).await;
        load(captain, "/instances/", pid).await
    };
    let node = hundred.lease.node(2);
    let before = list().await;
    node.hang();
    rates.list_as_it_hangs.push(load(captain, "/instances/", pid).await.rate);
    let healthy = async || hundred.captain.node(&node.name).await["state"] == "healthy";
    eventually("the hung node to be noticed", Duration::from_secs(60), || async { (!healthy().await).then_some(()) })
        .await;
    let body = hundred.captain.get("/instances/").await.expect(200).body;
    let bare = Bare::serving(&body).await;
    rates.bytes_hung = body.len();
    let hung = list().await;
    rates.bare_list_hung.push(bare.rate().await);
    rates.one_hung.push(load(captain, one, pid).await.rate);
    node.wake();
    eventually("the node to be well again", Duration::from_secs(60), || async { healthy().await.then_some(()) }).await;
    process::rest(&[pid]).await;
    let after = list().await;
    rates.list_before.push(before.rate);
    rates.list_hung.push(hung.rate);
    rates.list_after.push(after.rate);
    rates.cpu_well.push(f64::midpoint(before.cpu, after.cpu));
    rates.cpu_hung.push(hung.cpu);
}

fn say(report: &mut Report, rates: &Rates) {
    report.at_least("GET /instances/", rates.list.median(), LIST, rates.list.shown(0));
    report.note("  yardstick", rates.bare_list.shown(0));
    report.note("  of the yardstick", rates.list.over(&rates.bare_list).shown(2));
    report.note("  Captain's processor time a request, us", rates.list_cpu.shown(1));
    report.at_least("GET of one", rates.one.median(), ONE, rates.one.shown(0));
    report.note("  yardstick", rates.bare_one.shown(0));
    report.note("  of the yardstick", rates.one.over(&rates.bare_one).shown(2));
    report.note("  Captain's processor time a request, us", rates.one_cpu.shown(1));
    let own = rates.list_before.midpoint(&rates.list_after);
    for (name, hung, own) in [
        ("GET /instances/ as a node hangs, of its own rate", &rates.list_as_it_hangs, &rates.list_before),
        ("GET /instances/ with a hung node", &rates.list_hung, &own),
        ("GET of one with a hung node", &rates.one_hung, &rates.one),
    ] {
        let ratio = hung.over(own);
        report.at_least(name, ratio.median(), HUNG, ratio.shown(2));
    }
    report.note("  the rate after it over before", rates.list_after.over(&rates.list_before).shown(2));
    report.note("  processor time a request, of its own", rates.cpu_hung.over(&rates.cpu_well).shown(2));
    report.note("bytes of GET /instances/ with a hung node", rates.bytes_hung);
    let longer = rates.bare_list_hung.over(&rates.bare_list);
    report.note("the yardstick with those bytes, of its own rate", longer.shown(2));
}
