//! Requests and answers: one pooled client per engine, and every rule of the conversation in one place.
//!
//! - The API version that was agreed on is in the path of every request; an engine that has been replaced and refuses it is asked
//!   again, once.
//! - Answers are bounded ([`read`]), and so is the time for them ([`within`]): headers *and* body.
//! - Captain speaks to engines here and nowhere else.
//!
//! Not bollard: it sends no version, pools no connections, decodes a list whole or not at all (one odd container of a foreign
//! tool would hide a node's instances), and starts its streams at their first poll, while events must flow before the listing.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::de::DeserializeOwned;

use super::connect::Connector;
use super::endpoint::{Endpoint, Route};
use super::failure::Failure;
use super::negotiate::Profile;
use super::pool::{Answer, Pool};
use super::share::Share;
use super::tls::{Tls, TlsError};

/// Connections kept idle: what a burst of starts leaves is soon used again, and more is the engine's memory wasted.
const IDLE_CONNECTIONS: usize = 8;
/// Each idle ssh connection is a process here and two there.
const IDLE_SSH_CONNECTIONS: usize = 2;
/// Making a connection takes milliseconds, or a few round trips by ssh; a machine that has not answered by then is away.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What is made ready for an answer of several pieces.
const LONG: usize = 16 << 10;
/// As much as is read of a refusal.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// What a request carries: a document, or a stream that is made while it is sent.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The conversation with one engine.
pub(super) struct Wire {
    pool: Pool,
    /// Whether a connection is made without encryption.
    quick_to_connect: bool,
    share: Arc<Share>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    profile: Mutex<Option<Arc<Profile>>>,
}

/// A request: what stands behind the version in the path, and a JSON body perhaps.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: Bytes::new() }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }
}

impl Wire {
    pub(super) fn new(endpoint: &Endpoint, tls: &Tls, timeout: Duration, share: Arc<Share>) -> Result<Self, TlsError> {
        let connector = Connector::new(&endpoint.route, tls, CONNECT_LIMIT.min(timeout / 2), Arc::clone(&share))?;
        let idle = match endpoint.route {
            Route::Ssh { .. } => IDLE_SSH_CONNECTIONS,
            Route::Tcp { .. } | Route::Unix { .. } => IDLE_CONNECTIONS,
        };
        let pool = Pool::new(connector, Arc::clone(&share), idle);
        // Go refuses a Host header that is no host name.
        let host = match &endpoint.route {
            route @ Route::Tcp { .. } => HeaderValue::try_from(route.to_string()),
            Route::Unix { .. } | Route::Ssh { .. } => Ok(HeaderValue::from_static("localhost")),
        };
        let host = host.unwrap_or(HeaderValue::from_static("localhost"));
        let authorization = endpoint.authorization.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let quick_to_connect = matches!(endpoint.route, Route::Tcp { tls: false, .. } | Route::Unix { .. });
        Ok(Self { pool, quick_to_connect, share, host, authorization, timeout, profile: Mutex::new(None) })
    }

    /// What the engine may take of the process's open files.
    pub(super) fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// Nothing is to be asked for a while. One of very many engines then keeps no connection but its events: it would take some
    /// 25 kB here and as much there, and a new one is made in a moment, unless it is an encrypted one.
    pub(super) fn rest(&self) {
        if self.quick_to_connect && self.share.is_least() {
            self.pool.close_idle();
        }
    }

    /// The deadline of an ordinary call.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request as it stands, version and all, and gives the answer's head. An answer that is no success is an error.
    pub(super) async fn exchange(&self, call: &Call) -> Result<Response<Answer>, Failure> {
        let content = (!call.body.is_empty()).then_some("application/json");
        let body = Full::new(call.body.clone()).map_err(|never| match never {}).boxed_unsync();
        self.dispatch(&call.method, &call.path, content, body).await
    }

    /// Sends a tar archive in the version agreed on, and waits for the whole answer. It is sent once: a stream cannot be had again.
    pub(super) async fn upload(&self, method: Method, path: &str, archive: Body) -> Result<Bytes, Failure> {
        let profile = self.profile().await?;
        let call = profile.versioned(&Call::new(method, path));
        let response = self.dispatch(&call.method, &call.path, Some("application/x-tar"), archive).await?;
        read(response.into_body(), REFUSAL_LIMIT).await
    }

    async fn dispatch(
        &self,
        method: &Method,
        path: &str,
        content: Option<&'static str>,
        body: Body,
    ) -> Result<Response<Answer>, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(content) = content {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static(content));
        }
        let request = request
            .body(body)
            .map_err(|error| Failure::new(crate::engine::ErrorKind::Invalid, format!("no such request: {error}")))?;
        // In a box, like all that is rare here: what a call holds is allocated and moved with every call.
        let response = self.pool.send(Box::new(request)).await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(Failure::refusal(status, &Box::pin(read_some(response.into_body())).await))
    }

    /// Sends a request in the version agreed on.
    pub(super) async fn send(&self, call: &Call) -> Result<Response<Answer>, Failure> {
        let profile = self.profile().await?;
        match self.exchange(&profile.versioned(call)).await {
            // Refused before anything was done, so it may be sent again: the engine has been replaced by another version.
            Err(failure) if failure.refuses_version() => {
                let again = async { self.exchange(&self.negotiate().await?.versioned(call)).await };
                Box::pin(again).await
            }
            other => other,
        }
    }

    /// Sends, and reads the whole answer, within the deadline.
    pub(super) async fn ask(&self, call: &Call, deadline: Duration, limit: usize) -> Result<Bytes, Failure> {
        within(deadline, async { read(self.send(call).await?.into_body(), limit).await }).await
    }

    /// Sends, and decodes the answer, within the ordinary deadline.
    pub(super) async fn ask_json<T: DeserializeOwned>(&self, call: &Call, limit: usize) -> Result<T, Failure> {
        decode(&self.ask(call, self.timeout, limit).await?)
    }

    /// What was agreed with the engine; at the first call, and after a failure to agree, by asking it.
    pub(super) async fn profile(&self) -> Result<Arc<Profile>, Failure> {
        let known = self.profile.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(profile) => Ok(profile),
            None => Box::pin(self.negotiate()).await,
        }
    }

    /// Asks the engine who it is, and agrees on a version.
    pub(super) async fn negotiate(&self) -> Result<Arc<Profile>, Failure> {
        let profile = Arc::new(Profile::ask(self).await?);
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&profile));
        Ok(profile)
    }
}

/// Bounds the whole of a call.
pub(super) fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Failure>>,
) -> impl Future<Output = Result<T, Failure>> {
    // No async function: it would take the room of the call twice.
    tokio::time::timeout(deadline, call).map(move |ended| ended.unwrap_or_else(|_| Err(Failure::timed_out(deadline))))
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read(mut body: Answer, limit: usize) -> Result<Bytes, Failure> {
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    while let Some(piece) = body.piece().await {
        let piece = piece?;
        if first.len().max(whole.len()) + piece.len() > limit {
            return Err(Failure::garbled(format!("its answer is larger than {} MiB", limit >> 20)));
        }
        // Most answers come in one piece, and need not be copied.
        if first.is_empty() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(LONG);
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// As much of a refusal as came and as is useful: its status counts, even where its words break off.
async fn read_some(mut body: Answer) -> Bytes {
    let mut some = BytesMut::new();
    while some.len() < REFUSAL_LIMIT {
        match body.piece().await {
            Some(Ok(piece)) => some.extend_from_slice(&piece),
            None | Some(Err(_)) => break,
        }
    }
    some.freeze()
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::undecodable(&error))
}
