//! Output.

use std::fmt::Write as _;
use std::sync::Arc;

use captain_domain::State;
use captain_server::engine::Output;

use crate::another;
use crate::stage::{LONG_GRACE, Stage, read, read_both};
use crate::subject::App;

/// Lines of a long output: some 50 kB, more than a pipe or a frame holds.
const LINES: u32 = 10_000;

/// Lines of an output that fills what lies between an instance and a reader that does not read: some 7 MB.
const FLOOD: u32 = 1_000_000;

fn counted(to: u32) -> String {
    let mut lines = String::new();
    for number in 1..=to {
        writeln!(lines, "{number}").unwrap();
    }
    lines
}

pub(super) async fn output_is_whole_and_in_order(stage: Arc<Stage>) {
    let id = stage.ended(&App::Counts(LINES)).await.id;
    for follow in [false, true] {
        let output = read(stage.engine.logs(id, follow).await.unwrap(), Output::Stdout).await;
        assert!(output == counted(LINES), "follow={follow}: {} bytes, beginning {:?}", output.len(), output.get(..60));
    }
}

pub(super) async fn both_outputs_are_told_apart(stage: Arc<Stage>) {
    let app = App::Says { out: "to standard output\nwithout an end", err: "to standard error\n" };
    let id = stage.ended(&app).await.id;
    let (out, err) = read_both(stage.engine.logs(id, false).await.unwrap()).await;
    assert_eq!((out.as_str(), err.as_str()), ("to standard output\nwithout an end", "to standard error\n"));
    let silent = stage.ended(&App::ExitsWith(0)).await.id;
    let both = read_both(stage.engine.logs(silent, false).await.unwrap()).await;
    assert_eq!(both, (String::new(), String::new()));
}

pub(super) async fn following_begins_at_the_beginning_and_ends_with_the_instance(stage: Arc<Stage>) {
    let id = stage.started_and_says(&App::Idle, "ready").await;
    // What was written before is in it, whoever opens it and when.
    let other = another(&stage);
    let followers = [stage.engine.logs(id, true).await.unwrap(), other.logs(id, true).await.unwrap()]
        .map(|logs| tokio::spawn(read(logs, Output::Stdout)));
    let so_far = read(stage.engine.logs(id, false).await.unwrap(), Output::Stdout).await;
    assert_eq!(so_far, "ready\n", "without following it ends with what there is");
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    for follower in followers {
        assert_eq!(follower.await.unwrap(), "ready\nended\n");
    }
}

pub(super) async fn a_reader_that_does_not_read_holds_nobody_up(stage: Arc<Stage>) {
    let id = stage.create(&stage.spec(&App::Counts(FLOOD))).await;
    stage.engine.start(id).await.unwrap();
    let unread = stage.engine.logs(id, true).await.unwrap();
    stage.becomes(id, State::Exited).await;
    drop(unread);
}
