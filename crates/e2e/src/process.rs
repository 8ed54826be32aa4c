//! What the kernel says of processes and of the machine, for benchmarks.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// The kernel counts the time of processes in hundredths of a second, on every machine that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// So long must a process have used no tick of time to count as at rest.
const REST: Duration = Duration::from_millis(120);

/// After so long the measurement goes on all the same: something else keeps the process busy, and meets both sides alike.
const PATIENCE: u32 = 25;

/// The time that a process has spent on the processors.
#[must_use]
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in brackets and may hold anything; behind it utime and stime are the 12th and 13th.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let ticks: u32 = behind.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// Waits until these processes are at rest.
pub async fn rest(pids: &[u32]) {
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

/// What a process has in memory, in MiB: `VmRSS`, or `VmHWM` for the most that it ever was. Costs the process nothing.
#[must_use]
pub fn resident(pid: u32, line: &str) -> f64 {
    mebibytes(&format!("/proc/{pid}/status"), line)
}

/// The same by a walk through its pages, in MiB: `Rss`, or `Pss` for its share of what is shared.
#[must_use]
pub fn memory(pid: u32, line: &str) -> f64 {
    mebibytes(&format!("/proc/{pid}/smaps_rollup"), line)
}

fn mebibytes(path: &str, line: &str) -> f64 {
    let file = fs::read_to_string(path).unwrap();
    let line = file.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// What the host has taken of this machine's processors since it was made: on a virtual machine the work of others, which stands
/// in the way of whatever is measured, and which no program in here can help.
#[derive(Debug)]
pub struct Stolen {
    stolen: u64,
    wanted: u64,
}

impl Stolen {
    /// Begins to count. The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
    #[must_use]
    pub fn since_now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = stat.lines().next().unwrap_or("").split_whitespace().skip(1);
        let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).take(8).collect();
        let at = |field: usize| ticks.get(field).copied().unwrap_or(0);
        let rests = at(3) + at(4);
        Self { stolen: at(7), wanted: ticks.iter().sum::<u64>() - rests }
    }

    /// As a part of the time in which the processors worked or would have: nothing is taken of one that rests.
    #[must_use]
    pub fn until_now(&self) -> String {
        let now = Self::since_now();
        let (stolen, wanted) = (now.stolen - self.stolen, now.wanted - self.wanted);
        format!("{:.0} %", stolen as f64 * 100.0 / wanted.max(1) as f64)
    }
}

/// The machine, the commit, the date and the captain, as SPEC.md names them.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"');
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{processors} processors ({}), {system}, Linux {}, load {}\ncommit {}, {}\n{}",
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
        said("git", &["describe", "--always", "--dirty"]),
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        crate::captain::binary().display(),
    )
}
