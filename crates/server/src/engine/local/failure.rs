//! What went wrong, as the trait's callers decide by it.

use std::error::Error;
use std::io;

use captain_domain::InstanceId;
use captain_jail::state::ReadError;
use captain_jail::{ControlError, CreateError, LaunchError};
use captain_slug::SlugError;

use crate::chain;
use crate::engine::ErrorKind;

/// An [`EngineError`](crate::engine::EngineError) that does not know its node yet.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(super) fn not_found(id: InstanceId) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no instance {}", id.short()))
    }

    /// Something with files did not work; `attempt` says what, and on what.
    pub(super) fn io(attempt: &str, error: &io::Error) -> Self {
        Self::new(kind_of(error), format!("cannot {attempt}: {error}"))
    }

    fn of(kind: ErrorKind, error: &dyn Error) -> Self {
        Self::new(kind, chain(error))
    }
}

/// Nothing but a full disk can be told from the outside to be worth another node.
fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Failed,
    }
}

/// The first I/O error among the causes decides.
fn kind_by_cause(error: &(dyn Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return kind_of(error);
        }
        cause = error.source();
    }
    ErrorKind::Failed
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let kind = match &error {
            CreateError::Spec { .. } => ErrorKind::Invalid,
            CreateError::Exists(_) => ErrorKind::Conflict,
            CreateError::Io { source, .. } => kind_of(source),
        };
        Self::of(kind, &error)
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let kind = match &error {
            // Known to have come to nothing: the machine refused a step, and what had been made was taken back.
            LaunchError::Refused { .. } => ErrorKind::Invalid,
            LaunchError::Timeout { .. } => ErrorKind::TimedOut,
            LaunchError::Execute { .. } | LaunchError::Silent(_) | LaunchError::Unknown { .. } => ErrorKind::Failed,
        };
        Self::of(kind, &error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let kind = match &error {
            ControlError::Unknown { source, .. } if source.source.kind() == io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            ControlError::Running(_) => ErrorKind::Conflict,
            ControlError::Unknown { .. } | ControlError::Refused { .. } => ErrorKind::Failed,
        };
        Self::of(kind, &error)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::of(ErrorKind::Failed, &error)
    }
}

impl From<SlugError> for Failure {
    fn from(error: SlugError) -> Self {
        let kind = if error.is_slugs_fault() { ErrorKind::Invalid } else { kind_by_cause(&error) };
        Self::of(kind, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_however_deep_it_lies() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let written = SlugError::Folder { action: "write", path: "/x".into(), source: full() };
        assert_eq!(Failure::from(written).kind, ErrorKind::NoSpace);
        let broken = SlugError::Input { bytes: 7, source: io::Error::other("broken disk") };
        assert_eq!(Failure::from(broken).kind, ErrorKind::Failed);
        assert_eq!(Failure::from(SlugError::Empty).kind, ErrorKind::Invalid);
        assert_eq!(Failure::io("write /x", &full()).kind, ErrorKind::NoSpace);
    }
}
