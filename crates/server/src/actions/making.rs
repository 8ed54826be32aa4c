//! Containers of starts that are under way, and what is heard of them meanwhile.
//!
//! A start causes two events, and looks at its container itself. Were the watcher to look as well, each start would cost the engine
//! two inspections more. So as long as a start is under way, what the engine says of its container is noted here; when it ends, and
//! has itself seen nothing later, the node is listed. Nothing is lost: a note is only ever dropped for an observation that began
//! after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use captain_domain::InstanceId;

use crate::captain::NodeHandle;
use crate::engine::Hint;
use crate::fleet::{Fleet, Stamp};

/// The containers of one node that starts of this captain have made, each with when something was last heard of it.
#[derive(Debug, Default)]
pub(crate) struct Making(Mutex<HashMap<InstanceId, Option<Stamp>>>);

/// A container whose start is under way.
pub(super) struct UnderWay {
    handle: Arc<NodeHandle>,
    fleet: Fleet,
    id: InstanceId,
}

impl Making {
    fn all(&self) -> MutexGuard<'_, HashMap<InstanceId, Option<Stamp>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hint that came at `heard`, if it is about such a container. That it was created or started is no news to the start
    /// that did it; were it somebody else, then after it had ended, which is news.
    pub(crate) fn takes_hint(&self, hint: Hint, heard: Stamp) -> bool {
        if hint.begins { self.all().contains_key(&hint.id) } else { self.takes(hint.id, heard) }
    }

    /// Takes what was heard of a container, if it is such a one.
    pub(crate) fn takes(&self, id: InstanceId, heard: Stamp) -> bool {
        let mut all = self.all();
        let Some(last) = all.get_mut(&id) else { return false };
        *last = Some(heard).max(*last);
        true
    }

    /// A start has made this container.
    pub(super) fn begin(handle: &Arc<NodeHandle>, fleet: &Fleet, id: InstanceId) -> UnderWay {
        handle.making.all().insert(id, None);
        UnderWay { handle: Arc::clone(handle), fleet: fleet.clone(), id }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let heard = self.handle.making.all().remove(&self.id).flatten();
        let node = self.handle.engine.node();
        if heard.is_some_and(|heard| !self.fleet.read(|view| view.knows_since(node, self.id, heard))) {
            self.handle.poke.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use captain_domain::NodeId;
    use futures_util::FutureExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::engine::docker::{Docker, Endpoint, Settings, Tls};

    const ID: InstanceId = InstanceId::from_bytes([7; 32]);

    fn handle(fleet: &Fleet) -> Arc<NodeHandle> {
        let node = NodeId::trusted("app-1");
        fleet.write(|view| view.add_node(node.clone(), captain_domain::Slots(4), captain_domain::Timestamp(1)));
        let settings =
            Settings::new(std::time::Duration::from_secs(1), std::time::Duration::from_secs(1), Tls::default());
        let endpoint = Endpoint::parse("http://127.0.0.1:1").unwrap();
        Arc::new(NodeHandle::new(Arc::new(Docker::new(node, endpoint, &settings).unwrap()), CancellationToken::new()))
    }

    fn listing_is_wanted(handle: &NodeHandle) -> bool {
        handle.poke.notified().now_or_never().is_some()
    }

    #[test]
    fn what_a_start_has_seen_for_itself_is_not_looked_at_again() {
        let fleet = Fleet::default();
        let handle = handle(&fleet);
        let begins = Hint { id: ID, begins: true };
        assert!(!handle.making.takes_hint(begins, fleet.stamp()), "nobody makes it");
        let under_way = Making::begin(&handle, &fleet, ID);
        assert!(handle.making.takes_hint(begins, fleet.stamp()) && handle.making.takes(ID, fleet.stamp()));
        // As a removal leaves it: an observation that began after what was heard.
        fleet.write(|view| view.gone(Stamp::new(100), handle.engine.node(), ID));
        assert!(handle.making.takes_hint(begins, Stamp::new(200)));
        drop(under_way);
        assert!(!listing_is_wanted(&handle));
        assert!(!handle.making.takes(ID, fleet.stamp()), "it is made");
    }

    #[test]
    fn what_came_after_its_look_is_looked_at() {
        let fleet = Fleet::default();
        let handle = handle(&fleet);
        let under_way = Making::begin(&handle, &fleet, ID);
        fleet.write(|view| view.gone(Stamp::new(100), handle.engine.node(), ID));
        assert!(handle.making.takes_hint(Hint { id: ID, begins: false }, Stamp::new(200)));
        assert!(handle.making.takes(ID, Stamp::new(50)), "an earlier one, told of later");
        drop(under_way);
        assert!(listing_is_wanted(&handle));
    }
}
