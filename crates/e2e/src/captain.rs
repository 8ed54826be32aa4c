//! The built binary, started as a user would start it.

use std::ffi::OsString;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cluster::Lease;
use crate::eventually;
use crate::fake::PASSWORD;
use crate::http::{Endpoint, Response, Streaming};

/// A value that every start puts into the environment of its instance. It must never be seen in a log.
pub const SECRET: &str = "s3cret-planted-in-the-environment";

/// From the start of the process to its first answer.
const BOOT: Duration = Duration::from_secs(10);

/// From SIGTERM to the end: what is in flight may take a stop with its grace.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// Settings for a captain.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    environment: Vec<(String, String)>,
    hostname: Option<String>,
    open_files: Option<u32>,
}

impl Settings {
    /// The user's documented minimum, for the nodes of a lease.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let nodes: Vec<String> = lease.nodes().map(crate::cluster::Node::entry).collect();
        Self::default()
            .set("DOCKER_NODES", nodes.join(","))
            .set("SLUG_RUNNER_COMMAND", "start web")
            .set("SLUG_RUNNER_IMAGE", lease.runner_image())
    }

    /// The same without a runner image: Captain's own runner on this stack, with its slugs in the folder `data`.
    #[must_use]
    pub fn on_stack(lease: &Lease, stack: &str, data: &Path) -> Self {
        let nodes: Vec<String> = lease.nodes().map(crate::cluster::Node::entry).collect();
        Self::default()
            .set("DOCKER_NODES", nodes.join(","))
            .set("CAPTAIN_STACK", stack)
            .set("CAPTAIN_DATA", data.display())
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Gives the captain a host name of its own, as a container would.
    #[must_use]
    pub fn hostname(mut self, name: &str) -> Self {
        self.hostname = Some(name.to_owned());
        self
    }

    /// Lets the captain have no more than this many files and connections open.
    #[must_use]
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// Starts a captain and waits until all its nodes are healthy.
    pub async fn start(self) -> Captain {
        let captain = self.start_anyhow().await;
        eventually("all nodes healthy", Duration::from_secs(10), || async {
            let nodes = captain.get("/nodes/").await.json();
            nodes.as_array().unwrap().iter().all(|node| node["state"] == "healthy").then_some(())
        })
        .await;
        captain
    }

    /// Starts a captain and waits until it answers, however its nodes are.
    pub async fn start_anyhow(self) -> Captain {
        // Another process may take the port between our letting go of it and Captain's binding it: then it ends at once, and
        // another port is tried.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut captain = self.clone().set("PORT", port).spawn(port);
            if captain.answers_in_time().await {
                return captain;
            }
            let said = captain.logs();
            assert!(said.to_lowercase().contains("in use"), "captain did not come up: {said}");
        }
        panic!("five free ports were taken by others");
    }

    /// Runs `captain serve`, which is to end by itself and soon, and returns how it ended.
    #[must_use]
    pub fn run_to_end(self, arguments: &[&str]) -> Output {
        let mut command = self.command(&["serve"], arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > BOOT {
                child.kill().unwrap();
                let said = child.wait_with_output().unwrap();
                panic!("captain serve {arguments:?} runs instead of ending: {}", String::from_utf8_lossy(&said.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait_with_output().unwrap()
    }

    fn command(&self, role: &[&str], arguments: &[&str]) -> Command {
        let mut line: Vec<OsString> = Vec::new();
        if let Some(name) = &self.hostname {
            let set = ["unshare", "--uts", "busybox", "sh", "-c", "busybox hostname \"$0\" && exec \"$@\"", name];
            line.extend(set.map(Into::into));
        }
        if let Some(most) = self.open_files {
            line.extend(["prlimit".into(), format!("--nofile={most}").into()]);
        }
        line.push(binary().into()); // each of the above becomes the next one, so the process is Captain's in the end
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
        command.args(role).args(arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn spawn(self, port: u16) -> Captain {
        let mut command = self.command(&["serve"], &[]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::default();
        let readers = vec![collect(child.stdout.take().unwrap(), &logs), collect(child.stderr.take().unwrap(), &logs)];
        Captain { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), logs, readers, ended: None }
    }
}

/// A running captain. When dropped it is asked to end; that it does so cleanly, and that no secret is in its logs, is asserted.
#[derive(Debug)]
pub struct Captain {
    child: Child,
    address: SocketAddr,
    logs: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Captain {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The same as an endpoint, to send anything to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Captain(self.address)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Response {
        self.endpoint().send("GET", path, &[], Bytes::new()).await
    }

    /// GET of a body that goes on.
    pub async fn stream(&self, path: &str) -> Streaming {
        self.endpoint().stream(path).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Response {
        self.endpoint().send("DELETE", path, &[], Bytes::new()).await
    }

    /// POST of a body that says it is JSON.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Response {
        self.endpoint().send("POST", path, &[("content-type", "application/json")], body).await
    }

    /// Asks for a start, with a secret in the environment.
    pub async fn start(&self, body: Value) -> Response {
        self.post("/instances/", with_secret(body).to_string()).await
    }

    /// The same, as an operation that the client has chosen.
    pub async fn start_as(&self, operation: &str, body: Value) -> Response {
        let headers = [("content-type", "application/json"), ("captain-operation", operation)];
        self.endpoint().send("POST", "/instances/", &headers, with_secret(body).to_string()).await
    }

    /// Starts an instance, which must work.
    pub async fn started(&self, app: &str, node: &str, slug: &str) -> Value {
        self.start(json!({"app": app, "node": node, "slug_uri": slug})).await.expect(201).json()
    }

    /// One instance.
    pub async fn instance(&self, id: &str) -> Value {
        self.get(&format!("/instances/{id}")).await.expect(200).json()
    }

    /// The ids of the default list.
    pub async fn ids(&self) -> Vec<String> {
        let list = self.get("/instances/").await.expect(200).json();
        list.as_array().unwrap().iter().map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
    }

    /// One node.
    pub async fn node(&self, id: &str) -> Value {
        self.get(&format!("/nodes/{id}")).await.expect(200).json()
    }

    /// Waits until a node is in a state that begins so.
    pub async fn node_becomes(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} {state}"), Duration::from_secs(45), || async {
            let node = self.node(id).await;
            node["state"].as_str().unwrap().starts_with(state).then_some(node)
        })
        .await
    }

    /// Waits until an instance is in a state.
    pub async fn instance_becomes(&self, id: &str, state: &str) -> Value {
        eventually(&format!("instance {state}"), Duration::from_secs(20), || async {
            let instance = self.get(&format!("/instances/{id}")).await;
            (instance.status == 200).then(|| instance.json()).filter(|instance| instance["state"] == state)
        })
        .await
    }

    /// A client command against it, run to its end.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Settings::default().set("CAPTAIN_URL", self.url()).command(arguments, &[]).output().unwrap()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn logs(&self) -> String {
        String::from_utf8_lossy(&self.logs.lock().unwrap()).into_owned()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in bytes.
    #[must_use]
    pub fn resident_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to end and waits for that; returns how it ended and all that it logged.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.wait();
        (status, self.logs())
    }

    /// Ends it as a crash would.
    pub fn crash(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    async fn answers_in_time(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < BOOT {
            if matches!(self.endpoint().try_get("/ping/ping").await, Ok(status) if status == 204) {
                return true;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                self.ended = Some(status);
                self.finish_reading();
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("captain did not answer within {BOOT:?}: {}", self.logs());
    }

    fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > SHUTDOWN {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.ended = Some(status);
        self.finish_reading();
        status
    }

    fn finish_reading(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
    }
}

impl Drop for Captain {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::CONT); // a test may have stopped it
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let status = self.wait();
            if !std::thread::panicking() {
                assert_eq!(
                    status.code(),
                    Some(0),
                    "captain did not end cleanly at SIGTERM ({status}): {}",
                    self.logs()
                );
            }
        }
        let logs = self.logs();
        if std::thread::panicking() {
            eprintln!("--- captain's log\n{logs}\n---");
            return;
        }
        for secret in [SECRET, PASSWORD] {
            assert!(!logs.contains(secret), "a secret is in the log: {logs}");
        }
        assert!(!logs.contains("panicked at"), "captain panicked: {logs}");
    }
}

fn with_secret(mut body: Value) -> Value {
    if body["environment"].is_null() {
        body["environment"] = json!({});
    }
    body["environment"]["API_TOKEN"] = json!(SECRET);
    body
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            into.lock().unwrap().extend_from_slice(&chunk[..read]);
        }
    })
}

/// The binary under test: `CAPTAIN_BIN`, or the one that `cargo build -p captain` put beside this program, or above where it is a test.
#[must_use]
pub fn binary() -> PathBuf {
    if let Ok(path) = std::env::var("CAPTAIN_BIN") {
        return path.into();
    }
    let program = std::env::current_exe().unwrap();
    let found = program.ancestors().skip(1).take(2).map(|folder| folder.join("captain")).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "there is no captain beside {}: run `cargo build -p captain` first, or set CAPTAIN_BIN",
            program.display()
        )
    })
}
