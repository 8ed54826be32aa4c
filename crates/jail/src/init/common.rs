//! The part of the root file system that is the same in every instance: the base, and what of the host is mounted on it.
//!
//! Made once for all where it can be (`Template`), in a mount namespace that nobody lives in: an instance goes there and takes a copy. Most
//! of what a root is made of is then there. Above all, nothing is done that gets slower with all that runs on the machine: to change the root
//! of a namespace, the kernel looks at every process there is, and to let go of the host's mounts it waits until all processors have
//! passed through the scheduler.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};

use crate::base::{Base, DEVICES};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Depth, NODEV, NOSUID, RDONLY};

pub(super) const SHUT: u64 = RDONLY | NOSUID | NODEV;

/// Builds it on the empty folder `root`, in a mount namespace that is this process's own, and moves in.
pub(crate) fn build(base: &Base, root: &Path, enter: impl Fn(Step)) -> Result<(), SetupError> {
    enter(Step::Root);
    // Private: what the host mounts later must not appear inside, nor the other way round.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .attempt(Step::Root, || "make the mounts private".into())?;
    mount_bind(&base.dir, root).attempt(Step::Root, || format!("mount the base {:?}", base.dir))?;
    std::env::set_current_dir(root).attempt(Step::Root, || format!("enter {root:?}"))?;
    // At once: whatever is mounted on it finds its place there.
    seal(".", Depth::ThisMount).attempt(Step::Root, || "make the root read-only".into())?;
    enter(Step::System);
    for at in &base.mounts {
        show(&Path::new("/").join(at), at).attempt(Step::System, || format!("mount {at:?} read-only"))?;
    }
    enter(Step::Devices);
    for name in DEVICES {
        mount_bind(Path::new("/dev").join(name), Path::new("dev").join(name))
            .attempt(Step::Devices, || format!("mount /dev/{name}"))?;
    }
    enter(Step::Pivot);
    pivot().attempt(Step::Pivot, || "make it the root".into())
}

/// Swaps the roots and lets go of the old one.
fn pivot() -> io::Result<()> {
    // With both names the same, the old root ends up on top of the new one and is taken away at once; no folder is needed to hold it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}

/// Mounts a folder or file on its place, read-only, with all that is mounted below it.
pub(super) fn show(from: &Path, at: &Path) -> io::Result<()> {
    // Recursive, because a user namespace may not show what is hidden under other mounts.
    mount_bind_recursive(from, at)?;
    seal(at, Depth::AllBelow)
}

pub(super) fn seal(at: impl AsRef<Path>, depth: Depth) -> io::Result<()> {
    let at = CString::new(at.as_ref().as_os_str().as_bytes())?;
    sys::set_mount_attributes(&at, depth, SHUT)
}

/// A mount namespace with the common part as its root, which the server keeps.
pub(crate) struct Template(OwnedFd);

impl Template {
    pub(crate) fn new(namespace: OwnedFd) -> Self {
        Self(namespace)
    }

    /// Moves this process, which has one thread and shares its mounts with others, into a copy of its own.
    pub(super) fn enter(&self) -> io::Result<()> {
        sys::enter_mounts(self.0.as_fd())?;
        sys::copy_mounts()
    }
}
