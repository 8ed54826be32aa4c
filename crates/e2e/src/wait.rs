//! Waiting for a condition, with a bound. No test sleeps and hopes.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks. Short beside anything an engine does, long beside a look.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` finds something, at most for `bound`; panics then, with `what` was waited for.
pub async fn eventually<T, F, Fut>(what: &str, bound: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < bound, "waited {bound:?} in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs `work` and panics when it takes longer than `bound`.
pub async fn within<T>(what: &str, bound: Duration, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, work).await {
        Ok(done) => done,
        Err(_) => panic!("took longer than {bound:?}: {what}"),
    }
}
