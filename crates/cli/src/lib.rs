//! Captain's client commands: what `captain ps`, `start`, `stop`, … do.
//!
//! A command is a file: its arguments, and one function that asks the server and prints. All of them speak through one [`Printer`]
//! and end in one [`Exit`]. What holds for all:
//!
//! - stdout is data, stderr is talk. With `--json`, stdout is the server's own JSON, fields unknown to this version included.
//! - Nothing moves and nothing is coloured unless a person looks at it on a terminal.
//! - A failure is one sentence, the server's where it has one, with its `help:`; and one of the documented exit codes.
//! - The environment is read by clap alone, and the server is never linked.

mod age;
mod connection;
mod environment;
mod exit;
mod printer;
pub mod progress;
mod table;

mod claims;
mod completions;
mod logs;
mod man;
mod nodes;
mod ps;
mod slug;
mod start;
mod stop;
mod summary;

use std::process::ExitCode;

pub use exit::{EXIT_CODES, Exit, Failure};
pub use printer::{Printer, Tint};

/// A client command. The binary flattens these beside its own.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List instances
    Ps(ps::Args),
    /// Start an instance and print its id
    Start(start::Args),
    /// Stop instances and print their ids
    Stop(stop::Args),
    /// Print the log of an instance
    Logs(logs::Args),
    /// List nodes and their slots
    Nodes(nodes::Args),
    /// Count the running instances of each app
    Summary(summary::Args),
    /// List the starts that are under way
    Claims(claims::Args),
    /// Make slugs and look into them
    #[command(subcommand)]
    Slug(slug::SlugCommand),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Print the manual, or write all its pages
    Man(man::Args),
}

/// Carries a command out. `whole` is the command line of the whole binary, for its completions and its manual.
pub fn run(command: Command, whole: clap::Command) -> ExitCode {
    let mut printer = Printer::of_this_process();
    // One thread: a client waits, it does not compute; and the process has started none before.
    let exit = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(execute(command, whole, &mut printer));
            // A look-up of a name that hangs in a thread of its own must not hold the exit up.
            runtime.shutdown_background();
            exit::report(ended, &mut printer)
        }
        Err(source) => exit::report(Err(Failure::Runtime { source }), &mut printer),
    };
    exit.into()
}

async fn execute(command: Command, whole: clap::Command, printer: &mut Printer) -> Result<Exit, Failure> {
    match command {
        Command::Ps(args) => ps::run(args, printer).await,
        Command::Start(args) => start::run(args, printer).await,
        Command::Stop(args) => stop::run(args, printer).await,
        Command::Logs(args) => logs::run(args, printer).await,
        Command::Nodes(args) => nodes::run(&args, printer).await,
        Command::Summary(args) => summary::run(&args, printer).await,
        Command::Claims(args) => claims::run(args, printer).await,
        Command::Slug(command) => slug::run(command, printer).await,
        Command::Completions(args) => completions::run(&args, whole, printer),
        Command::Man(args) => man::run(args, whole, printer),
    }
}
