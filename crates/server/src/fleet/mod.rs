//! The fleet: the in-memory picture of nodes, instances and claims, and who may change it.
//!
//! [`View`] is the picture: plain data and rules, no locks, no clock, no I/O. [`Fleet`] is the handle that everybody holds: a cheap
//! clone over one `RwLock`, held for microseconds and never across an await (clippy's `await_holding_lock` is denied).
//!
//! **Whose word counts.** Listings, inspections and actions run at the same time and finish in any order. Each takes a [`Stamp`]
//! when it *begins*, and what it saw is applied only where nothing that began later has been. So a slow listing can neither remove
//! an instance that was started meanwhile nor bring back one that was removed.

mod claims;
mod index;
mod observe;
mod refs;
mod releases;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use captain_domain::{AppName, NodeId, OperationId, Slots, Timestamp};

pub use claims::{Claim, Phase, Refusal};
pub use observe::Listed;
pub use refs::{Filter, Found, InstanceRef, NodeRef, StateFilter};
pub use view::View;

/// When an observation began, in the order of this captain's own doings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp(u64);

impl Stamp {
    /// The stamp with this number; greater ones are later.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// The shared handle.
#[derive(Debug, Clone)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    view: RwLock<View>,
    stamps: AtomicU64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self(Arc::new(Inner { view: RwLock::new(View::new()), stamps: AtomicU64::new(1) }))
    }
}

impl Fleet {
    /// A stamp for an observation that begins now.
    pub fn stamp(&self) -> Stamp {
        Stamp(self.0.stamps.fetch_add(1, Ordering::Relaxed))
    }

    /// Looks at the view. `look` must be quick: writers wait for it.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        // A panic elsewhere leaves the view as it was between two small steps; refusing to answer ever after would help nobody.
        look(&self.0.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the view.
    pub fn write<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.0.view.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes slots on a node for an operation. They are given back when the reservation is dropped, or pass to the instance that
    /// was observed meanwhile.
    pub fn reserve(
        &self,
        node: &NodeId,
        app: &AppName,
        slots: Slots,
        operation: OperationId,
        now: Timestamp,
    ) -> Result<Reservation, Refusal> {
        self.write(|view| view.reserve(node, app, slots, operation, now))?;
        Ok(Reservation { fleet: self.clone(), operation })
    }
}

/// Slots taken on a node. Gives itself back.
#[derive(Debug)]
pub struct Reservation {
    fleet: Fleet,
    operation: OperationId,
}

impl Reservation {
    /// The operation that holds it.
    pub const fn operation(&self) -> OperationId {
        self.operation
    }

    /// Says how far the operation has come.
    pub fn phase(&self, phase: Phase, detail: Option<String>) {
        self.fleet.write(|view| view.set_phase(self.operation, phase, detail));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.fleet.write(|view| view.release(self.operation));
    }
}
