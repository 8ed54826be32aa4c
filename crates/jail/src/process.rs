//! Naming a process so that a recycled pid is never mistaken for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys;

/// A process: its pid, and when it was started, in clock ticks since the boot whose id is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// The pid in the server's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`: after a reboot the same pid can even have the same start time.
    pub boot: String,
}

impl ProcessRef {
    /// `boot` is [`boot_id`], which whoever asks knows already.
    pub(crate) fn of(pid: i32, boot: &str) -> io::Result<Self> {
        Ok(Self { pid, start_ticks: start_ticks(pid)?, boot: boot.to_owned() })
    }

    /// A descriptor of the process, or `None` when it is no more. The start time is compared after the descriptor is open: from then
    /// on the pid cannot come to mean another process behind our back.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        if boot_id()? != self.boot {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match start_ticks(self.pid) {
            Ok(ticks) if ticks == self.start_ticks => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it blocks or catches this signal.
    pub(crate) fn hears(&self, signal: u32) -> io::Result<bool> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        Ok(takes_signal(&status, signal))
    }

    /// Sends a signal; `false` when the process is no more.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        match sys::signal_process(pidfd.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Waits until the process behind the descriptor has ended; `false` if it has not in time.
pub(crate) fn wait_for_end(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let timeout = Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Of this boot of the machine.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

fn start_ticks(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}

/// `SigBlk` and `SigCgt` of `/proc/<pid>/status`: masks in hexadecimal digits, signal 1 being the lowest bit.
fn takes_signal(status: &str, signal: u32) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let taken = mask("SigBlk:").unwrap_or(0) | mask("SigCgt:").unwrap_or(0);
    signal.checked_sub(1).and_then(|bit| taken.checked_shr(bit)).is_some_and(|taken| taken & 1 == 1)
}

/// The command name stands in brackets and may itself hold blanks and brackets: count from the last one.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 1 0 12345 1000 1 0";
        assert_eq!(parse_start_ticks(stat), Some(12345));
        assert_eq!(parse_start_ticks("7 (a"), None);
    }

    #[test]
    fn a_signal_is_taken_when_it_is_blocked_or_caught() {
        let status = "Name:\ta\nSigPnd:\t0000000000004000\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n";
        assert_eq!(
            [1, 13, 15, 64, 0, 65].map(|signal| takes_signal(status, signal)),
            [true, false, true, false, false, false]
        );
        assert!(!takes_signal("", 15));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = ProcessRef::of(i32::try_from(std::process::id()).unwrap(), &boot_id().unwrap()).unwrap();
        assert!(me.open().unwrap().is_some());
        let impostor = ProcessRef { start_ticks: me.start_ticks + 1, ..me.clone() };
        assert!(impostor.open().unwrap().is_none());
        let before_reboot = ProcessRef { boot: "other".into(), ..me };
        assert!(!before_reboot.signal(libc::SIGKILL).unwrap());
    }
}
