//! The client commands alone, without the server: the smallest binary that can talk to a captain, and the one that this crate's
//! tests run.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// Talk to a captain
#[derive(Debug, Parser)]
#[command(name = "captain", version, after_long_help = captain_cli::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: captain_cli::Command,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    captain_cli::run(arguments.command, Arguments::command())
}
