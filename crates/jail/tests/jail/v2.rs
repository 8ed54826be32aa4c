//! A machine with control groups of version 2 alone, its controllers included: `scripts/v2` boots one, and runs these there. On the
//! machine of everyday there is none, so they are ignored by name, and never pass without having been run.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use captain_jail::log::Stream;
use captain_jail::{Id, Limits};

use crate::user::{NOBODY, User};
use crate::world::{PROBE, World, eventually};

const MOUNT: &str = "/sys/fs/cgroup";

/// What a memory bomb, a fork bomb and a look around say. Only `sh` and Python's bytes: nothing that a library might refuse to load.
const MEMORY_BOMB: &str = "exec python3 -c 'x = bytearray(300 << 20)'";
const FORK_BOMB: &str = "i=0; while test $i -lt 600; do sleep 1000 & i=$((i+1)); done; echo ALL";

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn nothing_is_missing_to_root_but_what_its_kernel_is_too_old_for() {
    let world = World::new();
    let report = world.jail.probe().unwrap();
    assert_eq!(report.layout, captain_jail::Layout::V2);
    assert_eq!(report.unusable, None);
    let missing: Vec<String> = report.limitations.iter().map(ToString::to_string).collect();
    assert!(missing.iter().all(|missing| missing.contains("abstract unix sockets")), "{missing:?}");
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn processors_are_shared_by_weight_under_contention() {
    let world = World::new();
    // On one processor, so that where the balancer puts whom does not matter.
    let start = |name: &str, cpu_shares| {
        let mut spec = world.spec("exec taskset -c 0 sh -c 'while :; do :; done'");
        spec.limits = Limits { cpu_shares, ..Limits::default() };
        world.start(name, spec)
    };
    let used = |id: &Id| Duration::from_nanos(world.jail.usage(id).unwrap().unwrap().cpu_ns.unwrap());
    // Weights 20 and 5 of version 2, rounded.
    let (large, small) = (start("large", 512), start("small", 128));
    // From here on, when both are surely at it.
    eventually("both are busy", || used(&small) > Duration::from_millis(500));
    let before = [&large, &small].map(used);
    eventually("they have competed for a while", || used(&small) - before[1] > Duration::from_secs(2));
    let [large_share, small_share] = [used(&large) - before[0], used(&small) - before[1]];
    let ratio = large_share.as_secs_f64() / small_share.as_secs_f64();
    assert!((2.8..5.2).contains(&ratio), "{ratio:.2}: {large_share:?} and {small_share:?}");
    for id in [large, small] {
        world.stop_and_clean(&id);
    }
    world.nothing_is_left();
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn one_that_is_born_in_its_group_sees_it_as_the_top() {
    let world = World::new();
    let outcome = world.run(world.spec("cat /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | wc -l"));
    assert_eq!(outcome.stdout.lines().next(), Some("0::/"), "{}", outcome.stdout);
}

/// A service of which a service manager has made this much a user's: the folders of these groups, and the files by which processes and
/// controllers are moved.
struct Delegated {
    top: PathBuf,
}

impl Delegated {
    /// The group of the service, as by systemd's `User=` and `Delegate=yes`.
    fn service(name: &str) -> Self {
        Self::new(name, &["service"])
    }

    /// The group around it too, as for a service of the user's own manager.
    fn manager(name: &str) -> Self {
        Self::new(name, &["", "service"])
    }

    fn new(name: &str, groups: &[&str]) -> Self {
        let top = Path::new(MOUNT).join(name);
        hand_down(Path::new(MOUNT));
        fs::create_dir_all(top.join("service")).unwrap();
        hand_down(&top);
        for group in groups {
            for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                chown(top.join(group).join(file), Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Self { top }
    }

    /// Those below the folder of ours in this group that belong to instances.
    fn instances(&self, group: &str) -> Vec<PathBuf> {
        let found = fs::read_dir(self.top.join(group).join("captain")).unwrap().flatten();
        found.map(|e| e.path()).filter(|path| path.is_dir() && !path.ends_with("monitors")).collect()
    }

    /// The words before a command that run it as the service, in this group of it.
    fn as_service(&self, group: &str) -> String {
        let group = self.top.join("service").join(group).display().to_string();
        format!("echo 0 > {group}/cgroup.procs && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let mut groups = vec![self.top.clone()];
        let mut next = 0;
        while let Some(group) = groups.get(next) {
            let below: Vec<PathBuf> = fs::read_dir(group)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .filter(|path| path.is_dir())
                .collect();
            groups.extend(below);
            next += 1;
        }
        // The deepest first. What is busy stays, and the machine goes after the tests anyway.
        for group in groups.iter().rev() {
            let _ = fs::remove_dir(group);
        }
    }
}

fn is_older_than(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) < (major, minor)
}

fn hand_down(group: &Path) {
    for controller in ["memory", "cpu", "pids"] {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    }
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn a_user_with_a_delegated_group_has_its_limits_held() {
    let delegated = Delegated::service("captain-test-delegated");
    let user = User::new();
    // The first start moves itself out of the way of the groups below. From then on there is no place for processes but in a leaf, which
    // a service manager has to be told (systemd's DelegateSubgroup).
    let report = user.by_shell(&delegated.as_service(""), &["probe"]);
    assert!(report.contains("service cannot be started again"), "{report}");
    let refused = fs::write(delegated.top.join("service/cgroup.procs"), "0").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ResourceBusy);
    let report = user.by_shell(&delegated.as_service("captain-server"), &["probe"]);
    assert!(!report.contains("service cannot be started again"), "{report}");
    assert!(report.contains("stopping captain's service may kill"), "{report}");
    limits_are_held(&user, &delegated.as_service("captain-server"));
    assert_eq!(delegated.instances("service"), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn a_service_of_a_users_manager_has_its_instances_beside_it() {
    let delegated = Delegated::manager("captain-test-manager");
    let user = User::new();
    // Any number of times: its group stays a leaf.
    for _ in 0..2 {
        let report = user.by_shell(&delegated.as_service(""), &["probe"]);
        assert!(report.contains("mode User, control groups V2"), "{report}");
        assert!(!report.contains("captain's service"), "{report}");
    }
    limits_are_held(&user, &delegated.as_service(""));
    assert_eq!(delegated.instances(""), Vec::<PathBuf>::new());
    assert!(!delegated.top.join("service/captain").exists());
}

fn limits_are_held(user: &User, service: &str) {
    let report = user.by_shell(service, &["probe"]);
    assert!(report.contains("mode User, control groups V2"), "{report}");
    for resource in ["memory", "CPU", "the number of processes"] {
        assert!(!report.contains(&format!("{resource} of instances is not limited")), "{report}");
    }
    let slug = user.slug().display().to_string();
    let run = |memory: &str, script: &str| {
        user.by_shell(service, &["run", "--slug", &slug, "--memory", memory, "--", "/bin/sh", "-c", script])
    };
    let seen = run("48", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.weight");
    assert_eq!(seen, format!("{}\n512\n39\n", 48 << 20));
    let bombed = run("48", MEMORY_BOMB);
    assert!(bombed.contains("killed for want of memory"), "{bombed}");
    let forked = run("512", FORK_BOMB);
    assert!(!forked.contains("ALL") && forked.to_lowercase().contains("fork"), "{forked}");
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn the_only_process_of_a_container_makes_room_at_its_top() {
    let world = World::new();
    let container = Path::new(MOUNT).join("captain-test-container");
    hand_down(Path::new(MOUNT));
    fs::create_dir(&container).unwrap();
    // Of a group namespace of its own it sees nothing but this group, as the top of a hierarchy.
    let inside = format!(
        "umount -R {MOUNT} && mount -t cgroup2 none {MOUNT} && exec {PROBE} probe --state {}",
        world.state().display()
    );
    let before = format!("echo 0 > {}/cgroup.procs && exec unshare --cgroup --mount sh -c \"$0\"", container.display());
    let output = Command::new("sh").args(["-c", &before, &inside]).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(report.contains("mode Root, control groups V2"), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!report.contains("of instances is not limited"), "{report}");
    assert!(container.join("captain-server").exists() && container.join("captain").exists());
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn a_user_without_one_is_told_what_is_not_limited() {
    let user = User::new();
    let report = String::from_utf8(user.probe(&["probe"]).stdout).unwrap();
    assert!(report.contains("mode User, control groups V2"), "{report}");
    for resource in ["memory", "CPU", "the number of processes"] {
        assert!(
            report.contains(&format!("- {resource} of instances is not limited: no group can be made")),
            "{report}"
        );
    }
    // Attributes on a tmpfs came with 6.6: the one warning that no kernel of today gives.
    let told = report
        .contains("- instances cannot remove a folder of the slug and make it again in /app: attributes of a tmpfs");
    assert_eq!(told, is_older_than(6, 6), "{report}");
    let forked = user.run(FORK_BOMB);
    assert!(!forked.contains("ALL") && forked.to_lowercase().contains("fork"), "by the limit of the user: {forked}");
}

#[test]
#[ignore = "needs control groups of version 2: scripts/v2"]
fn a_crowd_that_wants_too_much_memory_loses_one_and_the_end_says_so() {
    let world = World::new();
    let crowd = "for i in 1 2 3; do python3 -c 'x = bytearray(40 << 20); import time; time.sleep(1000)' & done; wait -n; echo \"one ended: $?\"; wait";
    let argv = ["/bin/bash", "-c", crowd].map(String::from).to_vec();
    let limits = Limits { memory_bytes: 96 << 20, ..Limits::default() };
    let id = world.start("crowd", captain_jail::Spec { argv, limits, ..world.spec("") });
    eventually("the kernel kills one", || world.output(&id, Stream::Stdout).contains("one ended: 137"));
    assert!(world.jail.usage(&id).unwrap().unwrap().memory_bytes.unwrap() <= 96 << 20);
    world.jail.kill(&id).unwrap();
    assert!(world.exited(&id).oom_kills > 0);
    world.jail.clean(&id).unwrap();
    world.nothing_is_left();
}
