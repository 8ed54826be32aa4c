//! One `posix_spawn`: the app in a group of its own, with no blocked signal and every signal at its default.
//!
//! The C library does it on a borrowed address space, so the runner is not copied, and tells if the program could not be executed.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use rustix::fs::{Access, access};

use crate::environment::Variables;
use crate::plan::Plan;

/// A descriptor of ours that the app gets, under another number.
pub(crate) struct Inherited {
    pub(crate) descriptor: RawFd,
    pub(crate) number: RawFd,
}

pub(crate) fn spawn(plan: &Plan, environment: &Variables, inherited: Option<Inherited>) -> Result<Pid, Errno> {
    let program = locate(&plan.program, environment)?;
    let words = std::iter::once(&plan.program).chain(&plan.arguments);
    let words = words.map(|word| text(word.as_bytes().to_vec())).collect::<Result<Vec<_>, _>>()?;
    let variables = environment.iter().map(|(name, value)| text([name.as_bytes(), b"=", value.as_bytes()].concat()));
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    if let Some(inherited) = inherited {
        actions.add_dup2(inherited.descriptor, inherited.number)?;
    }
    posix_spawn(program.as_path(), &actions, &attributes()?, &words, &variables)
}

fn attributes() -> Result<PosixSpawnAttr, Errno> {
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Rust ignores SIGPIPE, and whoever started the runner may have ignored others; both would be inherited.
    attributes.set_sigdefault(&SigSet::all())?;
    Ok(attributes)
}

/// Where the program is, by the app's own `PATH`; `posix_spawnp` would look at the runner's.
fn locate(program: &OsStr, environment: &Variables) -> Result<PathBuf, Errno> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let path = environment.get(OsStr::new("PATH")).map(OsString::as_os_str).unwrap_or_default();
    let mut found = Errno::ENOENT;
    for dir in path.as_bytes().split(|byte| *byte == b':') {
        // An empty entry is the working directory.
        let dir = if dir.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(dir)) };
        let candidate = dir.join(program);
        if candidate.is_file() {
            if access(&candidate, Access::EXEC_OK).is_ok() {
                return Ok(candidate);
            }
            found = Errno::EACCES;
        }
    }
    Err(found)
}

fn text(bytes: Vec<u8>) -> Result<CString, Errno> {
    // Neither arguments nor variables of a process can hold a NUL, and the parsers refuse it.
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}
