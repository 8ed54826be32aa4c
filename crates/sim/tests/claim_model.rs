//! The claim rule, model-checked: every interleaving of two and three captains that create, list, judge, start, withdraw, die
//! and are swept, by breadth-first search of all states.
//!
//! What is checked is `captain_domain::claim::judge` itself. Around it is the protocol in its smallest form: a listing is one
//! instant of the engine, and its verdict is acted upon at any time after it, when the captain has been paused for as long as one
//! likes. So it is in the model that claims of one captain share a listing, and wait for a later one than they could have: they are
//! captains here that list one after the other with nothing in between.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{HashSet, VecDeque};

use captain_domain::claim::{AttemptId, Bid, Hold, Taken, Verdict, judge};
use captain_domain::{OperationId, Slots};

/// The container of a claim, as the engine has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Container {
    None,
    Created,
    Started,
    /// Being removed, and never started.
    Leaving,
    /// Being removed while its processes may still be there.
    Ending,
}

/// What its captain is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Captain {
    Create,
    List,
    Start,
    Withdraw,
    /// It has given way, or what it wanted to start was swept.
    GaveWay,
    Runs,
    Dead,
}

type State = Vec<(Container, Captain)>;

/// What is tried: claims by the order of their operations, on a node where something runs already.
#[derive(Debug, Clone)]
struct Case {
    total: u32,
    running: u32,
    claims: Vec<u32>,
    /// Whether captains die, lose patience and are swept, and instances end.
    faults: bool,
    /// Whether the first two claims are attempts at one operation.
    twins: bool,
    /// Whether the rule is shown no claims but the one that it judges: what the check must catch.
    blind: bool,
}

impl Case {
    fn bid(&self, at: usize) -> Bid {
        let operation = if self.twins && at == 1 { 0 } else { at };
        Bid {
            operation: OperationId::from_bytes([operation as u8 + 1; 16]),
            attempt: Some(AttemptId::from_random(at as u64)),
        }
    }

    fn verdict(&self, state: &State, at: usize) -> Verdict {
        let claims = state.iter().enumerate().filter(|(_, (container, _))| *container != Container::None);
        let listing = claims.map(|(other, (container, _))| Taken {
            bid: Some(self.bid(other)),
            slots: Slots(self.claims[other]),
            hold: match container {
                Container::Created => Hold::Claim,
                Container::Leaving | Container::Ending => Hold::Leaving,
                Container::None | Container::Started => Hold::Lasting,
            },
        });
        let listing = listing.filter(|taken| !(self.blind && taken.hold == Hold::Claim));
        let before = Taken { bid: None, slots: Slots(self.running), hold: Hold::Lasting };
        judge(self.bid(at), Slots(self.claims[at]), Slots(self.total), listing.chain([before]))
    }

    fn used(&self, state: &State) -> u32 {
        let runs = |container| matches!(container, Container::Started | Container::Ending);
        let started = state.iter().zip(&self.claims).filter(|((container, _), _)| runs(*container));
        self.running + started.map(|(_, slots)| slots).sum::<u32>()
    }

    /// Every state that is one step away, but for those that change nothing.
    fn successors(&self, state: &State) -> Vec<State> {
        let mut found = Vec::new();
        for at in 0..state.len() {
            let (container, captain) = state[at];
            let mut go = |container, captain| {
                let mut next = state.clone();
                next[at] = (container, captain);
                if next != *state {
                    found.push(next);
                }
            };
            match captain {
                Captain::Create => go(Container::Created, Captain::List),
                Captain::List => match self.verdict(state, at) {
                    Verdict::Start => go(container, Captain::Start),
                    Verdict::Wait if self.faults => go(container, Captain::Withdraw),
                    Verdict::Wait => {}
                    Verdict::Full | Verdict::Outbid | Verdict::Repeated => go(container, Captain::Withdraw),
                },
                Captain::Start if container == Container::Created => go(Container::Started, Captain::Runs),
                Captain::Start => go(container, Captain::GaveWay),
                Captain::Withdraw if container == Container::Created => go(Container::Leaving, Captain::GaveWay),
                Captain::Withdraw => go(container, Captain::GaveWay),
                Captain::GaveWay | Captain::Runs | Captain::Dead => {}
            }
            if matches!(container, Container::Leaving | Container::Ending) {
                go(Container::None, captain);
            }
            if self.faults {
                if !matches!(captain, Captain::GaveWay | Captain::Dead) {
                    go(container, Captain::Dead);
                }
                match container {
                    // Anybody may sweep a claim that he takes for abandoned, and anything that runs may end.
                    Container::Created => go(Container::Leaving, captain),
                    Container::Started => {
                        go(Container::None, captain);
                        go(Container::Ending, captain);
                    }
                    Container::None | Container::Leaving | Container::Ending => {}
                }
            }
        }
        found
    }

    /// All states that can be reached.
    fn explore(&self) -> (HashSet<State>, Vec<State>) {
        let first: State = vec![(Container::None, Captain::Create); self.claims.len()];
        let (mut seen, mut last) = (HashSet::from([first.clone()]), Vec::new());
        let mut queue = VecDeque::from([first]);
        while let Some(state) = queue.pop_front() {
            let next = self.successors(&state);
            if next.is_empty() {
                last.push(state.clone());
            }
            for state in next {
                if seen.insert(state.clone()) {
                    queue.push_back(state);
                }
            }
        }
        (seen, last)
    }
}

/// All cases of two and three claims of up to `largest` slots, on nodes with `total` slots of which some are taken.
fn cases(largest: u32, faults: bool) -> Vec<Case> {
    let mut found = Vec::new();
    for captains in 2..=3 {
        for number in 0..largest.pow(captains) {
            let claims: Vec<u32> = (0..captains).map(|at| number / largest.pow(at) % largest + 1).collect();
            for total in 0..=5 {
                for running in 0..=total.min(2) {
                    let case = Case { total, running, claims: claims.clone(), faults, twins: false, blind: false };
                    // Who repeats a start asks for the same slots.
                    if claims[0] == claims[1] {
                        found.push(Case { twins: true, ..case.clone() });
                    }
                    found.push(case);
                }
            }
        }
    }
    found
}

/// Never more than there is, in any state, whatever dies, pauses or is swept; and never two attempts at one operation.
#[test]
fn started_slots_never_exceed_the_total() {
    let mut states = 0;
    for case in cases(3, true) {
        let (seen, _) = case.explore();
        states += seen.len();
        for state in seen {
            assert!(case.used(&state) <= case.total, "{case:?}: {state:?}");
            let runs = |at: usize| matches!(state[at].0, Container::Started | Container::Ending);
            assert!(!(case.twins && runs(0) && runs(1)), "one operation runs twice: {case:?}: {state:?}");
        }
    }
    // An exploration that ended early would prove nothing.
    assert!(states > 100_000, "{states} states");
}

/// Without failures nobody waits for ever, and the foremost of those that gave way does not fit in the end: so where all claims
/// are of one size the node is as full as it can be.
#[test]
fn every_end_is_full() {
    for case in cases(3, false) {
        let (_, last) = case.explore();
        assert!(!last.is_empty(), "{case:?} has no end");
        for state in last {
            let settled = |(_, captain): &(Container, Captain)| matches!(captain, Captain::GaveWay | Captain::Runs);
            assert!(state.iter().all(settled), "somebody waits for ever: {case:?}: {state:?}");
            let gave_way = |at: &usize| state[*at].1 == Captain::GaveWay;
            let has_twin = |at: &usize| case.twins && *at < 2 && state[1 - *at].1 == Captain::Runs;
            if let Some(foremost) = (0..state.len()).filter(gave_way).find(|at| !has_twin(at)) {
                let used = case.used(&state);
                assert!(used + case.claims[foremost] > case.total, "{case:?}: {state:?} has room for {foremost}");
            }
        }
    }
}

/// Claims of different sizes: a small one does not give way to one that gives way itself.
#[test]
fn a_small_claim_takes_the_place_that_a_large_one_cannot() {
    let case = Case { total: 4, running: 0, claims: vec![3, 2, 1], faults: false, twins: false, blind: false };
    let (_, last) = case.explore();
    let ends: HashSet<u32> = last.iter().map(|state| case.used(state)).collect();
    assert!(ends.iter().all(|used| *used >= 3), "used at the ends: {ends:?}");
    assert!(ends.contains(&4), "the full end is reached");
}

/// The check checks: a rule that sees only what runs is caught.
#[test]
fn a_rule_that_is_blind_to_claims_is_caught() {
    let case = Case { total: 1, running: 0, claims: vec![1, 1], faults: false, twins: false, blind: true };
    let (seen, _) = case.explore();
    assert!(seen.iter().any(|state| case.used(state) > case.total));
}
