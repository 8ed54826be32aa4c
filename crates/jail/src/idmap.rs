//! A user namespace whose only purpose is to translate owners: the slug's files belong to one uid on disk, and each instance is to see
//! them as its own without a copy (an idmapped layer below its overlay).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use crate::sys::{self, Forked};

/// An owner of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A new user namespace that translates nobody yet. It lives as long as its descriptor.
pub(crate) struct Blank {
    namespace: OwnedFd,
    /// Whom it maps can be written here, once. The kernel asks who opened them, not whether anybody lives in the namespace.
    uids: File,
    gids: File,
}

impl Blank {
    /// A namespace can only be had from a process that is in it: a child is cloned that does nothing, and killed once all is held.
    pub(crate) fn make() -> io::Result<Self> {
        match sys::fork_into(libc::CLONE_NEWUSER)? {
            Forked::Child => {
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                loop {
                    // Returns early only for a signal; the parent's KILL ends this.
                    let _ = rustix::event::poll(&mut [], None);
                }
            }
            Forked::Parent { child } => {
                let carrier = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
                let blank = Self::of(child);
                kill_process(carrier, Signal::KILL)?;
                waitpid(Some(carrier), WaitOptions::empty())?;
                blank
            }
        }
    }

    fn of(child: i32) -> io::Result<Self> {
        let map = |name: &str| File::options().write(true).open(format!("/proc/{child}/{name}"));
        let namespace = File::open(format!("/proc/{child}/ns/user"))?.into();
        Ok(Self { namespace, uids: map("uid_map")?, gids: map("gid_map")? })
    }

    /// The namespace, in which `from` now stands for `to`.
    pub(crate) fn translate(mut self, from: Owner, to: Owner) -> io::Result<OwnedFd> {
        // Each in one piece: the kernel takes one write.
        self.uids.write_all(format!("{} {} 1", from.uid, to.uid).as_bytes())?;
        self.gids.write_all(format!("{} {} 1", from.gid, to.gid).as_bytes())?;
        Ok(self.namespace)
    }
}

/// Maps the one uid of an instance to this user, in the namespace of the process `child` (which has none yet).
pub(crate) fn map_to_this_user(child: i32, inside: u32) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    // An ordinary user may map a group only after giving up setgroups, by which a group that denies access could be left.
    fs::write(format!("/proc/{child}/setgroups"), "deny")?;
    fs::write(format!("/proc/{child}/uid_map"), format!("{inside} {uid} 1"))?;
    fs::write(format!("/proc/{child}/gid_map"), format!("{inside} {gid} 1"))
}
