//! The system calls that `rustix` does not offer safely. The one module with `unsafe`: each function is one call, checks its result,
//! and hands back an `io::Result`; no function keeps a pointer beyond its call.
#![allow(unsafe_code)] // raw system calls have no safe form; everything else in the crate uses these functions or rustix

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::{c_int, c_long};

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What a `fork` returns, on either side.
pub(crate) enum Forked {
    Parent { child: i32 },
    Child,
}

/// Clones this process into the given new namespaces, with fork semantics (copied memory, own descriptors).
///
/// `clone` rather than `clone3`, because nothing here needs the latter and old container hosts refuse it. Must be called from a
/// process with one thread; the monitor is one (see `monitor`), so the child may allocate and run ordinary code.
pub(crate) fn fork_into(namespaces: c_int) -> io::Result<Forked> {
    debug_assert_eq!(namespaces & (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SETTLS), 0);
    let flags = c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack the child continues on its own copy of this stack, exactly as after fork(2); the
    // remaining pointers are unused for these flags. One thread only, hence no lock (malloc, stdio) can be held in the copy.
    let child = checked(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    // A pid fits an i32 by the kernel's own limit (PID_MAX_LIMIT is 2^22).
    Ok(match i32::try_from(child).unwrap_or(i32::MAX) {
        0 => Forked::Child,
        child => Forked::Parent { child },
    })
}

/// `struct clone_args` as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Like [`fork_into`], and the child is born in the version 2 control group behind `group`: moving it there afterwards would wait for all
/// processors to pass through the scheduler, which takes longer than all the rest of a start.
pub(crate) fn fork_into_group(namespaces: c_int, group: BorrowedFd<'_>) -> io::Result<Forked> {
    debug_assert_eq!(namespaces & (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SETTLS), 0);
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let arguments = CloneArguments {
        flags: u64::try_from(namespaces).map_err(invalid)? | CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: u64::try_from(group.as_raw_fd()).map_err(invalid)?,
        ..CloneArguments::default()
    };
    // SAFETY: as in `fork_into` (no CLONE_VM, null stack, one thread); the struct is live, its size exact, and it is only read.
    let child = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>()) })?;
    Ok(match i32::try_from(child).unwrap_or(i32::MAX) {
        0 => Forked::Child,
        child => Forked::Parent { child },
    })
}

/// Ends this process at once: no destructors, no flushing of what the parent also has in its buffers.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit(2) never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Makes the control groups that this process is in look like the top to it.
pub(crate) fn leave_cgroup_namespace() -> io::Result<()> {
    // SAFETY: plain integer. A cgroup namespace changes no descriptor, memory or file system of this process.
    checked(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into())?;
    Ok(())
}

/// Gives this process a copy of its mounts, for itself alone.
pub(crate) fn copy_mounts() -> io::Result<()> {
    // SAFETY: plain integer; no descriptor or memory of this process changes.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    Ok(())
}

/// Moves this process, which has one thread, among the mounts of another namespace, to the top of them.
pub(crate) fn enter_mounts(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain integers; the kernel checks that the descriptor is one of a mount namespace.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) }.into())?;
    Ok(())
}

pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    ThisMount,
    AllBelow,
}

/// Sets attributes on the mount at `path` (on all mounts below too, if so asked), leaving those that are set.
pub(crate) fn set_mount_attributes(path: &CStr, depth: Depth, attributes: u64) -> io::Result<()> {
    let flags = if depth == Depth::AllBelow { libc::AT_RECURSIVE } else { 0 };
    mount_setattr(libc::AT_FDCWD, path, flags, libc::mount_attr { attr_set: attributes, ..no_attributes() })
}

/// The same for all of the detached mount `tree`; what happens to the mounts that it was cloned of does not reach it any more.
pub(crate) fn set_tree_attributes(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let attributes = libc::mount_attr { attr_set: attributes, propagation: libc::MS_PRIVATE, ..no_attributes() };
    mount_setattr(tree.as_raw_fd(), c"", flags, attributes)
}

/// Makes the detached mount `tree` show its files with the owners translated by the user namespace `owners`.
pub(crate) fn map_owners(tree: BorrowedFd<'_>, owners: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(owners.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, userns_fd, ..no_attributes() };
    mount_setattr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH, attributes)
}

fn no_attributes() -> libc::mount_attr {
    libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 }
}

fn mount_setattr(at: RawFd, path: &CStr, flags: c_int, attributes: libc::mount_attr) -> io::Result<()> {
    // SAFETY: path is a NUL-terminated string and the attributes a live struct whose exact size is passed; both are only read.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// Installs the filter on this thread, for good. Needs no_new_privs.
pub(crate) fn install_seccomp(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the fprog names `len` live instructions; the kernel copies them and writes nothing, so the cast from const is sound.
    checked(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as c_long, &raw const program)
    })?;
    Ok(())
}

/// The start of `struct landlock_ruleset_attr` as of ABI 6.
#[repr(C)]
struct LandlockRuleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}
const LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const LANDLOCK_SCOPE_SIGNAL: u64 = 2;

/// Forbids this process and its descendants to connect to abstract unix sockets and to signal processes outside of themselves.
/// Abstract sockets belong to the network namespace, which is the host's: without this they are open doors. Needs no_new_privs.
pub(crate) fn landlock_scope() -> io::Result<()> {
    let ruleset = LandlockRuleset {
        handled_access_fs: 0,
        handled_access_net: 0,
        scoped: LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL,
    };
    // SAFETY: the struct is live for the call and its exact size is passed; the kernel only reads it.
    let ruleset = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<LandlockRuleset>(), 0 as c_long)
    })?;
    // SAFETY: plain integers. The descriptor is close-on-exec by definition and this process is about to exec.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0 as c_long) })?;
    Ok(())
}

/// Takes an exclusive lock on the whole file for this open file description; `false` if another description holds it.
///
/// OFD locks and not flock(2): they can be *tested* without being taken, so an observer never makes a starting monitor fail.
pub(crate) fn try_lock(file: BorrowedFd<'_>) -> io::Result<bool> {
    let request = whole_file_lock();
    // SAFETY: F_OFD_SETLK reads one struct flock, which is live.
    match checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) }.into()) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether some open file description holds a lock on the file.
pub(crate) fn is_locked(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut request = whole_file_lock();
    // SAFETY: F_OFD_GETLK reads and overwrites one struct flock, which is live and ours.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) }.into())?;
    Ok(c_int::from(request.l_type) != c_int::from(libc::F_UNLCK as i16))
}

fn whole_file_lock() -> libc::flock {
    // l_pid must be zero for OFD locks; start 0 and length 0 mean the whole file.
    libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Leaves the host's session keyring for a new, empty one.
pub(crate) fn join_new_keyring() -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING with a null name makes an anonymous keyring; no memory is read.
    checked(unsafe { libc::syscall(libc::SYS_keyctl, c_long::from(libc::KEYCTL_JOIN_SESSION_KEYRING), 0 as c_long) })?;
    Ok(())
}

/// Marks every descriptor from `first` on as close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: plain integers; with CLOSE_RANGE_CLOEXEC no descriptor is closed under an owner.
    checked(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            c_long::from(first),
            c_long::from(u32::MAX),
            c_long::from(libc::CLOSE_RANGE_CLOEXEC),
        )
    })?;
    Ok(())
}

/// Sends a signal by number to the very process that the descriptor stands for.
pub(crate) fn signal_process(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    // SAFETY: a null siginfo asks for the same as kill(2); the rest are integers.
    checked(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0 as c_long,
        )
    })?;
    Ok(())
}

/// Shows `text` as the last argument of this process to whoever lists processes. Whatever it was had `len` bytes, and bounds the text.
///
/// Must be called from a process with one thread, and while nobody holds on to the arguments (the standard library copies them).
pub(crate) fn show_as_last_argument(len: usize, text: &[u8]) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Field 49, the end of the arguments: behind the last one's NUL. The command's name may hold blanks: counted from its closing bracket.
    let end = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(46)?.parse::<usize>().ok());
    let begin = end.filter(|end| *end > 0).and_then(|end| end.checked_sub(len + 1)).ok_or_else(invalid)?;
    let text = text.get(..text.len().min(len)).ok_or_else(invalid)?;
    let begin = std::ptr::with_exposed_provenance_mut::<u8>(begin);
    // SAFETY: the kernel says that this process's arguments end there, and `len` bytes and a NUL are the last one of them: memory of the
    // initial stack, mapped and writable for the life of the process, to which no reference is held (see above).
    unsafe {
        std::ptr::write_bytes(begin, 0, len);
        std::ptr::copy_nonoverlapping(text.as_ptr(), begin, text.len());
    }
    Ok(())
}

/// Ignores a signal in this process.
pub(crate) fn ignore_signal(signal: c_int) {
    // SAFETY: SIG_IGN installs no handler code; the only failure is an invalid number, and the callers pass constants.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Sets every signal that can be caught back to what programs expect.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler code. KILL, STOP and the C library's own numbers are refused, which is as it should be.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Gives freed heap pages back to the kernel: the monitor lives long and its start-up needed more than its life does.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and is safe at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
