//! A state directory of its own for each test, slugs packed as people pack them, and the check that nothing is left.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use captain_domain::label::Labels;
use captain_domain::{AppName, Environment, Instance, InstanceId, NodeId, OperationId, Slots, SlugUri, State};
use captain_server::engine::local::{Helper, Local, LocalSettings, PORTS};
use captain_server::engine::{CreateSpec, Engine, Inspected, Output, Preparation, SlugOnStack};
use captain_slug::{Options, PackOptions, pack};
use futures_util::StreamExt;
use tempfile::TempDir;

pub(crate) const CAPTAIN: &str = env!("CARGO_BIN_EXE_captain");
const RUNNER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-runner"));
const MONITOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-monitor"));
pub(crate) const HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-hello"));

/// Far more than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) engine: Local,
    pub(crate) slug: Preparation,
}

impl World {
    /// An engine, and a slug of these process types prepared on it.
    pub(crate) async fn new(procfile: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        let dir = tempfile::tempdir().unwrap();
        let engine = Self::open(dir.path());
        let slug = Self::pack(dir.path(), "app", procfile);
        engine.prepare(&slug, &|_| {}).await.unwrap();
        Self { dir, engine, slug }
    }

    /// What a captain that starts finds.
    pub(crate) fn open(dir: &Path) -> Local {
        let settings = LocalSettings {
            state: dir.join("engine"),
            runner: RUNNER.into(),
            monitor: Helper::carried("captain-monitor", MONITOR).unwrap(),
            ports: PORTS,
            slugs: Options::default(),
        };
        Local::new(NodeId::trusted("here"), &settings).unwrap()
    }

    pub(crate) fn pack(dir: &Path, name: &str, procfile: &str) -> Preparation {
        let app = dir.join(name);
        fs::create_dir(&app).unwrap();
        fs::write(app.join("Procfile"), procfile).unwrap();
        fs::write(app.join("hello"), HELLO).unwrap();
        fs::set_permissions(app.join("hello"), fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.join(format!("{name}.tgz"));
        let packed = pack(&app, fs::File::create(&file).unwrap(), &PackOptions::default(), &mut |_| {}).unwrap();
        Preparation::Slug(SlugOnStack { digest: packed.sha256, file: file.into(), stack: "scratch".into() })
    }

    pub(crate) fn order(&self, process: &str) -> CreateSpec {
        let operation = OperationId::from_bytes(rand::random());
        CreateSpec {
            name: format!("demo_{operation}"),
            preparation: self.slug.clone(),
            command: vec![process.to_owned()],
            labels: Labels {
                app: AppName::parse("demo").unwrap(),
                slots: Slots(2),
                slug_uri: SlugUri::parse("sha256:abc").unwrap(),
                operation,
                attempt: None,
            },
            environment: Environment::from_entries(["PORT=8080", "HELLO=Good day", "TOKEN=a b"]),
            hostname: None,
            memory_bytes: 64 << 20,
            cpu_shares: 20,
        }
    }

    pub(crate) async fn start(&self, process: &str) -> InstanceId {
        self.start_order(&self.order(process)).await
    }

    pub(crate) async fn start_order(&self, order: &CreateSpec) -> InstanceId {
        let id = self.engine.create(order).await.unwrap();
        self.engine.start(id).await.unwrap();
        id
    }

    pub(crate) async fn instance(&self, id: InstanceId) -> Instance {
        instance(&self.engine, id).await
    }

    pub(crate) async fn ended(&self, id: InstanceId) -> Instance {
        eventually("it ends", async || {
            let instance = self.instance(id).await;
            (instance.state == State::Exited).then_some(instance)
        })
        .await
    }

    /// Standard output and standard error, whole.
    pub(crate) async fn output(&self, id: InstanceId) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut logs = self.engine.logs(id, false).await.unwrap();
        while let Some(chunk) = logs.next().await {
            let chunk = chunk.unwrap();
            match chunk.output {
                Output::Stdout => out.extend(chunk.bytes),
                Output::Stderr => err.extend(chunk.bytes),
            }
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    pub(crate) async fn says(&self, id: InstanceId, text: &str) {
        eventually(text, async || self.output(id).await.0.contains(text).then_some(())).await;
    }

    pub(crate) async fn remove(&self, id: InstanceId) {
        self.engine.remove(id, true).await.unwrap();
        assert!(self.engine.inspect(id).await.unwrap_err().is_not_found());
    }

    /// Removes everything, and looks for what stays.
    pub(crate) async fn end(self) {
        for sighting in self.engine.list().await.unwrap() {
            self.remove(sighting.id).await;
        }
        let state = self.dir.path().join("engine");
        for folder in ["instances", "uids", "ports"] {
            let left: Vec<PathBuf> = fs::read_dir(state.join(folder)).unwrap().flatten().map(|e| e.path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
        let state = state.display().to_string();
        eventually("the monitors end", async || processes_naming(&state).is_empty().then_some(())).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&state), "{mounts}");
    }

    /// The pids of monitor and first process.
    pub(crate) fn processes(&self, id: InstanceId) -> [i32; 2] {
        let path = self.dir.path().join("engine/instances").join(id.to_string()).join("state.json");
        let state: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        ["monitor", "init"].map(|who| state[who]["pid"].as_i64().unwrap().try_into().unwrap())
    }
}

pub(crate) async fn instance(engine: &Local, id: InstanceId) -> Instance {
    match engine.inspect(id).await.unwrap() {
        Inspected::Instance(instance) => *instance,
        other => panic!("{other:?}"),
    }
}

/// Looks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) fn processes_naming(text: &str) -> Vec<String> {
    let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    commands.filter(|command| command.contains(text)).collect()
}

/// What is answered to `GET /`, as soon as something answers.
pub(crate) async fn get(port: u16) -> String {
    eventually("HTTP answers", async || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })
    .await
}
