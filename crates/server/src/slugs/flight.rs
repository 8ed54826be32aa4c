//! Single flight: of all who want the same thing at the same time, one gets it and all have it, its failure too.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How it stands: a sentence for those who wait, and what came of it.
#[derive(Debug, Clone)]
struct Flying<T> {
    detail: String,
    outcome: Option<T>,
}

type UnderWay<K, T> = Arc<Mutex<HashMap<K, watch::Receiver<Flying<T>>>>>;

/// Flights under way, by what they are to bring.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    under_way: UnderWay<K, T>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

/// Says how far a flight is.
#[derive(Debug)]
pub(super) struct Say<T>(watch::Sender<Flying<T>>);

impl<T> Say<T> {
    pub(super) fn say(&self, detail: String) {
        self.0.send_modify(|flying| flying.detail = detail);
    }
}

/// Takes the flight off the list when it ends, in whatever way.
struct Landing<K: Eq + Hash, T> {
    key: K,
    under_way: UnderWay<K, T>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Joins the flight for `key`, or begins one in a task of its own, which goes on although nobody waits any more. `None` where it
    /// ended without an outcome.
    pub(super) async fn join<F>(
        &self,
        tasks: &TaskTracker,
        key: K,
        begin: impl FnOnce(Arc<Say<T>>) -> F,
        hear: &(dyn Fn(String) + Send + Sync),
    ) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut state = self.board(tasks, key, begin);
        loop {
            let Flying { detail, outcome } = state.borrow_and_update().clone();
            if outcome.is_some() {
                return outcome;
            }
            if !detail.is_empty() {
                hear(detail);
            }
            state.changed().await.ok()?;
        }
    }

    fn board<F>(&self, tasks: &TaskTracker, key: K, begin: impl FnOnce(Arc<Say<T>>) -> F) -> watch::Receiver<Flying<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = under_way.get(&key) {
            return state.clone();
        }
        let (send, state) = watch::channel(Flying { detail: String::new(), outcome: None });
        under_way.insert(key.clone(), state.clone());
        drop(under_way);
        let say = Arc::new(Say(send));
        let flight = begin(Arc::clone(&say));
        let landing = Landing { key, under_way: Arc::clone(&self.under_way) };
        tasks.spawn(async move {
            let outcome = flight.await;
            // Off the list before it is known: who comes later begins anew, and asks the origin what is true then.
            drop(landing);
            say.0.send_modify(|flying| flying.outcome = Some(outcome));
        });
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_get_the_outcome_of_one_flight() {
        let (flights, tasks) = (Flights::<&str, Result<u32, &str>>::default(), TaskTracker::new());
        let (begun, go) = (AtomicUsize::new(0), Arc::new(Notify::new()));
        let join = || {
            flights.join(
                &tasks,
                "slug",
                |_| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    let go = Arc::clone(&go);
                    async move {
                        go.notified().await;
                        Err("broken")
                    }
                },
                &|_| {},
            )
        };
        let waiting = futures_util::future::join_all((0..60).map(|_| join()));
        go.notify_one();
        assert!(waiting.await.iter().all(|outcome| *outcome == Some(Err("broken"))), "failure is shared");
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        go.notify_one();
        join().await;
        assert_eq!(begun.load(Ordering::Relaxed), 2, "a later one asks anew");
    }

    #[tokio::test]
    async fn a_flight_that_is_lost_is_not_waited_for() {
        let (flights, tasks) = (Flights::<u8, u8>::default(), TaskTracker::new());
        let lost = flights.join(&tasks, 1, |_| async { panic!("a defect") }, &|_| {}).await;
        assert_eq!(lost, None);
        let found = flights.join(&tasks, 1, |_| async { 7 }, &|_| {}).await;
        assert_eq!(found, Some(7));
    }
}
