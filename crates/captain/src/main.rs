//! The `captain` binary: picks its role before any thread starts.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Starts, stops and watches slugs on a cluster of servers that you own.
#[derive(Debug, Parser)]
#[command(name = "captain", version, arg_required_else_help = true, after_help = captain_cli::EXIT_CODES)]
struct Captain {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run the server
    Serve(Box<captain_server::config::ServeArgs>),
    #[command(flatten)]
    Client(captain_cli::Command),
}

fn main() -> ExitCode {
    // The one provider of TLS, for the client and for engines. Only a second call could fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Captain::parse().role {
        Role::Serve(args) => captain_server::serve(*args),
        Role::Client(command) => captain_cli::run(command, Captain::command()),
    }
}
