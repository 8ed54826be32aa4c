//! What a container is, derived from its engine and its number: nothing of it is kept.
//!
//! The first eight bytes of an id are a permutation of (engine, number), so that an id leads back to them without an index.

use captain_domain::label::{self, Labels};
use captain_domain::{InstanceId, OperationId};

/// How many engines and containers there are, and what they are like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Engines.
    pub engines: u32,
    /// Containers at the beginning, over all engines.
    pub instances: u64,
    /// Apps that they belong to, in turn: each has the same number of them.
    pub apps: u32,
    /// How long a start takes.
    pub start_takes: std::time::Duration,
    /// Starts that one engine carries out at once; more wait inside it.
    pub starts_at_once: usize,
}

impl Plan {
    /// Engines on which `instances` containers run, a thousand of each app, that take 50 ms for a start, one after another.
    #[must_use]
    pub fn of(engines: u32, instances: u64) -> Self {
        Self {
            engines,
            instances,
            apps: u32::try_from(instances.div_ceil(1_000)).unwrap().max(1),
            start_takes: std::time::Duration::from_millis(50),
            starts_at_once: 1,
        }
    }

    /// The container with this place in the order of all: engine and number.
    #[must_use]
    pub fn nth(&self, place: u64) -> Container {
        let engine = u32::try_from(place % u64::from(self.engines)).unwrap();
        Container { engine, number: u32::try_from(place / u64::from(self.engines)).unwrap() }
    }

    /// How many of so many containers are on an engine.
    pub(crate) fn on_engine(&self, engine: u32, instances: u64) -> u32 {
        let (each, rest) = (instances / u64::from(self.engines), instances % u64::from(self.engines));
        u32::try_from(each + u64::from(u64::from(engine) < rest)).unwrap()
    }

    /// The number of a container's app.
    #[must_use]
    pub fn app(&self, container: Container) -> u32 {
        let place = u64::from(container.number) * u64::from(self.engines) + u64::from(container.engine);
        u32::try_from(place % u64::from(self.apps)).unwrap()
    }

    /// The labels of a container that is derived.
    #[must_use]
    pub fn labels(&self, container: Container) -> Labels {
        let (app, release) = (self.app(container), container.release());
        let written = [
            (label::APP, app_name(app)),
            (label::SLOTS, SLOTS.to_string()),
            (label::SLUG, slug_uri(app, release)),
            (label::OPERATION, container.operation().to_string()),
            (label::ATTEMPT, container.attempt()),
        ];
        let value = |name: &str| written.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        Labels::read(value).unwrap().unwrap()
    }
}

/// The same fleet as a view is told of it, without engines: for what is measured within a process.
pub mod told {
    use captain_domain::{AppName, Environment, Health, Hostname, Instance, NodeId, Slots, SlugUri, State, Timestamp};
    use captain_server::fleet::Fleet;

    use super::{Container, Plan, SLOTS, app_name, environment, slug_uri};

    /// Slots of each node: room for what is there, and for as much again.
    const SLOTS_OF_NODE: u32 = 4_000;

    /// The node of an engine.
    #[must_use]
    pub fn node(engine: u32) -> NodeId {
        NodeId::parse(&format!("node-{engine}")).unwrap()
    }

    /// A container, as an inspection finds it.
    #[must_use]
    pub fn instance(plan: &Plan, container: Container) -> Instance {
        let (app, release) = (plan.app(container), container.release());
        let created = Timestamp(1_795_000_000_000 - i64::try_from(container.age() / 1_000_000).unwrap());
        let id = container.id();
        Instance {
            id,
            node: node(container.engine),
            app: AppName::parse(&app_name(app)).unwrap(),
            slug_uri: SlugUri::parse(&slug_uri(app, release)).unwrap(),
            environment: environment(app, release)
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect::<Environment>(),
            slots: Slots(SLOTS),
            port: Some(container.port()),
            hostname: Hostname::trusted(&id.short()),
            state: State::Running,
            created,
            started: Some(Timestamp(created.0 + 400)),
            exit: None,
            operation: Some(container.operation()),
        }
    }

    /// A view that has been told of the nodes, all healthy, and of nothing on them.
    #[must_use]
    pub fn nodes(plan: &Plan) -> Fleet {
        let fleet = Fleet::default();
        add_nodes(&fleet, plan);
        fleet
    }

    /// Tells a view of all nodes, and of all that is on them.
    pub fn fill(fleet: &Fleet, plan: &Plan) {
        add_nodes(fleet, plan);
        observe(fleet, plan, 0..plan.instances);
    }

    fn add_nodes(fleet: &Fleet, plan: &Plan) {
        for engine in 0..plan.engines {
            fleet.write(|view| {
                view.add_node(node(engine), Slots(SLOTS_OF_NODE), Timestamp(1));
                view.set_health(&node(engine), Health::Healthy, "", Timestamp(2));
            });
        }
    }

    /// Tells a view of the containers with these places.
    pub fn observe(fleet: &Fleet, plan: &Plan, places: std::ops::Range<u64>) {
        for place in places {
            let instance = instance(plan, plan.nth(place));
            let stamp = fleet.stamp();
            fleet.write(|view| view.observe(stamp, &instance));
        }
    }
}

/// The slots of every derived container.
pub const SLOTS: u32 = 1;

/// The name of an app.
#[must_use]
pub fn app_name(app: u32) -> String {
    format!("shop-frontend-{app:04}")
}

pub(crate) fn slug_uri(app: u32, release: u32) -> String {
    format!("https://slugs.internal.example.com/shop-frontend-{app:04}/v{release}.tgz")
}

/// What the caller gave with the start. As in the field, all instances of a release have the same.
pub(crate) fn environment(app: u32, release: u32) -> [(&'static str, String); 6] {
    [
        (
            "DATABASE_URL",
            format!("postgres://shop:{:08x}@db-{}.internal:5432/shop_{app}", mix(app.into()) >> 32, app % 40),
        ),
        ("JAVA_OPTS", "-Xms96m -Xmx96m -XX:+UseSerialGC".to_owned()),
        ("LOG_LEVEL", "info".to_owned()),
        ("REDIS_URL", format!("redis://cache-{}.internal:6379/{}", app % 12, app % 16)),
        ("RELEASE", format!("v{release}")),
        ("SESSION_SECRET", format!("{:016x}{:016x}", mix(u64::from(app) << 8), mix(u64::from(app) << 9))),
    ]
}

/// One derived container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Container {
    /// The place of its engine.
    pub engine: u32,
    /// Its number on the engine.
    pub number: u32,
}

impl Container {
    fn seed(self) -> u64 {
        mix((u64::from(self.engine) << 32 | u64::from(self.number)) ^ SALT)
    }

    /// Its id.
    #[must_use]
    pub fn id(self) -> InstanceId {
        let seed = self.seed();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        for (at, word) in bytes[8..].chunks_exact_mut(8).zip(1..) {
            at.copy_from_slice(&mix(seed.wrapping_add(word)).to_be_bytes());
        }
        InstanceId::from_bytes(bytes)
    }

    /// The container with this id, if it is one of ours.
    #[must_use]
    pub fn with_id(id: InstanceId) -> Option<Self> {
        let seed = u64::from_be_bytes(id.as_bytes()[..8].try_into().unwrap());
        let place = unmix(seed) ^ SALT;
        let container = Self { engine: (place >> 32) as u32, number: (place & 0xffff_ffff) as u32 };
        (container.id() == id).then_some(container)
    }

    /// Any number that is always the same for this container and this purpose.
    pub(crate) fn chance(self, purpose: u64) -> u64 {
        mix(self.seed() ^ (purpose << 56))
    }

    pub(crate) fn operation(self) -> OperationId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.chance(1).to_be_bytes());
        bytes[8..].copy_from_slice(&self.chance(2).to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        OperationId::from_bytes(bytes)
    }

    pub(crate) fn attempt(self) -> String {
        format!("{:016x}", self.chance(6))
    }

    /// Every app has two releases in the field.
    pub(crate) fn release(self) -> u32 {
        41 + (self.chance(3) & 1) as u32
    }

    pub(crate) fn port(self) -> u16 {
        (32_768 + self.number % 28_000) as u16
    }

    /// When it was created, in nanoseconds before `now`: within the last thirty days.
    pub(crate) fn age(self) -> u64 {
        3_600_000_000_000 + self.chance(4) % (30 * 86_400_000_000_000)
    }
}

const SALT: u64 = 0x5ca1_ab1e_0dd5_ea75;

/// A permutation of all 64-bit numbers that leaves no pattern (the last step of `SplitMix64`).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The way back.
const fn unmix(mut x: u64) -> u64 {
    x = (x ^ (x >> 31) ^ (x >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    x = (x ^ (x >> 27) ^ (x >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    x ^ (x >> 30) ^ (x >> 60)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn an_id_leads_back_to_its_container() {
        let plan = Plan::of(61, 10_000);
        let mut ids = HashSet::new();
        for place in 0..plan.instances {
            let container = plan.nth(place);
            assert_eq!(Container::with_id(container.id()), Some(container));
            assert!(ids.insert(container.id()));
        }
        assert_eq!(Container::with_id(InstanceId::from_bytes([7; 32])), None);
    }

    #[test]
    fn engines_share_the_containers_and_apps_have_a_thousand_each() {
        let plan = Plan::of(7, 20_000);
        let all: u64 = (0..plan.engines).map(|engine| u64::from(plan.on_engine(engine, plan.instances))).sum();
        assert_eq!(all, plan.instances);
        let mut of_app = vec![0; plan.apps as usize];
        (0..plan.instances).for_each(|place| of_app[plan.app(plan.nth(place)) as usize] += 1);
        assert!(of_app.iter().all(|count| *count == 1_000), "{of_app:?}");
    }
}
