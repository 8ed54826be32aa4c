//! Simulated engines behind Docker's HTTP API.
//!
//! Engine *n* is at 127.1.0.1 + *n*: all of 127.0.0.0/8 is this machine, so a few listeners on one port serve them all, and the
//! address that a connection came to says whose it is. A connection costs what hyper takes for it, a container that nothing has
//! happened to costs nothing.
//!
//! What is kept of Docker's behaviour is what Captain relies on: a container is in every listing that is asked for after its creation was
//! answered; an event is sent after the change that it tells of; whoever has the head of `/events` misses none that
//! follows (unless he reads too slowly, as with Docker). Names are not checked for being unique, images are always there, `since` is
//! not replayed (a listing follows every subscription).

mod containers;
mod documents;
mod facts;
mod serve;
mod template;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use captain_domain::InstanceId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

pub use containers::Life;
use containers::{Came, Containers, Found};
use documents::Documents;
pub use documents::IMAGE;
pub use facts::{Container, Plan, SLOTS, app_name, told};

/// The address of the first engine.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// The port that an engine's URI need not name: six thousand URIs fit into one variable (128 KiB, says Linux) only without it.
pub const DOCKER_PORT: u16 = 2375;
/// Events that wait for a reader who is behind; Docker keeps about as many before it drops some.
const EVENTS_BEHIND: usize = 1_024;

/// All engines.
#[derive(Debug)]
pub struct Engines {
    plan: Plan,
    port: u16,
    documents: Documents,
    engines: Vec<Engine>,
    counts: Counts,
    accepting: Mutex<Vec<JoinHandle<()>>>,
}

/// What was asked of all engines.
#[derive(Debug, Default)]
pub struct Counts {
    listings: AtomicU64,
    inspections: AtomicU64,
    starts: AtomicU64,
    lost_events: AtomicU64,
    connections: AtomicU64,
}

/// Counts as they were at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Listings answered.
    pub listings: u64,
    /// Inspections answered.
    pub inspections: u64,
    /// Containers started.
    pub starts: u64,
    /// Events dropped, since their reader was too slow.
    pub lost_events: u64,
    /// Connections open now.
    pub connections: u64,
}

#[derive(Debug)]
struct Engine {
    containers: Mutex<Containers>,
    listeners: Mutex<Vec<mpsc::Sender<Bytes>>>,
    starts: Semaphore,
}

/// Something that happens to a container by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It starts, after it was made or had ended.
    Start,
    /// It ends with this code.
    Die(u8),
    /// It is removed.
    Remove,
}

impl Engines {
    /// Sets them up and serves them on `port`, or any free one, until [`Engines::close`].
    pub async fn serve(plan: Plan, port: Option<u16>) -> Arc<Self> {
        let listeners = serve::listen(port.unwrap_or(0));
        let port = listeners[0].local_addr().unwrap().port();
        let epoch = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap();
        let engines = (0..plan.engines).map(|engine| Engine {
            containers: Mutex::new(Containers::new(engine, plan.on_engine(engine, plan.instances), epoch)),
            listeners: Mutex::default(),
            starts: Semaphore::new(plan.starts_at_once),
        });
        let engines = Arc::new(Self {
            port,
            documents: Documents::new(),
            engines: engines.collect(),
            counts: Counts::default(),
            accepting: Mutex::default(),
            plan,
        });
        let accepting = listeners.into_iter().map(|it| tokio::spawn(serve::accept(Arc::clone(&engines), it)));
        *engines.accepting.lock().unwrap() = accepting.collect();
        engines
    }

    /// Takes no further connections, and gives the port back. Those that are open go when the other side ends them.
    pub async fn close(&self) {
        let accepting = std::mem::take(&mut *self.accepting.lock().unwrap());
        for task in accepting {
            task.abort();
            let _ = task.await;
        }
    }

    /// How they were planned.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where an engine is.
    #[must_use]
    pub fn address(&self, engine: u32) -> SocketAddr {
        (Ipv4Addr::from(u32::from(FIRST) + engine), self.port).into()
    }

    /// What Captain calls an engine's node.
    #[must_use]
    pub fn node(&self, engine: u32) -> String {
        self.address(engine).ip().to_string()
    }

    /// The list of all, as `DOCKER_NODES` takes it.
    #[must_use]
    pub fn list(&self) -> String {
        let uri = |engine| match self.port {
            DOCKER_PORT => format!("http://{}", self.address(engine).ip()),
            _ => format!("http://{}", self.address(engine)),
        };
        (0..self.plan.engines).map(uri).collect::<Vec<_>>().join(",")
    }

    /// What was asked of them so far.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            listings: of(&self.counts.listings),
            inspections: of(&self.counts.inspections),
            starts: of(&self.counts.starts),
            lost_events: of(&self.counts.lost_events),
            connections: of(&self.counts.connections),
        }
    }

    /// How many containers there are on all engines.
    #[must_use]
    pub fn containers(&self) -> u64 {
        self.engines.iter().map(|engine| engine.containers().count() as u64).sum()
    }

    /// Lets so many containers be there in all: those that were not come to be and run. Whoever listens is told, at his pace.
    pub async fn grow(&self, instances: u64) {
        for (engine, place) in self.engines.iter().zip(0..) {
            let new = engine.containers().derive(self.plan.on_engine(place, instances));
            for number in new {
                let id = Container { engine: place, number }.id();
                for action in ["create", "start"] {
                    let Some(event) = self.event(engine, id, action) else { continue };
                    let listeners = engine.listeners().clone();
                    for listener in listeners {
                        let _ = listener.send(event.clone()).await;
                    }
                }
            }
        }
    }

    /// One more container on an engine, created and not started.
    pub fn create(&self, engine: u32) -> Container {
        let at = &self.engines[engine as usize];
        let container = at.containers().add(None);
        self.tell(at, container.id(), "create");
        container
    }

    /// Something happens to a container. Answers whether it could.
    pub fn happen(&self, container: Container, happening: Happening) -> bool {
        let (engine, id) = (&self.engines[container.engine as usize], container.id());
        match happening {
            Happening::Start => self.start_now(engine, id).is_ok_and(|came| came == Came::Done),
            Happening::Die(code) => self.end(engine, id, code).is_ok_and(|came| came == Came::Done),
            Happening::Remove => self.remove(engine, id, true).is_ok(),
        }
    }

    async fn start(&self, engine: &Engine, id: InstanceId) -> Result<Came, containers::Refused> {
        let turn = engine.starts.acquire().await.unwrap();
        tokio::time::sleep(self.plan.start_takes).await;
        drop(turn);
        self.start_now(engine, id)
    }

    fn start_now(&self, engine: &Engine, id: InstanceId) -> Result<Came, containers::Refused> {
        let came = engine.containers().start(id)?;
        if came == Came::Done {
            self.counts.starts.fetch_add(1, Ordering::Relaxed);
            self.tell(engine, id, "start");
        }
        Ok(came)
    }

    fn end(&self, engine: &Engine, id: InstanceId, code: u8) -> Result<Came, containers::Refused> {
        let came = engine.containers().end(id, code)?;
        if came == Came::Done {
            self.tell(engine, id, "die");
        }
        Ok(came)
    }

    /// The event is written before the container goes, and sent after it.
    fn remove(&self, engine: &Engine, id: InstanceId, force: bool) -> Result<(), containers::Refused> {
        let event = self.event(engine, id, "destroy");
        engine.containers().remove(id, force)?;
        event.into_iter().for_each(|event| self.send(engine, &event));
        Ok(())
    }

    fn event(&self, engine: &Engine, id: InstanceId, action: &str) -> Option<Bytes> {
        if engine.listeners().is_empty() {
            return None;
        }
        engine.containers().find(&self.plan, id).map(|container| self.documents.event(&container, action).into())
    }

    fn tell(&self, engine: &Engine, id: InstanceId, action: &str) {
        if let Some(event) = self.event(engine, id, action) {
            self.send(engine, &event);
        }
    }

    fn send(&self, engine: &Engine, event: &Bytes) {
        engine.listeners().retain(|listener| match listener.try_send(event.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.counts.lost_events.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    fn listing(&self, engine: &Engine, wanted: &[(String, String)]) -> Vec<u8> {
        self.counts.listings.fetch_add(1, Ordering::Relaxed);
        let containers = engine.containers();
        let expected = if wanted.is_empty() { containers.count() } else { 1 };
        let mut out = Vec::with_capacity(expected * 1_500 + 2);
        out.push(b'[');
        if wanted.is_empty() {
            containers.records(&self.plan, &mut out, |container, out| self.documents.summary(out, container));
        } else {
            for container in containers.all(&self.plan).filter(|container| self.has_labels(container, wanted)) {
                if out.len() > 1 {
                    out.push(b',');
                }
                self.documents.summary(&mut out, &container);
            }
        }
        out.push(b']');
        out
    }

    fn has_labels(&self, container: &Found<'_>, wanted: &[(String, String)]) -> bool {
        wanted.iter().all(|(name, value)| match container.made() {
            Some(made) => {
                let labels: std::collections::HashMap<String, String> =
                    serde_json::from_str(made.labels.get()).unwrap_or_default();
                labels.get(name) == Some(value)
            }
            None => self.plan.labels(container.container).write().into_iter().any(|(n, v)| n == name && v == *value),
        })
    }

    fn inspection(&self, engine: &Engine, id: InstanceId) -> Option<Vec<u8>> {
        self.counts.inspections.fetch_add(1, Ordering::Relaxed);
        engine.containers().find(&self.plan, id).map(|container| self.documents.inspection(&container))
    }
}

impl Engine {
    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap()
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Bytes>>> {
        self.listeners.lock().unwrap()
    }

    /// Events from this call on.
    fn subscribe(&self) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(EVENTS_BEHIND);
        let mut listeners = self.listeners();
        listeners.retain(|listener| !listener.is_closed());
        listeners.push(sender);
        receiver
    }
}
