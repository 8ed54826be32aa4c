//! Starting the app and watching it: turns signals, deaths and reports into events of [`Life`] and does what it says.
//!
//! Signals are blocked from the beginning and read from a descriptor, so there are no handlers and no races with them. They stay blocked
//! while the app is started: `std::process::Command` would let the child inherit that, so `posix_spawn` is asked for an empty mask.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpgrp, pipe2, read, tcgetpgrp, tcsetpgrp};
use rustix::process::{WaitOptions, wait};

use crate::Failure;
use crate::environment::Variables;
use crate::failure::system;
use crate::life::{Action, End, Event, Life};
use crate::phase::{Phase, PhaseFile};
use crate::plan::{ALL_SOURCED, Plan, SOURCED, Shell};
use crate::reach::Reach;
use crate::spawn::{Inherited, spawn};

const PASSED_ON: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// The blocked signals and where they can be read.
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn block() -> Result<Self, Failure> {
        let mut set: SigSet = PASSED_ON.into_iter().collect();
        set.add(Signal::SIGCHLD);
        set.thread_block().map_err(system("block the signals"))?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        descriptor.map(Self).map_err(system("open a descriptor for the signals"))
    }

    fn next(&self) -> Option<Signal> {
        let number = self.0.read_signal().ok().flatten()?.ssi_signo;
        Signal::try_from(i32::try_from(number).ok()?).ok()
    }
}

/// The pipe on which the profile shell says how far it is. The child gets the writing end under a number that no script uses. A script
/// that closes it all the same looks like one that ended the shell; nothing worse comes of it than a wrong reason at the end.
pub(crate) struct Progress {
    reader: OwnedFd,
    writer: Option<OwnedFd>,
    number: RawFd,
    sourced: usize,
    done: bool,
    closed: bool,
}

impl Progress {
    pub(crate) fn open(shell: &Shell) -> Result<Self, Failure> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(system("open a pipe"))?;
        let number = shell.quiet_descriptor();
        Ok(Self { reader, writer: Some(writer), number, sourced: 0, done: false, closed: false })
    }

    pub(crate) const fn number(&self) -> RawFd {
        self.number
    }

    /// Takes in what has been written; says whether the profile is done since this call.
    fn advance(&mut self) -> bool {
        let was_done = self.done;
        let mut buffer = [0; 64];
        while let Ok(count) = read(&self.reader, &mut buffer) {
            if count == 0 {
                self.closed = true;
                break;
            }
            for mark in buffer.iter().take(count) {
                self.sourced += usize::from(*mark == SOURCED);
                self.done |= *mark == ALL_SOURCED;
            }
        }
        self.done && !was_done
    }
}

/// Starts the app in a process group of its own and returns its pid.
pub(crate) fn start(plan: &Plan, environment: &Variables, progress: Option<&mut Progress>) -> Result<Pid, Failure> {
    // Outside of a pid namespace orphans would go to the machine's pid 1. In one, they come to us anyway.
    prctl::set_child_subreaper(true).map_err(system("become a subreaper"))?;
    // Taken, so that it is closed here once the child has its copy: the end of the shell is then the end of the pipe.
    let writer = progress.and_then(|progress| Some((progress.writer.take()?, progress.number)));
    let inherited = writer.as_ref().map(|(end, number)| Inherited { descriptor: end.as_raw_fd(), number: *number });
    let pid = spawn(plan, environment, inherited)
        .map_err(|source| Failure::Execute { program: plan.program.clone(), source: source.into() })?;
    hand_over_terminal(pid);
    Ok(pid)
}

/// With a terminal on stdin, the app's group must be the one in its foreground, or the app is stopped when it reads.
fn hand_over_terminal(group: Pid) {
    let stdin = io::stdin();
    if tcgetpgrp(stdin.as_fd()) == Ok(getpgrp()) && tcsetpgrp(stdin.as_fd(), group).is_ok() {
        // It may have read before it was in the foreground.
        Reach::new(group).group(Signal::SIGCONT);
    }
}

/// Watches over one app until the instance is over.
pub(crate) struct Supervisor<'a> {
    life: Life,
    reach: Reach,
    signals: Signals,
    progress: Option<Progress>,
    phases: &'a mut PhaseFile,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(
        app: Pid,
        signals: Signals,
        progress: Option<Progress>,
        grace: Duration,
        phases: &'a mut PhaseFile,
    ) -> Self {
        Self { life: Life::new(app, grace), reach: Reach::new(app), signals, progress, phases }
    }

    /// Returns the app's exit code when nobody is left.
    pub(crate) fn watch(mut self, profile: &[PathBuf]) -> Result<u8, Failure> {
        if self.progress.is_none() {
            self.phases.report(Phase::Running);
        }
        while !self.turn()? {}
        let end =
            self.life.ended().ok_or(Failure::System { attempt: "learn how the app ended", source: Errno::ECHILD })?;
        match (end, &self.progress) {
            (End::Code(code), Some(progress)) if !progress.done && !self.life.is_stopping() => {
                let script = profile.get(progress.sourced).or(profile.last());
                let script = script.map(|path| path.display().to_string()).unwrap_or_default();
                Err(Failure::ProfileEnded { script, code })
            }
            _ => Ok(end.code()),
        }
    }

    /// Waits for something to happen and deals with all of it; says whether the instance is over.
    fn turn(&mut self) -> Result<bool, Failure> {
        self.wait()?;
        let mut over = false;
        while let Some(signal) = self.signals.next() {
            if PASSED_ON.contains(&signal) {
                over |= self.handle(Event::Signal(signal));
            }
        }
        // Before the deaths: what a shell has reported, it has reported before it died.
        if self.progress.as_mut().is_some_and(Progress::advance) && !self.life.is_stopping() {
            self.phases.report(Phase::Starting);
            self.phases.report(Phase::Running);
        }
        over |= self.reap()?;
        if self.life.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            over |= self.handle(Event::Deadline);
        }
        Ok(over)
    }

    fn wait(&self) -> Result<(), Failure> {
        let mut watched = vec![PollFd::new(self.signals.0.as_fd(), PollFlags::POLLIN)];
        // A pipe without writers is readable for ever.
        if let Some(progress) = self.progress.as_ref().filter(|progress| !progress.done && !progress.closed) {
            watched.push(PollFd::new(progress.reader.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut watched, self.patience()) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(source) => Err(Failure::System { attempt: "wait for signals", source }),
        }
    }

    fn patience(&self) -> PollTimeout {
        let Some(deadline) = self.life.deadline() else { return PollTimeout::NONE };
        // One more than the rounded-down rest, lest it wake up a moment too early and spin.
        let rest = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
    }

    fn reap(&mut self) -> Result<bool, Failure> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Ok(None) => return Ok(false),
                Err(rustix::io::Errno::CHILD) => return Ok(self.handle(Event::Alone)),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    let source = Errno::from_raw(error.raw_os_error());
                    return Err(Failure::System { attempt: "wait for the app", source });
                }
            };
            // Both numbers fit: the kernel keeps them in seven and eight bits.
            let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
            let end = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => End::Code(small(code)),
                (_, Some(signal)) => End::Signal(small(signal)),
                _ => continue,
            };
            let pid = Pid::from_raw(pid.as_raw_nonzero().get());
            if self.handle(Event::Ended(pid, end)) {
                return Ok(true);
            }
        }
    }

    fn handle(&mut self, event: Event) -> bool {
        let mut over = false;
        for action in self.life.handle(Instant::now(), event) {
            match action {
                Action::Group(signal) => self.reach.group(signal),
                Action::TermAll => self.reach.all(Signal::SIGTERM),
                Action::TermStrangers => self.reach.strangers(Signal::SIGTERM),
                Action::KillAll => self.reach.all(Signal::SIGKILL),
                Action::Stopping => self.phases.report(Phase::Stopping),
                Action::Leave => over = true,
            }
        }
        over
    }
}
