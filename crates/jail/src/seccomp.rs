//! The system calls that an instance may make: those that Docker's default profile grants to a container without capabilities.
//!
//! An own assembler of sixty lines rather than a library: the allowed numbers are merged into ranges and looked up by binary search, so
//! a call costs some seven comparisons instead of up to three hundred, and building the filter costs microseconds of each start.

use std::io;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use crate::sys;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
/// For what is refused on purpose.
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// For what this list does not know: libraries then fall back to the older call.
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const NO_SUCH_FAMILY: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;

/// Offsets in `struct seccomp_data`; the low half of the first argument on little-endian machines, which are all that are supported.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENT_0: u32 = 16;

/// Calls above this are newer than this list (`mseal`, 6.10).
const NEWEST: u32 = 462;

/// Every flag of `clone` that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// The execution domains of Linux itself, with and without its compatibility bits, and the question which one is set.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];
/// Unix, IPv4, IPv6, and netlink (by which libraries list addresses). The rest of the kernel's families are seldom tried code.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

/// Installs the filter on this process. Everything that it becomes is under it.
pub(crate) fn install() -> io::Result<()> {
    sys::install_seccomp(&program()?)
}

fn program() -> io::Result<Vec<sock_filter>> {
    let mut code = vec![load(OFFSET_ARCHITECTURE), jump(BPF_JEQ, ARCHITECTURE, 1, 0), ret(KILL), load(OFFSET_NUMBER)];
    // clone3 hides its flags behind a pointer that a filter cannot follow: with ENOSYS, libraries use clone.
    code.extend([jump(BPF_JEQ, number(libc::SYS_clone3), 0, 1), ret(UNKNOWN)]);
    // Only fresh processes and threads; no new namespaces, in which one would be root again.
    let no_namespaces = [
        load(OFFSET_ARGUMENT_0),
        statement(BPF_ALU | BPF_AND | BPF_K, NAMESPACES),
        jump(BPF_JEQ, 0, 0, 1),
        ret(ALLOW),
        ret(REFUSE),
    ];
    guard(&mut code, libc::SYS_clone, &no_namespaces)?;
    guard(&mut code, libc::SYS_personality, &one_of(&PERSONALITIES, REFUSE))?;
    guard(&mut code, libc::SYS_socket, &one_of(&FAMILIES, NO_SUCH_FAMILY))?;
    code.extend(search(&segments())?);
    Ok(code)
}

/// `body` decides if the call is `call`; it is skipped otherwise.
fn guard(code: &mut Vec<sock_filter>, call: libc::c_long, body: &[sock_filter]) -> io::Result<()> {
    code.push(jump(BPF_JEQ, number(call), 0, short(body.len())?));
    code.extend_from_slice(body);
    Ok(())
}

fn one_of(allowed: &[u32], otherwise: u32) -> Vec<sock_filter> {
    let mut code = vec![load(OFFSET_ARGUMENT_0)];
    for value in allowed {
        code.extend([jump(BPF_JEQ, *value, 0, 1), ret(ALLOW)]);
    }
    code.push(ret(otherwise));
    code
}

/// The number line, cut where the verdict changes: each part begins at its number and ends where the next begins.
fn segments() -> Vec<(u32, u32)> {
    let mut allowed: Vec<u32> = calls::allowed().map(number).collect();
    allowed.sort_unstable();
    allowed.dedup();
    let mut segments = Vec::new();
    let mut next = 0;
    for run in allowed.chunk_by(|a, b| a + 1 == *b) {
        if run[0] > next {
            segments.push((next, REFUSE));
        }
        segments.push((run[0], ALLOW));
        next = run[run.len() - 1] + 1;
    }
    if next <= NEWEST {
        segments.push((next, REFUSE));
    }
    // On x86-64 the numbers of the other ABI (x32) begin far above, and are unknown with all the rest.
    segments.push((NEWEST + 1, UNKNOWN));
    segments
}

/// A binary search over the parts.
fn search(segments: &[(u32, u32)]) -> io::Result<Vec<sock_filter>> {
    if let [(_, verdict)] = segments {
        return Ok(vec![ret(*verdict)]);
    }
    let (below, above) = segments.split_at(segments.len() / 2);
    let below_code = search(below)?;
    let mut code = vec![jump(BPF_JGE, above[0].0, short(below_code.len())?, 0)];
    code.extend(below_code);
    code.extend(search(above)?);
    Ok(code)
}

/// Jumps are one byte long; the list would have to double before this fails, and a test would tell.
fn short(distance: usize) -> io::Result<u8> {
    u8::try_from(distance).map_err(|_| io::Error::other("the seccomp filter has outgrown its jumps"))
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn ret(verdict: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, verdict)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { jt, jf, ..statement(BPF_JMP | test | BPF_K, k) }
}

mod calls;

#[cfg(test)]
mod tests;
