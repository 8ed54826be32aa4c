//! One start and one stop, with nothing else going on, broken off at a step of the captain that carries it out. The caller goes through
//! all the steps, so that no point between two of them is left to chance.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::Slots;
use captain_server::actions::start::StartError;
use tokio::time::{Instant, sleep};

use crate::clients::{Answer, ask_to_start, ask_to_stop, order};
use crate::crew::{Crew, Pulse};
use crate::plan::{CONVERGENCE, Strike};
use crate::world::World;

/// How long a paused captain stands still: longer than the grace after which others take its claims for abandoned.
const PAUSE: Duration = Duration::from_secs(45);

/// Plays it. A client that is hung up on, or told that somebody is at it, gives its operation again, to the other captain.
pub(crate) async fn play(world: &Arc<World>, crew: &Arc<Crew>, strike: Strike) {
    let (first, second) = (crew.of(0), crew.of(1));
    // All is quiet before: both have listed the node.
    sleep(Duration::from_secs(2)).await;
    let tending = tokio::spawn(go_on(Arc::clone(world), Arc::clone(crew)));
    let fate = if strike.pause { Pulse::Paused } else { Pulse::Dead };
    let arm = || world.with(|state| state.fuses.insert(first.number, (strike.step, fate)));
    if !strike.in_stop {
        arm();
    }
    let order = order(world, 0, Slots(2));
    let mut answer = ask_to_start(world, &first, 0, order.clone()).await;
    let until = Instant::now() + CONVERGENCE;
    while let Answer::HungUp | Answer::Refused(_) = answer {
        if let Answer::Refused(StartError::Done { .. }) = answer {
            break;
        }
        if Instant::now() > until {
            return world.violate("I2", "a start that was broken off can never be repeated".to_owned());
        }
        sleep(Duration::from_secs(1)).await;
        answer = ask_to_start(world, &second, 0, order.clone()).await;
    }
    let running = world.with(|state| state.instances(0));
    let Some(id) = running.keys().next().copied().filter(|_| running.len() == 1) else {
        return world.violate("I3", format!("one start has made {running:?}"));
    };
    if strike.in_stop {
        arm();
    }
    ask_to_stop(world, &crew.of(0), id).await;
    // Whoever was not answered asks again, and is told that there is no such instance, or it is stopped now.
    let until = Instant::now() + CONVERGENCE;
    while !world.with(|state| state.instances(0)).is_empty() {
        if Instant::now() > until {
            return world.violate("stop", "a stop that was broken off can never be repeated".to_owned());
        }
        sleep(Duration::from_secs(1)).await;
        ask_to_stop(world, &second, id).await;
    }
    world.with(|state| {
        state.fuses.clear();
        state.count("struck scenario ended");
    });
    tending.abort();
}

/// A captain that was struck comes back: another one in its place, or the same after its pause.
async fn go_on(world: Arc<World>, crew: Arc<Crew>) {
    loop {
        let struck = world.struck.notified();
        while let Some((_, seat, fate)) = world.with(|state| state.stricken.pop()) {
            sleep(PAUSE).await;
            match fate {
                Pulse::Dead => crew.replace(seat),
                Pulse::Paused | Pulse::Lives => crew.of(seat).life.resume(world.with(|state| state.now())),
            }
        }
        struck.await;
    }
}
