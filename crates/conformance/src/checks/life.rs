//! Starting, ending, being ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_domain::State;

use crate::another;
use crate::stage::{LONG_GRACE, Stage};
use crate::subject::App;

/// Room for a call in addition to a grace: an engine's deadline, as Captain sets it.
const DEADLINE: Duration = Duration::from_secs(15);

pub(super) async fn starting_again_succeeds(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Idle, "ready").await;
    let first = stage.instance(id).await;
    stage.engine.start(id).await.unwrap();
    let second = stage.instance(id).await;
    assert_eq!((second.state, second.started), (State::Running, first.started), "it must not be started anew");
}

pub(super) async fn an_end_is_told_with_its_code(stage: Arc<Stage>) {
    for code in [0, 1, 7, 255] {
        let exit = stage.ended(&App::ExitsWith(code)).await.exit.expect("how it ended");
        assert_eq!((exit.code, exit.out_of_memory), (i64::from(code), false));
    }
}

pub(super) async fn stop_is_sigterm_first(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Idle, "ready").await;
    let begin = Instant::now();
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    assert!(
        begin.elapsed() < LONG_GRACE,
        "it was ready to end at SIGTERM, and had its whole grace: {:?}",
        begin.elapsed()
    );
    let instance = stage.instance(id).await;
    assert_eq!(instance.state, State::Exited, "stop returned before the end");
    assert_eq!(instance.exit.expect("how it ended").code, 0, "it ends with 0 where it may finish");
}

pub(super) async fn what_ignores_sigterm_is_killed_after_its_grace(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Deaf, "deaf").await;
    let (grace, begin) = (Duration::from_secs(2), Instant::now());
    stage.engine.stop(id, grace).await.unwrap();
    let took = begin.elapsed();
    assert!(took >= grace, "its grace was cut short: {took:?}");
    assert!(took < grace + DEADLINE, "it lived beyond its grace: {took:?}");
    let instance = stage.becomes(id, State::Exited).await;
    let exit = instance.exit.expect("how it ended");
    assert_eq!((exit.code, exit.signal(), exit.out_of_memory), (137, Some(9), false));
}

pub(super) async fn stopping_what_has_ended_succeeds(stage: Arc<Stage>) {
    let instance = stage.ended(&App::ExitsWith(3)).await;
    stage.engine.stop(instance.id, LONG_GRACE).await.unwrap();
    stage.engine.stop(instance.id, Duration::ZERO).await.unwrap();
    let after = stage.instance(instance.id).await;
    assert_eq!(after.exit, instance.exit, "how it ended must not be forgotten");
}

pub(super) async fn two_may_stop_the_same_at_once(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Idle, "ready").await;
    let other = another(&stage);
    let (first, second) = tokio::join!(stage.engine.stop(id, LONG_GRACE), other.stop(id, LONG_GRACE));
    first.unwrap();
    second.unwrap();
    assert_eq!(stage.instance(id).await.state, State::Exited);
}

pub(super) async fn want_of_memory_is_told(stage: Arc<Stage>) {
    let mut spec = stage.spec(&App::HogsMemory);
    spec.memory_bytes = 64 << 20;
    let id = stage.create(&spec).await;
    stage.engine.start(id).await.unwrap();
    let exit = stage.becomes(id, State::Exited).await.exit.expect("how it ended");
    assert!(exit.out_of_memory, "{exit:?}");
    assert_ne!(exit.code, 0, "{exit:?}");
}
