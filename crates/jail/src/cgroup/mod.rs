//! The control groups of an instance: made, joined, read, emptied and removed.
//!
//! One group per hierarchy that limits something, each at `<base>/<name>`, `base` being a folder of ours (see `plan`). Everything is
//! a small file of the kernel's, so this needs no library. What cannot be limited is returned as a
//! [`Limitation`](crate::report::Limitation).

mod layout;
mod plan;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use layout::{Hierarchies, Hierarchy};
pub(crate) use plan::Plan;
use serde::{Deserialize, Serialize};

use crate::report::Resource;
use crate::spec::Limits;
use crate::sys::{self, Forked};

/// What the groups count. `None` where this machine does not count it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory in use, without the file cache that the kernel can drop at will.
    pub memory_bytes: Option<u64>,
    /// CPU time used since the start.
    pub cpu_ns: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A limit: the resource, its controller, and the file and value that set it.
struct Rule {
    resource: Resource,
    file: &'static str,
    value: u64,
}

/// The controllers that instances use; `cpuacct` limits nothing but counts the CPU time on version 1.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "cpuacct"];

fn rules(hierarchy: &Hierarchy, limits: &Limits) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |resource, file, value| rules.push(Rule { resource, file, value });
    if hierarchy.has("memory") {
        if hierarchy.unified {
            rule(Resource::Memory, "memory.max", limits.memory_bytes);
            rule(Resource::Swap, "memory.swap.max", 0);
        } else {
            rule(Resource::Memory, "memory.limit_in_bytes", limits.memory_bytes);
            // Memory and swap together: the same number leaves no room for swap. Must be set after the one above, never below it.
            rule(Resource::Swap, "memory.memsw.limit_in_bytes", limits.memory_bytes);
        }
    }
    if hierarchy.has("cpu") {
        if hierarchy.unified {
            rule(Resource::Cpu, "cpu.weight", weight(limits.cpu_shares));
        } else {
            rule(Resource::Cpu, "cpu.shares", limits.cpu_shares);
        }
    }
    if hierarchy.has("pids") {
        rule(Resource::Pids, "pids.max", limits.pids);
    }
    rules
}

/// Docker's unit (2 to 262144) as version 2's (1 to 10000), the mapping that all runtimes share.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The groups of one instance.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) paths: Vec<PathBuf>,
    /// Which of them is of version 2, where that is known.
    unified: Option<usize>,
}

fn has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Forks into the new namespaces and, where that is possible, into the version 2 group `group`. Says on both sides whether it was.
pub(crate) fn fork(namespaces: i32, group: Option<&Path>) -> io::Result<(Forked, bool)> {
    let born_inside = group.and_then(|group| {
        let group = File::open(group).ok()?;
        // Old kernels and container hosts do not know this way; the plain one and a move do the same, only slower.
        sys::fork_into_group(namespaces, group.as_fd()).ok()
    });
    match born_inside {
        Some(forked) => Ok((forked, true)),
        None => Ok((sys::fork_into(namespaces)?, false)),
    }
}

/// Moves this process, which has one thread. On version 1 through `tasks`: a thread that moves itself is spared the lock on all forks and
/// exits of the machine, which `cgroup.procs` takes and which costs milliseconds.
fn enter(group: &Path) -> io::Result<()> {
    let open = |file: &str| fs::OpenOptions::new().write(true).open(group.join(file));
    match open("tasks") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open("cgroup.procs")?,
        opened => opened?,
    }
    .write_all(b"0")
}

impl Groups {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, unified: None }
    }

    /// The version 2 group among them.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.map(|place| self.paths[place].as_path())
    }

    /// Moves this process, which has one thread, into all of them; into that of version 2 only if it was not born there.
    pub(crate) fn enter(&self, born_inside: bool) -> io::Result<()> {
        let born = if born_inside { self.unified } else { None };
        let others = self.paths.iter().enumerate().filter(|(place, _)| Some(*place) != born);
        others.map(|(_, group)| group).try_for_each(|group| enter(group))
    }

    /// How many processes the kernel has killed here for want of memory. Both versions count in a line `oom_kill <n>`.
    pub(crate) fn oom_kills(&self) -> u64 {
        let count = |group: &PathBuf| {
            ["memory.events", "memory.oom_control"].iter().find_map(|file| field(&group.join(file), "oom_kill"))
        };
        self.paths.iter().find_map(count).unwrap_or(0)
    }

    pub(crate) fn usage(&self) -> Usage {
        let first = |files: &[&str]| {
            self.paths.iter().find_map(|group| files.iter().find_map(|file| number(&group.join(file))))
        };
        let stat = |file: &str, name: &str| self.paths.iter().find_map(|group| field(&group.join(file), name));
        let cache = stat("memory.stat", "total_inactive_file").or_else(|| stat("memory.stat", "inactive_file"));
        Usage {
            memory_bytes: first(&["memory.current", "memory.usage_in_bytes"])
                .map(|bytes| bytes.saturating_sub(cache.unwrap_or(0))),
            cpu_ns: first(&["cpuacct.usage"]).or_else(|| stat("cpu.stat", "usage_usec").map(|us| us * 1000)),
            pids: first(&["pids.current"]),
        }
    }

    /// Kills whatever is in the groups. Only for instances whose monitor is gone: a living one reaps its own.
    pub(crate) fn kill(&self) -> io::Result<()> {
        for group in &self.paths {
            let _ = fs::write(group.join("cgroup.kill"), "1"); // version 2, from 5.14 on; the loop below does it elsewhere
            for pid in members(group) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid)
                    && let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
                    && members(group).contains(&pid.as_raw_nonzero().get())
                {
                    // Asked again after the descriptor was open, hence surely a process of this group. It may have ended meanwhile.
                    let _ = sys::signal_process(pidfd.as_fd(), libc::SIGKILL);
                }
            }
        }
        Ok(())
    }

    /// Removes the groups; gives back those that are still there when patience ends. A group of dead processes can stay busy for a few
    /// milliseconds after the last was reaped.
    pub(crate) fn remove(&self, patience: Duration) -> Vec<PathBuf> {
        let deadline = Instant::now() + patience;
        let mut left = self.paths.clone();
        loop {
            left.retain(|group| match fs::remove_dir(group) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            });
            if left.is_empty() || Instant::now() >= deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The names of all groups of ours beginning with `prefix`, by their paths.
pub(crate) fn ours(prefix: &str) -> io::Result<Vec<PathBuf>> {
    let hierarchies = Hierarchies::discover()?;
    let mut found = Vec::new();
    for base in hierarchies.0.iter().flat_map(Hierarchy::bases) {
        let Ok(entries) = fs::read_dir(base) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                found.push(entry.path());
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests;
