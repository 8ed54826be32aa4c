//! Why nothing was started, or why the runner itself ended the instance. Each has its code, listed in the crate's documentation.

use std::io;
use std::path::PathBuf;

use captain_domain::procfile::{ProcfileError, ReleaseError};
use nix::errno::Errno;
use thiserror::Error;

use crate::arguments::UsageError;
use crate::privileges::PrivilegeError;
use crate::words::NeedsShell;

/// A failure of the runner or of what the slug gives it, never of the running app.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A system call failed that must not.
    #[error("could not {attempt}")]
    System {
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// Still privileged.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// No app directory.
    #[error("cannot enter the app directory {}", dir.display())]
    AppDir {
        /// Which.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the slug is there but cannot be read.
    #[error("cannot read {file} of the slug")]
    Unreadable {
        /// Which.
        file: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The process type does not exist.
    #[error("the slug has no process type {wanted:?}; {known}")]
    NoSuchType {
        /// What was asked for.
        wanted: String,
        /// What there is, as a clause.
        known: String,
    },
    /// The Procfile is wrong.
    #[error("the Procfile is wrong")]
    Procfile(#[source] ProcfileError),
    /// `.release` is wrong.
    #[error("the file .release is wrong")]
    Release(#[source] ReleaseError),
    /// Too many profile scripts.
    #[error(".profile.d has more than {limit} files")]
    TooManyScripts {
        /// The limit.
        limit: usize,
    },
    /// Command and profile scripts do not fit into an argument.
    #[error("the command and the names of the profile scripts have together more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// A profile script ended the shell, so the app was never started.
    #[error("{script} ended the shell with code {code}, so the app was not started")]
    ProfileEnded {
        /// Which.
        script: String,
        /// With what.
        code: u8,
    },
    /// Profile scripts, and no shell to source them.
    #[error("{script} of the slug needs a shell, and this stack has neither bash nor sh")]
    ProfileNeedsShell {
        /// The first one.
        script: String,
    },
    /// A command that only a shell understands, and no shell.
    #[error("the command needs a shell, and this stack has neither bash nor sh")]
    CommandNeedsShell(#[source] NeedsShell),
    /// The command cannot be executed.
    #[error("cannot execute {program:?}")]
    Execute {
        /// The program.
        program: std::ffi::OsString,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure {
    /// The reserved exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::NoSuchType { .. } => 64,
            Self::Usage(_) => 70,
            Self::System { .. } => 71,
            Self::AppDir { .. } => 72,
            Self::Unreadable { .. } => 74,
            Self::Privileges(_) => 77,
            Self::Procfile(_)
            | Self::Release(_)
            | Self::TooManyScripts { .. }
            | Self::TooLong { .. }
            | Self::ProfileEnded { .. }
            | Self::ProfileNeedsShell { .. }
            | Self::CommandNeedsShell(_) => 78,
            Self::Execute { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => 127,
                io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => 126,
                // ENOEXEC is a file that the kernel cannot run; the rest is want of memory or processes.
                _ if source.raw_os_error() == Some(Errno::ENOEXEC as i32) => 126,
                _ => 71,
            },
        }
    }
}

/// Names the attempt of a system call that failed.
pub(crate) fn system(attempt: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |source| Failure::System { attempt, source }
}
