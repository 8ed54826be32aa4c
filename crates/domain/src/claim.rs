//! May this claim start? The rule that keeps a node within its slots, with any number of captains and no lock between them.
//!
//! A claim is a container that has been created and not started. After creating one, a captain lists the node and asks
//! [`judge`]. **Safety** rests on one thing only: a claim starts only after a listing in which *everything* visible, claims
//! included, fits. Of all claims ever started, take the one whose last listing was the latest: whoever else started had been
//! created before its own last listing, hence before this one, hence was in it; and it all fitted. (The engine's list shows every
//! container whose creation has returned. That is the only assumption.)
//!
//! **Once.** A client that was not answered gives the same operation again, perhaps to another captain, perhaps while the first is
//! still at it. So several attempts at one operation may be on a node. A claim starts only after a listing that shows no other
//! attempt at its operation, whatever that one does: by the same thought, of two that started the later listing had shown the
//! other. This is a promise for one node, because a node is where a listing is one instant: two captains that are given one
//! operation for two *different* nodes carry it out on both. (It takes a lock service to exclude that, and a start names its node.)
//!
//! **Progress** is the rest: where all of it does not fit, somebody must give way. Claims are ordered by a key that all captains
//! read alike (the operation and the attempt, both random), and take their places in that order, each if it still fits and no
//! attempt at its operation is before it. A claim without a place gives way; one with a place waits, for those without to go. So the
//! node ends as full as it can be: the claims that took a place before one that gave way never give way themselves.
//! The order has no part in safety: however wrong it were, nothing would be started that does not fit.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{OperationId, Slots};

/// One captain's carrying out of an operation: 8 random bytes that the captain draws, written as 16 hex digits. On every container,
/// so that a captain knows with certainty which are of its own making; of an operation's id, which a client may give to several
/// captains, it would not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(u64);

/// The text is not an attempt's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an attempt's id is 16 lower-case hex digits")]
pub struct NotAnAttempt;

impl AttemptId {
    /// The attempt with this number, which must be random: two attempts at one operation must never have the same.
    pub const fn from_random(number: u64) -> Self {
        Self(number)
    }
}

impl FromStr for AttemptId {
    type Err = NotAnAttempt;

    fn from_str(text: &str) -> Result<Self, NotAnAttempt> {
        let digits = text.len() == 16 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Err(NotAnAttempt);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NotAnAttempt)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose a container is: the attempt at an operation that made it. Claims are ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bid {
    /// The operation.
    pub operation: OperationId,
    /// The attempt; none for what captains made that knew no attempts.
    pub attempt: Option<AttemptId>,
}

/// What a listing shows that takes slots on the node, or carries the claim's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What made it; none for what the original Captain made.
    pub bid: Option<Bid>,
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
    /// Not any more, by what has ended: it only tells that its operation was carried out.
    Ended,
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
    /// Another attempt at its operation is before it, or has carried it out: withdraw.
    Repeated,
}

/// Judges the claim `own`, which takes `slots`, by what a listing made *after* its creation shows on a node of `total` slots.
/// Whether the claim itself is in the listing does not matter.
pub fn judge(own: Bid, slots: Slots, total: Slots, listing: impl IntoIterator<Item = Taken>) -> Verdict {
    let (mut lasting, mut going) = (0u64, 0u64);
    let listing = listing.into_iter();
    let (mut before, mut carried_out) = (Vec::<(Bid, u64)>::new(), Vec::with_capacity(listing.size_hint().0));
    let (mut repeated, mut rival_goes) = (false, false);
    for taken in listing.filter(|taken| taken.bid != Some(own)) {
        let taken_slots = u64::from(taken.slots.0);
        let rival = taken.bid.is_some_and(|bid| bid.operation == own.operation);
        if matches!(taken.hold, Hold::Lasting | Hold::Ended) {
            repeated |= rival;
            carried_out.extend(taken.bid.map(|bid| bid.operation));
        }
        match (taken.hold, taken.bid) {
            (Hold::Ended, _) => {}
            (Hold::Claim, Some(bid)) if bid < own => {
                repeated |= rival;
                before.push((bid, taken_slots));
            }
            (Hold::Leaving, _) | (Hold::Claim, Some(_)) => {
                rival_goes |= rival;
                going += taken_slots;
            }
            (Hold::Claim, None) | (Hold::Lasting, _) => lasting += taken_slots,
        }
    }
    let (own_slots, total) = (u64::from(slots.0), u64::from(total.0));
    before.sort_unstable();
    let mut placed = 0;
    for (bid, other) in before {
        if lasting + placed + other <= total && !carried_out.contains(&bid.operation) {
            placed += other;
            // Of several attempts at one operation the first alone may start.
            carried_out.push(bid.operation);
        } else {
            going += other;
        }
    }
    if repeated {
        Verdict::Repeated
    } else if own_slots + lasting > total {
        Verdict::Full
    } else if own_slots + lasting + placed > total {
        Verdict::Outbid
    } else if own_slots + lasting + placed + going > total || rival_goes {
        Verdict::Wait
    } else {
        Verdict::Start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bid(operation: u8, attempt: u64) -> Bid {
        Bid {
            operation: OperationId::from_bytes([operation; 16]),
            attempt: (attempt > 0).then_some(AttemptId::from_random(attempt)),
        }
    }

    fn claim(n: u8, slots: u32) -> Taken {
        rival(n, 1, slots, Hold::Claim)
    }

    fn running(slots: u32) -> Taken {
        Taken { bid: None, slots: Slots(slots), hold: Hold::Lasting }
    }

    fn leaving(slots: u32) -> Taken {
        rival(1, 1, slots, Hold::Leaving)
    }

    fn rival(operation: u8, attempt: u64, slots: u32, hold: Hold) -> Taken {
        Taken { bid: Some(bid(operation, attempt)), slots: Slots(slots), hold }
    }

    #[test]
    fn verdicts() {
        let cases: [(&str, &[Taken], Verdict); 20] = [
            ("alone", &[], Verdict::Start),
            ("itself does not count twice", &[rival(5, 5, 2, Hold::Claim)], Verdict::Start),
            ("exactly full", &[running(8)], Verdict::Start),
            ("one too many", &[running(9)], Verdict::Full),
            ("a claim behind waits for room", &[running(7), claim(6, 2)], Verdict::Wait),
            ("a claim before takes the room", &[running(7), claim(4, 2)], Verdict::Outbid),
            ("what is leaving is waited for", &[running(2), leaving(7)], Verdict::Wait),
            ("what is leaving helps nobody where the rest is too much", &[running(9), leaving(1)], Verdict::Full),
            ("a claim before that fits nowhere is waited for", &[running(7), claim(3, 4)], Verdict::Wait),
            ("claims that fit", &[claim(4, 4), claim(6, 4)], Verdict::Start),
            ("full is said before outbid", &[running(9), claim(4, 2)], Verdict::Full),
            ("an attempt before it", &[rival(5, 4, 2, Hold::Claim)], Verdict::Repeated),
            ("an attempt that is not numbered is before it", &[rival(5, 0, 2, Hold::Claim)], Verdict::Repeated),
            ("an attempt behind it is waited for though there is room", &[rival(5, 6, 2, Hold::Claim)], Verdict::Wait),
            ("an attempt behind it that runs", &[rival(5, 6, 2, Hold::Lasting)], Verdict::Repeated),
            ("an attempt that ran", &[rival(5, 6, 2, Hold::Ended)], Verdict::Repeated),
            ("an attempt that is being removed", &[rival(5, 4, 2, Hold::Leaving)], Verdict::Wait),
            ("another operation's end is nothing", &[rival(4, 6, 20, Hold::Ended)], Verdict::Start),
            ("one place for two attempts", &[running(4), claim(3, 4), rival(3, 2, 4, Hold::Claim)], Verdict::Wait),
            (
                "no place for an attempt at what runs",
                &[rival(3, 9, 6, Hold::Lasting), rival(3, 2, 4, Hold::Claim)],
                Verdict::Wait,
            ),
        ];
        for (case, listing, verdict) in cases {
            assert_eq!(judge(bid(5, 5), Slots(2), Slots(10), listing.iter().copied()), verdict, "{case}");
        }
    }

    #[test]
    fn sums_do_not_wrap() {
        let listing = [running(u32::MAX), claim(4, u32::MAX), claim(6, u32::MAX)];
        assert_eq!(judge(bid(5, 5), Slots(u32::MAX), Slots(u32::MAX), listing), Verdict::Full);
    }

    #[test]
    fn an_attempt_is_16_digits() {
        let attempt = AttemptId::from_random(0x00c0_ffee);
        assert_eq!(attempt.to_string(), "0000000000c0ffee");
        assert_eq!("0000000000c0ffee".parse(), Ok(attempt));
        for text in ["", "c0ffee", "0000000000C0FFEE", "+000000000c0ffee", "0000000000c0ffee0"] {
            assert_eq!(text.parse::<AttemptId>(), Err(NotAnAttempt), "{text}");
        }
    }
}
