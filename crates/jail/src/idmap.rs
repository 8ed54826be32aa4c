//! A user namespace whose only purpose is to translate owners: the slug's files belong to one uid on disk, and each instance is to see
//! them as its own without a copy (an idmapped layer below its overlay).

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use crate::sys::{self, Forked};

/// An owner of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A namespace in which `from` stands for `to`. It lives as long as its descriptor.
pub(crate) struct Translation {
    pub(crate) namespace: OwnedFd,
    /// The process from which it was had: killed, and still to be reaped.
    carrier: Pid,
}

/// A namespace can only be had from a process that is in it: a child is cloned that does nothing, and killed once its namespace is held.
pub(crate) fn translation(from: Owner, to: Owner) -> io::Result<Translation> {
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
            let made = fs::write(format!("/proc/{child}/uid_map"), format!("{} {} 1", from.uid, to.uid))
                .and_then(|()| fs::write(format!("/proc/{child}/gid_map"), format!("{} {} 1", from.gid, to.gid)))
                .and_then(|()| File::open(format!("/proc/{child}/ns/user")));
            kill_process(carrier, Signal::KILL)?;
            Ok(Translation { namespace: made?.into(), carrier })
        }
    }
}

impl Translation {
    /// Reaps the carrier. Not at once: it may have to wait for a processor before it can die, and the start need not wait for that.
    pub(crate) fn reap(self) {
        // It is our child and was killed; there is nothing else that this could say.
        let _ = waitpid(Some(self.carrier), WaitOptions::empty());
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
