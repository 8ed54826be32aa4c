//! A server that answers as a test says, and remembers what it was asked; and the command line, run as a process against it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Far longer than anything here takes, on the slowest machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// A server on loopback that lives as long as the test's runtime.
    pub(crate) async fn answering<F, A>(answer: F) -> Self
    where
        F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response> + Send + 'static,
    {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let remembered = Arc::clone(&asked);
        let handler = move |request: Request| {
            let (answer, remembered) = (answer.clone(), Arc::clone(&remembered));
            async move {
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let asked = Asked {
                    method: head.method.to_string(),
                    target: head.uri.to_string(),
                    headers: head.headers,
                    // A slug is no text.
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                remembered.lock().unwrap().push(asked.clone());
                answer(asked).await
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, asked }
    }

    /// The same answer to whatever is asked.
    pub(crate) async fn always(status: u16, body: Value) -> Self {
        Self::answering(move |_| std::future::ready(json_answer(status, &body))).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

pub(crate) fn json_answer(status: u16, body: &Value) -> Response {
    text_answer(status, "application/json", body.to_string())
}

pub(crate) fn text_answer(status: u16, content_type: &str, body: impl Into<Body>) -> Response {
    Response::builder().status(status).header("content-type", content_type).body(body.into()).unwrap()
}

pub(crate) fn error(status: u16, code: &str, message: &str) -> Value {
    json!({"code": code, "status": status, "message": message, "description": message})
}

/// A peer that answers each connection's first request with these bytes and hangs up. Returns its URL.
pub(crate) async fn blurting(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

/// A URL at which nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command line with an environment of nothing but the server's URL.
pub(crate) fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_captain-client"));
    command.args(arguments).env_clear().env("CAPTAIN_URL", url).env("TERM", "xterm-256color");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs the command line with pipes for stdout and stderr.
pub(crate) async fn captain(url: &str, arguments: &[&str]) -> Ended {
    let output = tokio::time::timeout(PATIENCE, command(url, arguments).output()).await.expect("it ends").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The time so many seconds ago, and half a second more: a whole number of units ago for as long as a test takes to look.
pub(crate) fn ago(seconds: i64) -> String {
    (jiff::Timestamp::now() - jiff::SignedDuration::from_millis(seconds * 1000 + 500)).to_string()
}

/// An instance as a server gives it; `more` replaces and adds fields.
pub(crate) fn instance(id: char, app: &str, node: &str, more: Value) -> Value {
    let id = id.to_string().repeat(64);
    let mut instance = json!({
        "id": id, "app": app, "slug_uri": format!("http://slugs/{app}.tgz"), "node": node, "port": 49490,
        "environment": {"TOKEN": "hunter2"}, "slots": 2, "hostname": &id[..12], "state": "running",
        "created": ago(3 * 3600), "started": ago(3 * 3600), "exit": null, "operation": null,
    });
    for (name, value) in more.as_object().unwrap() {
        instance[name] = value.clone();
    }
    instance
}

pub(crate) fn node(id: &str, free: u32, total: u32, more: Value) -> Value {
    let mut node = json!({
        "id": id, "slots": {"free": free, "total": total, "used": total - free}, "state": "healthy", "since": ago(60),
        "engine": {"kind": "docker", "version": "20.10.24", "memory_bytes": 1, "cpus": 2},
    });
    for (name, value) in more.as_object().unwrap() {
        node[name] = value.clone();
    }
    node
}
