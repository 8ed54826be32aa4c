//! What the roots of all instances have in common, built once and kept: a mount namespace in which nobody lives. Monitors are given it when
//! they are executed, and their instances begin with a copy of it.
//!
//! It is built in advance of starts, never by one, and anew when the host's mounts or files have changed: an instance that is started then
//! builds its root by itself, which takes longer and comes to the same.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Jail;
use crate::base::{Base, Kept};
use crate::monitor::{BUILT, Line};
use crate::report::Mode;

/// It takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Such a namespace. It lives as long as its descriptor.
#[derive(Debug)]
pub(super) struct Template {
    base: Base,
    _kept: Arc<Kept>,
    namespace: File,
    /// Tells once whether the host's mounts have changed since; `None` when it has.
    host: Mutex<Option<File>>,
}

impl Template {
    pub(super) fn namespace(&self) -> io::Result<OwnedFd> {
        self.namespace.try_clone().map(OwnedFd::from)
    }

    /// Whether it is what would be built of this base now.
    pub(super) fn serves(&self, base: &Base) -> bool {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |host: &File| {
            let mut host = [PollFd::new(host, PollFlags::PRI)];
            poll(&mut host, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
        };
        *host = host.take().filter(unchanged);
        host.is_some() && self.base == *base
    }
}

impl Jail {
    /// The template that there is.
    pub(super) fn template(&self) -> Option<Arc<Template>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One that serves now, built if need be; `None` where none can be had.
    pub(super) fn have_template(&self) -> io::Result<Option<Arc<Template>>> {
        // An ordinary user's instances have each a user namespace, and mounts that belong to it.
        if self.ground.mode == Mode::User {
            return Ok(None);
        }
        let (base, kept) = self.bases.current()?;
        if let Some(there) = self.template().filter(|there| there.serves(&base)) {
            return Ok(Some(there));
        }
        let built = self.build_template(base, kept)?.map(Arc::new);
        self.template.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&built);
        Ok(built)
    }

    fn build_template(&self, base: Base, kept: Arc<Kept>) -> io::Result<Option<Template>> {
        // Opened before the mounts are copied: what changes from here on is told.
        let host = File::open("/proc/self/mountinfo")?;
        let mut building = self.execute("template", self.instances().as_os_str(), None)?;
        let told = building.tell(&Line::Base { base: base.clone(), prepared: false });
        let heard = told.and_then(|_| building.listen(PATIENCE));
        let namespace = building.pid().and_then(|pid| File::open(format!("/proc/{pid}/ns/mnt")).ok());
        building.end(true)?;
        let built = heard?.is_some_and(|said| said == BUILT);
        let template = |namespace| Template { base, _kept: kept, namespace, host: Mutex::new(Some(host)) };
        // Where a machine lets none be made, every start does it for itself, and says what is the matter.
        Ok(namespace.filter(|_| built).map(template))
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    use super::*;
    use crate::sys;

    #[test]
    fn it_serves_its_base_until_the_hosts_mounts_change() {
        // Among mounts that nobody else changes: those of one thread.
        std::thread::spawn(serve_until_the_mounts_change).join().unwrap();
    }

    fn serve_until_the_mounts_change() {
        sys::copy_mounts().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            Base { dir, mounts: Vec::new() }
        };
        let (base, other) = (at("base"), at("other"));
        let template = Template {
            _kept: Arc::new(base.keep().unwrap().unwrap()),
            base: base.clone(),
            namespace: File::open("/proc/thread-self/ns/mnt").unwrap(),
            host: Mutex::new(Some(File::open("/proc/thread-self/mountinfo").unwrap())),
        };
        assert!(template.serves(&base));
        assert!(!template.serves(&other));
        assert!(template.serves(&base), "asking changes nothing");
        mount("captain", &other.dir, "tmpfs", MountFlags::empty(), None).unwrap();
        assert!(!template.serves(&base));
        assert!(!template.serves(&base), "the kernel tells it once, and it stays so");
    }
}
