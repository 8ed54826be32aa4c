//! Hints.

use std::sync::Arc;

use captain_domain::{InstanceId, State};
use captain_server::engine::Hints;
use futures_util::StreamExt;

use crate::stage::{LONG_GRACE, Stage, within};
use crate::subject::App;

/// Subscriptions made: one that begins a little late is found out only now and then.
const TRIES: usize = 5;

async fn hears(hints: &mut Hints, id: InstanceId, of: &str) {
    within(&format!("a hint of {of}"), async {
        loop {
            match hints.next().await {
                Some(hint) if hint.as_ref().unwrap().id == id => return,
                Some(_) => {}
                None => panic!("the events ended before a hint of {of}"),
            }
        }
    })
    .await;
}

pub(super) async fn a_change_after_events_returned_is_in_the_stream(stage: Arc<Stage>) {
    let recipe = stage.subject.recipe(&App::Idle);
    stage.engine.prepare(&recipe.preparation, &|_| {}).await.unwrap();
    for _ in 0..TRIES {
        let mut hints = stage.engine.events().await.unwrap();
        let id = stage.engine.create(&stage.spec(&App::Idle)).await.unwrap();
        stage.keep(id);
        hears(&mut hints, id, "a creation").await;

        let mut hints = stage.engine.events().await.unwrap();
        stage.engine.start(id).await.unwrap();
        hears(&mut hints, id, "a start").await;

        let mut hints = stage.engine.events().await.unwrap();
        stage.engine.stop(id, LONG_GRACE).await.unwrap();
        hears(&mut hints, id, "a stop").await;

        let mut hints = stage.engine.events().await.unwrap();
        stage.engine.remove(id, false).await.unwrap();
        hears(&mut hints, id, "a removal").await;
    }
}

pub(super) async fn an_end_that_nobody_asked_for_is_in_the_stream(stage: Arc<Stage>) {
    let id = stage.create(&stage.spec(&App::ExitsWith(3))).await;
    let mut hints = stage.engine.events().await.unwrap();
    stage.engine.start(id).await.unwrap();
    // There is a hint of the start as well: whoever looks after each hint sees the end in the end.
    within("a hint after which the end is seen", async {
        loop {
            hears(&mut hints, id, "an end").await;
            if stage.instance(id).await.state == State::Exited {
                return;
            }
        }
    })
    .await;
}
