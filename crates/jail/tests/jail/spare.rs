//! The monitor in waiting: it serves the next start, and is nobody's until then.

use std::fs;
use std::process::Command;

use captain_jail::Phase;
use captain_jail::log::Stream;
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{PROBE, World, eventually};

/// The pids of those in waiting for starts in this state directory.
fn in_waiting(tag: &str) -> Vec<i32> {
    let sign = format!("waiting for {}", tag.trim_end_matches('.'));
    let waits = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|command| String::from_utf8_lossy(&command).replace('\0', " ").contains(&sign))
    };
    let names = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.filter(waits).collect()
}

/// The one in waiting. While it prepares itself, a process of its own looks like it.
fn the_one_in_waiting(tag: &str) -> i32 {
    eventually("one waits", || in_waiting(tag).len() == 1);
    in_waiting(tag)[0]
}

#[test]
fn the_next_start_takes_the_one_in_waiting() {
    let world = World::new();
    let tag = world.tag();
    assert!(world.jail.stand_by().unwrap());
    assert!(!world.jail.stand_by().unwrap(), "one is enough");
    let spare = the_one_in_waiting(&tag);
    assert_eq!(world.jail.list().unwrap(), [], "it is no instance");
    assert_eq!(world.groups(), Vec::<std::path::PathBuf>::new(), "and has no groups");
    let first = world.start_alone("first", world.spec("echo \"$(id -u)\"; exec sleep 1000"));
    let observed = world.jail.inspect(&first).unwrap().unwrap();
    let Phase::Running(running) = observed.phase else { panic!("not running") };
    assert_eq!(running.monitor.pid, spare);
    assert_eq!(in_waiting(&tag), Vec::<i32>::new());
    assert_eq!(world.processes().len(), 1, "it shows whose monitor it is: {:?}", world.processes());
    eventually("it speaks", || world.output(&first, Stream::Stdout) == format!("{}\n", observed.record.uid));
    // Nobody is in waiting for this one.
    let second = world.start_alone("second", world.spec("exec sleep 1000"));
    world.stop_and_clean(&first);
    world.stop_and_clean(&second);
    world.nothing_is_left();
}

#[test]
fn a_start_does_without_one_that_was_killed() {
    let world = World::new();
    let tag = world.tag();
    world.jail.stand_by().unwrap();
    kill_process(Pid::from_raw(the_one_in_waiting(&tag)).unwrap(), Signal::KILL).unwrap();
    eventually("it is dead", || in_waiting(&tag).is_empty());
    let id = world.start_alone("alone", world.spec("echo hello"));
    world.exited(&id);
    assert_eq!(world.output(&id, Stream::Stdout), "hello\n");
    world.jail.clean(&id).unwrap();
    assert!(world.jail.stand_by().unwrap(), "another one can be had");
    the_one_in_waiting(&tag);
}

#[test]
fn an_instance_looks_the_same_with_and_without_one() {
    let world = World::new();
    let look = "awk '{ print $5, $6, $(NF-2) }' /proc/self/mountinfo | sort; ls -A / /dev /etc /.captain; cat /proc/self/cgroup; grep -E 'Cap|NoNew|Seccomp' /proc/self/status";
    let seen = [World::start, World::start_alone].map(|start| {
        let id = start(&world, "same", world.spec(look));
        world.exited(&id);
        let seen = world.output(&id, Stream::Stdout);
        assert_eq!(world.output(&id, Stream::Stderr), "");
        assert!(world.jail.clean(&id).unwrap());
        seen
    });
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].contains("/app rw,nosuid,nodev,relatime overlay"), "{}", seen[0]);
}

#[test]
fn it_ends_with_the_server_however_that_ends() {
    let world = World::new();
    let tag = world.tag();
    world.jail.stand_by().unwrap();
    // A server in a process of its own, on the same state directory, so with the same tag.
    let mut server = Command::new(PROBE).args(["wait", "--state"]).arg(world.state()).spawn().unwrap();
    eventually("its monitor waits beside ours", || in_waiting(&tag).len() == 2);
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("that of the killed server is gone", || in_waiting(&tag).len() == 1);
    drop(world);
    eventually("ours is gone with the last handle", || in_waiting(&tag).is_empty());
}
