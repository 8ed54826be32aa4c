//! Telling the outside how far the instance has come.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Profile,
    Starting,
    Running,
    Stopping,
    Exited { code: u8, by: By },
}

/// Whose exit code it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    App,
    Runner,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile => f.write_str("profile"),
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Stopping => f.write_str("stopping"),
            Self::Exited { code, by: By::App } => write!(f, "exited code={code} by=app"),
            Self::Exited { code, by: By::Runner } => write!(f, "exited code={code} by=runner"),
        }
    }
}

/// The file, if one was asked for. A report that fails is said once and then given up: no app dies for want of a report.
pub(crate) struct PhaseFile {
    path: Option<PathBuf>,
}

impl PhaseFile {
    pub(crate) const fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }

    pub(crate) fn report(&mut self, phase: Phase) {
        let Some(path) = &self.path else { return };
        if let Err(error) = replace(path, &format!("{phase}\n")) {
            let _ = writeln!(
                io::stderr(),
                "captain-runner: no phases are reported: cannot write {}: {error}",
                path.display()
            );
            self.path = None;
        }
    }
}

/// Readers see the old line or the new one, never a part.
fn replace(path: &Path, line: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, line)?;
    fs::rename(&beside, path)
}
