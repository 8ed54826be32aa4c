//! What a listing shows. Captain's exclusion rests on the first of these.

use std::sync::Arc;

use captain_domain::{OperationId, State};
use captain_server::engine::Owner;
use futures_util::future::join_all;

use crate::another;
use crate::stage::{LONG_GRACE, Stage, eventually};
use crate::subject::App;

/// Creations at once.
const CROWD: usize = 50;

/// Half of them by one connection and half by another, and each is looked for by both as soon as its creation has returned.
pub(super) async fn what_has_been_created_is_in_every_later_listing(stage: Arc<Stage>) {
    let connections = [Arc::clone(&stage.engine), another(&stage)];
    let recipe = stage.subject.recipe(&App::Idle);
    stage.engine.prepare(&recipe.preparation, &|_| {}).await.unwrap();
    let creations = (0..CROWD).map(|number| {
        let (stage, connections) = (Arc::clone(&stage), connections.clone());
        async move {
            let spec = stage.spec(&App::Idle);
            let id = connections[number % 2].create(&spec).await.unwrap();
            stage.keep(id);
            for look in 1..=2 {
                let listing = connections[(number + look) % 2].list().await.unwrap();
                let sighting = listing.iter().find(|sighting| sighting.id == id);
                let sighting = sighting.unwrap_or_else(|| panic!("created, and in listing {look} after it not"));
                assert_eq!((&sighting.owner, sighting.state), (&Owner::Captain(spec.labels.clone()), State::Created));
            }
            id
        }
    });
    let mut ids = join_all(creations).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), CROWD, "two containers have one id");
}

pub(super) async fn a_listing_says_whose_a_container_is_and_what_it_does(stage: Arc<Stage>) {
    let spec = stage.spec(&App::Idle);
    let id = stage.create(&spec).await;
    let owner = Owner::Captain(spec.labels.clone());
    let is = async |state: State| {
        let sighting = stage.sighting(id).await.expect("in the listing");
        assert_eq!((&sighting.owner, sighting.state), (&owner, state));
    };
    is(State::Created).await;
    stage.engine.start(id).await.unwrap();
    is(State::Running).await;
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    is(State::Exited).await;
    stage.engine.remove(id, false).await.unwrap();
    stage.gone(id).await;
    eventually("a removed container to leave the listing", || async {
        stage.sighting(id).await.is_none().then_some(())
    })
    .await;
}

pub(super) async fn an_operation_is_found(stage: Arc<Stage>) {
    let (spec, other) = (stage.spec(&App::Idle), stage.spec(&App::Idle));
    assert!(stage.engine.find(spec.labels.operation).await.unwrap().is_empty());
    let id = stage.create(&spec).await;
    stage.create(&other).await;
    let connections = [Arc::clone(&stage.engine), another(&stage)];
    for engine in &connections {
        let found = engine.find(spec.labels.operation).await.unwrap();
        let found: Vec<_> = found.iter().map(|sighting| (sighting.id, sighting.state)).collect();
        assert_eq!(found, [(id, State::Created)]);
    }
    // It is found in whatever state.
    stage.engine.start(id).await.unwrap();
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    let found = stage.engine.find(spec.labels.operation).await.unwrap();
    assert_eq!(found.iter().map(|sighting| (sighting.id, sighting.state)).collect::<Vec<_>>(), [(id, State::Exited)]);
    assert!(stage.engine.find(OperationId::from_bytes(rand::random())).await.unwrap().is_empty());
}
