//! The `captain` binary: picks its role before any thread starts.

mod demo;
mod monitor;

use std::io::Write as _;
use std::process::ExitCode;

use captain_server::Carried;
use clap::error::{ContextKind, ContextValue};
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
    /// Bring an example slug up on this machine, and show what was done
    Demo,
    #[command(flatten)]
    Client(Box<captain_cli::Command>),
}

/// The C library's allocator lets threads wait for one another where one frees what another allocated, as a server's do all the time:
/// a third of the processor time of a start. This one also leaves less of the memory of two million instances unused.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What begins every instance: static, built by `build.rs`.
const RUNNER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-runner"));

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == monitor::ROLE).is_some() {
        return captain_jail::monitor::main(arguments, captain_jail::monitor::nothing);
    }
    if arguments.next_if(|first| first == demo::lifeline::SERVE).is_some() {
        return demo::lifeline::serve(arguments);
    }
    if arguments.next_if(|first| first == demo::lifeline::GUARD).is_some() {
        return demo::lifeline::guard(arguments);
    }
    // The one provider of TLS, for the client and for engines. Only a second call could fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let captain = Captain::try_parse().unwrap_or_else(|error| refuse(&error));
    match captain.role {
        Role::Serve(args) => captain_server::serve(*args, Carried { runner: RUNNER, monitor: monitor::helper() }),
        Role::Demo => demo::run(),
        Role::Client(command) => captain_cli::run(*command, Captain::command()),
    }
}

/// Ends with clap's message. Where a value came from the environment, that names a flag which nobody typed: the variable is added.
fn refuse(error: &clap::Error) -> ! {
    let _ = error.print();
    if let Some(variable) = variable_of(error) {
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "\nThe variable {variable} sets it as well.");
    }
    std::process::exit(error.exit_code())
}

fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = shown.strip_prefix("--")?.split_whitespace().next()?;
    let command = Captain::command();
    let mut arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let argument = arguments.find(|argument| argument.get_long() == Some(flag) && argument.get_env().is_some())?;
    argument.get_env().map(|variable| variable.to_string_lossy().into_owned())
}
