//! Removal, and what is not there.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::{InstanceId, State};
use captain_server::engine::ErrorKind;

use crate::stage::Stage;
use crate::subject::App;

pub(super) async fn what_runs_is_removed_by_force_alone(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Idle, "ready").await;
    let error = stage.engine.remove(id, false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(stage.instance(id).await.state, State::Running, "it was refused, and has done harm");
    stage.engine.remove(id, true).await.unwrap();
    stage.gone(id).await;
    let error = stage.engine.remove(id, true).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

pub(super) async fn what_does_not_run_is_removed(stage: Arc<Stage>) {
    let created = stage.create(&stage.spec(&App::Idle)).await;
    let ended = stage.ended(&App::ExitsWith(0)).await.id;
    for id in [created, ended] {
        stage.engine.remove(id, false).await.unwrap();
        stage.gone(id).await;
        assert_eq!(stage.sighting(id).await, None);
    }
}

pub(super) async fn an_unknown_id_is_not_found_by_any_call(stage: Arc<Stage>) {
    let engine = &stage.engine;
    let id = InstanceId::from_bytes(rand::random());
    let grace = Duration::from_secs(1);
    let outcomes = [
        ("inspect", engine.inspect(id).await.map(drop)),
        ("start", engine.start(id).await),
        ("stop", engine.stop(id, grace).await),
        ("remove", engine.remove(id, false).await),
        ("remove by force", engine.remove(id, true).await),
        ("logs", engine.logs(id, false).await.map(drop)),
        ("logs, followed", engine.logs(id, true).await.map(drop)),
    ];
    for (call, outcome) in outcomes {
        match outcome {
            Ok(()) => panic!("{call} succeeds on what is not there"),
            Err(error) => assert_eq!(error.kind, ErrorKind::NotFound, "{call}: {error}"),
        }
    }
}

pub(super) async fn a_name_is_given_once(stage: Arc<Stage>) {
    let first = stage.spec(&App::Idle);
    let id = stage.create(&first).await;
    let mut second = stage.spec(&App::Idle);
    second.name.clone_from(&first.name);
    let error = stage.engine.create(&second).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(stage.engine.find(second.labels.operation).await.unwrap().is_empty(), "it failed, and yet there it is");
    assert_eq!(stage.instance(id).await.operation, Some(first.labels.operation), "the first has suffered");
}
