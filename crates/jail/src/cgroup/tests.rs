//! Against folders that look like hierarchies: the kernel here has its controllers on version 1, and version 2 must be written right too.

use super::*;
use crate::report::Limitation;

fn hierarchy(mount: &Path, controllers: &[&str], unified: bool) -> Hierarchy {
    let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
    Hierarchy { mount: mount.to_owned(), own: "service".into(), controllers, unified }
}

/// A folder of a hierarchy as the kernel would fill it.
fn group(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("cgroup.procs"), "").unwrap();
    fs::write(path.join("cgroup.subtree_control"), "").unwrap();
}

#[test]
fn version_two_gets_its_own_files_and_units() {
    let mount = tempfile::tempdir().unwrap();
    group(mount.path());
    group(&mount.path().join("captain"));
    let plan = Plan::new(&Hierarchies(vec![hierarchy(mount.path(), &["cpu", "memory", "pids"], true)]));
    assert_eq!(plan.limitations, []);
    let limits = Limits { memory_bytes: 64 << 20, cpu_shares: 1024, pids: 7, ..Limits::default() };
    let (groups, limitations) = plan.make("x", &limits).unwrap();
    assert_eq!(limitations, []);
    let set = |file: &str| fs::read_to_string(groups.paths[0].join(file)).unwrap();
    assert_eq!(set("memory.max"), (64 << 20).to_string());
    assert_eq!(set("memory.swap.max"), "0");
    assert_eq!(set("cpu.weight"), "39");
    assert_eq!(set("pids.max"), "7");
    let handed_down = fs::read_to_string(mount.path().join("captain/cgroup.subtree_control")).unwrap();
    assert!(handed_down.starts_with('+'), "{handed_down}");
    fs::write(groups.paths[0].join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
    fs::write(groups.paths[0].join("cpu.stat"), "usage_usec 5\nuser_usec 3\n").unwrap();
    fs::write(groups.paths[0].join("memory.current"), "4096\n").unwrap();
    fs::write(groups.paths[0].join("memory.stat"), "anon 1\ninactive_file 1096\n").unwrap();
    assert_eq!(groups.oom_kills(), 2);
    assert_eq!(groups.usage(), Usage { memory_bytes: Some(3000), cpu_ns: Some(5000), pids: None });
}

#[test]
fn the_units_of_weights_agree_at_their_ends() {
    assert_eq!((weight(0), weight(2), weight(262_144)), (1, 1, 10_000));
}

#[test]
fn a_group_below_our_own_serves_where_the_top_is_not_ours() {
    let mount = tempfile::tempdir().unwrap();
    let ours = mount.path().join("service/captain");
    group(&mount.path().join("service"));
    group(&ours);
    // A file in the way stands for a top that refuses us (as root, permissions would not).
    fs::write(mount.path().join("captain"), "").unwrap();
    let plan = Plan::new(&Hierarchies(vec![hierarchy(mount.path(), &["memory"], true)]));
    assert_eq!(plan.paths("x"), [ours.join("x")]);
}

#[test]
fn what_cannot_be_limited_is_said() {
    let nowhere = hierarchy(Path::new("/nonexistent"), &["memory", "pids"], false);
    let plan = Plan::new(&Hierarchies(vec![nowhere]));
    let resources: Vec<Resource> = plan
        .limitations
        .iter()
        .map(|l| match l {
            Limitation::Unlimited { resource, .. } => *resource,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(resources, [Resource::Cpu, Resource::Memory, Resource::Pids]);
}
