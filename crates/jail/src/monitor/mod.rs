//! The monitor of one instance: a small process that owns the instance's output and exit code and outlives the server.
//!
//! It is the captain binary in a hidden role, started by [`crate::Jail::launch`] and detached at once: the process that was started
//! forks and ends, so the server has no child to wait for; the fork leads its own session. There it waits until it is told whose monitor
//! it is ([`orders`]), for no time as a rule, or in advance of its instance ([`crate::Jail::stand_by`]). From then on its whole life is
//! [`run::live`].
//!
//! It must be entered before any thread is started: it clones processes that go on with ordinary code.

mod orders;
mod pump;
mod rehearsal;
mod run;

pub(crate) use orders::Line;
pub(crate) use rehearsal::record_of as rehearsal_record;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use self::orders::Orders;
use crate::cgroup;
use crate::ground::Ground;
use crate::idmap::Blank;
use crate::init;
use crate::report::{Limitation, Mode};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Forked};

/// Called at each step with the instance's directory. For tests that kill at a step; the captain binary passes [`nothing`].
pub type OnStep = fn(&Path, Step);

/// The hook of the shipped binary.
pub fn nothing(_: &Path, _: Step) {}

/// Runs the hidden role: the arguments are what [`crate::Helper`] was told, followed by what `Jail` adds. Call it before any thread
/// starts, and return its result from `main`.
pub fn main(arguments: impl IntoIterator<Item = OsString>, on_step: OnStep) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let role = arguments.next().unwrap_or_default();
    let Some(shown) = arguments.next() else { return ExitCode::from(2) };
    let perform = match role.to_str() {
        Some("monitor") => detach,
        Some("rehearse") => rehearsal::perform,
        Some("template") => template,
        _ => return ExitCode::from(2),
    };
    match Orders::begin().and_then(|orders| perform(&shown, on_step, orders)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads this; if it is gone nobody needs it.
            let _ = speak(&mut std::io::stdout(), &error);
            ExitCode::FAILURE
        }
    }
}

fn speak(to: &mut impl Write, error: &SetupError) -> std::io::Result<()> {
    to.write_all(&serde_json::to_vec(error)?)?;
    to.flush()
}

/// Forks; the parent ends at once, and the child lives the monitor's life.
fn detach(shown: &std::ffi::OsStr, on_step: OnStep, mut orders: Orders) -> Result<(), SetupError> {
    let ground = orders.ground()?;
    let birthplace = ground.plan.birthplace().map(Path::to_owned);
    let (forked, born) = cgroup::fork(0, birthplace.as_deref()).attempt(Step::Detach, || "fork the monitor".into())?;
    match forked {
        Forked::Parent { .. } => Ok(()),
        Forked::Child => {
            let code = match become_daemon() {
                Ok(pipe) => {
                    wait(shown, on_step, Ready::get(ground, orders, birthplace.filter(|_| born).as_deref()), pipe)
                }
                Err(error) => {
                    let _ = speak(&mut std::io::stdout(), &error);
                    1
                }
            };
            sys::exit_now(code)
        }
    }
}

/// What a process says that has built a template. Anything else is an error, or its death.
pub(crate) const BUILT: &[u8] = b"built";

/// Builds what all roots have in common in mounts of its own, says so, and keeps them until the server holds them too.
fn template(_: &std::ffi::OsStr, _: OnStep, mut orders: Orders) -> Result<(), SetupError> {
    let ground = orders.ground()?;
    let (base, _) = orders.base()?;
    sys::copy_mounts().attempt(Step::Namespaces, || "copy the mounts".into())?;
    init::build(&base, &ground.mounts.join("root"), |_| {})?;
    let mut server = std::io::stdout();
    let told = server.write_all(BUILT).and_then(|()| server.flush());
    // Closes it, which ends what is told.
    told.and_then(|()| silence()).attempt(Step::Root, || "tell the server".into())?;
    orders.end()
}

/// A monitor that can begin: what every start needs and no instance decides has been done.
struct Ready {
    ground: Ground,
    orders: Orders,
    /// `None` where there is none to be had.
    owners: Option<Blank>,
    limitation: Option<Limitation>,
}

impl Ready {
    fn get(ground: Ground, orders: Orders, born: Option<&Path>) -> Self {
        let limitation = ground.plan.leave_service(born);
        let owners = blank(&ground);
        Self { ground, orders, owners, limitation }
    }
}

/// For the translation of the slug's owner, of which only root is capable.
fn blank(ground: &Ground) -> Option<Blank> {
    (ground.mode == Mode::Root).then(|| Blank::make().ok()).flatten()
}

/// Until it is told whose monitor it is. Nothing has to be undone if it never is.
fn wait(shown: &std::ffi::OsStr, on_step: OnStep, mut ready: Ready, mut pipe: Pipe) -> i32 {
    match ready.orders.place() {
        Ok(Some(dir)) => {
            if dir.as_os_str() != shown {
                // Only those who list processes miss it.
                let _ = sys::show_as_last_argument(shown.len(), dir.as_os_str().as_bytes());
            }
            run::live(&dir, on_step, ready, pipe)
        }
        Ok(None) => 0,
        Err(error) => {
            let _ = speak(&mut pipe, &error);
            1
        }
    }
}

/// What the server waits on: the end of this pipe says "look now"; a text in it is an error that could not be written to the state.
type Pipe = File;

/// Leaves the server's session and streams. The pipe that was standard output is handed back.
fn become_daemon() -> Result<Pipe, SetupError> {
    let step = Step::Detach;
    rustix::process::setsid().attempt(step, || "begin a session".into())?;
    // Whoever shuts the machine down signals everybody: the instance gets its own, and the monitor stays to see how it ends.
    for signal in
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2]
    {
        sys::ignore_signal(signal);
    }
    // Instances read their own control groups; the files that are nobody's business are made with modes of their own, in a folder of 0700.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    std::env::set_current_dir("/").attempt(step, || "enter /".into())?;
    // A name of its own in `ps`; it cannot fail with so short a constant.
    let _ = rustix::thread::set_name(c"captain-monitor");
    let pipe: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
        .attempt(step, || "keep the pipe to the server".into())?;
    silence().attempt(step, || "open /dev/null".into())?;
    sys::close_on_exec_from(3).attempt(step, || "close other descriptors".into())?;
    Ok(pipe.into())
}

fn silence() -> std::io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}
