use std::collections::BTreeMap;

use captain_domain::label::Labels;
use captain_domain::{
    AppName, Environment, Exit, Health, Hostname, Instance, InstanceId, NodeId, OperationId, Slots, SlugUri, State,
    Timestamp,
};
use proptest::prelude::*;

use super::*;
use crate::engine::{Owner, Sighting};

fn node() -> NodeId {
    NodeId::trusted("app-1")
}

fn id(n: u8) -> InstanceId {
    InstanceId::from_bytes([n; 32])
}

fn operation(n: u8) -> OperationId {
    OperationId::from_bytes([n; 16])
}

fn app(n: u8) -> AppName {
    AppName::trusted(["demo", "bee", "web"][usize::from(n % 3)])
}

fn instance(n: u8, state: State) -> Instance {
    Instance {
        id: id(n),
        node: node(),
        app: app(n),
        slug_uri: SlugUri::trusted("http://slugs/demo.tgz"),
        environment: Environment::from_entries(["A=b"]),
        slots: Slots(2),
        port: (state == State::Running).then_some(49000 + u16::from(n)),
        hostname: Hostname::trusted(&id(n).short()),
        state,
        created: Timestamp(1000),
        started: Some(Timestamp(2000)),
        exit: (state == State::Exited).then_some(Exit { code: 0, out_of_memory: false, at: Some(Timestamp(3000)) }),
        operation: Some(operation(n)),
    }
}

fn sighting(n: u8, state: State) -> Sighting {
    let labels = Labels {
        app: app(n),
        slots: Slots(2),
        slug_uri: SlugUri::trusted("http://slugs/demo.tgz"),
        operation: operation(n),
        attempt: None,
    };
    Sighting { id: id(n), state, owner: Owner::Captain(labels), port: instance(n, state).port }
}

fn fleet() -> Fleet {
    let fleet = Fleet::default();
    fleet.write(|view| {
        view.add_node(node(), Slots(10), Timestamp(0));
        view.set_health(&node(), Health::Healthy, "", Timestamp(0));
    });
    fleet
}

fn used(fleet: &Fleet) -> u32 {
    fleet.read(|view| view.node("app-1").unwrap().used().0)
}

fn reserve(fleet: &Fleet, n: u8) -> Result<Reservation, Refusal> {
    fleet.reserve(&node(), &app(n), Slots(2), operation(n), Timestamp(0))
}

#[test]
fn a_reservation_takes_slots_and_gives_them_back() {
    let fleet = fleet();
    let held: Vec<_> = (0..5).map(|n| reserve(&fleet, n).unwrap()).collect();
    assert_eq!(reserve(&fleet, 5).unwrap_err(), Refusal::OverCapacity { free: Slots(0), total: Slots(10) });
    drop(held);
    assert_eq!(used(&fleet), 0);
}

#[test]
fn an_operation_reserves_once() {
    let fleet = fleet();
    let _held = reserve(&fleet, 1).unwrap();
    assert_eq!(reserve(&fleet, 1).unwrap_err(), Refusal::InProgress);
}

#[test]
fn an_instance_and_its_reservation_count_once() {
    let fleet = fleet();
    let held = reserve(&fleet, 1).unwrap();
    let stamp = fleet.stamp();
    fleet.write(|view| view.observe(stamp, &instance(1, State::Created)));
    assert_eq!(used(&fleet), 2, "claim and container");
    let stamp = fleet.stamp();
    fleet.write(|view| view.observe(stamp, &instance(1, State::Running)));
    assert_eq!(used(&fleet), 2, "claim and running container");
    drop(held);
    assert_eq!(used(&fleet), 2, "the container alone");
    let stamp = fleet.stamp();
    fleet.write(|view| view.gone(stamp, &node(), id(1)));
    assert_eq!(used(&fleet), 0);
}

#[test]
fn a_node_that_is_not_healthy_takes_no_reservation() {
    let fleet = fleet();
    fleet.write(|view| view.set_health(&node(), Health::Unresponsive, "no answer within 15 s", Timestamp(1)));
    assert_eq!(reserve(&fleet, 1).unwrap_err(), Refusal::Unavailable("unresponsive: no answer within 15 s".to_owned()));
}

#[test]
fn a_listing_that_began_before_a_start_does_not_remove_what_was_started() {
    let fleet = fleet();
    let listing = fleet.stamp();
    let inspection = fleet.stamp();
    fleet.write(|view| view.observe(inspection, &instance(1, State::Running)));
    fleet.write(|view| view.listed(listing, &node(), &[], Timestamp(5)));
    assert_eq!(used(&fleet), 2);
    let listing = fleet.stamp();
    fleet.write(|view| view.listed(listing, &node(), &[], Timestamp(5)));
    assert_eq!(used(&fleet), 0);
}

#[test]
fn what_is_gone_is_not_brought_back_by_what_was_seen_before() {
    let fleet = fleet();
    let (listing, inspection) = (fleet.stamp(), fleet.stamp());
    let stop = fleet.stamp();
    fleet.write(|view| view.gone(stop, &node(), id(1)));
    fleet.write(|view| view.observe(inspection, &instance(1, State::Running)));
    let listed = fleet.write(|view| view.listed(listing, &node(), &[sighting(1, State::Running)], Timestamp(5)));
    assert_eq!(fleet.read(View::known_instances), 0);
    assert_eq!(used(&fleet), 0);
    // The listing may ask after it: the answer is 404.
    assert!(listed.inspect.len() <= 1);
}

#[test]
fn a_listing_counts_slots_before_anything_is_inspected() {
    let fleet = fleet();
    let stamp = fleet.stamp();
    let sightings = [sighting(1, State::Running), sighting(2, State::Created), sighting(3, State::Exited)];
    let listed = fleet.write(|view| view.listed(stamp, &node(), &sightings, Timestamp(5)));
    assert_eq!(listed.inspect, [id(1), id(2), id(3)]);
    assert_eq!(used(&fleet), 4, "what has ended holds none");
}

#[test]
fn a_second_listing_asks_after_nothing() {
    let fleet = fleet();
    for n in 1..=3 {
        let stamp = fleet.stamp();
        fleet.write(|view| view.observe(stamp, &instance(n, State::Running)));
    }
    let stamp = fleet.stamp();
    let sightings: Vec<_> = (1..=3).map(|n| sighting(n, State::Running)).collect();
    let version = fleet.read(View::version);
    let listed = fleet.write(|view| view.listed(stamp, &node(), &sightings, Timestamp(5)));
    assert_eq!(listed, Listed { inspect: vec![], known: 3, unreadable: vec![] });
    assert_eq!(fleet.read(View::version), version, "nothing changed for a reader");
}

#[test]
fn what_a_listing_says_has_ended_has_no_port() {
    let fleet = fleet();
    let stamp = fleet.stamp();
    fleet.write(|view| view.observe(stamp, &instance(1, State::Running)));
    let stamp = fleet.stamp();
    let listed = fleet.write(|view| view.listed(stamp, &node(), &[sighting(1, State::Exited)], Timestamp(5)));
    assert_eq!(listed.inspect, [id(1)]);
    let told = fleet.read(|view| view.instance(id(1)).map(|instance| (instance.state(), instance.port())));
    assert_eq!(told, Some((State::Exited, None)));
}

#[test]
fn a_foreign_container_is_asked_after_once() {
    let fleet = fleet();
    let perhaps = Sighting { id: id(9), state: State::Running, owner: Owner::Perhaps, port: None };
    let stamp = fleet.stamp();
    let listed = fleet.write(|view| view.listed(stamp, &node(), std::slice::from_ref(&perhaps), Timestamp(5)));
    assert_eq!(listed.inspect, [id(9)]);
    fleet.write(|view| view.foreign(&node(), id(9)));
    let stamp = fleet.stamp();
    let listed = fleet.write(|view| view.listed(stamp, &node(), &[perhaps], Timestamp(5)));
    assert_eq!(listed.inspect, []);
    assert_eq!(fleet.read(View::known_instances), 0);
}

#[test]
fn prefixes_find_one_or_none_or_say_that_there_are_several() {
    let fleet = fleet();
    let mut bytes = [7; 32];
    bytes[31] = 8;
    let twin = Instance { id: InstanceId::from_bytes(bytes), ..instance(7, State::Running) };
    for instance in [instance(7, State::Running), twin] {
        let stamp = fleet.stamp();
        fleet.write(|view| view.observe(stamp, &instance));
    }
    fleet.read(|view| {
        assert!(matches!(view.find(&"0707070707070".parse().unwrap()), Found::Ambiguous));
        assert!(matches!(view.find(&id(7).to_string().parse().unwrap()), Found::One(_)));
        assert!(matches!(view.find(&"0808080808080".parse().unwrap()), Found::None));
    });
}

#[test]
fn pages_join_to_the_whole() {
    let fleet = fleet();
    for n in 1..=50 {
        let stamp = fleet.stamp();
        let state = if n % 7 == 0 { State::Exited } else { State::Running };
        fleet.write(|view| view.observe(stamp, &instance(n, state)));
    }
    for filter in [
        Filter::default(),
        Filter { app: Some("bee".to_owned()), ..Filter::default() },
        Filter { node: Some("app-1".to_owned()), state: StateFilter::All, ..Filter::default() },
        Filter { state: StateFilter::Only(State::Exited), ..Filter::default() },
        Filter { node: Some("elsewhere".to_owned()), ..Filter::default() },
    ] {
        let collect = |limit| {
            let (mut ids, mut after) = (Vec::new(), None);
            fleet.read(|view| {
                loop {
                    after = view.page(&filter, after, limit, |instance| ids.push(instance.id()));
                    if after.is_none() {
                        return;
                    }
                }
            });
            ids
        };
        let whole = collect(usize::MAX);
        assert!(whole.is_sorted());
        for limit in [1, 3, 49, 50, 51] {
            assert_eq!(collect(limit), whole, "{filter:?} by {limit}");
        }
    }
}

#[test]
fn what_runs_on_a_lost_node_stays_listed_and_is_not_said_to_run() {
    let fleet = fleet();
    let stamp = fleet.stamp();
    fleet.write(|view| view.observe(stamp, &instance(1, State::Running)));
    fleet.write(|view| view.set_health(&node(), Health::Unreachable, "connection refused", Timestamp(9)));
    let listed = |state| {
        let mut ids = Vec::new();
        fleet.read(|view| {
            view.page(&Filter { state, ..Filter::default() }, None, usize::MAX, |instance| {
                assert!(!instance.is_certain());
                ids.push(instance.id());
            })
        });
        ids
    };
    assert_eq!(listed(StateFilter::Running), [id(1)]);
    assert_eq!(listed(StateFilter::Unknown), [id(1)]);
    assert_eq!(listed(StateFilter::Only(State::Running)), []);
}

#[test]
fn ids_that_begin_alike_are_told_apart() {
    let fleet = fleet();
    let alike = |n: u8| {
        let mut bytes = [9; 32];
        bytes[31] = n;
        InstanceId::from_bytes(bytes)
    };
    let ids: Vec<_> = (0..20).map(alike).collect();
    for id in ids.iter().rev() {
        let stamp = fleet.stamp();
        fleet.write(|view| view.observe(stamp, &Instance { id: *id, ..instance(0, State::Running) }));
    }
    let listed = |view: &View| {
        let mut listed = Vec::new();
        view.page(&Filter::default(), None, usize::MAX, |instance| listed.push(instance.id()));
        listed
    };
    assert_eq!(fleet.read(listed), ids);
    let stamp = fleet.stamp();
    fleet.write(|view| view.gone(stamp, &node(), ids[7]));
    let left: Vec<_> = ids.iter().copied().filter(|id| *id != ids[7]).collect();
    assert_eq!(fleet.read(listed), left);
    for id in ids {
        assert_eq!(fleet.read(|view| view.instance(id).is_some()), left.contains(&id));
    }
}

#[test]
fn a_claim_outlives_its_node_and_finds_it_again_wherever_it_is() {
    let (fleet, other) = (fleet(), NodeId::trusted("app-2"));
    let (first, second) = (reserve(&fleet, 1).unwrap(), reserve(&fleet, 2).unwrap());
    fleet.write(|view| view.remove_node(&node()));
    fleet.write(|view| view.add_node(other.clone(), Slots(10), Timestamp(1)));
    let used_of = |id: &str| fleet.read(|view| view.node(id).unwrap().used());
    drop(first);
    assert_eq!(used_of("app-2"), Slots(0), "another node in the place of the one that left");
    fleet.write(|view| view.set_health(&other, Health::Healthy, "", Timestamp(1)));
    let _of_other = fleet.reserve(&other, &app(3), Slots(3), operation(3), Timestamp(1)).unwrap();
    fleet.write(|view| view.add_node(node(), Slots(10), Timestamp(2)));
    assert_eq!((used(&fleet), used_of("app-2")), (2, Slots(3)));
    drop(second);
    assert_eq!((used(&fleet), used_of("app-2")), (0, Slots(3)));
}

#[derive(Debug, Clone)]
enum Step {
    Observe(u8, State),
    Gone(u8),
    List(Vec<(u8, State)>),
    Reserve(u8),
    Release(u8),
}

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(State::ALL.to_vec())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..8u8, state()).prop_map(|(n, state)| Step::Observe(n, state)),
        (0..8u8).prop_map(Step::Gone),
        prop::collection::btree_map(0..8u8, state(), 0..8).prop_map(|seen| Step::List(seen.into_iter().collect())),
        (0..8u8).prop_map(Step::Reserve),
        (0..8u8).prop_map(Step::Release),
    ]
}

proptest! {
    /// Whatever happens, the sums that are kept are the sums that would be counted anew.
    #[test]
    fn kept_sums_are_the_true_sums(steps in prop::collection::vec(step(), 1..80)) {
        let fleet = fleet();
        let mut held: BTreeMap<u8, Reservation> = BTreeMap::new();
        for step in steps {
            let stamp = fleet.stamp();
            match step {
                Step::Observe(n, state) => fleet.write(|view| view.observe(stamp, &instance(n, state))),
                Step::Gone(n) => fleet.write(|view| view.gone(stamp, &node(), id(n))),
                Step::List(seen) => {
                    let sightings: Vec<_> = seen.into_iter().map(|(n, state)| sighting(n, state)).collect();
                    fleet.write(|view| view.listed(stamp, &node(), &sightings, Timestamp(1)));
                }
                // An operation that made an instance is not carried out again (`actions::start`).
                Step::Reserve(n) if fleet.read(|view| view.instance_of(&node(), operation(n))).is_some() => {}
                Step::Reserve(n) => {
                    if let Ok(reservation) = reserve(&fleet, n) {
                        held.insert(n, reservation);
                    }
                }
                Step::Release(n) => drop(held.remove(&n)),
            }
            fleet.read(|view| {
                let all: Vec<_> = view.instances_of(&node()).collect();
                let unclaimed = |operation: Option<OperationId>| operation.is_none_or(|operation| view.claim(operation).is_none());
                let counted: u32 =
                    all.iter().filter(|i| i.state().holds_slots() && unclaimed(i.operation())).map(|i| i.slots().0).sum();
                let reserved: u32 = view.claims().map(|(_, claim)| claim.slots.0).sum();
                assert_eq!(view.node("app-1").unwrap().used().0, counted + reserved);
                let running = all.iter().filter(|i| i.state().is_running()).count() as u64;
                assert_eq!(view.running_instances(), running);
                assert_eq!(view.running_by_app().map(|(_, n)| n).sum::<u64>(), running);
                assert_eq!(all.len(), view.known_instances());
            });
        }
    }
}
