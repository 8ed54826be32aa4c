//! kill -9 of the server or of a monitor at each step of a start and of a stop, through the real server: afterwards nothing is left,
//! nothing is doubled, and what the API says is what runs.
//!
//! The steps are seen from outside, as files and processes appear and go, so that nothing in the shipped binary is there for this. A
//! victim is killed as soon as its step is seen; on a busy machine it may be a step further by then, which is as good.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::server::{Server, order, try_ask};
use crate::world::{PATIENCE, processes_naming};

/// What can be seen of the one instance.
struct Scene {
    engine: PathBuf,
}

type Sight = fn(&Scene) -> bool;
/// What is seen, in words.
type Step = (&'static str, Sight);

/// Steps of a start, in order. The monitor is there from the lock on.
const OF_A_START: [Step; 9] = [
    ("a port is reserved", |scene| scene.any("ports")),
    ("a uid is reserved", |scene| scene.any("uids")),
    ("the folder is in the making", |scene| scene.any("instances")),
    ("the instance is there", |scene| scene.instance().is_some()),
    ("the monitor has its lock", |scene| scene.holds("lock")),
    ("it is announced", |scene| scene.holds("state.json")),
    ("it has control groups", |scene| scene.monitor().is_some() && !scene.groups().is_empty()),
    ("it has a first process", |scene| scene.first().is_some()),
    ("it runs", |scene| scene.phase() == "running"),
];

/// Steps of a stop, in order; the last of them is past the monitor's.
const OF_A_STOP: [Step; 6] = [
    ("it was asked", |_| true),
    ("the first process is gone", |scene| scene.first().is_none()),
    ("its groups are gone", |scene| scene.groups().is_empty()),
    ("its end is recorded", |scene| scene.phase() != "running"),
    ("its folder is leaving", |scene| scene.instance().is_none()),
    ("its files are gone", |scene| !scene.any("instances")),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Server,
    Monitor,
}

/// Who is killed, at what request, at which steps of it.
#[rustfmt::skip]
const POINTS: [(&[Victim], &str, &[Step]); 6] = [
    (&[Victim::Server], "POST", &OF_A_START),
    (&[Victim::Monitor], "POST", &[OF_A_START[5], OF_A_START[6], OF_A_START[7], OF_A_START[8]]),
    (&[Victim::Server], "DELETE", &OF_A_STOP),
    (&[Victim::Monitor], "DELETE", &[OF_A_STOP[0], OF_A_STOP[1], OF_A_STOP[2]]),
    // As when somebody ends everything that is called captain.
    (&[Victim::Server, Victim::Monitor], "POST", &[OF_A_START[5], OF_A_START[8]]),
    (&[Victim::Server, Victim::Monitor], "DELETE", &[OF_A_STOP[0]]),
];

#[test]
fn a_kill_at_any_step_leaves_no_leak_and_no_lie() {
    let mut points = 0;
    for (victims, verb, steps) in POINTS {
        for (step, sight) in steps {
            attempt(victims, verb, step, *sight);
            points += 1;
        }
    }
    assert_eq!(points, 25);
}

/// One point: a server and (for a stop) an instance, the deed, the kill, a server that finds what is left, and the checks.
fn attempt(victims: &[Victim], verb: &str, step: &str, sight: Sight) {
    let what = format!("{victims:?} killed at {verb}, {step}");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let scene = Scene { engine: data.join("engine") };
    let mut server = Server::start(&data, 10);
    let order = order(&server.keep(dir.path()));
    let path = if verb == "DELETE" {
        let (status, started) = server.ask("POST", "/instances/", &order);
        assert_eq!(status, 201, "{what}: {started}");
        format!("/instances/{}", started["id"].as_str().unwrap())
    } else {
        "/instances/".to_owned()
    };
    let pid = server.process.id().cast_signed();
    let (port, done) = (server.port, AtomicBool::new(false));
    let body = if verb == "POST" { order } else { Vec::new() };
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            // A server that is killed answers nothing.
            let answer = try_ask(port, verb, &path, &body);
            done.store(true, Ordering::Release);
            answer
        });
        let deadline = Instant::now() + PATIENCE;
        while !sight(&scene) && !done.load(Ordering::Acquire) {
            assert!(Instant::now() < deadline, "{what}: it is never seen");
        }
        for victim in victims {
            match victim {
                Victim::Server => kill(pid),
                Victim::Monitor => scene.monitor().into_iter().for_each(kill),
            }
        }
        let answer = asking.join().unwrap();
        if victims == [Victim::Monitor] {
            // The server is there to say what became of it, and says it.
            let (status, answer) = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!((200..600).contains(&status), "{what}: {status} {answer}");
        }
    });
    if victims.contains(&Victim::Server) {
        server.process.wait().unwrap();
        scene.age();
        server = Server::start(&data, 10);
    }
    no_lie(&server, &scene, &what);
    no_leak(&server, &scene, &what);
}

/// There is one instance at most; it runs if and only if the API says so, and then it answers.
fn no_lie(server: &Server, scene: &Scene, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, told) = server.ask("GET", "/instances/?state=all", b"");
        let told = told.as_array().unwrap();
        assert!(told.len() <= 1, "{what}: {told:?}");
        let running = told.iter().filter(|instance| instance["state"] == "running").count();
        if running == scene.apps() {
            let port = told.iter().find_map(|instance| instance["port"].as_u64());
            assert_eq!(port.is_some(), running == 1, "{what}: {told:?}");
            // One whose monitor was killed can be seen in the moment before it is gone: then it answers nothing, and is looked at again.
            let answers =
                |port: u64| try_ask(port.try_into().unwrap(), "GET", "/", b"").is_ok_and(|(status, _)| status == 200);
            if port.is_none_or(answers) {
                return;
            }
        }
        assert!(Instant::now() < deadline, "{what}: {told:?}, and {} run", scene.apps());
        thread::sleep(Duration::from_millis(5));
    }
}

/// What is there can be stopped, and then nothing is left of it.
fn no_leak(server: &Server, scene: &Scene, what: &str) {
    if let Some(id) = scene.instance() {
        let (status, answer) = server.ask("DELETE", &format!("/instances/{id}"), b"");
        assert_eq!(status, 204, "{what}: {answer}");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left: Vec<String> = ["instances", "ports", "uids"]
            .iter()
            .flat_map(|folder| scene.entries(folder))
            .map(|path| path.display().to_string())
            .collect();
        left.extend(scene.groups().iter().map(|path| path.display().to_string()));
        left.extend(processes_naming(&scene.engine.display().to_string()));
        if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&scene.engine.display().to_string()) {
            left.push("a mount".to_owned());
        }
        if left.is_empty() && scene.apps() == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {left:?} is left");
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(pid: i32) {
    // It may be over already, which is as good.
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

impl Scene {
    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        fs::read_dir(self.engine.join(folder))
            .map_or_else(|_| Vec::new(), |all| all.flatten().map(|e| e.path()).collect())
    }

    fn any(&self, folder: &str) -> bool {
        !self.entries(folder).is_empty()
    }

    /// The id of the instance.
    fn instance(&self) -> Option<String> {
        let names =
            self.entries("instances").into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        names.into_iter().find(|name| !name.starts_with('.'))
    }

    fn folder(&self) -> Option<PathBuf> {
        Some(self.engine.join("instances").join(self.instance()?))
    }

    fn holds(&self, name: &str) -> bool {
        self.folder().is_some_and(|folder| folder.join(name).exists())
    }

    fn state(&self) -> Value {
        let text = self.folder().and_then(|folder| fs::read(folder.join("state.json")).ok()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.state()["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn monitor(&self) -> Option<i32> {
        self.state()["monitor"]["pid"].as_i64()?.try_into().ok()
    }

    /// The monitor's child in namespaces of its own.
    fn first(&self) -> Option<i32> {
        let monitor = self.monitor()?;
        let children = fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).ok()?;
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid_for_children")).ok();
        let outside = space("self");
        children.split_whitespace().find(|pid| space(pid).is_some() && space(pid) != outside)?.parse().ok()
    }

    /// Control groups of this state directory's instances.
    fn groups(&self) -> Vec<PathBuf> {
        let records = self.entries("instances").into_iter().map(|folder| folder.join("spec.json"));
        let names: Vec<String> = records
            .filter_map(|path| {
                let record: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
                Some(record["group"].as_str()?.to_owned())
            })
            .collect();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path().join("captain"));
        let bases = hierarchies.chain([Path::new("/sys/fs/cgroup/captain").to_owned()]);
        bases.flat_map(|base| names.iter().map(move |name| base.join(name))).filter(|group| group.exists()).collect()
    }

    /// Apps that run, or are about to: first processes whose mounts are this directory's.
    fn apps(&self) -> usize {
        let engine = self.engine.display().to_string();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            read("cmdline").contains("hello") && read("mountinfo").contains(&engine)
        });
        processes.count()
    }

    /// Makes what was half made look old, as it would be when a server starts again after a while.
    fn age(&self) {
        let old = SystemTime::now() - Duration::from_secs(3600);
        for path in ["instances", "ports", "uids"].iter().flat_map(|folder| self.entries(folder)) {
            // What goes at this very moment needs no age.
            let _ = fs::File::open(path).and_then(|file| file.set_modified(old));
        }
    }
}
