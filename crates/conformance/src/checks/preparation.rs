//! Who the engine is, and what must be on it before anything can be created.

use std::sync::{Arc, Mutex};

use captain_server::engine::ErrorKind;

use crate::stage::Stage;
use crate::subject::App;

pub(super) async fn facts_are_told(stage: Arc<Stage>) {
    stage.engine.ping().await.unwrap();
    let facts = stage.engine.facts().await.unwrap();
    assert!(!facts.kind.is_empty() && !facts.version.is_empty(), "{facts:?}");
    assert!(facts.cpus > 0, "{facts:?}");
    assert_eq!(stage.engine.node(), stage.subject.engine().node(), "two connections, one node");
}

pub(super) async fn preparing_again_succeeds(stage: Arc<Stage>) {
    let recipe = stage.subject.recipe(&App::Idle);
    for _ in 0..3 {
        let told = Mutex::new(Vec::new());
        stage.engine.prepare(&recipe.preparation, &|words| told.lock().unwrap().push(words)).await.unwrap();
        let told = told.into_inner().unwrap();
        assert!(told.iter().all(|words| !words.is_empty()), "an empty word of progress: {told:?}");
    }
}

pub(super) async fn what_was_not_prepared_is_missing(stage: Arc<Stage>) {
    let spec = stage.spec_of(stage.subject.unprepared());
    let error = stage.engine.create(&spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ImageMissing, "{error}");
    assert!(stage.engine.find(spec.labels.operation).await.unwrap().is_empty(), "it failed, and yet there it is");
}

pub(super) async fn what_cannot_be_prepared_is_named(stage: Arc<Stage>) {
    let (preparation, name) = stage.subject.unavailable();
    let error = stage.engine.prepare(&preparation, &|_| {}).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::ImageUnavailable | ErrorKind::Unsupported), "{:?}: {error}", error.kind);
    assert!(error.to_string().contains(&name), "{name} is not named: {error}");
}
