//! What a start costs, beside the least that any start can cost on the same machine in the same minute.
//!
//! `cargo bench -p captain-jail` as root. The yardstick is a bare clone with the same namespaces and an exec, measured until the exec has
//! happened. Ours is measured until `launch` has returned, which is later than the program's first instruction: by then the start is
//! also recorded. The ratio is what counts, the milliseconds are this machine's; on a machine that is busy with other things the
//! fastest says more than the median, because an instance competes under its own CPU weight and the yardstick does not.
#![allow(unsafe_code)] // the yardstick is one system call that has no safe form

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use captain_jail::{Helper, Id, Jail, Limits, LogBound, Phase, Spec};

const PROBE: &str = env!("CARGO_BIN_EXE_jail-probe");
const ROUNDS: usize = 300;
const TOGETHER: usize = 50;
const PATIENCE: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let slug = dir.path().join("slug");
    fs::create_dir(&slug)?;
    let jail =
        Jail::open(&dir.path().join("state"), Helper { program: PROBE.into(), arguments: vec!["__jail".into()] })?;
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        // In turns, so that whatever else the machine does meets all of them alike.
        times[0].push(timed(bare)?);
        times[1].push(timed(re_exec)?);
        for (place, in_waiting) in [(2, false), (3, true)] {
            if in_waiting {
                jail.stand_by()?;
            }
            let id = Id::try_from(format!("bench-{round}"))?;
            jail.create(&id, spec(&slug, "/bin/true", &[]))?;
            times[place].push(timed(|| jail.launch(&id, PATIENCE).map(drop).map_err(Failure::from))?);
            jail.wait(&id, PATIENCE)?;
            jail.clean(&id)?;
        }
    }
    let mut out = std::io::stdout();
    for (name, share) in [("undisturbed (the fastest)", 0.0), ("median", 0.5)] {
        let [bare, re_exec, launch, with_spare] = times.each_ref().map(|times| quantile(times, share));
        writeln!(out, "{name}:")?;
        writeln!(out, "  bare clone with the same namespaces and exec: {bare:.2} ms")?;
        writeln!(out, "  execution of a helper that does nothing:      {re_exec:.2} ms")?;
        writeln!(out, "  launch, everything, until it returns:         {launch:.2} ms")?;
        writeln!(out, "  the same with a monitor in waiting:           {with_spare:.2} ms")?;
        writeln!(
            out,
            "  launch / bare, with and without:              {:.2}, {:.2}",
            with_spare / bare,
            launch / bare
        )?;
    }
    together(&jail, &slug, &mut out)
}

/// Many that run: what their monitors weigh, and how many starts a second that was.
fn together(jail: &Jail, slug: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let began = Instant::now();
    let mut monitors = Vec::new();
    for n in 0..TOGETHER {
        let id = Id::try_from(format!("many-{n}"))?;
        jail.create(&id, spec(slug, "/bin/sleep", &["1000"]))?;
        match jail.launch(&id, PATIENCE)? {
            Phase::Running(running) => monitors.push(running.monitor.pid),
            other => return Err(format!("{id} is {other:?}").into()),
        }
    }
    let rate = TOGETHER as f64 / began.elapsed().as_secs_f64();
    writeln!(out, "starts one after another, create and launch:  {rate:.0} a second")?;
    for (name, meaning) in
        [("Rss", "resident"), ("Pss", "its share of shared pages counted"), ("Private_Dirty", "its own")]
    {
        let mut kib = Vec::new();
        for pid in &monitors {
            kib.push(rollup(*pid, name)?);
        }
        writeln!(out, "monitor {name} ({meaning}), of {TOGETHER}: {:.0} KiB", quantile(&kib, 0.5))?;
    }
    for id in jail.list()? {
        jail.kill(&id)?;
        jail.wait(&id, PATIENCE)?;
        jail.clean(&id)?;
    }
    Ok(())
}

fn rollup(pid: i32, name: &str) -> Result<f64, Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).ok_or("no such field")?)
}

fn spec(slug: &Path, program: &str, arguments: &[&str]) -> Spec {
    Spec {
        slug: slug.to_owned(),
        runner: None,
        argv: std::iter::once(&program).chain(arguments).map(|part| (*part).to_owned()).collect(),
        env: BTreeMap::new(),
        hostname: "bench".into(),
        limits: Limits::default(),
        log: LogBound::default(),
        labels: BTreeMap::new(),
    }
}

fn bare() -> Result<(), Failure> {
    let (mut until_exec, held): (fs::File, OwnedFd) = {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        (read.into(), write)
    };
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP
        | libc::SIGCHLD;
    // SAFETY: fork semantics (no CLONE_VM, null stack) in a process with one thread: the child goes on with a copy of everything.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(namespaces), 0, 0, 0, 0) };
    match child {
        0 => {
            let error = Command::new("/bin/true").env_clear().exec();
            panic!("{error}");
        }
        -1 => return Err(std::io::Error::last_os_error().into()),
        _ => drop(held),
    }
    until_exec.read_to_end(&mut Vec::new())?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child)?);
    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    Ok(())
}

fn re_exec() -> Result<(), Failure> {
    let mut helper = Command::new(PROBE);
    helper
        .args(["__jail", "nothing", "/"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    helper.status()?;
    Ok(())
}

fn timed(what: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}
