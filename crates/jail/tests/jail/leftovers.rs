//! What a crash can leave, and that only ours is touched.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::world::World;

fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(600);
    fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn half_made_things_are_removed_when_they_are_old() {
    let world = World::new();
    let instances = world.state().join("instances");
    for (name, old) in [(".new-a-1", true), (".old-b-2", true), (".new-young-3", false), ("Not-Ours", true)] {
        fs::create_dir(instances.join(name)).unwrap();
        fs::write(instances.join(name).join("file"), "").unwrap();
        if old {
            age(&instances.join(name));
        }
    }
    fs::write(world.state().join("uids/1900000001"), "gone").unwrap();
    age(&world.state().join("uids/1900000001"));
    fs::write(world.state().join("uids/1900000002"), "just-reserved").unwrap();
    let cleaned = world.jail.sweep();
    assert_eq!(cleaned.failed, []);
    assert_eq!(cleaned.removed.len(), 3, "{cleaned:?}");
    let mut left: Vec<_> = fs::read_dir(instances).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".new-young-3", "Not-Ours"]);
    assert!(world.state().join("uids/1900000002").exists());
}

#[test]
fn groups_without_an_instance_are_removed_and_those_of_others_are_not() {
    let world = World::new();
    let id = world.start("real", world.spec("exec sleep 1000"));
    let group = world.groups().into_iter().find(|group| group.ends_with(format!("{}real", world.tag()))).unwrap();
    let base = group.parent().unwrap();
    let (orphan, foreign) = (base.join(format!("{}orphan", world.tag())), base.join("00000000.other"));
    fs::create_dir(&orphan).unwrap();
    fs::create_dir(&foreign).unwrap();
    let cleaned = world.jail.sweep();
    let others_untouched = foreign.exists();
    fs::remove_dir(&foreign).unwrap();
    assert!(others_untouched);
    assert_eq!(cleaned.removed, std::slice::from_ref(&orphan));
    assert!(!orphan.exists() && group.exists());
    world.stop_and_clean(&id);
    world.nothing_is_left();
}

#[test]
fn a_spec_of_a_later_version_is_not_touched() {
    let world = World::new();
    let id = world.start("later", world.spec("exec sleep 1000"));
    let path = world.jail.dir(&id).join("spec.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(world.jail.inspect(&id).is_err());
    world.jail.sweep();
    fs::write(&path, text).unwrap();
    assert!(matches!(world.jail.inspect(&id).unwrap().unwrap().phase, captain_jail::Phase::Running(_)));
    world.stop_and_clean(&id);
}
