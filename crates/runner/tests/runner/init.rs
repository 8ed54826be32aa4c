//! The duties of pid 1, and manners where the runner is not.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{App, Outcome, Running, app_uid, eventually, finish, needs_root};

fn app(command: &str) -> App {
    App::new(&[("Procfile", &format!("web: {command}\n"))])
}

#[test]
fn the_apps_exit_code_is_the_runners() {
    for (command, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 64", 64),
        ("kill -9 $$", 137),
        ("kill -35 $$", 163),
        ("no-such", 127),
        ("./Procfile", 126),
    ] {
        let app = app(command);
        assert_eq!(finish(app.init(&["run", "web"])).code, code, "{command}");
        assert_eq!(app.run(&["run", "web"]).code, code, "{command}");
    }
}

#[test]
fn phases_are_reported_and_tell_whose_code_it_is() {
    let app = App::new(&[
        (".profile.d/a.sh", "cp phase in-profile\n"),
        (
            "Procfile",
            "web: until grep -q running phase; do :; done; trap 'cp phase in-stop; exit 64' TERM; touch up; while :; do sleep 0.05; done\n",
        ),
    ]);
    let running = Running::start(app.init(&["--phase-file", app.path("phase").to_str().unwrap(), "run", "web"]));
    app.wait_for("up");
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 64);
    assert_eq!(app.read("in-profile"), "profile\n");
    assert_eq!(app.read("in-stop"), "stopping\n");
    assert_eq!(app.read("phase"), "exited code=64 by=app\n");
}

#[test]
fn a_phase_that_cannot_be_reported_is_said_once_and_stops_nothing() {
    let outcome = app("printf ok").run(&["--phase-file", "/no/such/folder/phase", "run", "web"]);
    outcome.printed("ok");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    assert!(outcome.stderr.contains("cannot write /no/such/folder/phase"), "{outcome:?}");
}

#[test]
fn signals_are_passed_on_to_the_whole_group() {
    const SIGNALS: [Signal; 6] =
        [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH];
    let names = SIGNALS.map(|signal| signal.as_str().trim_start_matches("SIG"));
    let traps: String = names.iter().map(|name| format!("trap 'touch $1.{name}' {name}\n")).collect();
    let member = format!("#!/bin/bash\n{traps}touch $1.up\nwhile :; do sleep 0.02; done\n");
    let app = App::new(&[("member", &member), ("Procfile", "web: ./member b & exec ./member a\n")]);
    let running = Running::start(app.init(&["run", "web"]));
    app.wait_for("a.up");
    app.wait_for("b.up");
    for (signal, name) in SIGNALS.iter().zip(names) {
        running.signal_inner(*signal);
        app.wait_for(&format!("a.{name}"));
        // A background job of a shell ignores INT and QUIT for good: POSIX, not us.
        if !["INT", "QUIT"].contains(&name) {
            app.wait_for(&format!("b.{name}"));
        }
    }
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 143);
}

#[test]
fn orphans_are_reaped() {
    let app = App::new(&[(
        "Procfile",
        "web: for i in $(seq 50); do (sleep 0.01 &); done; for i in $(seq 500); do grep -qs '^State:.Z' /proc/[0-9]*/status || exit 0; sleep 0.02; done; exit 9\n",
    )]);
    assert_eq!(finish(app.init(&["run", "web"])).code, 0, "zombies are left");
}

#[test]
fn what_the_app_leaves_behind_is_asked_to_end_and_then_killed() {
    const DAEMON: &str = "#!/bin/sh\ntrap \"touch $1.asked; $2\" TERM\ntouch $1.up\nwhile :; do sleep 0.02; done\n";
    let command = "web: setsid ./daemon polite exit & ./daemon here exit & setsid ./daemon deaf : & until [ -e polite.up -a -e here.up -a -e deaf.up ]; do sleep 0.01; done; exit 5\n";
    for as_init in [true, false] {
        needs_root();
        let app = App::new(&[("daemon", DAEMON), ("Procfile", command)]);
        let begun = Instant::now();
        let outcome = finish(if as_init { app.init(&["run", "web"]) } else { app.runner(&["run", "web"]) });
        assert_eq!(outcome.code, 5, "as init: {as_init}: {outcome:?}");
        for name in ["polite.asked", "here.asked", "deaf.asked"] {
            assert!(app.path(name).exists(), "as init: {as_init}: {name}");
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "the deaf one was waited for");
    }
}

#[test]
fn outside_of_a_namespace_nobody_else_is_touched() {
    needs_root();
    let bystander = App::new(&[("Procfile", "web: touch up; sleep 1000\n")]);
    let mut bystander_running = Running::start(bystander.runner(&["run", "web"]));
    bystander.wait_for("up");
    let app = app("setsid sleep 1000 & exit 5");
    // The bystander has the same uid: an "all" would reach it.
    assert_eq!(app.run(&["run", "web"]).code, 5);
    assert!(!bystander_running.is_over());
    kill(bystander_running.pid(), Signal::SIGTERM).unwrap();
    assert_eq!(bystander_running.finish().code, 143);
}

#[test]
fn a_stop_ends_within_the_grace_although_the_app_is_deaf() {
    let app = app("trap '' TERM; touch up; while :; do sleep 0.05; done");
    let running = Running::start(app.init(&["--grace", "1", "run", "web"]));
    app.wait_for("up");
    let asked = Instant::now();
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 137);
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stop_during_the_profile_is_heard() {
    let app = App::new(&[(".profile", "touch up; sleep 1000\n"), ("Procfile", "web: touch never\n")]);
    let running = Running::start(app.init(&["run", "web"]));
    app.wait_for("up");
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 143);
    assert!(!app.path("never").exists());
}

#[test]
fn a_profile_script_that_ends_the_shell_is_named() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3)] {
        let app =
            App::new(&[(".profile.d/a.sh", "true\n"), (".profile.d/b.sh", script), ("Procfile", "web: touch never\n")]);
        let about = format!("{} ended the shell with code {code}", app.path(".profile.d/b.sh").display());
        app.run(&["run", "web"]).refused(78, &about);
        assert!(!app.path("never").exists());
    }
    // Ended by the kernel, it is shown as any process is.
    let app = App::new(&[(".profile", "kill -9 $$"), ("Procfile", "web: touch never\n")]);
    assert_eq!(app.run(&["run", "web"]).code, 137);
}

#[test]
fn a_simple_command_is_the_child_of_the_runner_itself() {
    let app = App::new(&[
        (".profile.d/a.sh", "true\n"),
        ("parent", "#!/bin/sh\nprintf %s $PPID\n"),
        ("Procfile", "web: ./parent\n"),
    ]);
    let outcome = finish(app.init(&["run", "web"]));
    outcome.printed("1");
}

#[test]
fn the_app_inherits_no_descriptor_and_no_blocked_signal() {
    let app = App::new(&[
        (".profile.d/a.sh", "true\n"),
        ("Procfile", "web: echo /proc/self/fd/*; grep -E '^(SigBlk|SigIgn)' /proc/self/status\n"),
    ]);
    let outcome = finish(app.init(&["run", "web"]));
    assert_eq!(outcome.code, 0);
    // What this test was itself given by whoever runs it is not the runner's to close.
    let line = |outcome: &Outcome| outcome.stdout.lines().next().unwrap().to_owned();
    let mut plain = Command::new("bash");
    plain.args(["-c", "echo /proc/self/fd/*"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    assert_eq!(line(&outcome), line(&finish(plain)));
    let mask = |name: &str| {
        let hex = outcome.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        u64::from_str_radix(hex, 16).unwrap()
    };
    assert_eq!(mask("SigBlk:"), 0);
    // 32 and 33 are the C library's own, which its posix_spawn ignores in every child.
    assert_eq!(mask("SigIgn:") & !(0b11 << 31), 0, "{outcome:?}");
}

#[test]
fn the_app_cannot_trace_its_pid_1() {
    let app = app("cat /proc/1/environ; cat /proc/1/maps; id -u");
    let outcome = finish(app.init(&["run", "web"]));
    assert_eq!((outcome.code, outcome.stdout), (0, format!("{}\n", app_uid())));
}

#[test]
fn idle_memory_is_small() {
    let app = app("touch up; exec sleep 1000");
    let running = Running::start(app.init(&["run", "web"]));
    app.wait_for("up");
    let status = fs::read_to_string(format!("/proc/{}/status", running.inner())).unwrap();
    let resident: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap();
    // A debug build, dynamically linked: pages of the C library are most of it. measure.sh looks at the static release.
    assert!(resident < 4096, "{resident} KiB");
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap().trim();
    assert_eq!(threads, "1");
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 143);
}

#[test]
fn nothing_of_an_instance_outlives_its_runner() {
    let app = app("setsid sleep 1000 & sleep 1000 & ( setsid sleep 1000 & ) ; echo $$ > up; exec sleep 1000");
    let running = Running::start(app.init(&["run", "web"]));
    app.wait_for("up");
    let inner = running.inner();
    let namespace = fs::read_link(format!("/proc/{inner}/ns/pid")).unwrap();
    running.signal_inner(Signal::SIGTERM);
    running.finish();
    let inside = |pid: &Pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace);
    eventually("the namespace is empty", || {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        !pids.map(Pid::from_raw).any(|pid| inside(&pid))
    });
}
