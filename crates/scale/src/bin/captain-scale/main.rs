//! `captain-scale [SECTION…]`: what the real server bears, on simulated engines. SPEC.md has the promises.
//!
//! The engines are in this process, `captain serve` is another, started as a user would start it; both, and the client that
//! measures, share the machine's processors. So a latency here includes what the simulation costs.
//!
//! ```text
//! cargo build --release -p captain && cargo run --release -p captain-scale --bin captain-scale -- load read
//! captain-scale engines 300 30000          # only the engines, until it is stopped; prints DOCKER_NODES
//! ```
//!
//! `CAPTAIN_BIN` names another captain than the one beside it. `SCALE_NODES` and `SCALE_INSTANCES` make it smaller, to try
//! it out. Needs root, for more open files than a process is usually given. Ends with 1 when a bound is missed, with 2 when it is
//! called wrongly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and its output is its purpose"
)]

mod load;
mod process;
mod read;
mod stage;

use std::process::ExitCode;

use captain_scale::engines::{DOCKER_PORT, Engines, Plan};
use captain_scale::figures::Report;

/// The sections, in the order in which they run.
const SECTIONS: [&str; 2] = ["load", "read"];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if asked.iter().any(|argument| ["-h", "--help"].contains(&argument.as_str())) {
        println!("usage: captain-scale [SECTION…]   all of them, or some of: {}", SECTIONS.join(", "));
        println!("       captain-scale engines NODES INSTANCES");
        return ExitCode::SUCCESS;
    }
    captain_scale::allow_open_files(400_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let [command, nodes, instances] = asked.as_slice()
        && command == "engines"
    {
        runtime.block_on(only_engines(nodes, instances));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = asked.iter().find(|section| !SECTIONS.contains(&section.as_str())) {
        eprintln!("captain-scale: there is no section '{unknown}'; there are: {}", SECTIONS.join(", "));
        return ExitCode::from(2);
    }
    if cfg!(debug_assertions) && std::env::var_os("CAPTAIN_BIN").is_none() {
        eprintln!("captain-scale: this is a debug build, and so is the captain beside it: build both with --release");
        return ExitCode::from(2);
    }
    println!("{}", process::machine());
    let wanted = |section: &str| asked.is_empty() || asked.iter().any(|asked| asked == section);
    let mut report = Report::default();
    runtime.block_on(run(&mut report, wanted));
    report.end()
}

async fn run(report: &mut Report, wanted: impl Fn(&str) -> bool) {
    if wanted("load") || wanted("read") {
        let stage = load::load(report).await;
        if wanted("read") {
            read::read(report, &stage).await;
        }
    }
}

async fn only_engines(nodes: &str, instances: &str) {
    let plan = Plan::of(nodes.parse().unwrap(), instances.parse().unwrap());
    let engines = Engines::serve(plan, Some(DOCKER_PORT)).await;
    println!("DOCKER_NODES={}", engines.list());
    let mut before = None;
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        let now = engines.counted();
        if before.replace(now) != Some(now) {
            eprintln!("{now:?}");
        }
    }
}
