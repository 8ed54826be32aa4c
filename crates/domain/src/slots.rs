//! Slots: the unit of capacity, and what a slot is worth on an engine.

use std::fmt;
use std::num::NonZeroU64;

/// A number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slots(pub u32);

impl Slots {
    /// No slots.
    pub const ZERO: Self = Self(0);

    /// The sum. Saturating: a sum that no node could hold refuses a start as surely as the true one would.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, zero where more would be taken than is there.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} slot{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// What one slot is worth: its memory, and with it a CPU share in proportion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSize {
    memory_mib: NonZeroU64,
}

impl SlotSize {
    /// A slot of so many MiB.
    pub const fn from_mib(memory_mib: NonZeroU64) -> Self {
        Self { memory_mib }
    }

    /// Memory of so many slots, in bytes. Saturates at what an engine can be told (a signed 64-bit number).
    pub fn memory_bytes(&self, slots: Slots) -> u64 {
        u64::from(slots.0).saturating_mul(self.memory_mib.get()).saturating_mul(1024 * 1024).min(i64::MAX as u64)
    }

    /// CPU shares of so many slots, on the scale where 1024 is an ordinary container's default.
    ///
    /// The original gave `slots` itself, and cgroup v1 refuses shares below 2, so that an instance of one slot could not start.
    /// Only the ratio between instances matters: ten shares a slot keep it and clear the minimum; the ceiling is the kernel's.
    pub fn cpu_shares(&self, slots: Slots) -> u32 {
        slots.0.saturating_mul(10).clamp(2, 262_144)
    }

    /// How many slots fit into so much memory.
    pub fn fitting(&self, memory_bytes: u64) -> u64 {
        memory_bytes / (self.memory_mib.get() * 1024 * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(mib: u64) -> SlotSize {
        SlotSize::from_mib(NonZeroU64::new(mib).unwrap())
    }

    #[test]
    fn memory_is_slots_times_size() {
        assert_eq!(size(128).memory_bytes(Slots(2)), 256 * 1024 * 1024);
        assert_eq!(size(u64::MAX).memory_bytes(Slots(u32::MAX)), i64::MAX as u64);
    }

    #[test]
    fn shares_stay_within_what_kernels_take() {
        assert_eq!(size(128).cpu_shares(Slots(1)), 10);
        assert_eq!(size(128).cpu_shares(Slots(u32::MAX)), 262_144);
        assert_eq!(size(128).cpu_shares(Slots(4)), 2 * size(128).cpu_shares(Slots(2)));
    }
}
