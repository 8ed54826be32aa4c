//! Output: all of it, within its bound.

use captain_jail::LogBound;
use captain_jail::log::{Cursor, Stream};

use crate::world::World;

#[test]
fn heavy_output_of_both_streams_is_kept_whole() {
    let world = World::new();
    let mut spec = world.spec("seq 1 200000 & seq 1 200000 >&2; wait; printf unfinished");
    spec.log = LogBound { file_bytes: 1 << 20, files: 100 };
    let outcome = world.run(spec);
    let numbers: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(outcome.stderr == numbers, "stderr differs");
    assert!(outcome.stdout.strip_suffix("unfinished") == Some(&numbers), "stdout differs");
    assert_eq!(outcome.exited.output_bytes_lost, 0);
}

#[test]
fn what_is_written_last_is_not_lost() {
    let world = World::new();
    for n in 0..20 {
        let outcome = world.run(world.spec(&format!("head -c {} /dev/zero | tr '\\0' x; echo end {n}", 60_000 + n)));
        assert!(outcome.stdout.ends_with(&format!("xend {n}\n")));
        assert_eq!(outcome.stdout.len(), 60_000 + n + format!("end {n}\n").len());
    }
}

#[test]
fn output_without_end_stays_in_its_bound() {
    let world = World::new();
    let mut spec = world.spec("seq 1 300000");
    spec.log = LogBound { file_bytes: 1 << 18, files: 3 };
    let id = world.start("talker", spec);
    world.exited(&id);
    let files: Vec<u64> = std::fs::read_dir(world.jail.dir(&id).join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(files.len() == 3 && files.iter().all(|len| *len <= 1 << 18), "{files:?}");
    assert!(world.output(&id, Stream::Stdout).ends_with("299999\n300000\n"));
    let batch = world.jail.log(&id, Cursor { file: 1, offset: 0 }).read(1).unwrap();
    assert!(batch.skipped);
    let mut tail = world.jail.log_tail(&id, 2).unwrap();
    assert_eq!(tail.read(1).unwrap().frames.len(), 2);
}
