//! Whole captains, as processes, on one machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{Server, ask, order, stop_all};
use crate::world::{CAPTAIN, PATIENCE, get, kill, processes_naming};

#[test]
fn two_captains_never_start_more_than_fits_and_not_less() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let servers = [Server::start(&data, 10), Server::start(&data, 10)];
    let slug = servers[0].keep(dir.path());
    let gate = Arc::new(Barrier::new(20));
    let starts: Vec<_> = (0..20)
        .map(|n| {
            let (port, body, gate) = (servers[n % 2].port, order(&slug), Arc::clone(&gate));
            thread::spawn(move || {
                gate.wait();
                ask(port, "POST", "/instances/", &body)
            })
        })
        .collect();
    let answers: Vec<(u16, Value)> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    let of = |status| answers.iter().filter(|answer| answer.0 == status).count();
    assert_eq!((of(201), of(503)), (5, 15), "{answers:?}");
    let running = fs::read_dir(data.join("engine/instances")).unwrap().count();
    assert_eq!(running, 5);
    // The other captain's starts reach this one's view as the engine's hints, a moment after their answers.
    within("all are seen", || servers[0].instances().len() == running);
    stop_all(&servers[0], &data);
}

#[tokio::test]
async fn a_captain_that_was_killed_finds_its_instances_running() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data, 10);
    let slug = server.keep(dir.path());
    let (status, started) = server.ask("POST", "/instances/", &order(&slug));
    assert_eq!(status, 201, "{started}");
    let app = started["port"].as_u64().unwrap().try_into().unwrap();
    assert!(get(app).await.contains("Hello from Captain"));
    kill(server.process.id().cast_signed());
    drop(server);
    assert!(get(app).await.contains("Hello from Captain"), "it outlives the server");
    let server = Server::start(&data, 10);
    let found = server.instances();
    assert_eq!(found.len(), 1);
    for field in ["id", "port", "created", "started", "hostname", "environment", "slug_uri", "operation"] {
        assert_eq!(found[0][field], started[field], "{field}");
    }
    let (status, _) = server.ask("GET", &format!("/instances/{}/logs", started["id"].as_str().unwrap()), b"");
    assert_eq!(status, 200);
    stop_all(&server, &data);
}

#[test]
fn the_demo_shows_an_answer_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, said) = demo(dir.path());
    assert!(said.contains("it answers: Hello from Captain"), "{said}");
    let port = said.split("It runs at http://127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next());
    let port: u16 = port.expect("the address").parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    let pid = rustix::process::Pid::from_raw(demo.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    // A monitor ends a moment after it has recorded the end.
    within("all processes end", || processes_naming(&dir.path().display().to_string()).is_empty());
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_either() {
    let dir = tempfile::tempdir().unwrap();
    let (mut demo, said) = demo(dir.path());
    let line = said.lines().find_map(|line| line.split("captain serve listens on http://127.0.0.1:").nth(1));
    let server: u16 = line.expect("the server's address").trim().parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", server)).is_ok());
    demo.kill().unwrap();
    demo.wait().unwrap();
    within("the server ends", || TcpStream::connect(("127.0.0.1", server)).is_err());
    within("its folder is gone", || fs::read_dir(dir.path()).unwrap().count() == 0);
    within("all processes end", || processes_naming(&dir.path().display().to_string()).is_empty());
}

/// A demo that shows its app, and what it has said.
fn demo(folder: &Path) -> (Child, String) {
    let mut demo = Command::new(CAPTAIN)
        .arg("demo")
        .env("TMPDIR", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next().transpose().unwrap() {
        said.push_str(&line);
        said.push('\n');
        if line.starts_with("Ctrl-C") {
            break;
        }
    }
    (demo, said)
}

fn within(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
