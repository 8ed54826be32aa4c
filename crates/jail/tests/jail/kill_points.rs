//! kill -9 of the monitor or of the first process at every step: nothing leaks, nothing lies.

use std::fs;
use std::time::Duration;

use captain_jail::state::{Ending, State};
use captain_jail::{LaunchError, Phase, Step};

use crate::world::{PATIENCE, World, eventually, id, processes_of};

/// The steps that the first process takes; the others are the monitor's.
const OF_THE_FIRST: [Step; 11] = [
    Step::Join,
    Step::Namespaces,
    Step::Root,
    Step::System,
    Step::Devices,
    Step::Pivot,
    Step::Proc,
    Step::App,
    Step::Privileges,
    Step::Filter,
    Step::Exec,
];

fn wish(world: &World, name: &str, verb: &str, step: Step) -> u32 {
    let id = id(name);
    let record = world.jail.create(&id, world.spec("echo hello; exec sleep 1000")).unwrap();
    let text = serde_json::to_string(&step).unwrap();
    fs::write(world.jail.dir(&id).join("at-step"), format!("{verb} {}", text.trim_matches('"'))).unwrap();
    record.uid
}

#[test]
fn the_monitor_dies_at_each_of_its_steps() {
    let world = World::new();
    let of_the_monitor = Step::ALL.into_iter().filter(|step| !OF_THE_FIRST.contains(step));
    for (step, in_waiting) in of_the_monitor.flat_map(|step| [(step, false), (step, true)]) {
        let name = "victim";
        let uid = wish(&world, name, "die", step);
        if in_waiting {
            world.jail.stand_by().unwrap();
        }
        let id = id(name);
        let launched = world.jail.launch(&id, PATIENCE);
        if matches!(step, Step::Ended | Step::Cleanup) {
            assert!(matches!(launched, Ok(Phase::Running(_))), "{step:?}");
            world.jail.kill(&id).unwrap();
        }
        eventually("the monitor is dead", || world.processes().is_empty());
        eventually("the instance died with it", || processes_of(uid).is_empty());
        let phase = world.jail.inspect(&id).unwrap().unwrap().phase;
        let expected =
            if matches!(step, Step::Detach | Step::Read | Step::Lock) { Phase::Created } else { Phase::Lost };
        assert_eq!(phase, expected, "{step:?}: {launched:?}");
        let found = world.jail.sweep();
        assert_eq!(found.lost.len(), usize::from(expected == Phase::Lost), "{step:?}");
        assert_eq!(found.failed, [], "{step:?}");
        if expected == Phase::Lost {
            let Phase::Exited(exited) = world.jail.inspect(&id).unwrap().unwrap().phase else { panic!("{step:?}") };
            assert_eq!(exited.ending, Ending::Lost);
        }
        assert!(world.jail.clean(&id).unwrap(), "{step:?}");
        world.nothing_is_left();
    }
}

#[test]
fn the_first_process_dies_at_each_of_its_steps() {
    let world = World::new();
    for (step, in_waiting) in OF_THE_FIRST.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        wish(&world, "victim", "die", step);
        if in_waiting {
            world.jail.stand_by().unwrap();
        }
        let id = id("victim");
        let launched = world.jail.launch(&id, PATIENCE);
        assert!(matches!(launched, Err(LaunchError::Refused { .. })), "{step:?}: {launched:?}");
        let Phase::Exited(exited) = world.jail.inspect(&id).unwrap().unwrap().phase else { panic!("{step:?}") };
        assert!(matches!(exited.ending, Ending::NotStarted(_)), "{step:?}: {exited:?}");
        assert!(world.jail.clean(&id).unwrap(), "{step:?}");
        world.nothing_is_left();
    }
}

#[test]
fn the_monitor_dies_while_the_first_process_is_at_each_of_its_steps() {
    let world = World::new();
    for step in OF_THE_FIRST {
        wish(&world, "victim", "hang", step);
        let id = id("victim");
        std::thread::scope(|scope| {
            let launching = scope.spawn(|| world.jail.launch(&id, PATIENCE));
            let mut monitor = None;
            eventually("the first process hangs", || {
                let state = fs::read(world.jail.dir(&id).join("state.json")).unwrap_or_default();
                let Ok(State::Starting { monitor: found, .. }) = serde_json::from_slice(&state) else { return false };
                let children = format!("/proc/{0}/task/{0}/children", found.pid);
                let child = fs::read_to_string(children).unwrap_or_default();
                monitor = Some(found);
                // `park` waits on a futex; nothing else here does.
                child.split_whitespace().any(|child| {
                    fs::read_to_string(format!("/proc/{child}/syscall"))
                        .is_ok_and(|call| call.starts_with(&format!("{} ", libc::SYS_futex)))
                })
            });
            let pid = rustix::process::Pid::from_raw(monitor.unwrap().pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            let launched = launching.join().unwrap();
            assert!(matches!(launched, Err(LaunchError::Silent(_))), "{step:?}: {launched:?}");
        });
        eventually("the first process died with it", || {
            world.jail.inspect(&id).unwrap().unwrap().phase == Phase::Lost && world.processes().is_empty()
        });
        assert!(world.jail.recover(&id).unwrap(), "{step:?}");
        assert!(!world.jail.recover(&id).unwrap(), "{step:?}");
        assert!(world.jail.clean(&id).unwrap(), "{step:?}");
        world.nothing_is_left();
    }
}

#[test]
fn a_start_that_hangs_is_given_up() {
    let world = World::new();
    let uid = wish(&world, "slow", "hang", Step::UserMap);
    let launched = world.jail.launch(&id("slow"), Duration::from_millis(300));
    assert!(matches!(launched, Err(LaunchError::Timeout { .. })), "{launched:?}");
    eventually("nothing of it lives", || processes_of(uid).is_empty() && world.processes().is_empty());
    world.jail.sweep();
    assert!(world.jail.clean(&id("slow")).unwrap());
    world.nothing_is_left();
}

#[test]
fn an_instance_dies_with_its_monitor() {
    let world = World::new();
    let id = world.start("orphan", world.spec("trap '' TERM HUP; sleep 1000 & sleep 1000"));
    let observed = world.jail.inspect(&id).unwrap().unwrap();
    let Phase::Running(running) = observed.phase else { panic!("not running") };
    let pid = rustix::process::Pid::from_raw(running.monitor.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("all are dead", || processes_of(observed.record.uid).is_empty());
    eventually("it is lost", || world.jail.inspect(&id).unwrap().unwrap().phase == Phase::Lost);
    assert!(!world.jail.kill(&id).unwrap());
    assert!(world.jail.clean(&id).unwrap(), "a lost instance can be removed without further ado");
    world.nothing_is_left();
}

#[test]
fn an_instance_that_would_outlive_its_monitor_is_found_and_killed() {
    let world = World::new();
    // It takes back the signal that ties it to its monitor.
    let spec = world.python(&format!("sys({}, 1, 0); print('untied', flush=True); signal.pause()", libc::SYS_prctl));
    let id = world.start("rebel", spec);
    eventually("it is untied", || world.output(&id, captain_jail::log::Stream::Stdout).contains("untied"));
    let observed = world.jail.inspect(&id).unwrap().unwrap();
    let Phase::Running(running) = observed.phase else { panic!("not running") };
    let pid = rustix::process::Pid::from_raw(running.monitor.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("it is lost", || world.jail.inspect(&id).unwrap().unwrap().phase == Phase::Lost);
    assert_eq!(processes_of(observed.record.uid).len(), 1, "it does live on, for now");
    assert_eq!(world.jail.sweep().lost, std::slice::from_ref(&id));
    assert_eq!(processes_of(observed.record.uid), Vec::<String>::new());
    assert!(world.jail.clean(&id).unwrap());
    world.nothing_is_left();
}
