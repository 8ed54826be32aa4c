//! The HTTP of the engines: whose a connection is, and what each path means.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use captain_domain::InstanceId;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::containers::{Came, Refused};
use super::{Engine, Engines, FIRST, documents};

/// Listeners on the one port: each brings a queue of its own, and all nodes are connected to at once.
const LISTENERS: usize = 4;
const QUEUE: u32 = 4_096;
/// Go sends an answer that is longer than this, and not declared, in chunks. Docker declares none.
const UNDECLARED: usize = 2_048;

pub(super) fn listen(port: u16) -> Vec<TcpListener> {
    let mut port = port;
    let one_more = |_| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_reuseport(true).unwrap();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        socket.bind(address).unwrap_or_else(|error| panic!("{address} is not free: {error}"));
        let listener = socket.listen(QUEUE).unwrap();
        port = listener.local_addr().unwrap().port();
        listener
    };
    (0..LISTENERS).map(one_more).collect()
}

pub(super) async fn accept(engines: Arc<Engines>, listener: TcpListener) {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("simulated engines: a connection is not accepted: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Some(engine) = engine_of(&stream).filter(|engine| *engine < engines.plan.engines) {
            tokio::spawn(converse(Arc::clone(&engines), engine, stream));
        }
    }
}

fn engine_of(stream: &TcpStream) -> Option<u32> {
    match stream.local_addr().ok()?.ip() {
        IpAddr::V4(address) => u32::from(address).checked_sub(u32::from(FIRST)),
        IpAddr::V6(_) => None,
    }
}

async fn converse(engines: Arc<Engines>, engine: u32, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    engines.counts.connections.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(|request| {
        let engines = Arc::clone(&engines);
        async move { Ok::<_, Infallible>(answer(&engines, &engines.engines[engine as usize], request).await) }
    });
    // A client that goes away is none of an engine's business.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    engines.counts.connections.fetch_sub(1, Ordering::Relaxed);
}

/// What is sent back.
pub(super) enum Answer {
    Whole(Option<Bytes>),
    Events(mpsc::Receiver<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(body) => body.take(),
            Self::Events(events) => ready!(events.poll_recv(context)),
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(body)) if body.len() <= UNDECLARED => SizeHint::with_exact(body.len() as u64),
            Self::Whole(Some(_)) | Self::Events(_) => SizeHint::default(),
        }
    }
}

fn respond(status: u16, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn json(status: u16, body: impl Into<Bytes>) -> Response<Answer> {
    respond(status, Answer::Whole(Some(body.into())))
}

fn nothing(status: u16) -> Response<Answer> {
    respond(status, Answer::Whole(None))
}

fn refusal((status, words): Refused, about: &str) -> Response<Answer> {
    json(status, serde_json::json!({ "message": format!("{words}{about}") }).to_string())
}

async fn answer(engines: &Engines, engine: &Engine, request: Request<Incoming>) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let versionless = path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
    let segments: Vec<&str> = versionless.split('/').skip(1).collect();
    let query = head.uri.query().unwrap_or_default();
    match (&head.method, segments.as_slice()) {
        (_, ["_ping"]) => json(200, "OK"),
        (&Method::GET, ["version"]) => json(200, documents::version().to_string()),
        (&Method::GET, ["info"]) => json(200, documents::info().to_string()),
        (&Method::GET, ["events"]) => respond(200, Answer::Events(engine.subscribe())),
        (&Method::GET, ["images", "json"]) => json(200, "[]"),
        (&Method::GET, ["images", .., "json"]) => {
            json(200, serde_json::json!({ "Id": "sha256:0", "RepoTags": [documents::IMAGE] }).to_string())
        }
        (&Method::GET, ["containers", "json"]) => json(200, engines.listing(engine, &wanted_labels(query))),
        (&Method::POST, ["containers", "create"]) => {
            let Ok(body) = body.collect().await else { return nothing(400) };
            create(engines, engine, &parameter(query, "name"), &body.to_bytes())
        }
        (method, ["containers", id, rest @ ..]) => match id.parse::<InstanceId>() {
            Ok(id) => of_container(engines, engine, method, id, rest, query).await,
            Err(_) => refusal((404, "No such container: "), id),
        },
        (method, _) => refusal((404, "page not found: "), &format!("{method} {path}")),
    }
}

fn create(engines: &Engines, engine: &Engine, name: &str, body: &[u8]) -> Response<Answer> {
    let created = engine.containers().create(name, body);
    match created {
        Ok(container) => {
            let id = container.id();
            engines.tell(engine, id, "create");
            json(201, serde_json::json!({ "Id": id.to_string(), "Warnings": [] }).to_string())
        }
        Err(refused) => refusal(refused, ""),
    }
}

async fn of_container(
    engines: &Engines,
    engine: &Engine,
    method: &Method,
    id: InstanceId,
    rest: &[&str],
    query: &str,
) -> Response<Answer> {
    let came = |came: Result<Came, Refused>| match came {
        Ok(Came::Done) => nothing(204),
        Ok(Came::WasSo) => nothing(304),
        Err(refused) => refusal(refused, &id.to_string()),
    };
    match (method, rest) {
        (&Method::GET, ["json"]) => match engines.inspection(engine, id) {
            Some(document) => json(200, document),
            None => refusal((404, "No such container: "), &id.to_string()),
        },
        (&Method::POST, ["start"]) => came(engines.start(engine, id).await),
        (&Method::POST, ["stop"]) => came(engines.end(engine, id, 143)),
        (&Method::POST, ["kill"]) => came(engines.end(engine, id, 137)),
        (&Method::DELETE, []) => match engines.remove(engine, id, parameter(query, "force") == "true") {
            Ok(()) => nothing(204),
            Err(refused) => refusal(refused, &id.to_string()),
        },
        (method, _) => refusal((404, "page not found: "), method.as_str()),
    }
}

fn parameter(query: &str, name: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned()).unwrap_or_default()
}

/// The `label` filters of a listing. Others are not asked by Captain.
fn wanted_labels(query: &str) -> Vec<(String, String)> {
    #[derive(serde::Deserialize, Default)]
    struct Filters {
        #[serde(default)]
        label: Vec<String>,
    }
    let filters: Filters = serde_json::from_str(&parameter(query, "filters")).unwrap_or_default();
    let pairs = filters.label.iter().filter_map(|label| label.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
