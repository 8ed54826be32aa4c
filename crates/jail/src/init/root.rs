//! The root file system of an instance, built in its own mount namespace on an empty folder, then made the root.
//!
//! All names below are relative to the new root, which is the working directory from `build_root` to the pivot: no path of the host is
//! part of an option string (where commas and colons would need escapes), and none can be swapped under us.

use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};

use super::Order;
use super::host::{self, Entry};
use crate::report::{Limitation, Mode};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Depth, NODEV, NOSUID, RDONLY};

/// The root holds folders, links and copies of small files of `/etc` only; it is read-only in the end.
const ROOT_OPTIONS: &std::ffi::CStr = c"mode=755,size=4m,nr_inodes=4096";
const SHUT: u64 = RDONLY | NOSUID | NODEV;

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
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
        mount("captain", &self.root, "tmpfs", MountFlags::NOSUID, ROOT_OPTIONS)
            .attempt(Step::Root, || format!("mount a tmpfs on {:?}", self.root))?;
        std::env::set_current_dir(&self.root).attempt(Step::Root, || format!("enter {:?}", self.root))?;
        self.enter(Step::System);
        self.system()?;
        self.enter(Step::Devices);
        self.scratch()?;
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
        let what = || "list the system folders".to_owned();
        for entry in host::entries(Path::new("/")).attempt(Step::System, what)? {
            match entry {
                Entry::Link { at, to } => parent_of(&at)
                    .and_then(|()| symlink(to, &at))
                    .attempt(Step::System, || format!("make the link {at:?}"))?,
                Entry::Copy { at, content } => parent_of(&at)
                    .and_then(|()| fs::write(&at, content))
                    .attempt(Step::System, || format!("copy {at:?}"))?,
                Entry::Mount { at } => {
                    show(&Path::new("/").join(&at), &at).attempt(Step::System, || format!("mount {at:?} read-only"))?
                }
            }
        }
        let uid = self.record.uid;
        let own = [
            ("etc/passwd", host::passwd(uid)),
            ("etc/group", host::group(uid)),
            ("etc/hostname", format!("{}\n", self.record.spec.hostname)),
        ];
        for (at, content) in own {
            fs::write(at, content).attempt(Step::System, || format!("write {at}"))?;
        }
        if let Some(runner) = &self.record.spec.runner {
            parent_of(Path::new(".captain/runner"))
                .and_then(|()| show(runner, Path::new(".captain/runner")))
                .attempt(Step::System, || format!("mount the runner {runner:?}"))?;
        }
        Ok(())
    }

    /// One bounded tmpfs for all that the instance may write: the upper layer of /app, /tmp and /dev/shm.
    fn scratch(&self) -> Result<(), SetupError> {
        let bytes = self.record.spec.limits.scratch_bytes;
        // An inode costs about a KiB of kernel memory: bounded too, or empty files would be a way around the size.
        let inodes = (bytes / 4096).max(1024);
        let options = CString::new(format!("mode=755,size={bytes},nr_inodes={inodes}")).unwrap_or_default();
        let make = || -> io::Result<()> {
            mount("captain", SCRATCH, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
            for name in ["upper", "work", "tmp", "shm"] {
                folder(Path::new(SCRATCH).join(name))?;
            }
            for name in ["tmp", "shm"] {
                fs::set_permissions(Path::new(SCRATCH).join(name), Permissions::from_mode(0o1777))?;
            }
            chown(Path::new(SCRATCH).join("upper"), Some(self.record.uid), Some(self.record.uid))?;
            folder("tmp")?;
            mount_bind(Path::new(SCRATCH).join("tmp"), "tmp")?;
            folder("var")?;
            symlink("/tmp", "var/tmp")
        };
        make().attempt(Step::Devices, || "mount the scratch space".into())
    }

    /// `/app`: an overlay of the scratch space on the slug.
    fn app(&self) -> Result<Vec<Limitation>, SetupError> {
        let mut limitations = Vec::new();
        let slug = &self.record.spec.slug;
        folder("app").attempt(Step::App, || "make /app".into())?;
        if let Some(reason) = self.mount_slug().attempt(Step::App, || format!("mount the slug {slug:?}"))? {
            limitations.push(Limitation::ForeignOwner { reason });
        }
        let mut options = format!("lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
        if self.in_user_namespace() {
            options.push_str(",userxattr");
        }
        let options = CString::new(options).unwrap_or_default();
        match mount("captain", "app", "overlay", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()) {
            Ok(()) => {}
            // Kernels before 5.11 refuse it to users. Better an app that cannot write than none; the report says so.
            Err(error) if self.mode == Mode::User => {
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
        } else if self.mode == Mode::Root {
            foreign = Some("no user namespace can be made to map its owner".to_owned());
        }
        mount_bind(slug, LOWER)?;
        seal(LOWER, Depth::ThisMount)?;
        Ok(foreign)
    }

    /// Overlays keep their notes in attributes that only the first user namespace may use, unless told otherwise.
    fn in_user_namespace(&self) -> bool {
        let whole = |map: String| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        self.mode == Mode::User || !fs::read_to_string("/proc/self/uid_map").is_ok_and(whole)
    }

    /// The instance's own groups and the list of CPUs, where run-times look for how much they may use.
    fn control_groups(&self) -> io::Result<()> {
        folder("sys")?;
        for group in &self.groups.paths {
            // /sys/fs/cgroup/memory/captain/x is shown as /sys/fs/cgroup/memory, /sys/fs/cgroup/captain/x as /sys/fs/cgroup.
            let at = group.ancestors().take_while(|a| a.parent().is_some()).find(|a| !is_group(a));
            let Some(parent) = at else { continue };
            let name = group.strip_prefix(parent).ok().and_then(|rest| rest.components().next());
            let nested = parent.starts_with("/sys/fs/cgroup");
            let at = match name.filter(|_| nested) {
                Some(name) => Path::new("sys/fs/cgroup").join(name),
                None => "sys/fs/cgroup".into(),
            };
            show(group, &at)?;
        }
        let cpus = Path::new("/sys/devices/system/cpu");
        if cpus.is_dir() {
            show(cpus, Path::new("sys/devices/system/cpu"))?;
        }
        Ok(())
    }
}

fn is_group(path: &Path) -> bool {
    path.join("cgroup.procs").exists()
}

fn folder(at: impl AsRef<Path>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(at)
}

fn parent_of(at: &Path) -> io::Result<()> {
    at.parent().map_or(Ok(()), folder)
}

/// Mounts a folder or file of the host at the same kind of thing inside, read-only, with all that is mounted below it.
fn show(from: &Path, at: &Path) -> io::Result<()> {
    if fs::metadata(from)?.is_dir() {
        folder(at)?;
    } else {
        parent_of(at)?;
        fs::File::create(at)?;
    }
    // Recursive, because a user namespace may not show what is hidden under other mounts.
    mount_bind_recursive(from, at)?;
    seal(at, Depth::AllBelow)
}

fn seal(at: impl AsRef<Path>, depth: Depth) -> io::Result<()> {
    let at = CString::new(at.as_ref().as_os_str().as_bytes())?;
    sys::set_mount_attributes(&at, depth, SHUT)
}

fn devices() -> io::Result<()> {
    folder("dev/pts")?;
    for name in DEVICES {
        let at = Path::new("dev").join(name);
        fs::File::create(&at)?;
        mount_bind(Path::new("/dev").join(name), &at)?;
    }
    let options = c"newinstance,ptmxmode=0666,mode=620";
    mount("devpts", "dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options)?;
    folder("dev/shm")?;
    mount_bind(Path::new(SCRATCH).join("shm"), "dev/shm")?;
    for (at, to) in [
        ("dev/ptmx", "pts/ptmx"),
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, at)?;
    }
    Ok(())
}

fn proc() -> io::Result<()> {
    folder("proc")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "proc", "proc", flags, None)?;
    for name in PROC_SHUT {
        let at = Path::new("proc").join(name);
        if at.exists() {
            mount_bind(&at, &at)?;
            seal(&at, Depth::ThisMount)?;
        }
    }
    for name in PROC_HIDDEN {
        let at = Path::new("proc").join(name);
        if at.exists() {
            mount_bind("dev/null", &at)?;
        }
    }
    Ok(())
}

/// Swaps the roots, lets go of the old one, and shuts the new one.
fn pivot() -> io::Result<()> {
    // With both names the same, the old root ends up on top of the new one and is taken away at once; no folder is needed to hold it.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    sys::set_mount_attributes(c"/", Depth::ThisMount, RDONLY | NOSUID | NODEV)?;
    std::env::set_current_dir("/app")
}
