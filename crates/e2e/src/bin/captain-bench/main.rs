//! `captain-bench [SECTION…]`: what Captain costs beside the engine it drives, and how fast it answers. SPEC.md has the promises.
//!
//! Milliseconds say little on a machine that others use too. So every figure stands beside its yardstick: the least that anybody
//! could do for the same result, done in the same minute, in turns. The ratio of the two is what is promised. Where a promise is a
//! rate, the yardstick tells whether it was Captain or the machine that was slow. What can be counted is counted by tests.
//!
//! ```text
//! cargo build --release -p captain && cargo run --release -p captain-e2e --bin captain-bench
//! ```
//!
//! Needs root, for the engines of `scripts/cluster`, and `wrk`. `CAPTAIN_BIN` names another captain than the one beside it. Ends with 1 when a bound is missed, with 2 when it is called wrongly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and its output is its purpose"
)]

mod changes;
mod embedded;
mod faults;
mod hundred;
mod memory;
mod read;
mod slugs;
mod stage;
mod wire;
mod wrk;

use std::process::ExitCode;

use captain_e2e::figures::Report;
use captain_e2e::process;
use hundred::Hundred;

/// The sections, in the order in which they run.
const SECTIONS: [&str; 12] =
    ["start", "stop", "parallel", "warm", "cold", "pages", "memory", "read", "faults", "recovery", "embedded", "many"];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.iter().any(|argument| ["-h", "--help"].contains(&argument.as_str())) {
        println!("usage: captain-bench [SECTION…]   all of them, or some of: {}", SECTIONS.join(", "));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = asked.iter().find(|section| !SECTIONS.contains(&section.as_str())) {
        eprintln!("captain-bench: there is no section '{unknown}'; there are: {}", SECTIONS.join(", "));
        return ExitCode::from(2);
    }
    let wanted = |section: &str| asked.is_empty() || asked.iter().any(|asked| asked == section);
    if cfg!(debug_assertions) && std::env::var_os("CAPTAIN_BIN").is_none() {
        eprintln!(
            "captain-bench: this is a debug build, and so would be the captain beside it: build both with --release"
        );
        return ExitCode::from(2);
    }
    if wanted("read") && !wrk::is_there() {
        eprintln!("captain-bench: the section read needs wrk: apt-get install wrk");
        return ExitCode::from(2);
    }
    println!("{}", process::machine());
    let mut report = Report::on("real engines");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&mut report, wanted));
    report.end()
}

async fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) {
    if wanted("start") {
        changes::start(report).await;
    }
    if wanted("stop") {
        changes::stop(report).await;
    }
    if wanted("parallel") {
        changes::parallel(report).await;
    }
    if wanted("warm") {
        slugs::warm(report).await;
    }
    if wanted("cold") {
        slugs::cold(report).await;
    }
    if wanted("pages") {
        slugs::pages(report).await;
    }
    if wanted("memory") {
        memory::idle(report).await;
    }
    if wanted("embedded") {
        embedded::embedded(report).await;
    }
    if wanted("many") {
        embedded::many(report).await;
    }
    if wanted("memory") || wanted("read") {
        let hundred = Hundred::up().await;
        if wanted("memory") {
            memory::of_hundred(report, &hundred).await;
        }
        if wanted("read") {
            read::read(report, &hundred).await;
        }
    }
    if wanted("faults") {
        faults::hung(report).await;
    }
    if wanted("recovery") {
        faults::recovery(report).await;
    }
}
