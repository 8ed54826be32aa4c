//! A scripted engine on loopback: it answers what a test tells it to, and remembers what it was asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use captain_domain::NodeId;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, broadcast};

use crate::engine::docker::{Docker, Endpoint, Settings, Tls};

/// A request, as it came over the wire.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) head: String,
    pub(super) body: Value,
}

/// What the fake engine does with a request.
pub(super) enum Reply {
    /// A whole answer; the connection stays.
    Json(u16, Value),
    /// These bytes, then the connection is closed.
    Raw(String),
    /// These bytes, then silence, but for what [`Fake::push`] gives.
    Open(String),
    /// Waits for the gate, then does the other.
    After(Arc<Semaphore>, Box<Reply>),
}

pub(super) type Script = dyn Fn(&Seen) -> Option<Reply> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    changed: Notify,
    connections: AtomicUsize,
    pushed: broadcast::Sender<String>,
}

#[derive(Clone)]
pub(super) struct Fake {
    shared: Arc<Shared>,
    uri: String,
}

/// The head of an answer whose body comes in chunks.
pub(super) const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(super) fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

impl Fake {
    /// An engine that answers by the script, and where the script has nothing to say, as Docker 20.10 would say who it is.
    pub(super) async fn tcp(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self::new(format!("http://{}", listener.local_addr().unwrap()), script);
        let shared = Arc::clone(&fake.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        fake
    }

    pub(super) async fn unix(
        path: &std::path::Path,
        script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let fake = Self::new(format!("unix://{}", path.display()), script);
        let shared = Arc::clone(&fake.shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        fake
    }

    fn new(uri: String, script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let shared = Shared {
            script: Box::new(script),
            seen: Mutex::default(),
            changed: Notify::new(),
            connections: AtomicUsize::new(0),
            pushed: broadcast::channel(64).0,
        };
        Self { shared: Arc::new(shared), uri }
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// A client of it with a deadline that no test waits for.
    pub(super) fn client(&self) -> Docker {
        self.client_with(Duration::from_secs(20))
    }

    pub(super) fn client_with(&self, timeout: Duration) -> Docker {
        client(&self.uri, timeout)
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(super) fn push(&self, bytes: String) {
        self.shared.pushed.send(bytes).unwrap();
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The first request whose target holds this, once it has come.
    pub(super) async fn wait_for(&self, part: &str) -> Seen {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(seen) = self.seen().into_iter().find(|seen| seen.target.contains(part)) {
                    return seen;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("{part} was not asked for"))
    }
}

pub(super) fn client(uri: &str, timeout: Duration) -> Docker {
    let settings = Settings { timeout, pull_timeout: timeout, tls: Tls::default() };
    Docker::new(NodeId::trusted("app-1"), Endpoint::parse(uri).unwrap(), &settings).unwrap()
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await {
        let mut pushed = shared.pushed.subscribe();
        shared.seen.lock().unwrap().push(seen.clone());
        shared.changed.notify_waiters();
        let mut reply = (shared.script)(&seen).unwrap_or_else(|| who_it_is(&seen));
        while let Reply::After(gate, then) = reply {
            gate.acquire().await.unwrap().forget();
            reply = *then;
        }
        match reply {
            Reply::Json(status, body) => {
                let body = if body.is_null() { String::new() } else { body.to_string() };
                let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
                if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
            Reply::Raw(bytes) => return drop(stream.write_all(bytes.as_bytes()).await),
            Reply::Open(bytes) => {
                if stream.write_all(bytes.as_bytes()).await.is_err() {
                    return;
                }
                while let Ok(bytes) = pushed.recv().await {
                    if stream.write_all(bytes.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
            Reply::After(..) => unreachable!(),
        }
    }
}

fn who_it_is(seen: &Seen) -> Reply {
    match seen.target.rsplit('/').next() {
        Some("version") => Reply::Json(200, json!({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"})),
        Some("info") => Reply::Json(200, json!({"MemTotal": 1 << 30, "NCPU": 2, "MemoryLimit": true})),
        Some("_ping") => Reply::Raw(
            "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK".into(),
        ),
        _ => Reply::Json(404, json!({"message": "page not found"})),
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Seen> {
    let mut piece = [0; 4096];
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => buffer.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
    let first = String::from_utf8_lossy(&buffer[..end]).lines().next()?.to_owned();
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => buffer.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
    let body = serde_json::from_slice(&buffer[end..end + length]).unwrap_or(Value::Null);
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + length);
    let mut words = first.split(' ').map(str::to_owned);
    Some(Seen { method: words.next()?, target: words.next()?, head, body })
}
