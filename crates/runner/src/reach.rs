//! Whom the runner can signal.
//!
//! As pid 1 it reaches everybody in its namespace. Outside of one it must never signal "all", which would be everything that this user
//! runs on the machine: there it reaches the app's group and its own children, among them the orphans that it adopts as a subreaper.

use std::fs;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpid};

/// Everybody that belongs to the instance.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    group: Pid,
    is_init: bool,
}

impl Reach {
    /// The reach around the group of an app.
    pub fn new(group: Pid) -> Self {
        Self { group, is_init: getpid() == Pid::from_raw(1) }
    }

    /// Signals the group.
    pub fn group(&self, signal: Signal) {
        // The group may be gone (ESRCH), which is what its signal would have wanted.
        let _ = killpg(self.group, signal);
    }

    /// Signals everybody.
    pub fn all(&self, signal: Signal) {
        if self.is_init {
            // To pid 1, -1 is its namespace except itself.
            let _ = kill(Pid::from_raw(-1), signal);
        } else {
            self.group(signal);
            self.strangers(signal);
        }
    }

    /// Signals everybody outside the group. Without `/proc` nobody can be told from the group, so pid 1 signals all.
    pub fn strangers(&self, signal: Signal) {
        match self.known() {
            Some(pids) => {
                let is_stranger = |pid: &Pid| *pid != getpid() && getpgid(Some(*pid)) != Ok(self.group);
                for pid in pids.into_iter().filter(is_stranger) {
                    let _ = kill(pid, signal);
                }
            }
            None if self.is_init => self.all(signal),
            None => {}
        }
    }

    /// Who there is, as far as `/proc` tells and speaks of our namespace.
    fn known(&self) -> Option<Vec<Pid>> {
        let me = getpid();
        if fs::read_link("/proc/self").ok()?.to_str()? != me.to_string() {
            return None;
        }
        let number = |text: &str| text.parse().ok().map(Pid::from_raw);
        if self.is_init {
            let names = fs::read_dir("/proc").ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
            Some(names.filter_map(|name| number(name.to_str()?)).collect())
        } else {
            let children = fs::read_to_string(format!("/proc/self/task/{me}/children")).ok()?;
            Some(children.split_whitespace().filter_map(number).collect())
        }
    }
}
