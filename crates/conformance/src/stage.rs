//! What one check works with: the engine, and containers that are taken away afterwards.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use captain_domain::claim::AttemptId;
use captain_domain::label::Labels;
use captain_domain::{AppName, Environment, Instance, InstanceId, OperationId, Slots, SlugUri, State};
use captain_server::engine::{CreateSpec, Engine, ErrorKind, Inspected, Logs, Output, Sighting};
use futures_util::StreamExt;

use crate::subject::{App, Recipe, Subject};

/// Whatever an engine does to one container is done by then, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Between two looks: short beside what engines do.
const PAUSE: Duration = Duration::from_millis(50);

/// The grace of stops that are to be over long before.
pub(crate) const LONG_GRACE: Duration = Duration::from_secs(25);

/// What a check works with.
pub(crate) struct Stage {
    pub(crate) subject: Arc<dyn Subject>,
    pub(crate) engine: Arc<dyn Engine>,
    made: Mutex<Vec<InstanceId>>,
    number: AtomicU32,
}

impl Stage {
    pub(crate) fn new(subject: Arc<dyn Subject>) -> Self {
        let engine = subject.engine();
        Self { subject, engine, made: Mutex::default(), number: AtomicU32::new(0) }
    }

    /// What to create for this app, and nothing unusual about it.
    pub(crate) fn spec(&self, app: &App) -> CreateSpec {
        self.spec_of(self.subject.recipe(app))
    }

    /// The same for a recipe.
    pub(crate) fn spec_of(&self, recipe: Recipe) -> CreateSpec {
        let operation = OperationId::from_bytes(rand::random());
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let slug = format!("http://slugs.example/app-v{number}.tgz");
        let app = format!("conformance-{number}");
        CreateSpec {
            name: format!("{app}_{operation}"),
            preparation: recipe.preparation,
            command: recipe.command,
            labels: Labels {
                app: AppName::parse(&app).unwrap(),
                slots: Slots(2),
                slug_uri: SlugUri::parse(&slug).unwrap(),
                operation,
                attempt: Some(AttemptId::from_random(rand::random())),
            },
            environment: [("PORT", "8080"), ("SLUG_URL", slug.as_str())].into_iter().collect(),
            hostname: None,
            memory_bytes: 256 << 20,
            cpu_shares: 20,
        }
    }

    /// Prepares what is needed, and creates.
    pub(crate) async fn create(&self, spec: &CreateSpec) -> InstanceId {
        self.engine.prepare(&spec.preparation, &|_| {}).await.unwrap();
        let id = self.engine.create(spec).await.unwrap();
        self.keep(id);
        id
    }

    /// Has a container taken away after the check.
    pub(crate) fn keep(&self, id: InstanceId) {
        self.made.lock().unwrap().push(id);
    }

    /// Creates and starts.
    pub(crate) async fn started(&self, app: &App) -> InstanceId {
        let id = self.create(&self.spec(app)).await;
        self.engine.start(id).await.unwrap();
        id
    }

    /// Starts an app, and waits until it has written this.
    pub(crate) async fn started_and_says(&self, app: &App, words: &str) -> InstanceId {
        let id = self.started(app).await;
        let mut logs = self.engine.logs(id, true).await.unwrap();
        let mut seen = Vec::new();
        within(&format!("{app:?} to write {words:?}"), async {
            while !String::from_utf8_lossy(&seen).contains(words) {
                let chunk = logs.next().await.unwrap_or_else(|| {
                    panic!("the output ended without {words:?}: {:?}", String::from_utf8_lossy(&seen))
                });
                seen.extend_from_slice(&chunk.unwrap().bytes);
            }
        })
        .await;
        id
    }

    /// Starts an app that ends by itself, and waits for that.
    pub(crate) async fn ended(&self, app: &App) -> Instance {
        let id = self.started(app).await;
        self.becomes(id, State::Exited).await
    }

    /// Inspects an instance.
    pub(crate) async fn instance(&self, id: InstanceId) -> Instance {
        match self.engine.inspect(id).await.unwrap() {
            Inspected::Instance(instance) => *instance,
            other => panic!("what Captain created is inspected as {other:?}"),
        }
    }

    /// Waits until an instance is in a state.
    pub(crate) async fn becomes(&self, id: InstanceId, state: State) -> Instance {
        eventually(&format!("an instance to be {state:?}"), || async {
            Some(self.instance(id).await).filter(|instance| instance.state == state)
        })
        .await
    }

    /// Waits until a container is gone: until then its slots are taken.
    pub(crate) async fn gone(&self, id: InstanceId) {
        eventually("a removed container to be gone", || async {
            match self.engine.inspect(id).await {
                Ok(_) => None,
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
                    Some(())
                }
            }
        })
        .await;
    }

    /// What a listing says of one container.
    pub(crate) async fn sighting(&self, id: InstanceId) -> Option<Sighting> {
        self.engine.list().await.unwrap().into_iter().find(|sighting| sighting.id == id)
    }

    /// Takes away what the check made.
    pub(crate) async fn clear(&self) -> Result<(), String> {
        let made = std::mem::take(&mut *self.made.lock().unwrap());
        let until = Instant::now() + SOON * 4;
        for id in made {
            loop {
                match self.engine.remove(id, true).await {
                    Err(error) if error.is_not_found() => break,
                    Ok(()) | Err(_) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                    outcome => return Err(format!("what it made cannot be taken away: {outcome:?}")),
                }
            }
        }
        Ok(())
    }
}

/// An output of an instance from now to its end.
pub(crate) async fn read(logs: Logs, output: Output) -> String {
    let both = read_both(logs).await;
    if output == Output::Stdout { both.0 } else { both.1 }
}

/// Both outputs to their end.
pub(crate) async fn read_both(mut logs: Logs) -> (String, String) {
    within("the end of an output", async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        while let Some(chunk) = logs.next().await {
            let chunk = chunk.unwrap();
            match chunk.output {
                Output::Stdout => out.extend_from_slice(&chunk.bytes),
                Output::Stderr => err.extend_from_slice(&chunk.bytes),
            }
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    })
    .await
}

/// Looks until `look` finds something.
pub(crate) async fn eventually<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

/// Runs `work`, which must be done soon.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {SOON:?} in vain for {what}"),
    }
}

/// An environment with these beside what Captain sets.
pub(crate) fn with_variables(environment: &Environment, variables: &[(&str, &str)]) -> Environment {
    let mut environment = environment.clone();
    for (name, value) in variables {
        environment.set(name, value);
    }
    environment
}
