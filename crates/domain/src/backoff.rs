//! How long to wait before trying again: doubling, with jitter, up to a ceiling.

use std::time::Duration;

/// A doubling wait between `first` and `ceiling`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    ceiling: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits from `first` to `ceiling`.
    pub const fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, failures: 0 }
    }

    /// The wait after one more failure. `chance` is a random number in 0..=u32::MAX: it picks a point in the upper half of the
    /// wait, so that many captains that lost the same node do not come back in step.
    pub fn next(&mut self, chance: u32) -> Duration {
        let whole = self.first.saturating_mul(1 << self.failures.min(16)).min(self.ceiling);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    /// Success: the next failure waits the least again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_ceiling_within_half_a_wait_of_jitter() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let longest: Vec<_> = (0..6).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 50);
    }
}
