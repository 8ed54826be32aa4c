//! Moments, as engines and clocks give them. Only for display and for ages of long-lived things; deadlines use a monotonic clock elsewhere.

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// How long ago `earlier` was, in milliseconds; zero where clocks disagree and it seems to lie ahead.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}
