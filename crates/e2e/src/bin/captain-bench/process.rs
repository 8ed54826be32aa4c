//! What the kernel says of processes and of the machine.

use std::fs;
use std::time::Duration;

/// The kernel counts the time of processes in hundredths of a second, on every machine that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// So long must a process have used no tick of time to count as at rest.
const REST: Duration = Duration::from_millis(120);

/// After so long the measurement goes on all the same: something else keeps the process busy, and meets both sides alike.
const PATIENCE: u32 = 25;

/// The time that a process has spent on the processor.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in brackets and may hold anything; behind it utime and stime are the 12th and 13th.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let ticks: u32 = behind.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Waits until these processes are at rest.
pub(crate) async fn rest(pids: &[u32]) {
    let used = || pids.iter().map(|pid| cpu(*pid)).sum::<Duration>();
    let mut before = used();
    for _ in 0..PATIENCE {
        tokio::time::sleep(REST).await;
        let now = used();
        if now == before {
            return;
        }
        before = now;
    }
}

/// A line of /proc/PID/smaps_rollup, in MiB: `Rss` or `Pss`.
pub(crate) fn memory(pid: u32, kind: &str) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// The machine, as SPEC.md names it.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"');
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{processors} processors, {system}, Linux {}, load {}\n{}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
        captain_e2e::captain::binary().display(),
    )
}
