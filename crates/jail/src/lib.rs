//! The embedded container engine's kernel work: an instance without Docker.
//!
//! An **instance** is a directory `<state>/instances/<id>/`:
//!
//! | file | written by | holds |
//! | --- | --- | --- |
//! | `spec.json` | [`Jail::create`] | what was asked for, the uid, the owner's labels; never changed afterwards |
//! | `state.json` | the monitor, by rename | [`state::State`]: starting, running, exited |
//! | `lock` | the monitor | an open-file-description lock: held as long as the monitor lives |
//! | `log/<n>` | the monitor | the output, in the frames of [`log`] |
//!
//! Beside the instances, `<state>/bases/` holds what their roots have in common (`base`), and `<state>/mounts/root` is an empty folder on
//! which each of them mounts, in its own mount namespace.
//!
//! [`Jail::launch`] executes a program in a hidden role (never a fork of the threaded server); that process is the instance's **monitor**.
//! It may be the captain binary itself; `captain-monitor` is the same role alone, static and small. It makes the control groups, clones the instance's first process into new namespaces, records what it sees,
//! owns the output and the exit code, and outlives the server. The server finds everything again from the directory alone.
//! [`Jail::stand_by`] has such a process in waiting, so that the next start need not execute one; it is nobody's until then, and ends with
//! the server.
//!
//! Invariants:
//! - Liveness is told by the kernel (the lock), never by a pid alone; a pid is only used together with its start time.
//! - Every mount lives in the instance's own mount namespace: the death of its last process removes them all. (What all roots have in
//!   common is prepared in one that only the server's descriptor keeps.)
//! - The instance's first process dies with its monitor (parent-death signal), and the pid namespace with the first process.
//! - What the machine does not allow is a [`Limitation`] in the probe's report and in the instance's state, never a silent omission.
//! - `unsafe` lives in the module `sys` alone: one function per system call, each block justified.
//! - No thread is ever started here, and nothing of tokio is linked.
//!
//! Needs Linux 5.12 (`mount_setattr`); 5.19 for a wholly writable `/app` as root (idmapped layers), 6.12 for the Landlock scopes.

mod base;
mod cgroup;
mod ground;
mod idmap;
mod init;
mod jail;
mod lock;
pub mod log;
pub mod monitor;
mod process;
mod report;
mod seccomp;
mod setup;
mod spec;
pub mod state;
mod sys;
mod uids;

pub use cgroup::Usage;
pub use jail::{Cleaned, ControlError, CreateError, Helper, Jail, LaunchError, Observed, OpenError, Phase, ProbeError};
pub use process::ProcessRef;
pub use report::{Layout, Limitation, Mode, Report, Resource};
pub use setup::{SetupError, Step};
pub use spec::{Id, IdError, Limits, LogBound, Record, Spec, SpecError};
