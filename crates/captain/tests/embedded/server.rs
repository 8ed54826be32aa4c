//! `captain serve` as a process, and its clients.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{CAPTAIN, PATIENCE, World};

/// A captain on a state directory, as a process.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(data: &Path, slots: u32) -> Self {
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

    pub(crate) fn healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask("GET", "/nodes/", b"").1[0]["state"] != "healthy" {
            assert!(Instant::now() < deadline, "{:?}", self.ask("GET", "/nodes/", b""));
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        ask(self.port, method, path, body)
    }

    pub(crate) fn keep(&self, dir: &Path) -> String {
        World::pack(dir, "app", "web: ./hello\n");
        let (status, kept) = self.ask("PUT", "/slugs/", &fs::read(dir.join("app.tgz")).unwrap());
        assert_eq!(status, 201, "{kept}");
        format!("sha256:{}", kept["sha256"].as_str().unwrap())
    }

    pub(crate) fn instances(&self) -> Vec<Value> {
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

pub(crate) fn ask(port: u16, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    try_ask(port, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Fails where the server is gone before it has answered.
pub(crate) fn try_ask(port: u16, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let json = "Content-Type: application/json";
    write!(stream, "{method} {path} HTTP/1.0\r\n{json}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, serde_json::from_str(body).unwrap_or_default()))
}

pub(crate) fn order(slug: &str) -> Vec<u8> {
    json!({"app": "hello", "node": "here", "slug_uri": slug, "slots": 2}).to_string().into_bytes()
}

pub(crate) fn stop_all(server: &Server, data: &Path) {
    for instance in server.instances() {
        let (status, answer) = server.ask("DELETE", &format!("/instances/{}", instance["id"].as_str().unwrap()), b"");
        assert!((200..300).contains(&status), "{answer}");
    }
    for folder in ["instances", "ports", "uids"] {
        assert_eq!(fs::read_dir(data.join("engine").join(folder)).unwrap().count(), 0, "{folder}");
    }
}
