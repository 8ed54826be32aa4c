//! A machine with version 2 only, as far as this one can play it: a mount namespace in which the unified hierarchy stands alone. Its
//! controllers stay bound to version 1, so limits cannot be set there; what is made, born into, left and reported can be seen all the same.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::world::{PROBE, World};

/// Runs a shell script as a service would be run: in a group of the unified hierarchy, with nothing else mounted.
fn in_service(service: &str, script: &str) -> Output {
    let prepare = format!(
        "set -e; umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mkdir /sys/fs/cgroup/{service}; echo $$ > /sys/fs/cgroup/{service}/cgroup.procs; {script}"
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &prepare]).output().unwrap();
    // In the namespace of the test the hierarchy is still where it was.
    let group = unified().join(service);
    crate::world::eventually("the service's group is empty", || fs::remove_dir(&group).is_ok() || !group.exists());
    output
}

fn unified() -> std::path::PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    Path::new(line.expect("a cgroup2 mount").split(' ').nth(1).unwrap()).to_owned()
}

#[test]
fn what_version_two_lacks_here_is_reported() {
    let world = World::new();
    let script = format!("{PROBE} probe --state {}", world.state().display());
    let output = in_service("captain-test-probe", &script);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("control groups V2"), "{text}");
    for resource in ["memory", "CPU", "the number of processes"] {
        assert!(text.contains(&format!("- {resource} of instances is not limited")), "{text}");
    }
    assert!(!text.contains("stopping captain's service"), "the monitors can leave: {text}");
}

#[test]
fn the_monitor_is_born_outside_of_the_service() {
    let world = World::new();
    // The instance's parent is its monitor; the service's own group is printed beside it.
    let script = format!(
        "cat /proc/self/cgroup; ({PROBE} run --state {state} --slug {slug} -- /bin/sleep 1000 & echo $! > {state}.pid); \
         for i in $(seq 1000); do m=$(pgrep -f '^captain-monitor __jail monitor {state}' | head -1); test -n \"$m\" && grep -qs running {state}/instances/*/state.json && break; sleep 0.01; done; \
         grep ^0: /proc/$m/cgroup; kill -9 $(cat {state}.pid); kill -9 $m",
        state = world.state().display(),
        slug = world.slug().display(),
    );
    let output = in_service("captain-test-birth", &script);
    let text = String::from_utf8_lossy(&output.stdout);
    let groups: Vec<&str> = text.lines().filter(|line| line.starts_with("0:")).collect();
    assert_eq!(
        groups,
        ["0::/captain-test-birth", "0::/captain/monitors"],
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    crate::world::eventually("the instance is found lost", || world.jail.sweep().lost.len() == 1);
}
