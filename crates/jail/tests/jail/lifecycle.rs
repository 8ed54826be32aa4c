//! From creation to removal, and what a restarted server finds.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use captain_jail::log::Stream;
use captain_jail::state::Ending;
use captain_jail::{CreateError, LaunchError, Phase, Step};

use crate::world::{PATIENCE, PROBE, World, eventually, id};

#[test]
fn the_end_is_told_as_it_was() {
    let world = World::new();
    let end = |script: &str| world.run(world.spec(script)).exited.ending;
    assert_eq!(end("exit 0"), Ending::Code(0));
    assert_eq!(end("exit 7"), Ending::Code(7));
    assert_eq!(end("sh -c 'kill -9 $$'; exit $?"), Ending::Code(137));
    // A first process does not hear signals that it has no handler for, unless they come from outside.
    let id = world.start("only", world.spec("exec sleep 1000"));
    world.jail.kill(&id).unwrap();
    assert_eq!(world.exited(&id).ending, Ending::Signal(libc::SIGKILL));
}

#[test]
fn the_environment_is_exactly_what_was_asked_for() {
    let world = World::new();
    let mut spec = world.spec("");
    spec.argv = vec!["/usr/bin/env".into()];
    spec.env = BTreeMap::from([("A".into(), "1 \"quoted\" = $x\nline".into()), ("B".into(), String::new())]);
    assert_eq!(world.run(spec).stdout, "A=1 \"quoted\" = $x\nline\nB=\n");
}

#[test]
fn the_place_is_what_a_program_expects() {
    let world = World::new();
    fs::write(world.slug().join("Procfile"), "web: x").unwrap();
    let seen = world.run(world.spec(
        "pwd; cat Procfile; echo; echo x > Procfile && mkdir log && echo y > log/z && cat log/z; id -un; id -gn; hostname; umask; test -t 0 || cat; echo via >/dev/stdout; echo gone >/dev/null; head -c 4 /dev/urandom | wc -c; touch /tmp/t /dev/shm/s && echo tmp; ls -ld /tmp | cut -c1-10; ls /proc/self/fd; cat /etc/hostname; getent hosts localhost >/dev/null && echo resolves",
    ));
    let expected = "/app\nweb: x\ny\napp\napp\njailed\n0022\nvia\n4\ntmp\ndrwxrwxrwt\n0\n1\n2\n3\njailed\nresolves\n";
    assert_eq!(seen.stdout, expected, "{}", seen.stderr);
}

#[test]
fn host_interpreters_run() {
    let world = World::new();
    let seen = world.run(world.python(
        "import ssl, sqlite3, threading, subprocess, multiprocessing, json\n\
         t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\n\
         print(subprocess.check_output(['echo', 'child']).decode().strip())\n\
         s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); c = socket.create_connection(s.getsockname()); print('tcp')\n\
         m, w = os.openpty(); print('pty')\n\
         print(multiprocessing.Pool(2).map(abs, [-1]))",
    ));
    assert_eq!(seen.stdout, "thread\nchild\ntcp\npty\n[1]\n", "{}", seen.stderr);
}

#[test]
fn a_runner_of_the_hosts_is_there_and_nothing_else_of_its_folder() {
    let world = World::new();
    let folder = world.dir.path().join("private");
    fs::create_dir(&folder).unwrap();
    fs::copy("/usr/bin/echo", folder.join("runner")).unwrap();
    let mut spec = world.spec("");
    spec.runner = Some(folder.join("runner"));
    spec.argv = ["/.captain/runner", "it", "runs"].map(String::from).to_vec();
    assert_eq!(world.run(spec).stdout, "it runs\n");
}

#[test]
fn term_reaches_the_first_process() {
    let world = World::new();
    let id =
        world.start("polite", world.spec("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"));
    eventually("it is ready", || world.output(&id, Stream::Stdout).contains("ready"));
    assert!(world.jail.signal(&id, libc::SIGTERM).unwrap());
    assert_eq!(world.exited(&id).ending, Ending::Code(3));
    assert_eq!(world.output(&id, Stream::Stdout), "ready\nbye\n");
    assert!(!world.jail.signal(&id, libc::SIGTERM).unwrap());
}

#[test]
fn a_start_that_cannot_be_says_why_and_leaves_nothing() {
    let world = World::new();
    let refused = |change: fn(&mut captain_jail::Spec), name: &str| {
        let mut spec = world.spec("true");
        change(&mut spec);
        let id = id(name);
        world.jail.create(&id, spec).unwrap();
        let Err(LaunchError::Refused { source, .. }) = world.jail.launch(&id, PATIENCE) else { panic!("it ran") };
        let Phase::Exited(exited) = world.jail.inspect(&id).unwrap().unwrap().phase else { panic!("not over") };
        assert_eq!(exited.ending, Ending::NotStarted(source.clone()));
        assert!(world.jail.clean(&id).unwrap());
        source
    };
    let error = refused(|spec| spec.argv = vec!["/app/missing".into()], "program");
    assert_eq!((error.step, error.errno), (Step::Exec, Some(libc::ENOENT)));
    assert!(error.to_string().contains("/app/missing"), "{error}");
    let error = refused(|spec| spec.slug = "/nonexistent/slug".into(), "slug");
    assert_eq!((error.step, error.errno), (Step::OwnerMap, Some(libc::ENOENT)));
    assert!(error.to_string().contains("/nonexistent/slug"), "{error}");
    let error = refused(|spec| spec.runner = Some("/nonexistent/runner".into()), "runner");
    assert_eq!(error.step, Step::Root);
    world.nothing_is_left();
}

#[test]
fn an_instance_is_created_once_and_started_once() {
    let world = World::new();
    let id = world.start("one", world.spec("exec sleep 1000"));
    assert!(matches!(world.jail.create(&id, world.spec("")), Err(CreateError::Exists(_))));
    assert!(matches!(world.jail.launch(&id, PATIENCE), Err(LaunchError::Refused { .. })));
    assert!(matches!(world.jail.inspect(&id).unwrap().unwrap().phase, Phase::Running(_)));
    assert!(world.jail.clean(&id).is_err(), "a running instance is not removed");
    world.jail.kill(&id).unwrap();
    world.exited(&id);
    assert!(matches!(world.jail.launch(&id, PATIENCE), Err(LaunchError::Refused { .. })));
    assert_eq!(world.exited(&id).ending, Ending::Signal(libc::SIGKILL), "what is known of it stays");
    assert_eq!(world.jail.inspect(&crate::world::id("other")).unwrap(), None);
}

#[test]
fn a_server_killed_and_started_again_finds_all() {
    let world = World::new();
    // A server of its own process: it starts an instance, and is killed with all its group.
    let mut server = Command::new(PROBE)
        .args(["run", "--state"])
        .arg(world.state())
        .arg("--slug")
        .arg(world.slug())
        .args(["--", "/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done"])
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    eventually("it runs", || {
        world.jail.list().unwrap().first().is_some_and(|id| world.output(id, Stream::Stdout).contains("10\n"))
    });
    let id = world.jail.list().unwrap().remove(0);
    let Phase::Running(before) = world.jail.inspect(&id).unwrap().unwrap().phase else { panic!("not running") };
    let group = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    server.wait().unwrap();
    let restarted = World::open(&world.state());
    assert_eq!(restarted.sweep(), captain_jail::Cleaned::default());
    assert_eq!(restarted.inspect(&id).unwrap().unwrap().phase, Phase::Running(before));
    let seen = world.output(&id, Stream::Stdout).lines().count();
    eventually("its output goes on", || world.output(&id, Stream::Stdout).lines().count() > seen + 20);
    let lines: Vec<u64> = world.output(&id, Stream::Stdout).lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.iter().copied().eq(1..=lines.len() as u64), "no line is missing");
    world.stop_and_clean(&id);
    world.nothing_is_left();
}

#[test]
fn the_rehearsal_finds_what_instances_find() {
    let world = World::new();
    let report = world.jail.probe().unwrap();
    assert_eq!(report.unusable, None);
    let id = world.start("real", world.spec("exec sleep 1000"));
    let Phase::Running(running) = world.jail.inspect(&id).unwrap().unwrap().phase else { panic!("not running") };
    assert_eq!(report.limitations, running.limitations);
    world.stop_and_clean(&id);
    world.nothing_is_left();
    assert!(
        !fs::read_dir(world.state()).unwrap().flatten().any(|e| e.file_name().to_string_lossy().contains("rehearsal"))
    );
}
