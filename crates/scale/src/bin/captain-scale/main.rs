//! `captain-scale [SECTION…]`: what the real server bears, on simulated engines. SPEC.md has the promises.
//!
//! The engines are in this process, `captain serve` is another, started as a user would start it; both, and the client that
//! measures, share the machine's processors. So a latency here includes what the simulation costs.
//!
//! ```text
//! cargo build --release -p captain && cargo run --release -p captain-scale --bin captain-scale -- load read
//! ```
//!
//! `CAPTAIN_BIN` names another captain than the one beside it. Needs root, for more open files than a process is usually given and
//! for a network of its own. Ends with 1 when a bound is missed, with 2 when it is called wrongly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and its output is its purpose"
)]

mod events;
mod load;
mod read;
mod reserve;
mod resident;
mod restart;
mod stage;
mod starts;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use captain_e2e::figures::Report;
use captain_e2e::process;
use captain_scale::engines::{DOCKER_PORT, Engines, Plan};
use captain_server::open_files;
use clap::{Parser, ValueEnum};

/// What the real server bears, on simulated engines.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sections; by default all of them
    sections: Vec<Section>,
    /// Another number of nodes than is promised, to try it out
    #[arg(long, default_value_t = load::NODES)]
    nodes: u32,
    /// Another number of instances than is promised
    #[arg(long, default_value_t = load::INSTANCES)]
    instances: u64,
    /// Measure nothing: serve the engines until stopped, for a captain that is started by hand
    #[arg(long)]
    only_engines: bool,
    /// Stay in the host's network, where its packet filter looks at every packet (some 5 % of a start)
    #[arg(long)]
    host_network: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Load,
    Read,
    Events,
    Starts,
    Restart,
    Reserve,
    Resident,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.host_network && !arguments.only_engines {
        return again_in_a_network_of_its_own();
    }
    let open_files = open_files::limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if arguments.only_engines {
        runtime.block_on(only_engines(Plan::of(arguments.nodes, arguments.instances)));
        return ExitCode::SUCCESS;
    }
    println!("{}\nopen files that a process may have here: {open_files}", process::machine());
    if cfg!(debug_assertions) {
        println!("**a debug build: its figures say nothing**");
    }
    let mut report = Report::on("simulated engines");
    runtime.block_on(run(&mut report, &arguments));
    report.end()
}

/// Becomes the same program in a network that has the loopback device alone. Returns where that cannot be.
fn again_in_a_network_of_its_own() -> ExitCode {
    let itself = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", r#"ip link set lo up && exec "$0" --host-network "$@""#]);
    let error = command.arg(itself).args(std::env::args_os().skip(1)).exec();
    eprintln!("no network of its own by `unshare`: {error}");
    ExitCode::from(2)
}

async fn run(report: &mut Report, arguments: &Arguments) {
    let wanted = |section| arguments.sections.is_empty() || arguments.sections.contains(&section);
    if [Section::Load, Section::Read, Section::Events].into_iter().any(wanted) {
        let stage = load::load(report, Plan::of(arguments.nodes, arguments.instances)).await;
        if wanted(Section::Read) {
            read::read(report, &stage).await;
        }
        if wanted(Section::Events) {
            events::events(report, &stage).await;
        }
        stage.end().await;
    }
    if wanted(Section::Starts) {
        starts::starts(report).await;
    }
    if wanted(Section::Restart) {
        restart::restart(report).await;
    }
    if wanted(Section::Reserve) {
        reserve::reserve(report, arguments.nodes, arguments.instances);
    }
    if wanted(Section::Resident) {
        resident::resident(report, arguments.nodes, arguments.instances).await;
    }
}

async fn only_engines(plan: Plan) {
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
