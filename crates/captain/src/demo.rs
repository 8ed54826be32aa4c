//! `captain demo`: an example slug brought up through the real server, with nothing installed and nothing left behind.
//!
//! Everything is in one temporary folder: the server's data, the instance, the slug. Whatever ends the demo (Ctrl-C, SIGTERM, a failure),
//! [`clean_up`] runs: through the server as long as it answers, and by the engine's own means for what is left after it. If it is killed,
//! its server dies with it, and a guard does the rest (`lifeline`).

mod http;
pub(crate) mod lifeline;
mod server;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use captain_api::{Instance, InstanceState, Node};
use captain_slug::{PackError, PackOptions, pack};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use self::http::ask;
use self::server::Server;

/// The example app: a web server that needs nothing, built by `build.rs`.
const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-hello"));

/// For what the server answers from memory.
const PROMPT: Duration = Duration::from_secs(10);
/// For what takes work: checking a slug, preparing it, starting and stopping.
const WORK: Duration = Duration::from_secs(120);
/// Between two looks at something that is about to happen.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    #[error("cannot prepare the example app in {}: {source}", path.display())]
    Files {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot pack the example app: {0}")]
    Pack(#[from] PackError),
    #[error("cannot run the server: {0}")]
    Spawn(#[source] io::Error),
    #[error("the server did not start. It said:\n{0}")]
    Server(String),
    #[error("this machine cannot be a node: {0}")]
    Node(String),
    #[error("cannot {attempt}: {source}")]
    Ask {
        attempt: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {attempt}: the server answered {status}: {message}")]
    Refused { attempt: &'static str, status: u16, message: String },
    #[error("the example app did not answer within {} s. Its output:\n{output}", WORK.as_secs())]
    NoAnswer { output: String },
    #[error("the example app has ended: {reason}. Its output:\n{output}")]
    Ended { reason: String, output: String },
}

/// Runs the demo until it is interrupted.
pub(crate) fn run() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot begin: {error}")),
    };
    match runtime.block_on(demo()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "captain demo: {why}");
    ExitCode::FAILURE
}

async fn demo() -> Result<(), DemoError> {
    let interruption = interruption().map_err(DemoError::Signals)?;
    let temporary = std::env::temp_dir();
    let folder = tempfile::Builder::new()
        .prefix("captain-demo-")
        .tempdir()
        .map_err(|source| DemoError::Files { path: temporary, source })?;
    let mut guard = lifeline::set_guard(folder.path()).map_err(DemoError::Spawn)?;
    let mut stage = Stage { begun: Instant::now(), folder: folder.path().to_owned(), server: None };
    let outcome = tokio::select! {
        () = interruption => Ok(()),
        outcome = stage.show() => outcome,
    };
    stage.say("cleaning up");
    clean_up(stage).await;
    // Explicitly, because an error would go unseen in a destructor.
    let path = folder.path().to_owned();
    folder.close().map_err(|source| DemoError::Files { path, source })?;
    // It has nothing to do any more, sees that, and ends.
    drop(guard.stdin.take());
    let _ = guard.wait();
    outcome
}

/// Ends when somebody wants the demo to end.
fn interruption() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

struct Stage {
    begun: Instant,
    folder: PathBuf,
    server: Option<Server>,
}

#[derive(Deserialize)]
struct Stored {
    sha256: String,
}

impl Stage {
    /// Says what was done, and when. A terminal that is gone is no reason to stop.
    fn say(&self, what: &str) {
        let _ = writeln!(io::stdout(), "{:8.3} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// The whole show; ends only by failing.
    async fn show(&mut self) -> Result<(), DemoError> {
        let slug = self.pack()?;
        let server = Server::start(&self.folder.join("data")).await?;
        let port = server.port;
        self.server = Some(server);
        self.say(&format!("captain serve listens on http://127.0.0.1:{port}"));
        let node = self.node(port).await?;
        let stored: Stored = call(port, "store the slug", "PUT", "/slugs/", &slug).await?;
        self.say(&format!("stored it: PUT /slugs/ answers sha256:{}…", stored.sha256.get(..12).unwrap_or_default()));
        let body = json!({"app": "hello", "node": node, "slug_uri": format!("sha256:{}", stored.sha256)});
        let asked = Instant::now();
        let instance: Instance =
            call(port, "start the instance", "POST", "/instances/", body.to_string().as_bytes()).await?;
        let (id, took) = (instance.id.get(..12).unwrap_or_default(), asked.elapsed().as_millis());
        self.say(&format!("started instance {id}: POST /instances/ took {took} ms"));
        let (app, greeting) = self.greeting(port, &instance).await?;
        self.say(&format!("it answers: {greeting}"));
        self.invite(port, app, id);
        std::future::pending().await
    }

    fn pack(&self) -> Result<Vec<u8>, DemoError> {
        let app = self.folder.join("hello");
        let files = |source| DemoError::Files { path: app.clone(), source };
        write_app(&app).map_err(files)?;
        let mut slug = Vec::new();
        pack(&app, &mut slug, &PackOptions::default(), &mut |_| {})?;
        self.say(&format!("packed the example app (a static program and a Procfile): {} kB", slug.len() / 1000));
        Ok(slug)
    }

    /// The node that this machine is, as soon as it is healthy.
    async fn node(&self, port: u16) -> Result<String, DemoError> {
        let deadline = Instant::now() + WORK;
        loop {
            let nodes: Vec<Node> = call(port, "list the nodes", "GET", "/nodes/", b"").await?;
            let Some(node) = nodes.into_iter().next() else {
                return Err(DemoError::Node(self.last_words()));
            };
            if node.state == "healthy" {
                let engine = node.engine.map(|engine| format!("{} {}", engine.kind, engine.version));
                self.say(&format!(
                    "node {} is healthy: {} slots, engine {}",
                    node.id,
                    node.slots.free,
                    engine.unwrap_or_default()
                ));
                for warning in node.warnings {
                    self.say(&format!("  note: {warning}"));
                }
                return Ok(node.id);
            }
            // "unknown" is before its first answer.
            if !node.state.starts_with("unknown") || Instant::now() >= deadline {
                return Err(DemoError::Node(node.state));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn last_words(&self) -> String {
        self.server.as_ref().map(Server::last_words).unwrap_or_default()
    }

    /// What the app answers, as soon as it does.
    async fn greeting(&self, port: u16, instance: &Instance) -> Result<(u16, String), DemoError> {
        let path = format!("/instances/{}", instance.id);
        let deadline = Instant::now() + WORK;
        loop {
            if let Some(app) = instance.port
                && let Ok(answer) = ask(app, "GET", "/", b"", PROMPT).await
                && answer.status == 200
            {
                return Ok((app, answer.text()));
            }
            let now: Instance = call(port, "look at the instance", "GET", &path, b"").await?;
            if now.state == InstanceState::Exited || Instant::now() >= deadline {
                let output = ask(port, "GET", &format!("{path}/logs"), b"", PROMPT).await;
                let output = output.map(|answer| answer.text()).unwrap_or_default();
                return Err(match now.exit {
                    Some(exit) => DemoError::Ended { reason: exit.reason, output },
                    None => DemoError::NoAnswer { output },
                });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn invite(&self, port: u16, app: u16, id: &str) {
        let captain = std::env::current_exe().unwrap_or_else(|_| "captain".into());
        let captain = captain.display();
        let _ = writeln!(
            io::stdout(),
            "\nIt runs at http://127.0.0.1:{app}/\n\nTry, in another shell:\n\n  \
             curl http://127.0.0.1:{app}/\n  \
             CAPTAIN_URL=http://127.0.0.1:{port} {captain} ps\n  \
             CAPTAIN_URL=http://127.0.0.1:{port} {captain} logs -f {id}\n\n\
             Ctrl-C ends it all and leaves nothing behind."
        );
    }
}

fn write_app(app: &Path) -> io::Result<()> {
    fs::create_dir(app)?;
    fs::write(app.join("Procfile"), "web: ./hello\n")?;
    fs::write(app.join("hello"), HELLO)?;
    fs::set_permissions(app.join("hello"), fs::Permissions::from_mode(0o755))
}

/// Asks the server and reads what it answers.
async fn call<T: DeserializeOwned>(
    port: u16,
    attempt: &'static str,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<T, DemoError> {
    let patience = if method == "GET" { PROMPT } else { WORK };
    let answer = ask(port, method, path, body, patience).await.map_err(|source| DemoError::Ask { attempt, source })?;
    if !(200..300).contains(&answer.status) {
        let said: Option<captain_api::ErrorBody> = serde_json::from_slice(&answer.body).ok();
        let message = said.map_or_else(|| answer.text(), |body| body.message);
        return Err(DemoError::Refused { attempt, status: answer.status, message });
    }
    serde_json::from_slice(&answer.body).map_err(|error| DemoError::Ask { attempt, source: error.into() })
}

async fn clean_up(stage: Stage) {
    let data = stage.folder.join("data");
    if let Some(server) = stage.server {
        // Best effort: a server that does not answer is ended all the same. A start that was under way when the demo was interrupted
        // ends before the server does; what it has brought up is found by the sweep.
        let _ = stop_all(server.port).await;
        server.end().await;
    }
    let swept = tokio::task::spawn_blocking(move || server::sweep(&data)).await;
    if let Ok(Err(error)) = swept {
        let _ = writeln!(io::stderr(), "captain demo: something may be left of the instance: {error}");
    }
}

/// Stops what runs, politely.
async fn stop_all(port: u16) -> Result<(), DemoError> {
    let instances: Vec<Instance> = call(port, "list the instances", "GET", "/instances/?state=all", b"").await?;
    for instance in instances {
        let path = format!("/instances/{}", instance.id);
        ask(port, "DELETE", &path, b"", WORK).await.map_err(|source| DemoError::Ask { attempt: "stop it", source })?;
    }
    Ok(())
}
