//! A scripted engine on loopback: it answers what a test tells it to, and remembers what it was asked.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    /// A body that came in chunks: an archive.
    pub(super) archive: Vec<u8>,
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
    reads_no_archives: AtomicBool,
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
            reads_no_archives: AtomicBool::new(false),
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

    /// From now on it hangs in the middle of what comes in chunks.
    pub(super) fn never_read_archives(&self) {
        self.shared.reads_no_archives.store(true, Ordering::SeqCst);
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
    let settings = Settings::new(timeout, timeout, Tls::default()).with_runner(Arc::from(&b"runner"[..]));
    Docker::new(NodeId::trusted("app-1"), Endpoint::parse(uri).unwrap(), &settings).unwrap()
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer, &shared.reads_no_archives).await {
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

async fn read_request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>, hangs: &AtomicBool) -> Option<Seen> {
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
    let whole_head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let head = whole_head.to_lowercase();
    let mut words = whole_head.lines().next()?.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    if head.contains("transfer-encoding: chunked") {
        if hangs.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let archive = read_chunks(stream, buffer).await?;
        return Some(Seen { method, target, head: whole_head, body: Value::Null, archive });
    }
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => buffer.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
    let body = serde_json::from_slice(&buffer[..length]).unwrap_or(Value::Null);
    buffer.drain(..length);
    Some(Seen { method, target, head: whole_head, body, archive: Vec::new() })
}

/// None where the connection breaks before the last chunk.
async fn read_chunks(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let head = buffer.windows(2).position(|two| two == b"\r\n");
        let size = head.map(|end| usize::from_str_radix(std::str::from_utf8(&buffer[..end]).unwrap(), 16).unwrap());
        match (head, size) {
            (Some(end), Some(size)) if buffer.len() >= end + 2 + size + 2 => {
                whole.extend_from_slice(&buffer[end + 2..end + 2 + size]);
                buffer.drain(..end + 2 + size + 2);
                if size == 0 {
                    return Some(whole);
                }
            }
            _ => match stream.read(&mut piece).await {
                Ok(count @ 1..) => buffer.extend_from_slice(&piece[..count]),
                _ => return None,
            },
        }
    }
}
