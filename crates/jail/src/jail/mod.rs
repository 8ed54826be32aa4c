//! The engine's handle on a state directory: everything the server does with instances. All calls are short and synchronous, and any
//! number of servers may use the same directory at once.

mod attendant;
mod clean;
mod control;
mod create;
mod launch;
mod observe;
mod probe;
mod template;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

pub use clean::Cleaned;
pub(crate) use clean::is_old;
pub use control::ControlError;
pub use create::CreateError;
pub use launch::LaunchError;
pub(crate) use observe::read_record;
pub use observe::{Observed, Phase};
pub use probe::ProbeError;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use self::attendant::Attendant;
use self::template::Template;
use crate::base::Bases;
use crate::ground::Ground;
use crate::spec::Id;
use crate::uids;

/// How the hidden role is entered: a program and the arguments that lead to [`crate::monitor::main`].
#[derive(Debug, Clone)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments; the role's own follow.
    pub arguments: Vec<OsString>,
}

impl Helper {
    /// This very binary, even if its file was replaced since it was started.
    pub fn this_binary(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { program: "/proc/self/exe".into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// A program that this one carries, kept in a sealed file in memory: it needs no place on disk that may be executed, nobody can
    /// change it, and it is gone with the last process that uses it.
    ///
    /// Fails where the machine executes no such files (`vm.memfd_noexec`, a security module): that is tried. The descriptor stays
    /// open as long as this process lives.
    pub fn carried(name: &str, program: &[u8]) -> io::Result<Self> {
        let written = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = fs::File::from(written);
        file.write_all(program)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        // What is open for writing cannot be executed.
        let readable = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        drop(file);
        let path = format!("/proc/self/fd/{}", readable.as_raw_fd());
        // Without a role it ends at once.
        Command::new(&path).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        let _for_ever = readable.into_raw_fd();
        Ok(Self { program: path.into(), arguments: Vec::new() })
    }
}

/// A state directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Jail {
    state: PathBuf,
    helper: Helper,
    uids: Range<u32>,
    /// Begins the names of this directory's control groups.
    tag: String,
    ground: Arc<Ground>,
    bases: Arc<Bases>,
    /// A monitor that waits for its instance: see [`Jail::stand_by`].
    spare: Arc<Mutex<Option<Attendant>>>,
    /// What the roots of instances have in common, as far as it has been built: see [`Jail::stand_by`].
    template: Arc<Mutex<Option<Arc<Template>>>>,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {path:?} for the embedded engine")]
pub struct OpenError {
    /// Which path.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Jail {
    /// Makes the directory if need be. Where only the server's own control group is ours (a user's delegation), moves this process into
    /// a leaf of it; call it before much else is started.
    pub fn open(state: &Path, helper: Helper) -> Result<Self, OpenError> {
        let failed = |source| OpenError { path: state.to_owned(), source };
        let mounts = state.join("mounts");
        for dir in [state.to_owned(), state.join("instances"), state.join("uids"), mounts.join("root")] {
            // 0700: nobody else may look at environments and logs, or plant anything.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        }
        let state = state.canonicalize().map_err(failed)?;
        let map = fs::read_to_string("/proc/self/uid_map").map_err(failed)?;
        let uids = uids::range(&map);
        let ground = Ground::survey(uids.start, state.join("mounts")).map_err(failed)?;
        let bases = Bases::open(state.join("bases"), ground.plan.seats(), &ground.boot).map_err(failed)?;
        let tag = format!("{:08x}", hash(state.as_os_str().as_bytes()) >> 32);
        let (ground, bases) = (Arc::new(ground), Arc::new(bases));
        Ok(Self { state, helper, uids, tag, ground, bases, spare: Arc::default(), template: Arc::default() })
    }

    /// The ids of all instances, in order.
    pub fn list(&self) -> io::Result<Vec<Id>> {
        let mut ids: Vec<Id> = fs::read_dir(self.instances())?
            .filter_map(|entry| Id::try_from(entry.ok()?.file_name().into_string().ok()?).ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    fn instances(&self) -> PathBuf {
        self.state.join("instances")
    }

    fn uid_dir(&self) -> PathBuf {
        self.state.join("uids")
    }

    /// The directory of an instance.
    pub fn dir(&self, id: &Id) -> PathBuf {
        self.instances().join(id.as_str())
    }

    fn group(&self, id: &str) -> String {
        format!("{}.{id}", self.tag)
    }
}

/// FNV-1a. Names need to be stable over versions of captain, which the standard library's hasher does not promise.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
