//! Giving up: resource limits, keyring, capabilities, uid.

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::Order;
use crate::report::Mode;
use crate::setup::{Attempt, SetupError, Step};
use crate::sys;

const STEP: Step = Step::Privileges;

impl Order<'_> {
    pub(super) fn limit_and_drop(&self) -> Result<(), SetupError> {
        self.limit().attempt(STEP, || "set the resource limits".into())?;
        match sys::join_new_keyring() {
            // A kernel without keys has none to leak; a container host that forbids the call forbids it to the instance too.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                return Err(error).attempt(STEP, || "leave the host's keyring".into());
            }
            _ => {}
        }
        drop_bounding_set().attempt(STEP, || "drop the capability bounding set".into())?;
        clear_ambient_capability_set().attempt(STEP, || "clear the ambient capabilities".into())?;
        self.become_the_instance()?;
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .attempt(STEP, || "drop all capabilities".into())?;
        // The kernel forgets this signal when the uid or the capabilities change.
        set_parent_process_death_signal(Some(Signal::KILL)).attempt(STEP, || "tie the instance to its monitor".into())
    }

    fn limit(&self) -> rustix::io::Result<()> {
        let limits = &self.record.spec.limits;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        lower(Resource::Nofile, limits.open_files)?;
        if self.limit_pids_by_rlimit {
            // Counted per user namespace since 5.14, hence per instance. Only where there is no group to count better.
            lower(Resource::Nproc, limits.pids)?;
        }
        Ok(())
    }

    fn become_the_instance(&self) -> Result<(), SetupError> {
        let uid = self.record.uid;
        if self.mode() == Mode::Root {
            set_thread_groups(&[]).attempt(STEP, || "leave all groups".into())?;
        }
        let gid = rustix::process::Gid::from_raw(uid);
        set_thread_res_gid(gid, gid, gid).attempt(STEP, || format!("become gid {uid}"))?;
        let user = rustix::process::Uid::from_raw(uid);
        set_thread_res_uid(user, user, user).attempt(STEP, || format!("become uid {uid}"))
    }
}

/// Both limits to `most`, or to what we have if that is less: raising needs a capability that containers seldom have.
fn lower(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |held| held.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
}

/// One by one, as far as this kernel knows capabilities (it answers EINVAL to the first that it does not).
fn drop_bounding_set() -> rustix::io::Result<()> {
    for bit in 0..64 {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
