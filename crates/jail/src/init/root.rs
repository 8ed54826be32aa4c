//! The root file system of an instance: what all have in common (`common`), and on it what is the instance's own, in its own mount namespace.
//!
//! What comes from the host by a path is cloned while the host's files can still be seen (`Own`), as mounts that are attached nowhere, and
//! put in place when the instance has moved into its root. All names below are relative to that root, which is the working
//! directory then: no path of the host is part of an option string (where commas and colons would need escapes).

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, XattrFlags, setxattr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsmount,
    fsopen, mount, mount_bind, move_mount, open_tree,
};

use super::Order;
use super::common::{self, SHUT, seal, show};
use crate::report::{Limitation, Mode};
use crate::setup::{Attempt, SetupError, Step};
use crate::sys::{self, Depth};

/// Files of `/proc` that tell about the host or command it: hidden behind /dev/null.
const PROC_HIDDEN: [&str; 8] =
    ["kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "sysrq-trigger", "interrupts"];
/// Folders of `/proc` that configure the host: readable at most.
const PROC_SHUT: [&str; 4] = ["sys", "irq", "bus", "fs"];

/// Where the scratch space and the slug are mounted while the root is being made of them. In the end, other mounts cover them, for good:
/// nobody inside can unmount.
const SCRATCH: &str = "tmp";
const LOWER: &str = "app";

/// What of the host is this instance's alone: mounts that are attached nowhere yet, sealed.
struct Own {
    slug: OwnedFd,
    /// Why the owner of the slug's files cannot be translated, if so.
    foreign: Option<String>,
    runner: Option<OwnedFd>,
    /// `/proc` of the instance's processes. An ordinary user may have one only where another can be seen, hence from here too.
    proc: OwnedFd,
    /// Control groups and the list of CPUs, where run-times look for how much they may use; and their places.
    shown: Vec<(PathBuf, OwnedFd)>,
}

impl Order<'_> {
    /// Builds it and moves in. Returns what could not be had.
    pub(super) fn build_root(&self) -> Result<Vec<Limitation>, SetupError> {
        let own = self.gather()?;
        match self.template {
            None => common::build(&self.briefing.base, &self.root, |step| self.enter(step))?,
            Some(template) => {
                for step in [Step::Root, Step::System, Step::Devices, Step::Pivot] {
                    self.enter(step);
                }
                template.enter().attempt(Step::Pivot, || "enter the root that was prepared".into())?;
            }
        }
        self.enter(Step::Proc);
        self.scratch().attempt(Step::Proc, || "mount the scratch space".into())?;
        terminals().attempt(Step::Proc, || "mount /dev/pts".into())?;
        proc(&own.proc).attempt(Step::Proc, || "mount /proc".into())?;
        for (at, tree) in &own.shown {
            attach(tree, at).attempt(Step::Proc, || format!("mount {at:?}"))?;
        }
        self.captain(own.runner.as_ref()).attempt(Step::Proc, || "make /.captain".into())?;
        self.enter(Step::App);
        let mut limitations = self.app(&own.slug)?;
        limitations.extend(own.foreign.map(|reason| Limitation::ForeignOwner { reason }));
        mount_bind(Path::new(SCRATCH).join("tmp"), SCRATCH).attempt(Step::App, || "mount /tmp".into())?;
        std::env::set_current_dir("/app").attempt(Step::App, || "enter /app".into())?;
        Ok(limitations)
    }

    fn gather(&self) -> Result<Own, SetupError> {
        let (slug, runner) = (&self.record.spec.slug, &self.record.spec.runner);
        let (tree, foreign) = self.slug().attempt(Step::Root, || format!("clone the slug {slug:?}"))?;
        let runner = runner.as_ref().map(|runner| {
            clone_of(runner, OpenTreeFlags::AT_RECURSIVE).attempt(Step::Root, || format!("clone the runner {runner:?}"))
        });
        let proc = new_proc().attempt(Step::Root, || "make a /proc".into())?;
        let mut shown = Vec::new();
        for (group, at) in self.groups.paths.iter().zip(self.briefing.ground.plan.seats()) {
            let tree = clone_of(group, OpenTreeFlags::AT_RECURSIVE);
            shown.push((at, tree.attempt(Step::Root, || format!("clone the control group {group:?}"))?));
        }
        let cpus = "sys/devices/system/cpu";
        match clone_of(&Path::new("/").join(cpus), OpenTreeFlags::AT_RECURSIVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            cloned => shown.push((cpus.into(), cloned.attempt(Step::Root, || format!("clone /{cpus}"))?)),
        }
        Ok(Own { slug: tree, foreign, runner: runner.transpose()?, proc, shown })
    }

    /// The slug with its files' owner shown as the instance, or with the reason why that translation is not possible.
    fn slug(&self) -> io::Result<(OwnedFd, Option<String>)> {
        let tree = clone_of(&self.record.spec.slug, OpenTreeFlags::empty())?;
        let foreign = match &self.owners {
            Some(owners) => sys::map_owners(tree.as_fd(), owners.as_fd())
                .err()
                .map(|error| format!("its owner cannot be mapped: {error}")),
            None if self.mode() == Mode::Root => Some("no user namespace can be made to map its owner".to_owned()),
            None => None,
        };
        Ok((tree, foreign))
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
        Ok(mount_bind(Path::new(SCRATCH).join("shm"), "dev/shm")?)
    }

    /// `/.captain`: what the base only points to, and the runner.
    fn captain(&self, runner: Option<&OwnedFd>) -> io::Result<()> {
        let at = Path::new(SCRATCH).join("own");
        let uid = self.record.uid;
        fs::write(at.join("passwd"), passwd(uid))?;
        fs::write(at.join("group"), group(uid))?;
        fs::write(at.join("hostname"), format!("{}\n", self.record.spec.hostname))?;
        if runner.is_some() {
            fs::write(at.join("runner"), "")?;
        }
        show(&at, Path::new(".captain"))?;
        runner.map_or(Ok(()), |runner| attach(runner, Path::new(".captain/runner")))
    }

    /// `/app`: an overlay of the scratch space on the slug.
    fn app(&self, slug: &OwnedFd) -> Result<Vec<Limitation>, SetupError> {
        let mut limitations = Vec::new();
        attach(slug, Path::new(LOWER)).attempt(Step::App, || "mount the slug".into())?;
        let mut options = format!("lowerdir={LOWER},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work");
        if self.in_user_namespace() {
            options.push_str(",userxattr");
            let upper = Path::new(SCRATCH).join("upper");
            limitations.extend(fixed_folders(setxattr(&upper, "user.captain", b"", XattrFlags::empty())));
        }
        let options = CString::new(options).unwrap_or_default();
        match mount("captain", "app", "overlay", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()) {
            Ok(()) => {}
            // Kernels before 5.11 refuse it to users. Better an app that cannot write than none, which is the slug itself; the report says so.
            Err(error) if self.mode() == Mode::User => {
                limitations.push(Limitation::ReadOnlyApp { reason: format!("no overlay: {error}") });
            }
            Err(error) => return Err(error).attempt(Step::App, || "mount the overlay on /app".into()),
        }
        Ok(limitations)
    }

    /// Overlays keep their notes in attributes that only the first user namespace may use, unless told otherwise.
    fn in_user_namespace(&self) -> bool {
        self.mode() == Mode::User || self.briefing.ground.nested
    }
}

/// What a refused attribute means. Kernels before 6.6 keep none of users on a tmpfs; the overlay does without, until it needs one.
fn fixed_folders(attribute: rustix::io::Result<()>) -> Option<Limitation> {
    let reason = |error| format!("attributes of a tmpfs: {error}");
    attribute.err().map(|error| Limitation::FixedFolders { reason: reason(error) })
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

/// A mount of this folder or file, sealed, that is attached nowhere.
fn clone_of(path: &Path, depth: OpenTreeFlags) -> io::Result<OwnedFd> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | depth)?;
    sys::set_tree_attributes(tree.as_fd(), SHUT)?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn terminals() -> io::Result<()> {
    let options = c"newinstance,ptmxmode=0666,mode=620";
    Ok(mount("devpts", "dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options)?)
}

fn new_proc() -> io::Result<OwnedFd> {
    let configured = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(configured.as_fd())?;
    let shut = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(configured.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, shut)?)
}

fn proc(tree: &OwnedFd) -> io::Result<()> {
    attach(tree, Path::new("proc"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_without_attributes_is_told_in_a_sentence() {
        assert_eq!(fixed_folders(Ok(())), None);
        let told = fixed_folders(Err(rustix::io::Errno::OPNOTSUPP)).unwrap().to_string();
        assert!(
            told.starts_with(
                "instances cannot remove a folder of the slug and make it again in /app: attributes of a tmpfs: "
            ),
            "{told}"
        );
    }
}
