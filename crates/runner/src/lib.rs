//! Captain's runner: pid 1 of an instance.
//!
//! ```text
//! captain-runner [option…] run TYPE           start a process type of the slug
//! captain-runner [option…] exec COMMAND ARG…  start any command as if it were one
//!
//!   --app-dir DIR      where the unpacked slug is                 /app
//!   --uid N --gid N    whom to become when started as root        5000 5000
//!   --grace SECONDS    from SIGTERM to SIGKILL, 1 to 3600         30
//!   --phase-file FILE  where to report the phase                  nowhere
//! ```
//!
//! # What it does, in this order
//!
//! 1. Blocks its signals, so that none is lost: pid 1 ignores what it does not ask for.
//! 2. Gives up every privilege ([`privileges`]): what follows runs as the instance's user.
//! 3. Reads `Procfile` and `.release` (rules: [`captain_domain::procfile`]). The Procfile wins over `default_process_types`.
//! 4. Makes the environment ([`environment`]): the caller's, the defaults of `config_vars` where the caller says nothing, `HOME`, `PATH`
//!    if there is none; without `SLUG_URL`, `PWD` and `OLDPWD`.
//! 5. Starts the command in a process group of its own ([`plan`]): in the app directory, by `bash -c` where the stack has bash, else by
//!    `sh -c`, after sourcing `.profile.d/*.sh`, the other files of `.profile.d` (each in byte order, hidden ones left out) and `.profile`.
//!    Unlike under the classic runners, a command that fails in such a file does not end the instance; a file that ends the *shell* does.
//!    Without any shell the command is split by the rules of [`words`] and executed directly; `.profile*` is then refused.
//! 6. Passes TERM, INT, HUP, QUIT, USR1, USR2 and WINCH on to the group, reaps what ends, and when the app has ended ends the rest:
//!    TERM, a grace, KILL ([`life`]).
//!
//! # Exit codes
//!
//! The app's own, or 128 + n if signal n killed it. Codes of the runner itself come with one sentence on stderr that begins with
//! `captain-runner: `, and with `by=runner` in the phase file, which tells them from an app that ends with the same number:
//!
//! | code | meaning |
//! | --- | --- |
//! | 64 | no such process type in the slug |
//! | 70 | the runner was called wrongly |
//! | 71 | the system refused something that every system grants (fork, signals) |
//! | 72 | the app directory is missing or cannot be entered |
//! | 74 | a file of the slug cannot be read |
//! | 77 | the privileges could not be given up, so nothing was started |
//! | 78 | `Procfile`, `.release` or the profile scripts are wrong, or need a shell that the stack does not have |
//! | 126, 127 | the command cannot be executed, is not there (as shells have it; bash says so itself) |
//!
//! 65 (bad archive), 66 (not found), 69 (not fetched) and 76 (checksum) belong to whoever fetches slugs; the runner never does.
//!
//! # Phases
//!
//! The file holds one line, replaced as a whole: `profile`, `starting`, `running`, `stopping`, `exited code=N by=app|runner`. Its
//! directory must be writable for the instance's user, so it is a report *of* the instance: good for people, not for decisions on trust.
//!
//! # Invariants
//!
//! One thread, no async runtime, no allocation that grows with time. Nothing but the app directory is needed: no `/etc`, `/dev`, `/proc`,
//! `/bin`. (`/proc` makes the end gentler, see [`reach`].) The environment's values are never written anywhere.

pub mod arguments;
pub mod environment;
mod failure;
pub mod life;
mod phase;
pub mod plan;
pub mod privileges;
pub mod reach;
mod slug;
mod spawn;
mod supervisor;
pub mod words;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use arguments::{Invocation, Order, Request};
pub use failure::Failure;
use phase::{By, Phase, PhaseFile};
use plan::{Plan, Shell, Task};
use slug::Slug;
use supervisor::{Progress, Signals};

/// Runs an instance from start to end.
///
/// `arguments` come without the program's name. Must be called before any thread is started.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let invocation = match arguments::parse(arguments) {
        Ok(Request::Run(invocation)) => invocation,
        Ok(Request::Help) => return help(),
        Err(error) => return ExitCode::from(say(&Failure::Usage(error))),
    };
    let mut phases = PhaseFile::new(invocation.phase_file.clone());
    let (code, by) = match run(invocation, environment, &mut phases) {
        Ok(code) => (code, By::App),
        Err(failure) => (say(&failure), By::Runner),
    };
    phases.report(Phase::Exited { code, by });
    ExitCode::from(code)
}

fn run(
    invocation: Invocation,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    phases: &mut PhaseFile,
) -> Result<u8, Failure> {
    let signals = Signals::block()?;
    privileges::give_up(invocation.uid, invocation.gid)?;
    let slug = Slug::enter(&invocation.app_dir)?;
    let release = slug.release()?;
    let task = match invocation.order {
        Order::Run(process_type) => Task::Command(slug.command(&process_type, &release)?),
        Order::Exec(words) => Task::Words(words),
    };
    let environment = environment::of_app(environment, &release.config_vars, &invocation.app_dir);
    let profile = slug.profile()?;
    let shell = Shell::find();
    // Without a shell the plan refuses the profile.
    let mut progress = match &shell {
        Some(shell) if !profile.is_empty() => Some(Progress::open(shell)?),
        _ => None,
    };
    let plan = Plan::new(&task, &profile, shell.as_ref(), &environment, progress.as_ref().map(Progress::number))?;
    phases.report(if profile.is_empty() { Phase::Starting } else { Phase::Profile });
    let child = supervisor::start(&plan, &environment, progress.as_mut())?;
    supervisor::Supervisor::new(child, signals, progress, invocation.grace, phases).watch(&profile)
}

/// Says on stderr what went wrong, in one line, and returns the code that stands for it.
fn say(failure: &Failure) -> u8 {
    let mut sentence = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        sentence.push_str(": ");
        sentence.push_str(&error.to_string());
        cause = error.source();
    }
    // Nobody is left to be told if stderr is closed; the code still says it.
    let _ = writeln!(std::io::stderr(), "captain-runner: {sentence}");
    failure.code()
}

fn help() -> ExitCode {
    match std::io::stdout().write_all(arguments::HELP.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
