//! Listings of a node that claims share.
//!
//! A claim needs a listing that *began* after its container was created. While one is under way, all claims that come wait for the
//! next one, and share it: 20 starts at once cost an engine a few listings, not 20 or more of a list that grows with each. And the next
//! one does not follow at once: a node on which starts come without end would do nothing but list.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::{Instant, sleep_until, timeout};

use crate::captain::NodeHandle;
use crate::engine::{EngineError, Sighting};

/// How long a listing waits for the one before it to end. One that hangs must not add its whole deadline to that of the next.
const TURN: Duration = Duration::from_secs(1);

/// How long the listings of a node rest after one: so many times what it took. The next then serves all that were created
/// meanwhile. Who starts one instance at a time never waits for it.
const REST: u32 = 3;
/// It must not leave an engine without work: the starts that are under way on it take longer.
const LONGEST_REST: Duration = Duration::from_millis(50);

type Outcome = Result<Arc<Vec<Sighting>>, Arc<EngineError>>;

/// The listings of one node.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    /// The one that has not begun: who asks now may share it.
    next: Mutex<Option<Shared<BoxFuture<'static, Outcome>>>>,
    /// Held by the one that is under way: when the next may begin.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

/// A listing of the node that begins after this call.
pub(super) async fn list(handle: &Arc<NodeHandle>) -> Outcome {
    let coming = {
        let mut next = handle.listings.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.get_or_insert_with(|| begin(Arc::clone(handle)).boxed().shared()).clone()
    };
    coming.await
}

async fn begin(handle: Arc<NodeHandle>) -> Outcome {
    let mut turn = timeout(TURN, handle.listings.turn.lock()).await.ok();
    if let Some(rested) = turn.as_mut().and_then(|turn| turn.take()) {
        sleep_until(rested).await;
    }
    // It begins: who comes from here on needs a later one.
    handle.listings.next.lock().unwrap_or_else(PoisonError::into_inner).take();
    let begun = Instant::now();
    let outcome = handle.engine.list().await;
    if let Some(turn) = turn.as_mut() {
        let ended = Instant::now();
        **turn = Some(ended + ((ended - begun) * REST).min(LONGEST_REST));
    }
    outcome.map(Arc::new).map_err(Arc::new)
}
