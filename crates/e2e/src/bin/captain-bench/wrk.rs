//! The load generator, and the least that a server can do for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use captain_e2e::process;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// As many as there are processors on the machine that the promise is for.
const THREADS: &str = "2";
/// Enough to keep both busy, few enough that none waits long.
const CONNECTIONS: &str = "32";
const SECONDS: u32 = 2;

/// What came of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Microseconds of the server's processor time, a request.
    pub(crate) cpu: f64,
}

pub(crate) fn is_there() -> bool {
    Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Asks for `path` for a few seconds over connections that are kept. Every answer must be a success.
pub(crate) async fn load(server: SocketAddr, path: &str, pid: u32) -> Load {
    let before = process::cpu(pid);
    let output = tokio::process::Command::new("wrk")
        .args(["-t", THREADS, "-c", CONNECTIONS, "-d", &format!("{SECONDS}s"), &format!("http://{server}{path}")])
        .output()
        .await
        .unwrap();
    let used = process::cpu(pid).saturating_sub(before);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "wrk: {said}{}", String::from_utf8_lossy(&output.stderr));
    for wrong in ["Non-2xx", "Socket errors"] {
        assert!(!said.contains(wrong), "not every request of {path} was answered: {said}");
    }
    let rate = figure(&said, |line| line.strip_prefix("Requests/sec:"));
    let requests = figure(&said, |line| line.split_once(" requests in ").map(|(count, _)| count));
    Load { rate, cpu: used.as_secs_f64() * 1e6 / requests }
}

fn figure(said: &str, find: impl Fn(&str) -> Option<&str>) -> f64 {
    said.lines().find_map(|line| find(line.trim())).and_then(|text| text.trim().parse().ok()).expect(said)
}

/// Answers every request with the same bytes, without reading what was asked. The most that this machine does in this minute.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) address: SocketAddr,
    accepting: AbortHandle,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Bare {
    pub(crate) async fn serving(body: &[u8]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer = std::sync::Arc::new([head.as_bytes(), body].concat());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = std::sync::Arc::clone(&answer);
                tokio::spawn(async move { while_asked(stream, &answer).await });
            }
        });
        Self { address, accepting: accepting.abort_handle() }
    }

    /// The rate that it gets.
    pub(crate) async fn rate(&self) -> f64 {
        load(self.address, "/", std::process::id()).await.rate
    }
}

/// wrk asks again only when it has the whole answer, and sends a request in one piece: a read is a request.
async fn while_asked(mut stream: TcpStream, answer: &[u8]) {
    let mut request = [0; 4096];
    let _ = stream.set_nodelay(true);
    while matches!(tokio::time::timeout(Duration::from_secs(60), stream.read(&mut request)).await, Ok(Ok(1..))) {
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
