//! The steps of a monitor's life, and the error that says at which of them a start failed.

use std::io;

use serde::{Deserialize, Serialize};

/// Where a monitor is. In the order in which they are passed; the steps from `Join` to `Exec` belong to the instance's first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the documentation
pub enum Step {
    Detach,
    Read,
    Lock,
    Announce,
    Cgroup,
    OwnerMap,
    Clone,
    UserMap,
    Join,
    Namespaces,
    Root,
    System,
    Devices,
    Pivot,
    Proc,
    App,
    Privileges,
    Filter,
    Exec,
    Record,
    Running,
    Ended,
    Cleanup,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 23] = [
        Self::Detach,
        Self::Read,
        Self::Lock,
        Self::Announce,
        Self::Cgroup,
        Self::OwnerMap,
        Self::Clone,
        Self::UserMap,
        Self::Join,
        Self::Namespaces,
        Self::Root,
        Self::System,
        Self::Devices,
        Self::Pivot,
        Self::Proc,
        Self::App,
        Self::Privileges,
        Self::Filter,
        Self::Exec,
        Self::Record,
        Self::Running,
        Self::Ended,
        Self::Cleanup,
    ];
}

/// Why an instance could not be started: what was attempted, on what, and the kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{attempt}: {reason}")]
pub struct SetupError {
    /// The step during which it happened.
    pub step: Step,
    /// What was attempted, and on what.
    pub attempt: String,
    /// The kernel's error number, when it was the kernel that refused.
    pub errno: Option<i32>,
    /// The same in words. A plain string, because the error travels between processes.
    pub reason: String,
}

/// Turns an I/O error into a [`SetupError`] by saying what was attempted.
pub(crate) trait Attempt<T> {
    fn attempt(self, step: Step, what: impl FnOnce() -> String) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, step: Step, what: impl FnOnce() -> String) -> Result<T, SetupError> {
        self.map_err(|error| {
            let error = error.into();
            SetupError { step, attempt: what(), errno: error.raw_os_error(), reason: error.to_string() }
        })
    }
}
