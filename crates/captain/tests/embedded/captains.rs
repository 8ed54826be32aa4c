//! Whole captains, as processes, on one machine.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{CAPTAIN, PATIENCE, World, get, kill, processes_naming};

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(data: &Path, slots: u32) -> Self {
        let mut process = Command::new(CAPTAIN)
            .arg("serve")
            .env_clear()
            .env("CAPTAIN_DATA", data)
            .env("DOCKER_NODES", format!("here=local://?slots={slots}"))
            .env("CAPTAIN_LISTEN", "127.0.0.1:0")
            .env("CAPTAIN_LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let is_listening = |line: Value| (line["message"] == "listening").then(|| line["address"].to_string());
        let address = log.find_map(|line| is_listening(serde_json::from_str(&line.unwrap()).unwrap_or_default()));
        thread::spawn(move || log.for_each(drop));
        let port = address.expect("it listens").trim_matches('"').rsplit(':').next().unwrap().parse().unwrap();
        let server = Self { process, port };
        server.healthy();
        server
    }

    fn healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask("GET", "/nodes/", b"").1[0]["state"] != "healthy" {
            assert!(Instant::now() < deadline, "{:?}", self.ask("GET", "/nodes/", b""));
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        ask(self.port, method, path, body)
    }

    fn keep(&self, dir: &Path) -> String {
        World::pack(dir, "app", "web: ./hello\n");
        let (status, kept) = self.ask("PUT", "/slugs/", &fs::read(dir.join("app.tgz")).unwrap());
        assert_eq!(status, 201, "{kept}");
        format!("sha256:{}", kept["sha256"].as_str().unwrap())
    }

    fn instances(&self) -> Vec<Value> {
        self.ask("GET", "/instances/", b"").1.as_array().unwrap().clone()
    }
}

/// Without a word, as a crash would: instances that are left are the business of [`Server::instances`].
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ask(port: u16, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let json = "Content-Type: application/json";
    write!(stream, "{method} {path} HTTP/1.0\r\n{json}\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn order(slug: &str) -> Vec<u8> {
    json!({"app": "hello", "node": "here", "slug_uri": slug, "slots": 2}).to_string().into_bytes()
}

fn stop_all(server: &Server, data: &Path) {
    for instance in server.instances() {
        let (status, answer) = server.ask("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), b"");
        assert!((200..300).contains(&status), "{answer}");
    }
    for folder in ["instances", "ports", "uids"] {
        assert_eq!(fs::read_dir(data.join("engine").join(folder)).unwrap().count(), 0, "{folder}");
    }
}

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
    let deadline = Instant::now() + PATIENCE;
    while servers[0].instances().len() < running && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(servers[0].instances().len(), running);
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
    let mut demo = Command::new(CAPTAIN)
        .arg("demo")
        .env("TMPDIR", dir.path())
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
    assert!(said.contains("it answers: Hello from Captain"), "{said}");
    let port = said.split("It runs at http://127.0.0.1:").nth(1).and_then(|rest| rest.split('/').next());
    let port: u16 = port.expect("the address").parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    let pid = rustix::process::Pid::from_raw(demo.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(processes_naming(&dir.path().display().to_string()), Vec::<String>::new());
}
