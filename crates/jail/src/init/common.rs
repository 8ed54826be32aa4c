//! The part of the root file system that is the same in every instance: the base, and what of the host is mounted on it.
//!
//! Made once for all where it can be (`Template`), in a mount namespace that nobody lives in: an instance goes there and takes a copy. Most
//! of what a root is made of is then there, and above all the host's mounts need not be let go of, for which the kernel waits until all
//! processors have passed through the scheduler. That takes milliseconds where they are busy.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};

use crate::base::{Base, DEVICES, Kept};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Depth, Forked, NODEV, NOSUID, RDONLY};

pub(super) const SHUT: u64 = RDONLY | NOSUID | NODEV;

/// Builds it on the empty folder `root`, in a mount namespace that is this process's own, and moves in.
pub(super) fn build(base: &Base, root: &Path, enter: impl Fn(Step)) -> Result<(), SetupError> {
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

/// A mount namespace with the common part as its root. It lives as long as its descriptor.
pub(crate) struct Template {
    base: Base,
    _kept: Kept,
    namespace: OwnedFd,
    /// Tells whether the host's mounts have changed since.
    host: File,
}

impl Template {
    /// `None` where the base is gone, or this process may not make mount namespaces.
    pub(crate) fn of(base: Base, root: &Path) -> io::Result<Option<Self>> {
        let Some(kept) = base.keep()? else { return Ok(None) };
        // Opened before the mounts are copied: what changes from here on is told.
        let host = File::open("/proc/self/mountinfo")?;
        let (said, word) = pipe_with(PipeFlags::CLOEXEC)?;
        match sys::fork_into(libc::CLONE_NEWNS)? {
            Forked::Child => {
                let _ = set_parent_process_death_signal(Some(Signal::KILL));
                let built = build(&base, root, |_| {});
                let _ = File::from(word).write_all(if built.is_ok() { b"1" } else { b"0" });
                loop {
                    // Its mounts are held by then; the parent's KILL ends this.
                    let _ = poll(&mut [], None);
                }
            }
            Forked::Parent { child } => {
                drop(word);
                let mut answer = [0];
                let built = File::from(said).read_exact(&mut answer).is_ok() && answer == *b"1";
                let namespace = File::open(format!("/proc/{child}/ns/mnt"));
                let child = Pid::from_raw(child).ok_or(io::ErrorKind::InvalidData)?;
                kill_process(child, Signal::KILL)?;
                waitpid(Some(child), WaitOptions::empty())?;
                let namespace = namespace?.into();
                Ok(built.then_some(Self { base, _kept: kept, namespace, host }))
            }
        }
    }

    /// Whether it is what would be built of this base now.
    pub(crate) fn serves(&self, base: &Base) -> bool {
        let mut host = [PollFd::new(&self.host, PollFlags::PRI)];
        let unchanged = poll(&mut host, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0);
        unchanged && self.base == *base
    }

    /// Moves this process, which has one thread and shares its mounts with others, into a copy of its own.
    pub(super) fn enter(&self) -> io::Result<()> {
        use std::os::fd::AsFd;
        sys::enter_mounts(self.namespace.as_fd())?;
        sys::copy_mounts()
    }
}
