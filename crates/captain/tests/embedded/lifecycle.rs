//! One instance from creation to removal.

use captain_domain::{InstanceId, State};
use captain_server::engine::{Engine, ErrorKind, LogChunk, Preparation};
use captain_slug::Digest;
use futures_util::StreamExt;

use crate::world::{GRACE, PATIENCE, World, eventually, get, kill};

#[tokio::test]
async fn the_example_app_runs_under_the_carried_runner() {
    let world = World::new("web: ./hello").await;
    let facts = world.engine.facts().await.unwrap();
    assert_eq!(facts.kind, "local");
    assert!(facts.memory_bytes > 1 << 28 && facts.cpus > 0, "{facts:?}");
    let order = world.order("web");
    let id = world.engine.create(&order).await.unwrap();
    let created = world.instance(id).await;
    assert_eq!((created.state, created.port, created.started), (State::Created, None, None));
    world.engine.start(id).await.unwrap();
    world.engine.start(id).await.unwrap();
    let running = world.instance(id).await;
    assert_eq!(running.state, State::Running);
    assert_eq!(running.operation, Some(order.labels.operation));
    assert_eq!(running.hostname.as_str(), id.short());
    assert_eq!(running.environment.iter().collect::<Vec<_>>(), [("HELLO", "Good day"), ("TOKEN", "a b")]);
    let answer = get(running.port.unwrap()).await;
    assert!(answer.contains("Good day! I am process") && answer.contains(&id.short()), "{answer}");
    assert_eq!(world.engine.remove(id, false).await.unwrap_err().kind, ErrorKind::Conflict);
    world.engine.stop(id, GRACE).await.unwrap();
    world.engine.stop(id, GRACE).await.unwrap();
    let ended = world.instance(id).await;
    let exit = ended.exit.unwrap();
    assert_eq!((ended.state, ended.port, exit.signal()), (State::Exited, None, Some(15)));
    assert_eq!(world.engine.start(id).await.unwrap_err().kind, ErrorKind::Conflict);
    world.engine.remove(id, false).await.unwrap();
    assert!(world.engine.inspect(id).await.unwrap_err().is_not_found());
    assert!(world.engine.remove(id, false).await.unwrap_err().is_not_found());
    assert!(world.engine.stop(id, GRACE).await.unwrap_err().is_not_found());
    world.end().await;
}

#[tokio::test]
async fn an_end_is_told_as_it_was() {
    let bomb = "python3 -c 'b=bytearray(1<<30)'";
    let procfile = format!("code: exit 7\ngood: true\nbomb: {bomb}\nwait: sleep 1000\nnone: ./missing");
    let world = World::new(&procfile).await;
    let mut seen = Vec::new();
    for process in ["code", "good", "bomb", "none", "absent"] {
        let id = world.start(process).await;
        let exit = world.ended(id).await.exit.unwrap();
        assert!(exit.at.is_some());
        seen.push((exit.code, exit.out_of_memory));
    }
    assert_eq!(seen[..2], [(7, false), (0, false)]);
    assert!(seen[2].1 && seen[2].0 != 0, "{seen:?}");
    assert_eq!(seen[3..], [(127, false), (64, false)]);
    let id = world.start("wait").await;
    let [_, init] = world.processes(id);
    kill(init);
    assert_eq!(world.ended(id).await.exit.unwrap().code, 137);
    world.end().await;
}

#[tokio::test]
async fn a_stop_asks_first_and_kills_what_does_not_listen() {
    let world = World::new(
        "polite: trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done\n\
         deaf: trap '' TERM; echo ready; while :; do sleep 0.01; done",
    )
    .await;
    let id = world.start("polite").await;
    world.says(id, "ready").await;
    world.engine.stop(id, PATIENCE).await.unwrap();
    assert_eq!(world.instance(id).await.exit.unwrap().code, 3);
    assert_eq!(world.output(id).await.0, "ready\nbye\n");
    let id = world.start("deaf").await;
    world.says(id, "ready").await;
    let begun = std::time::Instant::now();
    let grace = std::time::Duration::from_millis(300);
    world.engine.stop(id, grace).await.unwrap();
    assert!(begun.elapsed() >= grace && begun.elapsed() < GRACE, "{:?}", begun.elapsed());
    assert_eq!(world.instance(id).await.exit.unwrap().code, 137);
    world.end().await;
}

#[tokio::test]
async fn a_stop_right_after_the_start_is_heard() {
    let world = World::new("wait: exec sleep 1000").await;
    for _ in 0..10 {
        let id = world.start("wait").await;
        let begun = std::time::Instant::now();
        world.engine.stop(id, PATIENCE).await.unwrap();
        // Far below the grace, after which it would have been killed.
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        assert_ne!(world.instance(id).await.exit.unwrap().code, 137);
    }
    world.end().await;
}

#[tokio::test]
async fn output_is_read_whole_and_followed_to_the_end() {
    let world = World::new(
        "talk: echo one; echo two >&2; printf three; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo four\n\
         many: seq 1 100000",
    )
    .await;
    let id = world.start("many").await;
    let mut logs = world.engine.logs(id, true).await.unwrap();
    let mut followed = Vec::new();
    while let Some(chunk) = logs.next().await {
        followed.extend(chunk.unwrap().bytes);
    }
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(followed == expected.as_bytes(), "{} bytes", followed.len());
    assert_eq!(world.output(id).await.0, expected);
    let id = world.start("talk").await;
    let mut logs = world.engine.logs(id, true).await.unwrap();
    let mut next = async || -> Option<LogChunk> {
        tokio::time::timeout(PATIENCE, logs.next()).await.expect("output").transpose().unwrap()
    };
    let mut heard = String::new();
    while !(heard.contains("one\n") && heard.contains("two\n") && heard.contains("three")) {
        heard.push_str(std::str::from_utf8(&next().await.expect("more").bytes).unwrap());
    }
    world.engine.stop(id, GRACE).await.unwrap();
    assert_eq!(next().await, None);
    assert_eq!(world.output(id).await, ("one\nthree".to_owned(), "two\n".to_owned()));
    world.end().await;
}

#[tokio::test]
async fn a_captain_that_starts_again_finds_everything() {
    let world = World::new("web: ./hello").await;
    let (running, created) = (world.start("web").await, world.engine.create(&world.order("web")).await.unwrap());
    world.says(running, "listening").await;
    let before = world.instance(running).await;
    let World { dir, engine, slug } = world;
    drop(engine);
    let world = World { engine: World::open(dir.path()), dir, slug };
    world.engine.facts().await.unwrap();
    assert_eq!(world.instance(running).await, before);
    assert_eq!(world.instance(created).await.state, State::Created);
    assert!(get(before.port.unwrap()).await.contains("Good day"));
    assert!(world.output(running).await.0.starts_with("hello: listening"));
    assert_eq!(world.engine.list().await.unwrap().len(), 2);
    world.engine.start(created).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn a_killed_monitor_is_noticed_and_takes_its_instance_along() {
    let world = World::new("wait: sleep 1000").await;
    let mut hints = world.engine.events().await.unwrap();
    let id = world.start("wait").await;
    let [monitor, init] = world.processes(id);
    kill(monitor);
    // By the events alone: nobody else looks.
    let told = async {
        loop {
            let hint = hints.next().await.unwrap().unwrap();
            if hint.id == id && world.instance(id).await.state == State::Exited {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("a hint at the death");
    assert_eq!(world.instance(id).await.exit.unwrap().code, 137);
    eventually("the first process is gone", async || {
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn hints_tell_of_each_step_of_a_life() {
    let world = World::new("wait: sleep 1000").await;
    let mut hints = world.engine.events().await.unwrap();
    // Another captain on the machine, of which this one's engine hears by the events alone.
    let other = World::open(world.dir.path());
    let mut next = async || tokio::time::timeout(PATIENCE, hints.next()).await.expect("a hint").unwrap().unwrap().id;
    let id = other.create(&world.order("wait")).await.unwrap();
    assert_eq!(next().await, id);
    other.start(id).await.unwrap();
    assert_eq!(next().await, id);
    other.stop(id, GRACE).await.unwrap();
    other.remove(id, false).await.unwrap();
    eventually("the removal is told", async || {
        (next().await == id && world.engine.inspect(id).await.is_err_and(|error| error.is_not_found())).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_used() {
    let world = World::new("web: ./hello").await;
    let id = InstanceId::from_bytes([9; 32]);
    assert!(world.engine.start(id).await.unwrap_err().is_not_found());
    assert!(world.engine.logs(id, true).await.err().unwrap().is_not_found());
    let mut order = world.order("web");
    order.memory_bytes = 1;
    assert_eq!(world.engine.create(&order).await.unwrap_err().kind, ErrorKind::Invalid);
    order.preparation = Preparation::RunnerImage { image: "flynn/slugrunner:1".to_owned() };
    let refusal = world.engine.create(&order).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Unsupported);
    assert!(refusal.to_string().contains("SLUG_RUNNER_IMAGE"), "{refusal}");
    let Preparation::Slug(mut slug) = world.slug.clone() else { unreachable!() };
    slug.digest = Digest([1; 32]);
    order.preparation = Preparation::Slug(slug.clone());
    assert_eq!(world.engine.create(&order).await.unwrap_err().kind, ErrorKind::ImageMissing);
    let refusal = world.engine.prepare(&order.preparation, &|_| {}).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Invalid, "{refusal}");
    world.end().await;
}
