//! What must hold when the faults have ended (I4), and of readers while they have not.

use std::collections::BTreeMap;
use std::time::Duration;

use captain_domain::{Health, InstanceId, Slots};
use captain_server::actions::start::StartError;
use tokio::time::{Instant, sleep};

use crate::clients::{Answer, ask_to_start, keep_secret, order};
use crate::crew::{Crew, Process, Pulse};
use crate::plan::{CONVERGENCE, DEADLINE};
use crate::world::{SECRET, Shown, World};

/// How long a captain may say that instances run on a node of which it cannot learn anything: until the next ping, and that
/// ping's deadline.
const STALENESS: Duration = Duration::from_secs(5 + DEADLINE.as_secs() + 1);

/// Looks, once a second, whether a captain calls true what it cannot know any more.
pub(crate) async fn doubt(world: &World, crew: &Crew) {
    loop {
        sleep(Duration::from_secs(1)).await;
        for process in crew.all() {
            let awake = process.life.since_pause(world.with(|state| state.now()));
            if process.life.pulse() == Pulse::Lives && awake.is_none_or(|time| time > STALENESS) {
                doubt_one(world, &process);
            }
        }
    }
}

fn doubt_one(world: &World, process: &Process) {
    let nodes = world.with(|state| {
        let ids = state.nodes.iter().map(|node| node.id.clone()).enumerate();
        let unreachable = ids.map(|(at, id)| (id, state.unreachable_for(process.seat, at)));
        unreachable.filter(|(_, time)| *time > STALENESS).collect::<Vec<_>>()
    });
    for (id, time) in nodes {
        let health = process.captain.fleet().read(|view| view.node(id.as_str()).map(|node| node.health()));
        if health == Some(Health::Healthy) {
            let what = format!("captain {} has not reached {id} for {time:?} and calls it healthy", process.number);
            world.violate("stale", what);
        }
    }
}

/// Waits until every captain's picture is the engines' truth and nothing is left over.
pub(crate) async fn converge(world: &World, crew: &Crew) {
    let until = Instant::now() + CONVERGENCE;
    // What engines were asked before may still be done, and change everything.
    while world.with(|state| state.calls_under_way > 0) && Instant::now() < until {
        sleep(Duration::from_millis(7)).await;
    }
    loop {
        let different = crew.all().iter().find_map(|process| difference(world, process));
        match different.or_else(|| unsettled(world)) {
            None => return world.say(format_args!("converged")),
            Some(what) if Instant::now() >= until => {
                return world.violate("I4", format!("{what}, {CONVERGENCE:?} after the last fault"));
            }
            Some(_) => sleep(Duration::from_millis(500)).await,
        }
    }
}

/// A claim that nobody holds, a removal that does not end.
fn unsettled(world: &World) -> Option<String> {
    world.with(|state| {
        (0..state.nodes.len()).find_map(|node| {
            let (id, doing) = state.unsettled(node).into_iter().next()?;
            Some(format!("{} on node {node} is {}", id.short(), doing.word()))
        })
    })
}

/// Where a captain's picture is not the truth.
fn difference(world: &World, process: &Process) -> Option<String> {
    let number = process.number;
    process.captain.fleet().read(|view| {
        if let Some((operation, claim)) = view.claims().next() {
            return Some(format!("captain {number} still holds a claim: {operation}, {:?}", claim.phase));
        }
        world.with(|state| {
            (0..state.nodes.len()).find_map(|at| {
                let id = state.nodes[at].id.clone();
                let Some(node) = view.node(id.as_str()) else { return Some(format!("captain {number} has no {id}")) };
                if node.health() != Health::Healthy {
                    return Some(format!("captain {number} calls {id} {}", node.state()));
                }
                let seen: BTreeMap<InstanceId, Shown> =
                    view.instances_of(&id).map(|instance| (instance.id(), shown(&instance))).collect();
                let truth = state.instances(at);
                let ids = seen.keys().chain(truth.keys());
                if let Some(id) = ids.into_iter().find(|id| seen.get(*id) != truth.get(*id)) {
                    let (seen, truth) = (seen.get(id), truth.get(id));
                    return Some(format!("captain {number} sees {} as {seen:?} where {truth:?} is", id.short()));
                }
                let (used, taken) = (node.used(), state.taken(at));
                (used != taken).then(|| format!("captain {number} counts {used} used on {id} where {taken} are"))
            })
        })
    })
}

fn shown(instance: &captain_server::fleet::InstanceRef<'_>) -> Shown {
    Shown {
        state: instance.state(),
        slots: instance.slots(),
        port: instance.port(),
        variables: instance.environment().len(),
    }
}

/// One start that two captains are asked for at the same time is carried out by one of them: neither by both nor, each giving way to the
/// other, by none.
async fn twice(world: &World, crew: &Crew, node: usize) {
    let all = crew.all();
    let free = world.with(|state| state.nodes[node].running() < state.nodes[node].total);
    if all.len() < 2 || !free {
        return;
    }
    let order = order(world, node, Slots(1));
    let (one, two) = (&all[0], &all[all.len() - 1]);
    let answers =
        tokio::join!(ask_to_start(world, one, node, order.clone()), ask_to_start(world, two, node, order.clone()));
    let gives_way = |answer: &Answer| matches!(answer, Answer::Refused(StartError::InProgress(_)));
    match answers {
        (Answer::Running, Answer::Running) => {
            world.violate("I3", "one operation was carried out twice".to_owned());
        }
        (one, two) if gives_way(&one) && gives_way(&two) => {
            world.violate("rush", "two captains that were given one operation both gave way".to_owned());
        }
        _ => world.with(|state| state.count("one start asked of two")),
    }
    // Events reach the other captains.
    sleep(Duration::from_millis(200)).await;
}

/// Every node can be filled to its last slot, and no further: no slot was leaked, and none is counted twice.
pub(crate) async fn fill(world: &World, crew: &Crew) {
    for node in 0..world.with(|state| state.nodes.len()) {
        twice(world, crew, node).await;
        let mut patience = 30;
        loop {
            let (running, total) = world.with(|state| (state.nodes[node].running(), state.nodes[node].total));
            let answer = ask_to_start(world, &crew.any(), node, order(world, node, Slots(1))).await;
            match answer {
                // One too many would have been seen when it started (I1).
                Answer::Running => {}
                Answer::Refused(StartError::OverCapacity { .. }) if running == total => break,
                // The removal of an instance that has ended takes its slots again for as long as it lasts: from a listing alone
                // nobody can tell whether what is being removed had ended before.
                Answer::Refused(StartError::OverCapacity { .. }) if patience > 0 => patience -= 1,
                // The end of an event stream may be heard late, after the faults: its watcher is back within moments.
                Answer::Refused(StartError::NodeUnavailable { .. }) if patience > 0 => patience -= 1,
                Answer::Refused(error) => {
                    return world
                        .violate("I4", format!("{running} of {total} run on node {node}, and a start: {error}"));
                }
                Answer::HungUp => return world.violate("I4", "a captain died after the faults".to_owned()),
            }
            // Events reach the other captains.
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// I6: what a captain holds does not show secrets, however it is printed.
pub(crate) fn print(world: &World, crew: &Crew) {
    for process in crew.all() {
        let shown = process.captain.fleet().read(|view| format!("{view:?} {:?}", process.captain));
        keep_secret(world, "Debug of the view", &shown, &[SECRET]);
    }
}
