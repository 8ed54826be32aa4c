//! The root file system of an instance: the base that all share, read-only, and on it what is the instance's own, mounted in its own
//! mount namespace; then made the root.
//!
//! All names below are relative to the new root, which is the working directory from `build_root` to the pivot: no path of the host is
//! part of an option string (where commas and colons would need escapes), and none can be swapped under us.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};

use super::Order;
use crate::base::DEVICES;
use crate::report::{Limitation, Mode};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Depth, NODEV, NOSUID, RDONLY};

const SHUT: u64 = RDONLY | NOSUID | NODEV;

/// Files of `/proc` that tell about the host or command it: hidden behind /dev/null.
const PROC_HIDDEN: [&str; 8] =
    ["kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "sysrq-trigger", "interrupts"];
/// Folders of `/proc` that configure the host: readable at most.
const PROC_SHUT: [&str; 4] = ["sys", "irq", "bus", "fs"];

/// Two more mounts that the root is made of, on folders beside that of the root: they go with the old root, in one piece. (Unmounting
/// them one by one would wait for all processors each time.)
const SCRATCH: &str = "../scratch";
const LOWER: &str = "../lower";

impl Order<'_> {
    /// Builds it and moves in. Returns what could not be had.
    pub(super) fn build_root(&self) -> Result<Vec<Limitation>, SetupError> {
        self.enter(Step::Root);
        // Private: what the host mounts later must not appear inside, nor the other way round.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .attempt(Step::Root, || "make the mounts private".into())?;
        let base = &self.briefing.base.dir;
        mount_bind(base, &self.root).attempt(Step::Root, || format!("mount the base {base:?}"))?;
        std::env::set_current_dir(&self.root).attempt(Step::Root, || format!("enter {:?}", self.root))?;
        // At once: whatever is mounted on it finds its place there.
        seal(".", Depth::ThisMount).attempt(Step::Root, || "make the root read-only".into())?;
        self.enter(Step::System);
        self.scratch().attempt(Step::System, || "mount the scratch space".into())?;
        self.system()?;
        self.enter(Step::Devices);
        devices().attempt(Step::Devices, || "make /dev".into())?;
        self.enter(Step::Proc);
        proc().attempt(Step::Proc, || "mount /proc".into())?;
        self.control_groups().attempt(Step::Proc, || "show the control groups".into())?;
        self.enter(Step::App);
        let limitations = self.app()?;
        self.enter(Step::Pivot);
        pivot().attempt(Step::Pivot, || "make it the root".into())?;
        Ok(limitations)
    }

    fn system(&self) -> Result<(), SetupError> {
        for at in &self.briefing.base.mounts {
            show(&Path::new("/").join(at), at).attempt(Step::System, || format!("mount {at:?} read-only"))?;
        }
        self.own().attempt(Step::System, || "make /.captain".into())?;
        if let Some(runner) = &self.record.spec.runner {
            show(runner, Path::new(".captain/runner"))
                .attempt(Step::System, || format!("mount the runner {runner:?}"))?;
        }
        Ok(())
    }

    /// One bounded tmpfs for all that the instance may write: the upper layer of /app, /tmp and /dev/shm.
    fn scratch(&self) -> io::Result<()> {
        let bytes = self.record.spec.limits.scratch_bytes;
        // An inode costs about a KiB of kernel memory: bounded too, or empty files would be a way around the size.
        let inodes = (bytes / 4096).max(1024);
        let options = CString::new(format!("mode=755,size={bytes},nr_inodes={inodes}"))?;
        mount("captain", SCRATCH, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
        for name in ["upper", "work", "tmp", "shm", "own"] {
            fs::create_dir(Path::new(SCRATCH).join(name))?;
        }
        for name in ["tmp", "shm"] {
            fs::set_permissions(Path::new(SCRATCH).join(name), Permissions::from_mode(0o1777))?;
        }
        chown(Path::new(SCRATCH).join("upper"), Some(self.record.uid), Some(self.record.uid))?;
        mount_bind(Path::new(SCRATCH).join("tmp"), "tmp")?;
        Ok(mount_bind(Path::new(SCRATCH).join("shm"), "dev/shm")?)
    }

    /// `/.captain`: what the base only points to, and a place for the runner.
    fn own(&self) -> io::Result<()> {
        let at = Path::new(SCRATCH).join("own");
        let uid = self.record.uid;
        fs::write(at.join("passwd"), passwd(uid))?;
        fs::write(at.join("group"), group(uid))?;
        fs::write(at.join("hostname"), format!("{}\n", self.record.spec.hostname))?;
        if self.record.spec.runner.is_some() {
            fs::write(at.join("runner"), "")?;
        }
        show(&at, Path::new(".captain"))
    }

    /// `/app`: an overlay of the scratch space on the slug.
    fn app(&self) -> Result<Vec<Limitation>, SetupError> {
        let mut limitations = Vec::new();
        let slug = &self.record.spec.slug;
        if let Some(reason) = self.mount_slug().attempt(Step::App, || format!("mount the slug {slug:?}"))? {
            limitations.push(Limitation::ForeignOwner { reason });
        }
        let mut options = format!("lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
        if self.in_user_namespace() {
            options.push_str(",userxattr");
            // Kernels before 6.6 keep no such attributes on a tmpfs. The overlay does without, until it needs one.
            let upper = Path::new(SCRATCH).join("upper");
            if let Err(error) = setxattr(&upper, "user.captain", b"", XattrFlags::empty()) {
                limitations.push(Limitation::FixedFolders { reason: format!("attributes of a tmpfs: {error}") });
            }
        }
        let options = CString::new(options).unwrap_or_default();
        match mount("captain", "app", "overlay", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()) {
            Ok(()) => {}
            // Kernels before 5.11 refuse it to users. Better an app that cannot write than none; the report says so.
            Err(error) if self.mode() == Mode::User => {
                mount_bind(LOWER, "app").attempt(Step::App, || "mount /app".into())?;
                seal("app", Depth::ThisMount).attempt(Step::App, || "make /app read-only".into())?;
                limitations.push(Limitation::ReadOnlyApp { reason: format!("no overlay: {error}") });
            }
            Err(error) => return Err(error).attempt(Step::App, || "mount the overlay on /app".into()),
        }
        Ok(limitations)
    }

    /// The slug as the lower layer, with its files' owner shown as the instance. Returns why that translation is not possible, if so.
    fn mount_slug(&self) -> io::Result<Option<String>> {
        let slug = self.record.spec.slug.as_path();
        let mut foreign = None;
        if let Some(owners) = &self.owners {
            use std::os::fd::AsFd;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = open_tree(rustix::fs::CWD, slug, flags)?;
            match sys::map_owners(tree.as_fd(), owners.as_fd()) {
                Ok(()) => {
                    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                    move_mount(&tree, "", rustix::fs::CWD, LOWER, flags)?;
                    seal(LOWER, Depth::ThisMount)?;
                    return Ok(None);
                }
                Err(error) => foreign = Some(format!("its owner cannot be mapped: {error}")),
            }
        } else if self.mode() == Mode::Root {
            foreign = Some("no user namespace can be made to map its owner".to_owned());
        }
        mount_bind(slug, LOWER)?;
        seal(LOWER, Depth::ThisMount)?;
        Ok(foreign)
    }

    /// Overlays keep their notes in attributes that only the first user namespace may use, unless told otherwise.
    fn in_user_namespace(&self) -> bool {
        self.mode() == Mode::User || self.briefing.ground.nested
    }

    /// The instance's own groups and the list of CPUs, where run-times look for how much they may use.
    fn control_groups(&self) -> io::Result<()> {
        for (group, at) in self.groups.paths.iter().zip(self.briefing.ground.plan.seats()) {
            show(group, &at)?;
        }
        match show(Path::new("/sys/devices/system/cpu"), Path::new("sys/devices/system/cpu")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The accounts inside: programs ask for the name of their uid, and fail in odd ways when it has none.
fn passwd(uid: u32) -> String {
    format!(
        "root:x:0:0:root:/root:/usr/sbin/nologin\napp:x:{uid}:{uid}:app:/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    )
}

/// The groups inside.
fn group(gid: u32) -> String {
    format!("root:x:0:\napp:x:{gid}:\nnogroup:x:65534:\n")
}

/// Mounts a folder or file of the host on its place inside, read-only, with all that is mounted below it.
fn show(from: &Path, at: &Path) -> io::Result<()> {
    // Recursive, because a user namespace may not show what is hidden under other mounts.
    mount_bind_recursive(from, at)?;
    seal(at, Depth::AllBelow)
}

fn seal(at: impl AsRef<Path>, depth: Depth) -> io::Result<()> {
    let at = CString::new(at.as_ref().as_os_str().as_bytes())?;
    sys::set_mount_attributes(&at, depth, SHUT)
}

fn devices() -> io::Result<()> {
    for name in DEVICES {
        mount_bind(Path::new("/dev").join(name), Path::new("dev").join(name))?;
    }
    let options = c"newinstance,ptmxmode=0666,mode=620";
    mount("devpts", "dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options)?;
    Ok(())
}

fn proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "proc", "proc", flags, None)?;
    for name in PROC_SHUT {
        let at = Path::new("proc").join(name);
        if present(mount_bind(&at, &at))? {
            seal(&at, Depth::ThisMount)?;
        }
    }
    for name in PROC_HIDDEN {
        present(mount_bind("dev/null", Path::new("proc").join(name)))?;
    }
    Ok(())
}

/// Kernels are built with different parts of `/proc`.
fn present(mounted: rustix::io::Result<()>) -> io::Result<bool> {
    match mounted {
        Err(rustix::io::Errno::NOENT) => Ok(false),
        mounted => Ok(mounted.map(|()| true)?),
    }
}

/// Swaps the roots and lets go of the old one.
fn pivot() -> io::Result<()> {
    // With both names the same, the old root ends up on top of the new one and is taken away at once; no folder is needed to hold it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/app")
}
