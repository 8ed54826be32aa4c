//! Claiming: a container that has been created waits, by listings of its node, until it may be started, or gives way.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::claim::{self, Bid, Hold, Taken, Verdict};
use captain_domain::{InstanceId, Slots, State};
use tokio::time::{Instant, sleep};

use super::listing;
use super::start::{Failure, StartError, Starting};
use crate::engine::{EngineError, Inspected, Owner};
use crate::fleet::Phase;

/// What a listing comes to.
struct Judgement {
    verdict: Verdict,
    /// The slots that the others leave.
    free: Slots,
    /// Whether another attempt at the operation is there.
    rival: bool,
}

impl Starting<'_> {
    /// Waits until everything on the node fits, this claim included, or gives way.
    pub(super) async fn claim(&self, id: InstanceId) -> Result<(), Failure> {
        self.reservation.phase(Phase::Claiming, None);
        let until = Instant::now() + self.captain.policy().claim_patience;
        let mut pause = Duration::from_millis(5);
        loop {
            let Judgement { verdict, free, rival } = self.judge(id).await.map_err(|error| {
                self.handle.poke.notify_one();
                Failure::unstarted(Some(id), "nothing could be said of the node", error)
            })?;
            match verdict {
                Verdict::Start => return Ok(()),
                Verdict::Wait if Instant::now() < until => {
                    // Others are giving way. Jitter keeps several that wait from listing in step.
                    sleep(self.captain.chance().between(pause / 2, pause)).await;
                    pause = (pause * 2).min(Duration::from_millis(250));
                }
                Verdict::Wait | Verdict::Repeated if rival => {
                    let error = super::start::repeated(self.captain, self.order);
                    return Err(Failure::unstarted(Some(id), "its operation is being carried out by another", error));
                }
                Verdict::Wait | Verdict::Outbid | Verdict::Full | Verdict::Repeated => {
                    let error =
                        StartError::OverCapacity { node: self.order.node.clone(), asked: self.order.slots, free };
                    return Err(Failure::unstarted(Some(id), "the node is full", error));
                }
            }
        }
    }

    /// Lists the node and judges this claim.
    async fn judge(&self, id: InstanceId) -> Result<Judgement, Arc<EngineError>> {
        let fleet = self.captain.fleet();
        let own = Bid { operation: self.order.operation, attempt: Some(self.attempt) };
        let sightings = listing::list(self.handle).await?;
        let (mut taken, mut rival) = (Vec::with_capacity(sightings.len()), false);
        // Whatever else the creation made (an engine may have carried it out twice) is not this claim, and is never started.
        for sighting in sightings.iter().filter(|sighting| sighting.id != id) {
            let hold = match sighting.state {
                State::Created => Hold::Claim,
                State::Removing => Hold::Leaving,
                state if state.holds_slots() => Hold::Lasting,
                _ => Hold::Ended,
            };
            match &sighting.owner {
                Owner::Captain(labels) => {
                    rival |= labels.operation == own.operation && labels.attempt != own.attempt;
                    taken.push(Taken { bid: Some(labels.bid()), slots: labels.slots, hold });
                }
                Owner::Perhaps if hold != Hold::Ended => {
                    let known = fleet.read(|view| view.instance(sighting.id).map(|instance| instance.slots()));
                    let slots = match known {
                        Some(slots) => slots,
                        None => self.slots_of_unknown(sighting.id).await?,
                    };
                    taken.push(Taken { bid: None, slots, hold: Hold::Lasting });
                }
                Owner::Perhaps | Owner::Foreign | Owner::Unreadable(_) => {}
            }
        }
        let total = fleet.read(|view| view.node(self.order.node.as_str()).map(|node| node.total()));
        let total = total.unwrap_or(Slots::ZERO);
        let others = taken.iter().filter(|taken| taken.hold != Hold::Ended);
        let free = others.fold(total, |free, taken| free.minus(taken.slots));
        Ok(Judgement { verdict: claim::judge(own, self.order.slots, total, taken), free, rival })
    }

    /// A container in the shape of the original's that the watcher has not looked at: it counts if it is one.
    async fn slots_of_unknown(&self, id: InstanceId) -> Result<Slots, EngineError> {
        let known_foreign = self
            .captain
            .fleet()
            .read(|view| view.node(self.order.node.as_str()).is_some_and(|node| node.is_foreign(id)));
        if known_foreign {
            return Ok(Slots::ZERO);
        }
        match self.handle.engine.inspect(id).await {
            Ok(Inspected::Instance(instance)) => Ok(instance.slots),
            Ok(Inspected::Foreign | Inspected::Unreadable(_)) => Ok(Slots::ZERO),
            Err(error) if error.is_not_found() => Ok(Slots::ZERO),
            Err(error) => Err(error),
        }
    }
}
