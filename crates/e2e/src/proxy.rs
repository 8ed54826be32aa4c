//! A wire between Captain and an engine that can be counted, cut and made to lose answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What the wire does to the answer of a request.
#[derive(Debug, Clone)]
struct Sabotage {
    /// Bytes of the request line that it waits for, such as `POST ` and `/containers/create`.
    method: String,
    path: String,
    /// How often it still strikes.
    times: u32,
}

/// What is held until its sender goes away.
struct Hold {
    matches: Box<dyn Fn(&str) -> bool + Send>,
    /// Whether the engine gets the request, and only its answer is held.
    delivered: bool,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold {{ delivered: {} }}", self.delivered)
    }
}

#[derive(Debug, Default)]
struct State {
    sent: AtomicU64,
    delay: Mutex<Duration>,
    /// The most that comes back on one connection, in bytes per second; 0 is as much as there is.
    width: AtomicU32,
    sabotage: Mutex<Option<Sabotage>>,
    /// Requests with this in their path are never delivered.
    stalled: Mutex<Option<String>>,
    /// Of answers to requests with this in their path, only the beginning is.
    hushed: Mutex<Option<String>>,
    /// Requests that are held, and those whose answers are.
    held: Mutex<Option<Hold>>,
    /// How many requests have been held.
    holding: AtomicU32,
    /// Of answers to requests with this method and this in their path, so many are replaced by a failure of the engine.
    failed: Mutex<Option<Sabotage>>,
    /// The first lines of all requests, in the order in which they came.
    requests: Mutex<Vec<String>>,
    severed: Notify,
}

/// The wire; cut when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Lays a wire to an engine.
    pub async fn to(engine: SocketAddr) -> Self {
        Self::between(Ipv4Addr::LOCALHOST, engine).await
    }

    /// Lays a wire to a server, whose near end is at this address of the machine.
    pub async fn between(near: Ipv4Addr, engine: SocketAddr) -> Self {
        let listener = TcpListener::bind((near, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(far) = TcpStream::connect(engine).await {
                        carry(near, far, &state).await;
                    }
                });
            }
        });
        Self { address, state, accepting: accepting.abort_handle() }
    }

    /// Its near end, as a URI.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// Its near end.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, no connection brings more than this back.
    pub fn throttle(&self, bytes_per_second: u32) {
        self.state.width.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes that Captain has sent so far.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Delays everything that goes to the engine from now on.
    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// Delivers the next `times` requests with this method and this in their path, and cuts the wire when the answer comes.
    pub fn lose_answers(&self, method: &str, path: &str, times: u32) {
        *self.state.sabotage.lock().unwrap() =
            Some(Sabotage { method: format!("{method} "), path: path.to_owned(), times });
    }

    /// From now on, requests with this in their path are swallowed, and nothing ever comes back.
    pub fn stall(&self, path: &str) {
        *self.state.stalled.lock().unwrap() = Some(path.to_owned());
    }

    /// From now on, answers to requests with this in their path end for Captain after what comes with their head. For streams: it
    /// is open, and nothing happens.
    pub fn hush(&self, path: &str) {
        *self.state.hushed.lock().unwrap() = Some(path.to_owned());
    }

    /// Delivers the next `times` requests with this method and this in their path, and puts a failure of the engine in the place of the
    /// answer.
    pub fn fail_answers(&self, method: &str, path: &str, times: u32) {
        *self.state.failed.lock().unwrap() =
            Some(Sabotage { method: format!("{method} "), path: path.to_owned(), times });
    }

    /// How many answers are still to be replaced.
    #[must_use]
    pub fn answers_to_fail(&self) -> u32 {
        self.state.failed.lock().unwrap().as_ref().map_or(0, |sabotage| sabotage.times)
    }

    /// From now on, requests whose first line (`POST /v1.41/containers/create?name=x`) matches get no answer; the engine gets them if
    /// they are to be delivered.
    pub fn hold(&self, delivered: bool, matches: impl Fn(&str) -> bool + Send + 'static) {
        *self.state.held.lock().unwrap() = Some(Hold { matches: Box::new(matches), delivered });
    }

    /// Holds nothing any more. What is held stays so until its sender goes away, or the wire is severed.
    pub fn release(&self) {
        *self.state.held.lock().unwrap() = None;
    }

    /// How many requests have been held. Of one that is to be delivered it is known that the engine has answered it.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.state.holding.load(Ordering::Relaxed)
    }

    /// The first lines of all requests so far, without the protocol: `GET /v1.41/containers/json?all=1`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Cuts all connections that there are; new ones are carried.
    pub fn sever(&self) {
        self.state.severed.notify_waiters();
    }

    /// How many answers are still to be lost.
    #[must_use]
    pub fn answers_to_lose(&self) -> u32 {
        self.state.sabotage.lock().unwrap().as_ref().map_or(0, |sabotage| sabotage.times)
    }
}

/// What becomes of the answer that a connection waits for.
#[derive(Debug, Default)]
struct Fate {
    lost: AtomicBool,
    failed: AtomicBool,
    held: AtomicBool,
    hushed: AtomicBool,
}

/// Carries both ways until one side ends, or until an answer is to be lost.
async fn carry(near: TcpStream, far: TcpStream, state: &State) {
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let fate = Fate::default();
    tokio::select! {
        () = upward(near_in, far_out, state, &fate) => {}
        () = downward(far_in, near_out, state, &fate) => {}
        () = state.severed.notified() => {}
    }
}

async fn upward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, state: &State, fate: &Fate) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        state.sent.fetch_add(read as u64, Ordering::Relaxed);
        let delay = *state.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        record(state, &buffer[..read]);
        if names(&state.stalled, &buffer[..read]) {
            std::future::pending::<()>().await; // until the other side closes
        }
        match holds(state, &buffer[..read]) {
            Some(true) => fate.held.store(true, Ordering::Relaxed),
            Some(false) => {
                state.holding.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await; // until the other side closes
            }
            None => {}
        }
        if strikes(&state.failed, &buffer[..read]) {
            fate.failed.store(true, Ordering::Relaxed);
        }
        if strikes(&state.sabotage, &buffer[..read]) {
            fate.lost.store(true, Ordering::Relaxed);
        }
        if names(&state.hushed, &buffer[..read]) {
            fate.hushed.store(true, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// The first line of a request. Its head comes in one piece, because clients write it in one.
fn request_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or("").to_owned()
}

fn record(state: &State, bytes: &[u8]) {
    let line = request_line(bytes);
    if let Some((request, _)) = line.split_once(" HTTP/1.1") {
        state.requests.lock().unwrap().push(request.to_owned());
    }
}

fn names(path: &Mutex<Option<String>>, bytes: &[u8]) -> bool {
    path.lock().unwrap().as_ref().is_some_and(|path| request_line(bytes).contains(path))
}

/// Whether this is a request that is held, and then whether it is delivered.
fn holds(state: &State, bytes: &[u8]) -> Option<bool> {
    let line = request_line(bytes);
    let (request, _) = line.split_once(" HTTP/1.1")?;
    state.held.lock().unwrap().as_ref().filter(|hold| (hold.matches)(request)).map(|hold| hold.delivered)
}

fn strikes(sabotage: &Mutex<Option<Sabotage>>, bytes: &[u8]) -> bool {
    let mut sabotage = sabotage.lock().unwrap();
    let Some(plan) = sabotage.as_mut().filter(|plan| plan.times > 0) else { return false };
    let line = request_line(bytes);
    let hit = line.starts_with(&plan.method) && line.contains(&plan.path);
    plan.times -= u32::from(hit);
    hit
}

/// What an engine answers when something has gone wrong inside it.
const FAILURE: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 32\r\n\
connection: close\r\n\r\n{\"message\":\"something is wrong\"}";

async fn downward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, state: &State, fate: &Fate) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if fate.held.load(Ordering::Relaxed) {
            state.holding.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await; // until the other side closes
        }
        if fate.failed.load(Ordering::Relaxed) {
            let _ = to.write_all(FAILURE).await;
            return;
        }
        if fate.lost.load(Ordering::Relaxed) || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        let width = state.width.load(Ordering::Relaxed);
        if width > 0 {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / f64::from(width))).await;
        }
        if fate.hushed.load(Ordering::Relaxed) {
            while matches!(from.read(&mut buffer).await, Ok(1..)) {} // so that the engine does not wait for a reader
            return;
        }
    }
}
