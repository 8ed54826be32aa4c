//! `captain-sim`: runs seeds, and replays one that failed.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use captain_sim::{Mutation, Plan, Report, Scenario, Strike, run};
use clap::Parser;

/// Captain's production code over simulated engines, in virtual time
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone, and show what happens
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Take this part of Captain out
    #[arg(long, value_enum, default_value_t)]
    mutation: Mutation,
    /// No faults: sixteen captains, and far more starts than slots
    #[arg(long)]
    rush: bool,
    /// Nothing but one start and one stop: the captain dies before this step
    #[arg(long, conflicts_with = "rush", requires = "seed")]
    strike: Option<u64>,
    /// The steps of the stop are counted, not those of the start
    #[arg(long, requires = "strike")]
    in_stop: bool,
    /// The captain is only stopped for a while
    #[arg(long, requires = "strike")]
    pause: bool,
    /// The engine keeps no names
    #[arg(long, requires = "strike")]
    nameless: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for the terminal")]
fn main() -> ExitCode {
    let args = Args::parse();
    let scenario = match args.strike {
        Some(step) => {
            Scenario::Strike(Strike { step, in_stop: args.in_stop, pause: args.pause, names: !args.nameless })
        }
        None if args.rush => Scenario::Rush,
        None => Scenario::Anything,
    };
    let play = |seed, readable| run(Plan::draw(seed, scenario, args.mutation), scenario, readable);
    if let Some(seed) = args.seed {
        return match play(seed, true) {
            Ok(report) => {
                for line in &report.lines {
                    println!("{line}");
                }
                println!("{:#?}\n{:?}\nhash {:016x}, {} steps", report.plan, report.counts, report.hash, report.steps);
                conclude(scenario, &report)
            }
            Err(error) => {
                eprintln!("captain-sim: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(args.from), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= args.from.saturating_add(args.seeds) {
                        return;
                    }
                    match play(seed, false) {
                        Ok(report) if report.violation.is_none() => {}
                        Ok(report) => {
                            failed.store(true, Ordering::Relaxed);
                            conclude(scenario, &report);
                        }
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            eprintln!("captain-sim: seed {seed}: {error}");
                        }
                    }
                }
            });
        }
    });
    println!("{} seeds from {} in {:.1?}", args.seeds, args.from, begun.elapsed());
    if failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[expect(clippy::print_stdout, reason = "a tool for the terminal")]
fn conclude(scenario: Scenario, report: &Report) -> ExitCode {
    let Some(violation) = &report.violation else { return ExitCode::SUCCESS };
    println!("seed {} violates {violation}\n  replay: {}", report.plan.seed, report.plan.command(scenario));
    ExitCode::FAILURE
}
