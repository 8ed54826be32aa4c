//! The instance's first process, from its birth in the new namespaces to the program that it executes.
//!
//! It runs code of ours until `exec`, with powers that shrink step by step. It never returns: on failure it tells the monitor through
//! the pipe, and ends. The order is the design (each line needs the ones before it):
//!
//! (as a user: wait until the uid is mapped) → enter the control groups → cgroup namespace (so that the groups look like the top) → clone
//! what is to be seen of the host → go into the common root (which is copied, or built) → mount the instance's own → limits, keyring →
//! bounding set, uid, capabilities → parent-death signal (again: changing the uid clears it) → no new privileges → Landlock → streams →
//! every other descriptor close-on-exec → seccomp (last: it forbids most of the above) → exec.

mod common;
mod privileges;
mod root;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

pub(crate) use self::common::{Template, build};
use crate::cgroup::Groups;
use crate::ground::Briefing;
use crate::report::{Limitation, Mode};
use crate::setup::{Attempt, SetupError, Step};
use crate::spec::Record;
use crate::{seccomp, sys};

/// Everything that the first process needs, prepared by the monitor.
pub(crate) struct Order<'a> {
    pub(crate) record: &'a Record,
    pub(crate) briefing: &'a Briefing,
    /// An empty folder on which the root is mounted.
    pub(crate) root: PathBuf,
    /// What all roots have in common, where that is prepared: then this process shares its mounts with the monitor until it moves there.
    pub(crate) template: Option<&'a Template>,
    /// The instance's control groups, shown to it read-only: run-times read their limits there.
    pub(crate) groups: &'a Groups,
    /// Whether it was born in the one of version 2.
    pub(crate) born_inside: bool,
    /// Translates the owner of the slug's files; `None` where that is not possible.
    pub(crate) owners: Option<OwnedFd>,
    /// Whether pids are limited by no group, so that RLIMIT_NPROC must do.
    pub(crate) limit_pids_by_rlimit: bool,
    /// A rehearsal ends where the program would begin.
    pub(crate) rehearsal: bool,
    pub(crate) on_step: fn(&std::path::Path, Step),
    pub(crate) dir: &'a std::path::Path,
}

/// The ends of the pipes that the first process holds.
pub(crate) struct Ends {
    /// Becomes readable when the monitor has mapped the user, and ends when the monitor dies.
    pub(crate) go: OwnedFd,
    /// Messages to the monitor; closed by a successful exec.
    pub(crate) messages: OwnedFd,
    /// A counter that is raised when all is prepared: if the messages end then without another word, the program has begun. If they end
    /// before, the process was killed. No message of its own, because that would wake the monitor, at the worst moment: it is the exec that
    /// is to go on.
    pub(crate) ready: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What the first process tells the monitor, one JSON text a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Limited(Limitation),
    Failed(SetupError),
}

impl Order<'_> {
    fn mode(&self) -> Mode {
        self.briefing.ground.mode
    }

    fn enter(&self, step: Step) {
        (self.on_step)(self.dir, step);
    }

    /// Runs the first process; its end is the end of this process.
    pub(crate) fn carry_out(self, ends: Ends) -> ! {
        let mut messages = std::fs::File::from(ends.messages);
        let outcome = self
            .prepare(ends.go, &ends.stdout, &ends.stderr, &mut messages)
            .and_then(|()| {
                // In the form that the kernel wants of a counter.
                let raised = rustix::io::write(&ends.ready, &1u64.to_ne_bytes());
                raised.map(drop).attempt(Step::Exec, || "tell the monitor".into())
            })
            .and_then(|()| if self.rehearsal { Ok(()) } else { Err(self.execute()) });
        match outcome {
            Ok(()) => sys::exit_now(0),
            Err(error) => {
                // The monitor is gone if this cannot be written, and with it whoever would read.
                let _ = tell(&mut messages, &Message::Failed(error));
                sys::exit_now(127)
            }
        }
    }

    fn prepare(
        &self,
        go: OwnedFd,
        stdout: &OwnedFd,
        stderr: &OwnedFd,
        messages: &mut std::fs::File,
    ) -> Result<(), SetupError> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .attempt(Step::Namespaces, || "tie the instance to its monitor".into())?;
        self.enter(Step::Join);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        // The monitor ignores signals, which a program would inherit: it could not be stopped politely.
        sys::default_signals();
        let mut go = std::fs::File::from(go);
        if self.mode() == Mode::User {
            // Until the monitor has mapped its uid, this process is nobody and its files cannot be owned.
            wait_for_go(&mut go).attempt(Step::Join, || "wait for the monitor".into())?;
        }
        self.groups.enter(self.born_inside).attempt(Step::Join, || "enter the control groups".into())?;
        self.enter(Step::Namespaces);
        // Without a session of its own it could be reached through the monitor's.
        rustix::process::setsid().attempt(Step::Namespaces, || "begin a session".into())?;
        sys::leave_cgroup_namespace().attempt(Step::Namespaces, || "make a cgroup namespace".into())?;
        rustix::system::sethostname(self.record.spec.hostname.as_bytes())
            .attempt(Step::Namespaces, || "set the host name".into())?;
        for limitation in self.build_root()? {
            tell(messages, &Message::Limited(limitation)).attempt(Step::Pivot, || "tell the monitor".into())?;
        }
        self.enter(Step::Privileges);
        self.limit_and_drop()?;
        // A monitor that died before the signal was (again) tied to it has closed its end of this pipe.
        still_watched(&go).attempt(Step::Privileges, || "check that the monitor lives".into())?;
        drop(go);
        rustix::thread::set_no_new_privs(true).attempt(Step::Privileges, || "forbid new privileges".into())?;
        if let Err(error) = sys::landlock_scope() {
            let reason = match error.raw_os_error() {
                // The kernel does not know the last field.
                Some(libc::E2BIG) => "this kernel's Landlock has no scopes (6.12 has)".to_owned(),
                _ => format!("Landlock scopes: {error}"),
            };
            let limitation = Limitation::AbstractSockets { reason };
            tell(messages, &Message::Limited(limitation)).attempt(Step::Privileges, || "tell the monitor".into())?;
        }
        self.enter(Step::Filter);
        take_streams(stdout, stderr).attempt(Step::Filter, || "set up the standard streams".into())?;
        sys::close_on_exec_from(3).attempt(Step::Filter, || "close other descriptors".into())?;
        self.enter(Step::Exec);
        seccomp::install().attempt(Step::Filter, || "install the seccomp filter".into())
    }

    /// Returns only when it fails. The standard library sets the signal mask and SIGPIPE back to what programs expect.
    fn execute(&self) -> SetupError {
        let spec = &self.record.spec;
        let Some((program, arguments)) = spec.argv.split_first() else {
            return SetupError {
                step: Step::Exec,
                attempt: "execute the program".into(),
                errno: None,
                reason: "argv is empty".into(),
            };
        };
        let error = Command::new(program).args(arguments).env_clear().envs(&spec.env).exec();
        SetupError {
            step: Step::Exec,
            attempt: format!("execute {program:?}"),
            errno: error.raw_os_error(),
            reason: error.to_string(),
        }
    }
}

fn tell(messages: &mut std::fs::File, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    messages.write_all(&line)
}

fn wait_for_go(go: &mut std::fs::File) -> io::Result<()> {
    let mut byte = [0];
    match go.read(&mut byte)? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn still_watched(go: &std::fs::File) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut ends = [PollFd::new(go, PollFlags::IN)];
    poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if ends[0].revents().contains(PollFlags::HUP) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
}

/// The monitor's own 0 to 2 are /dev/null already: only the outputs change.
fn take_streams(stdout: &OwnedFd, stderr: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(stdout)?;
    rustix::stdio::dup2_stderr(stderr)?;
    Ok(())
}
