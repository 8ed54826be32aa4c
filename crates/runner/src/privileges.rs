//! Becoming nobody in particular, for good.
//!
//! The runner gives up its *own* privileges before it reads a byte of the slug, rather than those of its child: it needs none (it may
//! signal what runs under its own uid), and so no code runs between fork and exec. Afterwards it looks whether it really has none;
//! anything doubtful ends the start.

use std::io;

use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use thiserror::Error;

use crate::arguments::{DEFAULT_GID, DEFAULT_UID};

/// Capabilities are bits of 64-bit sets.
const CAPABILITY_BITS: u32 = 64;

/// Why the privileges are not gone.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    /// A step failed.
    #[error("could not {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Root cannot become somebody else.
    #[error(
        "root may not become {uid}:{gid} here: start the runner as that user, or with the capabilities SETUID and SETGID"
    )]
    Stuck {
        /// The user wanted.
        uid: u32,
        /// The group wanted.
        gid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody who is not root cannot become somebody else.
    #[error("started as {uid}:{gid}, which is not root and cannot become {wanted_uid}:{wanted_gid}")]
    Other {
        /// The user it is.
        uid: u32,
        /// The group it is.
        gid: u32,
        /// The user wanted.
        wanted_uid: u32,
        /// The group wanted.
        wanted_gid: u32,
    },
    /// All steps succeeded, yet a privilege is left.
    #[error("still privileged after giving everything up: {0}")]
    Left(&'static str),
}

/// Becomes `uid`:`gid` (the defaults if not given) when root, and gives up everything else in any case.
pub fn give_up(uid: Option<u32>, gid: Option<u32>) -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(step("forbid new privileges"))?;
    if Uid::effective().is_root() {
        // Older kernels have no ambient set (EINVAL), and then nothing in it.
        let _ = rustix::thread::clear_ambient_capability_set();
        narrow_bounding_set();
        become_user(uid.unwrap_or(DEFAULT_UID), gid.unwrap_or(DEFAULT_GID))?;
    } else {
        stay_user(uid, gid)?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(step("drop all capabilities"))?;
    // The app runs under the same uid: it shall neither trace its pid 1 nor read its memory.
    prctl::set_dumpable(false).map_err(step("forbid tracing"))?;
    verify()
}

/// As far as is permitted: without SETPCAP the set stays as wide as it was given, but no new privileges can be had from it anyway.
fn narrow_bounding_set() {
    for bit in 0..CAPABILITY_BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            return;
        }
    }
}

fn become_user(uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // In some user namespaces groups cannot be set at all; that is bearable only if there are none to lose.
    let groups = setgroups(&[group]).or_else(|error| match getgroups() {
        Ok(groups) if groups.iter().all(|held| *held == group) => Ok(()),
        _ => Err(error),
    });
    let changed = groups.and_then(|()| setresgid(group, group, group)).and_then(|()| setresuid(user, user, user));
    changed.map_err(|error| PrivilegeError::Stuck { uid, gid, source: error.into() })
}

fn stay_user(uid: Option<u32>, gid: Option<u32>) -> Result<(), PrivilegeError> {
    let (user, group) = (Uid::effective(), Gid::effective());
    let (wanted_uid, wanted_gid) = (uid.unwrap_or(user.as_raw()), gid.unwrap_or(group.as_raw()));
    if (wanted_uid, wanted_gid) != (user.as_raw(), group.as_raw()) {
        return Err(PrivilegeError::Other { uid: user.as_raw(), gid: group.as_raw(), wanted_uid, wanted_gid });
    }
    setresgid(group, group, group).map_err(step("forget the other group ids"))?;
    setresuid(user, user, user).map_err(step("forget the other user ids"))
}

fn verify() -> Result<(), PrivilegeError> {
    let user = getresuid().map_err(step("read the user ids"))?;
    let group = getresgid().map_err(step("read the group ids"))?;
    let held = rustix::thread::capabilities(None).map_err(step("read the capabilities"))?;
    let root = |ids: [u32; 3]| ids.contains(&0);
    if root([user.real.as_raw(), user.effective.as_raw(), user.saved.as_raw()]) {
        return Err(PrivilegeError::Left("a user id is 0"));
    }
    if root([group.real.as_raw(), group.effective.as_raw(), group.saved.as_raw()]) {
        return Err(PrivilegeError::Left("a group id is 0"));
    }
    if !(held.permitted | held.effective | held.inheritable).is_empty() {
        return Err(PrivilegeError::Left("capabilities"));
    }
    match prctl::get_no_new_privs() {
        Ok(true) => Ok(()),
        _ => Err(PrivilegeError::Left("new privileges are not forbidden")),
    }
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> PrivilegeError {
    move |error| PrivilegeError::Step { step, source: error.into() }
}
