//! What the kernel says of processes and of the machine.

use std::fs;
use std::process::Command;
use std::time::Duration;

/// The kernel counts the time of processes in hundredths of a second, on every machine that Linux runs on today.
const TICK: Duration = Duration::from_millis(10);

/// The time that a process has spent on the processors.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name is in brackets and may hold anything; behind it utime and stime are the 12th and 13th.
    let behind = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
    let ticks: u32 = behind.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    TICK * ticks
}

/// A line of /proc/PID/status, in MiB: `VmRSS`, or `VmHWM` for the most that it ever was.
pub(crate) fn memory(pid: u32, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

/// What the host has taken of this machine's processors since it was made: on a virtual machine others' work, which stands in the
/// way of whatever is measured, and which no program in here can help.
pub(crate) struct Stolen(Ticks);

struct Ticks {
    stolen: u64,
    all: u64,
}

impl Stolen {
    pub(crate) fn since_now() -> Self {
        Self(Ticks::now())
    }

    /// As a part of the time in which the processors worked or would have: nothing is taken of one that rests.
    pub(crate) fn until_now(&self) -> String {
        let now = Ticks::now();
        let (stolen, all) = (now.stolen - self.0.stolen, now.all - self.0.all);
        format!("{:.0} %", stolen as f64 * 100.0 / all.max(1) as f64)
    }
}

impl Ticks {
    /// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = stat.lines().next().unwrap_or("").split_whitespace().skip(1);
        let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).take(8).collect();
        let at = |field: usize| ticks.get(field).copied().unwrap_or(0);
        let rests = at(3) + at(4);
        Self { stolen: at(7), all: ticks.iter().sum::<u64>() - rests }
    }
}

/// The machine, the commit and the date, as SPEC.md names them.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"');
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "captain-scale: all engines are simulated\n{processors} processors ({model}), {system}, Linux {}, load {}\ncommit {}, {}\n{}",
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
        said("git", &["describe", "--always", "--dirty"]),
        said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        captain_e2e::captain::binary().display(),
    )
}
