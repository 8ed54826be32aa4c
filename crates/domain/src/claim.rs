//! May this claim start? The rule that keeps a node within its slots, with any number of captains and no lock between them.
//!
//! A claim is a container that has been created and not started. After creating one, a captain lists the node and asks
//! [`judge`]. **Safety** rests on one thing only: a claim starts only after a listing in which *everything* visible, claims
//! included, fits. Of all claims ever started, take the one whose last listing was the latest: whoever else started had been
//! created before its own last listing, hence before this one, hence was in it; and it all fitted. (The engine's list shows every
//! container whose creation has returned. That is the only assumption.)
//!
//! **Progress** is the rest: where all of it does not fit, somebody must give way. Claims are ordered by a key that all captains
//! read alike (the operation id, random), and take their places in that order, each if it still fits. A claim without a place gives
//! way; one with a place waits, for those without to go. So the node ends as full as it can be: the claims that took a place
//! before one that gave way never give way themselves.
//! The order has no part in safety: however wrong it were, nothing would be started that does not fit.

use crate::{OperationId, Slots};

/// What a listing shows that takes slots on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The operation that made it; none for what the original Captain made.
    pub operation: Option<OperationId>,
    /// Its slots.
    pub slots: Slots,
    /// How it holds them.
    pub hold: Hold,
}

/// How slots are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// By what has been started, and by what nobody knows to end.
    Lasting,
    /// By a claim: created and not started.
    Claim,
    /// By what is being removed. Its slots are not free before it is gone; but it is going, like the claims that give way.
    Leaving,
}

/// What to do with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that is visible fits: start.
    Start,
    /// It has its place, but claims behind it, or what is being removed, have not gone yet: list again.
    Wait,
    /// What runs leaves no room: withdraw, the node is full.
    Full,
    /// Claims before it take the room: withdraw.
    Outbid,
}

/// Judges the claim of `operation`, which takes `slots`, by what a listing made *after* its creation shows on a node of `total`
/// slots. Whether the claim itself is in the listing does not matter.
pub fn judge(operation: OperationId, slots: Slots, total: Slots, listing: impl IntoIterator<Item = Taken>) -> Verdict {
    let (mut lasting, mut going) = (0u64, 0u64);
    let mut before: Vec<(OperationId, u64)> = Vec::new();
    for taken in listing {
        if taken.operation == Some(operation) {
            continue;
        }
        let taken_slots = u64::from(taken.slots.0);
        match (taken.hold, taken.operation) {
            (Hold::Leaving, _) => going += taken_slots,
            (Hold::Claim, Some(other)) if other > operation => going += taken_slots,
            (Hold::Claim, Some(other)) => before.push((other, taken_slots)),
            (Hold::Claim, None) | (Hold::Lasting, _) => lasting += taken_slots,
        }
    }
    let (own, total) = (u64::from(slots.0), u64::from(total.0));
    before.sort_unstable();
    let mut placed = 0;
    for (_, other) in before {
        if lasting + placed + other <= total {
            placed += other;
        } else {
            going += other;
        }
    }
    if own + lasting > total {
        Verdict::Full
    } else if own + lasting + placed > total {
        Verdict::Outbid
    } else if own + lasting + placed + going > total {
        Verdict::Wait
    } else {
        Verdict::Start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(n: u8) -> OperationId {
        OperationId::from_bytes([n; 16])
    }

    fn claim(n: u8, slots: u32) -> Taken {
        Taken { operation: Some(op(n)), slots: Slots(slots), hold: Hold::Claim }
    }

    fn running(slots: u32) -> Taken {
        Taken { operation: None, slots: Slots(slots), hold: Hold::Lasting }
    }

    fn leaving(slots: u32) -> Taken {
        Taken { operation: Some(op(1)), slots: Slots(slots), hold: Hold::Leaving }
    }

    #[test]
    fn verdicts() {
        let cases: [(&str, &[Taken], Verdict); 11] = [
            ("alone", &[], Verdict::Start),
            ("itself does not count twice", &[claim(5, 2)], Verdict::Start),
            ("exactly full", &[running(8)], Verdict::Start),
            ("one too many", &[running(9)], Verdict::Full),
            ("a claim behind waits for room", &[running(7), claim(6, 2)], Verdict::Wait),
            ("a claim before takes the room", &[running(7), claim(4, 2)], Verdict::Outbid),
            ("what is leaving is waited for", &[running(2), leaving(7)], Verdict::Wait),
            ("what is leaving helps nobody where the rest is too much", &[running(9), leaving(1)], Verdict::Full),
            ("a claim before that fits nowhere is waited for", &[running(7), claim(3, 4)], Verdict::Wait),
            ("claims that fit", &[claim(4, 4), claim(6, 4)], Verdict::Start),
            ("full is said before outbid", &[running(9), claim(4, 2)], Verdict::Full),
        ];
        for (case, listing, verdict) in cases {
            assert_eq!(judge(op(5), Slots(2), Slots(10), listing.iter().copied()), verdict, "{case}");
        }
    }

    #[test]
    fn sums_do_not_wrap() {
        let listing = [running(u32::MAX), claim(4, u32::MAX), claim(6, u32::MAX)];
        assert_eq!(judge(op(5), Slots(u32::MAX), Slots(u32::MAX), listing), Verdict::Full);
    }
}
