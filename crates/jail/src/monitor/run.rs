//! A monitor's life: prepare, start, watch, record, tidy up.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use super::{OnStep, Pipe, Ready, pump, speak};
use crate::base::Kept;
use crate::cgroup::{self, Groups};
use crate::ground::{Briefing, Ground};
use crate::idmap::{self, Blank, Owner};
use crate::init::{Ends, Message, Order, Template};
use crate::lock::{self, Lock};
use crate::process::ProcessRef;
use crate::report::{Limitation, Mode, Resource};
use crate::setup::{Attempt, SetupError, Step};
use crate::spec::Record;
use crate::state::{self, Ending, Exited, Running, State, now_ms};
use crate::sys::{self, Forked};
use crate::{jail, log};

/// A group of dead processes is busy for milliseconds; more than this means that somebody else put something in it.
const GROUP_PATIENCE: Duration = Duration::from_secs(2);

/// Lives; the result is the exit code, of which nobody hears: what matters is in `state.json`.
pub(super) fn live(dir: &Path, on_step: OnStep, ready: Ready, mut pipe: Pipe) -> i32 {
    let started = match Stage::open(dir, on_step, ready).and_then(Stage::start) {
        Ok(started) => started,
        Err(NotStarted { error, groups, holds_state }) => {
            let recorded = holds_state && record_failure(dir, &error, &groups).is_ok();
            if !recorded {
                let _ = speak(&mut pipe, &error);
            }
            return 1;
        }
    };
    drop(pipe);
    sys::trim_heap();
    on_step(dir, Step::Running);
    i32::from(started.watch().is_err())
}

fn record_failure(dir: &Path, error: &SetupError, groups: &Groups) -> std::io::Result<()> {
    let left = groups.remove(GROUP_PATIENCE);
    let exited = Exited {
        started_ms: None,
        finished_ms: now_ms(),
        ending: Ending::NotStarted(error.clone()),
        oom_kills: 0,
        output_bytes_lost: 0,
        groups: left,
    };
    state::write(dir, &State::Exited(exited))
}

/// A failed start, and what has to be undone.
struct NotStarted {
    error: SetupError,
    groups: Groups,
    /// Whether the state is ours to write.
    holds_state: bool,
}

/// An instance that is being prepared.
struct Stage<'a> {
    dir: &'a Path,
    on_step: OnStep,
    record: Record,
    ready: Ready,
    me: ProcessRef,
    lock: Lock,
    paths: Vec<PathBuf>,
}

/// An instance whose program has begun.
struct Started<'a> {
    dir: &'a Path,
    on_step: OnStep,
    running: Running,
    groups: Groups,
    pidfd: OwnedFd,
    outputs: [OwnedFd; 2],
    log: log::Writer,
    _lock: Lock,
    /// Its root.
    _kept: Option<Kept>,
}

impl<'a> Stage<'a> {
    /// Everything before the first thing that has to be undone.
    fn open(dir: &'a Path, on_step: OnStep, ready: Ready) -> Result<Self, NotStarted> {
        let fail = |error, holds_state| NotStarted { error, groups: Groups::new(Vec::new()), holds_state };
        on_step(dir, Step::Detach);
        on_step(dir, Step::Read);
        let record = jail::read_record(dir).map_err(|error| {
            let reason = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            fail(SetupError { step: Step::Read, attempt: error.to_string(), errno: None, reason }, false)
        })?;
        let lock = lock::take(&dir.join("lock"))
            .attempt(Step::Lock, || format!("lock {:?}", dir.join("lock")))
            .map_err(|e| fail(e, false))?;
        let refused = |reason: &str| SetupError {
            step: Step::Lock,
            attempt: format!("start instance {}", record.id),
            errno: None,
            reason: reason.to_owned(),
        };
        let Some(lock) = lock else { return Err(fail(refused("it has a monitor already"), false)) };
        on_step(dir, Step::Lock);
        // Asked under the lock: an instance is started once, or a second start would wipe what is known of the first.
        if !matches!(state::read(dir), Ok(None)) {
            return Err(fail(refused("it was started before"), false));
        }
        let paths = ready.ground.plan.paths(&record.group);
        let me = Self::announce(dir, &ready.ground, &paths).map_err(|e| fail(e, true))?;
        on_step(dir, Step::Announce);
        Ok(Self { dir, on_step, record, ready, me, lock, paths })
    }

    fn announce(dir: &Path, ground: &Ground, paths: &[PathBuf]) -> Result<ProcessRef, SetupError> {
        let me = ProcessRef::of(std::process::id().cast_signed(), &ground.boot)
            .attempt(Step::Announce, || "read the monitor's start time".into())?;
        let announced = State::Starting { monitor: me.clone(), groups: paths.to_vec() };
        state::write(dir, &announced).attempt(Step::Announce, || "write state.json".into())?;
        Ok(me)
    }

    fn start(self) -> Result<Started<'a>, NotStarted> {
        let Self { dir, on_step, record, ready, me, lock, paths } = self;
        let Ready { ground, mut orders, owners, limitation } = ready;
        let fail = |error| NotStarted { error, groups: Groups::new(paths.clone()), holds_state: true };
        let (groups, limited) = ground
            .plan
            .make(&record.group, &record.spec.limits)
            .attempt(Step::Cgroup, || format!("make the control groups {}", record.group))
            .map_err(fail)?;
        on_step(dir, Step::Cgroup);
        let limitations: Vec<Limitation> = limitation.into_iter().chain(limited).collect();
        let (base, template) = orders.base().map_err(fail)?;
        // Where it is not there any more, the first process says so.
        let kept = base.keep().attempt(Step::Root, || format!("lock {:?}", base.dir)).map_err(fail)?;
        let briefing = Briefing { ground, base };
        let wanted = FirstProcess {
            dir,
            record: &record,
            briefing: &briefing,
            template: template.as_ref(),
            groups: &groups,
            limitations: &limitations,
            rehearsal: false,
            on_step,
        };
        let first = first_process(&wanted, owners).map_err(fail)?;
        let (running, log) = record_start(&wanted, me, &first).map_err(|error| {
            // The program has begun but cannot be recorded: it must not run unseen.
            let _ = rustix::process::kill_process(first.pid, rustix::process::Signal::KILL);
            let _ = waitpid(Some(first.pid), WaitOptions::empty());
            fail(error)
        })?;
        on_step(dir, Step::Record);
        let First { pidfd, outputs, .. } = first;
        Ok(Started { dir, on_step, running, groups, pidfd, outputs, log, _lock: lock, _kept: kept })
    }
}

/// Writes down that it runs, and begins its log.
fn record_start(
    wanted: &FirstProcess<'_>,
    monitor: ProcessRef,
    first: &First,
) -> Result<(Running, log::Writer), SetupError> {
    let step = Step::Record;
    let log = log::Writer::begin(&wanted.dir.join("log"), wanted.record.spec.log.clone())
        .attempt(step, || "open the log".into())?;
    let init = ProcessRef::of(first.pid.as_raw_nonzero().get(), &wanted.briefing.ground.boot)
        .attempt(step, || "read the start time of the instance".into())?;
    let groups = wanted.groups.paths.clone();
    let limitations = wanted.limitations.iter().chain(&first.limitations).cloned().collect();
    let running = Running { monitor, init, groups, started_ms: now_ms(), limitations };
    state::write(wanted.dir, &State::Running(running.clone())).attempt(step, || "write state.json".into())?;
    Ok((running, log))
}

impl Started<'_> {
    /// Until the end, and a little beyond it.
    fn watch(mut self) -> std::io::Result<()> {
        let [stdout, stderr] = self.outputs;
        pump::pump(&self.pidfd, stdout, stderr, &mut self.log)?;
        // When pid 1 of a pid namespace can be reaped, all others in it are dead: the kernel waits for them first.
        let status = Pid::from_raw(self.running.init.pid).map(|pid| waitpid(Some(pid), WaitOptions::empty()));
        let ending = match status {
            Some(Ok(Some((_, status)))) => {
                let signal = status.terminating_signal().map(Ending::Signal);
                signal.or_else(|| status.exit_status().map(Ending::Code)).unwrap_or(Ending::Lost)
            }
            _ => Ending::Lost,
        };
        (self.on_step)(self.dir, Step::Ended);
        let oom_kills = self.groups.oom_kills();
        let groups = self.groups.remove(GROUP_PATIENCE);
        (self.on_step)(self.dir, Step::Cleanup);
        let exited = Exited {
            started_ms: Some(self.running.started_ms),
            finished_ms: now_ms(),
            ending,
            oom_kills,
            output_bytes_lost: self.log.lost,
            groups,
        };
        state::write(self.dir, &State::Exited(exited))
    }
}

/// What is needed to start a first process.
pub(super) struct FirstProcess<'a> {
    pub(super) dir: &'a Path,
    pub(super) record: &'a Record,
    pub(super) briefing: &'a Briefing,
    pub(super) template: Option<&'a Template>,
    pub(super) groups: &'a Groups,
    pub(super) limitations: &'a [Limitation],
    pub(super) rehearsal: bool,
    pub(super) on_step: OnStep,
}

/// A first process that has executed its program (or, in a rehearsal, got that far).
pub(super) struct First {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) outputs: [OwnedFd; 2],
    pub(super) limitations: Vec<Limitation>,
}

/// And a mount namespace: copied of the host's here, or of the template by the first process.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Clones it and sees it through its preparation.
pub(super) fn first_process(wanted: &FirstProcess<'_>, owners: Option<Blank>) -> Result<First, SetupError> {
    let enter = |step| (wanted.on_step)(wanted.dir, step);
    let (uid, spec, ground) = (wanted.record.uid, &wanted.record.spec, &wanted.briefing.ground);
    let mode = ground.mode;
    let slug = std::fs::metadata(&spec.slug).attempt(Step::OwnerMap, || format!("look at the slug {:?}", spec.slug))?;
    let from = Owner { uid: slug.uid(), gid: slug.gid() };
    let owners = owners.and_then(|owners| owners.translate(from, Owner { uid, gid: uid }).ok());
    enter(Step::OwnerMap);
    let pipes = Pipes::make(uid, mode).attempt(Step::Clone, || "make pipes".into())?;
    let user = if mode == Mode::User { libc::CLONE_NEWUSER } else { 0 };
    let mounts = if wanted.template.is_none() { libc::CLONE_NEWNS } else { 0 };
    let (forked, born_inside) = cgroup::fork(NAMESPACES | user | mounts, wanted.groups.unified())
        .attempt(Step::Clone, || "clone into new namespaces".into())?;
    match forked {
        Forked::Child => {
            let order = Order {
                record: wanted.record,
                briefing: wanted.briefing,
                root: ground.mounts.join("root"),
                template: wanted.template,
                groups: wanted.groups,
                born_inside,
                owners,
                limit_pids_by_rlimit: mode == Mode::User && lacks_pids(wanted.limitations),
                rehearsal: wanted.rehearsal,
                on_step: wanted.on_step,
                dir: wanted.dir,
            };
            order.carry_out(pipes.into_child())
        }
        Forked::Parent { child } => {
            let parent = pipes.into_parent();
            enter(Step::Clone);
            let mut first = see_through(child, wanted, parent)?;
            if mode == Mode::User {
                first.limitations.push(Limitation::SharedUid);
            }
            Ok(first)
        }
    }
}

fn lacks_pids(limitations: &[Limitation]) -> bool {
    limitations.iter().any(|l| matches!(l, Limitation::Unlimited { resource: Resource::Pids, .. }))
}

/// The monitor's part while the first process prepares itself. If anything fails, the first process is dead and reaped on return.
fn see_through(child: i32, wanted: &FirstProcess<'_>, pipes: ParentEnds) -> Result<First, SetupError> {
    let enter = |step| (wanted.on_step)(wanted.dir, step);
    let user = wanted.briefing.ground.mode == Mode::User;
    let gone = || SetupError {
        step: Step::Clone,
        attempt: "clone into new namespaces".into(),
        errno: None,
        reason: "the kernel gave no pid".into(),
    };
    let pid = Pid::from_raw(child).ok_or_else(gone)?;
    let prepare = || -> Result<(OwnedFd, Vec<Limitation>), SetupError> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).attempt(Step::Clone, || "hold the first process".into())?;
        if user {
            idmap::map_to_this_user(child, wanted.record.uid).attempt(Step::UserMap, || "map this user".into())?;
        }
        enter(Step::UserMap);
        let mut go = File::from(pipes.go);
        if user {
            go.write_all(&[1]).attempt(Step::UserMap, || "let it go on".into())?;
        }
        // `go` stays open until the messages end: its closing would tell the child that the monitor is gone.
        let limitations = listen(pipes.messages, &pipes.ready)?;
        drop(go);
        Ok((pidfd, limitations))
    };
    match prepare() {
        Ok((pidfd, limitations)) => Ok(First { pid, pidfd, outputs: pipes.outputs, limitations }),
        Err(error) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
            Err(error)
        }
    }
}

/// Reads until the first process executes its program (which closes the pipe) or says why it cannot.
fn listen(messages: OwnedFd, ready: &OwnedFd) -> Result<Vec<Limitation>, SetupError> {
    let mut limitations = Vec::new();
    for line in BufReader::new(File::from(messages)).lines() {
        let line = line.attempt(Step::Exec, || "listen to the first process".into())?;
        match serde_json::from_str(&line).attempt(Step::Exec, || "understand the first process".into())? {
            Message::Limited(limitation) => limitations.push(limitation),
            Message::Failed(error) => return Err(error),
        }
    }
    // Not raised is what a counter answers by "try again".
    if rustix::io::read(ready, &mut [0; 8]).is_err() {
        let reason = "it was killed while it prepared itself (too little memory, perhaps)".to_owned();
        let attempt = "prepare the first process".to_owned();
        return Err(SetupError { step: Step::Exec, attempt, errno: None, reason });
    }
    Ok(limitations)
}

/// What connects the monitor and the first process.
struct Pipes {
    go: (OwnedFd, OwnedFd),
    messages: (OwnedFd, OwnedFd),
    ready: OwnedFd,
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

struct ParentEnds {
    go: OwnedFd,
    messages: OwnedFd,
    ready: OwnedFd,
    outputs: [OwnedFd; 2],
}

impl Pipes {
    fn make(uid: u32, mode: Mode) -> std::io::Result<Self> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ready = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let pipes = Self { go: pipe()?, messages: pipe()?, ready, stdout: pipe()?, stderr: pipe()? };
        if mode == Mode::Root {
            // Programs open /dev/stdout by name: for that the pipe must be theirs.
            let owner = rustix::fs::Uid::from_raw(uid);
            for (_, end) in [&pipes.stdout, &pipes.stderr] {
                rustix::fs::fchown(end, Some(owner), Some(rustix::fs::Gid::from_raw(uid)))?;
            }
        }
        Ok(pipes)
    }

    fn into_child(self) -> Ends {
        let Self { go, messages, ready, stdout, stderr } = self;
        Ends { go: go.0, messages: messages.1, ready, stdout: stdout.1, stderr: stderr.1 }
    }

    fn into_parent(self) -> ParentEnds {
        let Self { go, messages, ready, stdout, stderr } = self;
        ParentEnds { go: go.1, messages: messages.0, ready, outputs: [stdout.0, stderr.0] }
    }
}
