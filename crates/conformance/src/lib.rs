//! What every engine keeps: the contract of [`Engine`] as checks, one for each of its sentences, run against every implementation.
//!
//! An implementation comes as a [`Subject`], which knows how to make an engine run each [`App`]; the checks know nothing else of it.
//! Captain's promises, above all that no node is ever overbooked, are proved against simulated engines, so those and the real ones
//! must be shown to keep the same contract. An exception is written down with its reason, and shown with each run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a panic is how it reports"
)]

mod cgroup;
mod checks;
mod stage;
mod subject;

use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_server::engine::Engine;

pub use checks::names;
pub use subject::{App, Exception, Recipe, Subject};

use checks::{CHECKS, Check};
use stage::Stage;

/// No check takes longer, on a busy machine either: the longest creates fifty containers.
const BOUND: Duration = Duration::from_secs(240);

/// Runs all checks one after another, so that a failure is nobody else's doing, and panics with all that failed.
pub async fn run_all(subject: impl Subject) {
    let subject: Arc<dyn Subject> = Arc::new(subject);
    let exceptions = subject.exceptions();
    for exception in exceptions {
        assert!(CHECKS.iter().any(|check| check.name == exception.check), "there is no check {}", exception.check);
    }
    let mut failures = Vec::new();
    for check in CHECKS {
        if let Some(exception) = exceptions.iter().find(|exception| exception.check == check.name) {
            eprintln!("{}: {}: EXCEPTED: {}", subject.name(), check.name, exception.reason);
            continue;
        }
        let begin = Instant::now();
        let outcome = run(check, &subject).await;
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        eprintln!("{}: {}: {word} ({:.1} s)", subject.name(), check.name, begin.elapsed().as_secs_f64());
        failures.extend(outcome.err().map(|why| format!("{}: {why}", check.name)));
    }
    assert!(
        failures.is_empty(),
        "{} of {} checks failed on {}:\n{}",
        failures.len(),
        CHECKS.len(),
        subject.name(),
        failures.join("\n")
    );
}

/// Runs one check and takes away what it left, even where it failed.
async fn run(check: &Check, subject: &Arc<dyn Subject>) -> Result<(), String> {
    let stage = Arc::new(Stage::new(Arc::clone(subject)));
    let mut task = tokio::spawn((check.run)(Arc::clone(&stage)));
    let outcome = match tokio::time::timeout(BOUND, &mut task).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(said(error)),
        Err(_) => {
            task.abort();
            Err(format!("it did not end within {BOUND:?}"))
        }
    };
    let cleared = stage.clear().await;
    outcome.and(cleared)
}

fn said(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was cancelled".to_owned() };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("it panicked without a word").to_owned(),
    }
}

/// For checks that want a second look at the engine through a connection of its own.
fn another(stage: &Stage) -> Arc<dyn Engine> {
    stage.subject.engine()
}
