//! What the engine asks for: `spec.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The name of an instance: a directory name, a cgroup name. `[a-z0-9][a-z0-9_.-]{0,63}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// An instance's name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an instance id: 1 to 64 of a-z 0-9 _ . - are, beginning with a letter or digit")]
pub struct IdError(String);

/// The longest name.
pub(crate) const ID_BYTES_MOST: usize = 64;

impl TryFrom<String> for Id {
    type Error = IdError;

    fn try_from(id: String) -> Result<Self, IdError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let starts_well = id.bytes().next().is_some_and(plain);
        if starts_well && id.len() <= ID_BYTES_MOST && id.bytes().all(|b| plain(b) || b"_.-".contains(&b)) {
            Ok(Self(id))
        } else {
            Err(IdError(id))
        }
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl Id {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an instance is to be.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The unpacked slug, shared and never written: the lower layer of `/app`.
    pub slug: PathBuf,
    /// A static program of the host's that appears as `/.captain/runner`.
    pub runner: Option<PathBuf>,
    /// The first process: an absolute path inside the instance, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment. Secret: appears in no log, error or Debug output.
    pub env: BTreeMap<String, String>,
    /// The host name that the instance sees.
    pub hostname: String,
    /// What it may use.
    pub limits: Limits,
    /// How much output is kept.
    pub log: LogBound,
    /// The owner's notes, kept and handed back untouched.
    pub labels: BTreeMap<String, String>,
}

/// What an instance may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, with the files it writes in it (see `scratch_bytes`); no swap beyond it.
    pub memory_bytes: u64,
    /// CPU weight in Docker's unit: 2 to 262144, 1024 being an ordinary share.
    pub cpu_shares: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Everything written below `/app`, `/tmp` and `/dev/shm` together. It lies in memory and is charged to `memory_bytes` too: a bound
    /// on disk would need project quotas, which few file systems have switched on.
    pub scratch_bytes: u64,
    /// Open files of one process.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self { memory_bytes: 128 * MIB, cpu_shares: 1024, pids: 512, scratch_bytes: 64 * MIB, open_files: 65536 }
    }
}

/// How much output is kept: at most `files` files of `file_bytes` each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogBound {
    /// A file that would grow beyond this is followed by a new one.
    pub file_bytes: u64,
    /// The oldest beyond this number are removed.
    pub files: u64,
}

impl Default for LogBound {
    fn default() -> Self {
        Self { file_bytes: 2 << 20, files: 5 }
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("slug", &self.slug)
            .field("runner", &self.runner)
            .field("argv", &self.argv)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("hostname", &self.hostname)
            .field("limits", &self.limits)
            .field("log", &self.log)
            .field("labels", &self.labels)
            .finish()
    }
}

/// A spec that no instance can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The kernel wants a program.
    #[error("argv is empty")]
    NoProgram,
    /// There is no PATH lookup in the jail.
    #[error("the program {0:?} is not an absolute path")]
    RelativeProgram(String),
    /// Paths are used from other directories.
    #[error("{field} {path:?} is not an absolute path")]
    RelativePath {
        /// Which field.
        field: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The kernel's strings end at a NUL. The value is not shown: it may be a secret.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// Which field.
        field: String,
    },
    /// An environment variable cannot have this name.
    #[error("the environment variable {0:?} has an empty name or one with '='")]
    VariableName(String),
    /// Host names are 1 to 64 letters, digits, dots, dashes and underscores.
    #[error("{0:?} is not a host name")]
    Hostname(String),
    /// Too small to start anything, or too large to mean anything.
    #[error("{field} is {value}, which is not between {least} and {most}")]
    Bound {
        /// Which limit.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
}

impl Spec {
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let program = self.argv.first().ok_or(SpecError::NoProgram)?;
        if !program.starts_with('/') {
            return Err(SpecError::RelativeProgram(program.clone()));
        }
        for (field, path) in [("slug", Some(&self.slug)), ("runner", self.runner.as_ref())] {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(SpecError::RelativePath { field, path: path.clone() });
            }
        }
        if self.argv.iter().any(|arg| arg.contains('\0')) {
            return Err(SpecError::Nul { field: "argv".into() });
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(SpecError::VariableName(name.clone()));
            }
            if value.contains('\0') {
                return Err(SpecError::Nul { field: format!("the environment variable {name}") });
            }
        }
        let host_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        // The kernel's limit; names in DNS would be shorter.
        if self.hostname.is_empty() || self.hostname.len() > 64 || !self.hostname.bytes().all(host_byte) {
            return Err(SpecError::Hostname(self.hostname.clone()));
        }
        self.check_bounds()
    }

    fn check_bounds(&self) -> Result<(), SpecError> {
        // The least memory lets the runner and a shell start; the upper ends keep arithmetic and the kernel's parsers in range.
        let bounds = [
            ("memory_bytes", self.limits.memory_bytes, 4 << 20, 1 << 50),
            ("cpu_shares", self.limits.cpu_shares, 2, 262_144),
            ("pids", self.limits.pids, 2, 1 << 22),
            ("scratch_bytes", self.limits.scratch_bytes, 1 << 16, 1 << 50),
            ("open_files", self.limits.open_files, 16, 1 << 20),
            ("log.file_bytes", self.log.file_bytes, 1 << 16, 1 << 40),
            ("log.files", self.log.files, 2, 1000),
        ];
        match bounds.into_iter().find(|(_, value, least, most)| value < least || value > most) {
            None => Ok(()),
            Some((field, value, least, most)) => Err(SpecError::Bound { field, value, least, most }),
        }
    }
}

/// `spec.json`: the spec and what was decided when the instance was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format; a reader refuses what it does not know.
    pub version: u32,
    /// The instance.
    pub id: Id,
    /// The uid (and gid) of its processes, its own alone among the instances of this state directory.
    pub uid: u32,
    /// The name of its control groups.
    pub group: String,
    /// When it was created.
    pub created_ms: u64,
    /// What was asked for.
    pub spec: Spec,
}

/// The format that this version writes.
pub(crate) const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            slug: "/slug".into(),
            runner: None,
            argv: vec!["/bin/true".into()],
            env: BTreeMap::from([("TOKEN".into(), "hush".into())]),
            hostname: "app-1".into(),
            limits: Limits::default(),
            log: LogBound::default(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn ids_are_safe_file_names() {
        for good in ["a", "0b-c_d.e", &"x".repeat(64)] {
            assert!(Id::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "_a", "A", "a/b", "a b", "a\0", &"x".repeat(65)] {
            assert!(Id::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_the_environment_are_never_shown() {
        let shown = format!("{:?}", spec());
        assert!(shown.contains("TOKEN") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let refused = |change: fn(&mut Spec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        assert!(spec().check().is_ok());
        assert_eq!(refused(|s| s.argv.clear()), "argv is empty");
        assert!(refused(|s| s.argv[0] = "true".into()).contains("absolute"));
        assert!(refused(|s| s.slug = "x".into()).contains("slug"));
        assert!(refused(|s| s.limits.memory_bytes = 1).contains("memory_bytes is 1"));
        assert!(refused(|s| s.hostname = "a b".into()).contains("host name"));
        let nul = refused(|s| drop(s.env.insert("K".into(), "se\0cret".into())));
        assert!(nul.contains('K') && !nul.contains("se"), "{nul}");
    }
}
