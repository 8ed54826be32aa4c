//! What an instance may use, and what happens when it wants more.

use captain_jail::Limits;
use captain_jail::log::Stream;
use captain_jail::state::Ending;

use crate::world::{World, eventually, processes_of};

const MIB: u64 = 1 << 20;

#[test]
fn a_fork_bomb_stops_at_its_bound_and_dies_at_once() {
    let world = World::new();
    let mut spec = world.python(
        "while True:\n    try:\n        os.fork()\n    except OSError as e:\n        os.write(1, b'full %d\\n' % e.errno)\n        signal.pause()",
    );
    spec.limits = Limits { pids: 40, ..Limits::default() };
    let id = world.start("bomb", spec);
    eventually("the bomb meets its bound", || {
        world.output(&id, Stream::Stdout).contains(&format!("full {}", libc::EAGAIN))
    });
    let uid = world.jail.inspect(&id).unwrap().unwrap().record.uid;
    assert!(processes_of(uid).len() <= 40);
    assert!(world.jail.usage(&id).unwrap().unwrap().pids.unwrap() <= 40);
    world.jail.kill(&id).unwrap();
    world.exited(&id);
    assert_eq!(processes_of(uid), Vec::<String>::new());
    world.jail.clean(&id).unwrap();
    world.nothing_is_left();
}

#[test]
fn a_memory_bomb_is_killed_and_the_end_says_so() {
    let world = World::new();
    let mut spec = world.python("x = bytearray(300 << 20)");
    spec.limits = Limits { memory_bytes: 48 * MIB, ..Limits::default() };
    let outcome = world.run(spec.clone());
    assert_eq!(outcome.exited.ending, Ending::Signal(libc::SIGKILL));
    assert!(outcome.exited.out_of_memory());
    // The same when the first process is a runner that passes its child's end on.
    spec.argv = ["/bin/sh", "-c", "python3 -c 'x = bytearray(300 << 20)'; exit $?"].map(String::from).to_vec();
    let outcome = world.run(spec.clone());
    assert_eq!(outcome.exited.ending, Ending::Code(137));
    assert!(outcome.exited.out_of_memory());
    // And a kill that has nothing to do with memory is not blamed on it.
    spec.argv = ["/usr/bin/python3", "-c", "x = bytearray(8 << 20)"].map(String::from).to_vec();
    let outcome = world.run(spec);
    assert_eq!(outcome.exited.ending, Ending::Code(0));
    assert!(!outcome.exited.out_of_memory());
}

#[test]
fn files_fill_their_bound_and_not_the_disk() {
    let world = World::new();
    let mut spec = world.spec(
        "dd if=/dev/zero of=/app/big bs=1M count=100; stat -c %s /app/big; rm /app/big; dd if=/dev/zero of=/tmp/big bs=1M count=100; stat -c %s /tmp/big; rm /tmp/big; dd if=/dev/zero of=/dev/shm/big bs=1M count=100; stat -c %s /dev/shm/big; rm /dev/shm/big; i=0; while : > /tmp/f$i; do i=$((i+1)); test $i -gt 20000 && break; done; echo files $i",
    );
    spec.limits = Limits { memory_bytes: 128 * MIB, scratch_bytes: 16 * MIB, ..Limits::default() };
    let outcome = world.run(spec);
    assert_eq!(outcome.stderr.matches("No space left on device").count(), 4, "{}", outcome.stderr);
    let sizes: Vec<u64> = outcome.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(sizes.len(), 3, "{}", outcome.stdout);
    assert!(sizes.iter().all(|size| (8 * MIB..=16 * MIB).contains(size)), "{sizes:?}");
}

#[test]
fn limits_are_set_where_the_instance_can_read_them() {
    let world = World::new();
    let mut spec = world.spec("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; ulimit -n; ulimit -c; grep -c . /proc/cpuinfo >/dev/null && echo cpus");
    spec.limits = Limits { memory_bytes: 48 * MIB, open_files: 100, ..Limits::default() };
    assert_eq!(world.run(spec).stdout, format!("{}\n100\n0\ncpus\n", 48 * MIB));
}

#[test]
fn use_is_counted() {
    let world = World::new();
    let id = world
        .start("busy", world.spec("i=0; while test $i -lt 100000; do i=$((i+1)); done; echo done; exec sleep 1000"));
    eventually("it has worked", || world.output(&id, Stream::Stdout).contains("done"));
    let usage = world.jail.usage(&id).unwrap().unwrap();
    assert_eq!(usage.pids, Some(1));
    assert!(usage.memory_bytes.unwrap() > 10_000 && usage.memory_bytes.unwrap() < 64 * MIB, "{usage:?}");
    assert!(usage.cpu_ns.unwrap() > 1_000_000, "{usage:?}");
    world.stop_and_clean(&id);
    assert_eq!(world.jail.usage(&id).unwrap(), None);
}
