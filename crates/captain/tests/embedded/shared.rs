//! Several captains on one state directory, many starts at once, and slugs that go.

use std::collections::BTreeSet;
use std::sync::Arc;

use captain_domain::State;
use captain_server::engine::{Engine, ErrorKind, Preparation};

use crate::world::{World, get, instance};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_starts_at_once_by_two_captains_get_fifty_ports() {
    let world = Arc::new(World::new("web: ./hello").await);
    let engines = [world.engine.clone(), World::open(world.dir.path())];
    let starts: Vec<_> = (0..50)
        .map(|n| {
            let (engine, order) = (engines[n % 2].clone(), world.order("web"));
            tokio::spawn(async move {
                let id = engine.create(&order).await.unwrap();
                engine.start(id).await.unwrap();
                instance(&engine, id).await.port.unwrap()
            })
        })
        .collect();
    let mut ports = BTreeSet::new();
    for start in starts {
        assert!(ports.insert(start.await.unwrap()));
    }
    for port in &ports {
        assert!(get(*port).await.contains("Good day"));
    }
    for engine in &engines {
        let running = engine.list().await.unwrap().iter().filter(|s| s.state == State::Running).count();
        assert_eq!(running, 50);
    }
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_captains_that_start_the_same_instance_both_succeed() {
    let world = World::new("wait: sleep 1000").await;
    let other = World::open(world.dir.path());
    for _ in 0..10 {
        let id = world.engine.create(&world.order("wait")).await.unwrap();
        let (one, two) = tokio::join!(world.engine.start(id), other.start(id));
        one.unwrap();
        two.unwrap();
        assert_eq!(world.instance(id).await.state, State::Running);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_against_a_start_leaves_one_of_the_two() {
    let world = World::new("wait: sleep 1000").await;
    let other = World::open(world.dir.path());
    for _ in 0..20 {
        let id = world.engine.create(&world.order("wait")).await.unwrap();
        let (started, removed) = tokio::join!(world.engine.start(id), other.remove(id, false));
        let there = world.engine.inspect(id).await;
        match (&started, &removed) {
            (Ok(()), Err(error)) => {
                assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
                assert!(there.is_ok());
            }
            (Err(_), Ok(())) => assert!(there.unwrap_err().is_not_found()),
            both => panic!("{both:?}"),
        }
    }
    world.end().await;
}

#[tokio::test]
async fn a_slug_stays_as_long_as_an_instance_is_made_of_it() {
    let world = World::new("web: ./hello").await;
    let Preparation::Slug(slug) = &world.slug else { unreachable!() };
    let prepared = world.engine.prepared().await.unwrap();
    assert_eq!(prepared.len(), 1);
    assert_eq!((prepared[0].digest, prepared[0].in_use), (slug.digest, false));
    assert!(prepared[0].bytes > 100_000, "{prepared:?}");
    let id = world.engine.create(&world.order("web")).await.unwrap();
    assert!(world.engine.prepared().await.unwrap()[0].in_use);
    let reference = &prepared[0].reference;
    assert_eq!(world.engine.discard(reference).await.unwrap_err().kind, ErrorKind::Conflict);
    world.remove(id).await;
    world.engine.discard(reference).await.unwrap();
    assert!(world.engine.discard(reference).await.unwrap_err().is_not_found());
    assert_eq!(world.engine.prepared().await.unwrap(), []);
    assert_eq!(world.engine.create(&world.order("web")).await.unwrap_err().kind, ErrorKind::ImageMissing);
    world.engine.prepare(&world.slug, &|_| {}).await.unwrap();
    world.start("web").await;
    world.end().await;
}

#[tokio::test]
async fn leftovers_of_a_crash_are_swept_and_nobody_elses() {
    let world = World::new("web: ./hello").await;
    let state = world.dir.path().join("engine");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let stale = [state.join("ports/29998"), state.join("runner/0123456789ab"), state.join("slugs/.old-x")];
    std::fs::write(&stale[0], "f".repeat(64)).unwrap();
    std::fs::write(&stale[1], "old").unwrap();
    std::fs::create_dir(&stale[2]).unwrap();
    for path in &stale[..2] {
        std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let id = world.engine.create(&world.order("web")).await.unwrap();
    let again = World::open(world.dir.path());
    again.facts().await.unwrap();
    for path in &stale {
        assert!(!path.exists(), "{path:?}");
    }
    again.start(id).await.unwrap();
    assert!(get(world.instance(id).await.port.unwrap()).await.contains("Good day"));
    world.end().await;
}
