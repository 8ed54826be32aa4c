//! What this machine is: found out once by the server, and handed to each monitor, which would otherwise spend a good part of a start
//! on finding out the same.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::cgroup::{Hierarchies, Plan};
use crate::process::boot_id;
use crate::report::Mode;
use crate::uids;

/// Does not change as long as the server lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ground {
    pub(crate) mode: Mode,
    /// Whether this is a user namespace of its own kind (a container's root, an ordinary user's).
    pub(crate) nested: bool,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) plan: Plan,
    pub(crate) boot: String,
    /// Holds the empty folder `root`, on which every instance mounts, in its own mount namespace: nobody else sees it, so one is enough.
    pub(crate) mounts: PathBuf,
}

/// What a first process is made by.
#[derive(Debug)]
pub(crate) struct Briefing {
    pub(crate) ground: Ground,
    pub(crate) base: Base,
}

impl Ground {
    /// `uid` is one that instances get. Makes the folders for control groups, and leaves this process's own group where they want it to; those in
    /// `mounts` are there.
    pub(crate) fn survey(uid: u32, mounts: PathBuf) -> io::Result<Self> {
        let map = fs::read_to_string("/proc/self/uid_map")?;
        let hierarchies = Hierarchies::discover()?;
        Ok(Self {
            mode: mode(&map, uid),
            nested: !map.split_ascii_whitespace().eq(["0", "0", "4294967295"]),
            plan: Plan::new(&hierarchies),
            hierarchies,
            boot: boot_id()?,
            mounts,
        })
    }
}

/// Root if this process may make namespaces and become that uid, else an ordinary user.
fn mode(map: &str, uid: u32) -> Mode {
    use rustix::thread::{CapabilitySet, capabilities};
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETPCAP;
    let powerful = capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    if powerful && uids::is_mapped(map, uid) { Mode::Root } else { Mode::User }
}
