//! Many at once.

use std::collections::BTreeSet;

use captain_jail::Phase;

use crate::world::{World, id};

#[test]
fn fifty_at_once_are_fifty() {
    let world = World::new();
    std::thread::scope(|scope| {
        for n in 0..10 {
            let world = &world;
            scope.spawn(move || {
                for m in 0..5 {
                    world.start(&format!("i{n}-{m}"), world.spec("echo $$ up; exec sleep 1000"));
                }
            });
        }
    });
    let ids = world.jail.list().unwrap();
    assert_eq!(ids.len(), 50);
    let all: Vec<_> = ids.iter().map(|id| world.jail.inspect(id).unwrap().unwrap()).collect();
    let uids: BTreeSet<u32> = all.iter().map(|observed| observed.record.uid).collect();
    assert_eq!(uids.len(), 50, "each has a uid of its own");
    assert!(all.iter().all(|observed| matches!(observed.phase, Phase::Running(_))));
    std::thread::scope(|scope| {
        for chunk in ids.chunks(5) {
            let world = &world;
            scope.spawn(move || chunk.iter().for_each(|id| world.stop_and_clean(id)));
        }
    });
    world.nothing_is_left();
}

#[test]
fn of_two_that_create_or_start_the_same_one_wins() {
    let world = World::new();
    let one = id("one");
    let created: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| world.jail.create(&one, world.spec("exec sleep 1000")).is_ok())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(created.iter().filter(|ok| **ok).count(), 1);
    let launched: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| world.jail.launch(&one, crate::world::PATIENCE).is_ok())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(launched.iter().filter(|ok| **ok).count(), 1);
    world.stop_and_clean(&one);
    world.nothing_is_left();
}
