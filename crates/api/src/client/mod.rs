//! The typed client of Captain's HTTP API.
//!
//! One method for each route. What it promises beside types: every answer has a bound in size and, log streams excepted, in time;
//! every failure says which captain was asked and what to make of it; an [`Error`] never shows a password that is in the URL.
//!
//! Reading is open to whoever wants the server's own words: [`Client::get_as`] and the other `…_as` methods read an answer as any type
//! that can be deserialised, so that a program which only passes JSON on loses no field that a newer server adds.

mod error;
mod get;
mod logs;
mod slugs;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONNECTION, LOCATION};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::{Claim, Instance, LogLine, Node, Start, StoredSlug, Summary};

pub use error::Error;
pub use get::{Get, InstanceFilter};
pub use logs::LogLines;

/// The header that names the operation of a start: a UUID that the client chooses and the server repeats.
pub const OPERATION_HEADER: &str = "captain-operation";

/// Longer than two lost SYN packets take to be sent again (1 s, then 2 s): a server that is there has answered by then.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// For what the server answers from memory; the rest is for the transfer of a large list over a slow line.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// A first start on a node may have to bring an image there. A server that is gone is noticed earlier, by [`KEEPALIVE`].
const START_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// The grace that an app has to end, several engine timeouts, and the removal.
const STOP_PATIENCE: Duration = Duration::from_secs(3 * 60);

/// A peer that vanished while an answer is awaited is noticed after about this long, times four.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Half a million instances with a usual environment. Beyond this it is not a list that a client can want.
const MAX_ANSWER: usize = 256 << 20;

/// Captains that a stop may be handed on to. Each of them answers 307 only for itself, so this is more than any cluster has.
const MAX_HANDOVERS: usize = 10;

/// A captain, by its URL. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// A client of the captain at this `http` or `https` URL. Nothing is sent yet.
    ///
    /// The URL may have a path (a proxy's prefix), and a user and password, which are sent as basic authentication. Where the program
    /// has installed no rustls crypto provider, *ring* is installed: without one, the first use of TLS would be a panic.
    pub fn new(url: &str) -> Result<Self, Error> {
        let base = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Error::BadUrl { url: without_password(url) })?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been faster; then there is one, which is all that is wanted.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("captain-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_PATIENCE)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE)
            .tcp_keepalive_retries(3)
            .redirect(reqwest::redirect::Policy::none());
        if base.scheme() == "http" {
            // The machine may have no root certificates at all, and needs none for this.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&base) {
            // A proxy of the environment would look for the server on its own loopback.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|source| Error::Setup { url: shown(&base), source })?;
        Ok(Self { http, base })
    }

    /// The URL of the captain, without its password.
    pub fn url(&self) -> String {
        shown(&self.base)
    }

    /// Whether the captain answers.
    pub async fn ping(&self) -> Result<(), Error> {
        let url = self.endpoint(&["ping", "ping"])?;
        self.bytes(self.http.get(url.clone()).timeout(READ_PATIENCE), &url).await.map(drop)
    }

    /// The instances that the filter lets through; without one, those that run.
    pub async fn instances(&self, filter: &InstanceFilter) -> Result<Vec<Instance>, Error> {
        self.get(&Get::instances(filter)).await
    }

    /// One instance, by its id or an unambiguous prefix of at least 12 digits.
    pub async fn instance(&self, id: &str) -> Result<Instance, Error> {
        self.get(&Get::instance(id)).await
    }

    /// How many instances run, by app.
    pub async fn summary(&self) -> Result<Summary, Error> {
        self.get(&Get::summary()).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.get(&Get::nodes()).await
    }

    /// One node.
    pub async fn node(&self, id: &str) -> Result<Node, Error> {
        self.get(&Get::node(id)).await
    }

    /// The starts that are under way at this captain.
    pub async fn claims(&self) -> Result<Vec<Claim>, Error> {
        self.get(&Get::claims()).await
    }

    /// A start that is under way. It is no such claim once the start has ended.
    pub async fn claim(&self, operation: &str) -> Result<Claim, Error> {
        self.get(&Get::claim(operation)).await
    }

    /// Reads what the query asks for.
    pub async fn get<T: DeserializeOwned>(&self, query: &Get<T>) -> Result<T, Error> {
        self.get_as(query).await
    }

    /// Reads what the query asks for, as another type than its own.
    pub async fn get_as<T, U: DeserializeOwned>(&self, query: &Get<T>) -> Result<U, Error> {
        let mut url = self.endpoint(&query.path())?;
        for (name, value) in query.parameters() {
            url.query_pairs_mut().append_pair(name, value);
        }
        self.read(self.http.get(url.clone()).timeout(READ_PATIENCE), &url).await
    }

    /// Starts an instance and waits until it runs.
    ///
    /// `operation` is a UUID that the caller chooses; while this waits, [`Client::claim`] tells how far it is. The start runs to its end
    /// at the server although the caller stops waiting.
    pub async fn start(&self, start: &Start, operation: &str) -> Result<Instance, Error> {
        self.start_as(start, operation).await
    }

    /// [`Client::start`], with the answer read as another type.
    pub async fn start_as<U: DeserializeOwned>(&self, start: &Start, operation: &str) -> Result<U, Error> {
        let url = self.endpoint(&["instances", ""])?;
        let request = self.http.post(url.clone()).header(OPERATION_HEADER, operation).json(start);
        self.read(request.timeout(START_PATIENCE), &url).await
    }

    /// Stops an instance, and returns once it is removed.
    ///
    /// A captain does not stop itself: it answers 307, for a load balancer to hand the request to another one. So that a balancer of
    /// connections can do so too, each try has a connection of its own.
    pub async fn stop(&self, id: &str) -> Result<(), Error> {
        let mut url = self.endpoint(&["instances", id])?;
        for _ in 0..=MAX_HANDOVERS {
            let request = self.http.delete(url.clone()).header(CONNECTION, "close").timeout(STOP_PATIENCE);
            let response = self.send(request, &url).await?;
            if response.status() != StatusCode::TEMPORARY_REDIRECT {
                return self.body(response, &url).await.map(drop);
            }
            url = self.handed_to(&response, &url)?;
        }
        Err(Error::HandedAround { url: shown(&url), times: MAX_HANDOVERS })
    }

    /// The log of an instance from its beginning; with `follow` it goes on until the instance ends.
    pub async fn logs(&self, id: &str, follow: bool) -> Result<LogLines<LogLine>, Error> {
        self.logs_as(id, follow).await
    }

    /// [`Client::logs`], with each line read as another type.
    pub async fn logs_as<U: DeserializeOwned>(&self, id: &str, follow: bool) -> Result<LogLines<U>, Error> {
        let mut url = self.endpoint(&["instances", id, "logs"])?;
        url.query_pairs_mut().append_pair("follow", if follow { "1" } else { "0" });
        // Only the headers have a deadline: how long the lines take is up to the instance, and to whoever reads them.
        let sent = tokio::time::timeout(READ_PATIENCE, self.send(self.http.get(url.clone()), &url)).await;
        let response = sent.map_err(|_| Error::TimedOut { url: shown(&url), source: None })??;
        if response.status().is_success() {
            return Ok(LogLines::new(shown(&url), response.bytes_stream()));
        }
        let status = response.status();
        Err(error::refusal(&url, status, &self.collect(response, &url).await?))
    }

    /// The URL of a path. Segments are escaped; an empty last one is a slash at the end.
    fn endpoint(&self, path: &[&str]) -> Result<Url, Error> {
        let mut url = self.base.clone();
        // A dot segment would be taken for "this folder" or "the one above", and the request would mean something else.
        let dots = path.iter().find(|segment| matches!(**segment, "." | ".."));
        match (dots, url.path_segments_mut()) {
            (None, Ok(mut segments)) => segments.pop_if_empty().extend(path),
            (Some(name), _) => return Err(Error::BadName { name: (*name).to_owned() }),
            (None, Err(())) => return Err(Error::BadUrl { url: shown(&self.base) }),
        };
        Ok(url)
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder, url: &Url) -> Result<T, Error> {
        let (status, body) = self.bytes(request, url).await?;
        serde_json::from_slice(&body).map_err(|source| error::nonsense(url, status, &body, Some(source)))
    }

    async fn bytes(&self, request: RequestBuilder, url: &Url) -> Result<(StatusCode, Bytes), Error> {
        let response = self.send(request, url).await?;
        self.body(response, url).await
    }

    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, Error> {
        request.send().await.map_err(|source| error::transport(url, source))
    }

    /// The body of a success; the error that the body of anything else says.
    async fn body(&self, response: Response, url: &Url) -> Result<(StatusCode, Bytes), Error> {
        let status = response.status();
        let body = self.collect(response, url).await?;
        if status.is_success() { Ok((status, body)) } else { Err(error::refusal(url, status, &body)) }
    }

    async fn collect(&self, mut response: Response, url: &Url) -> Result<Bytes, Error> {
        let too_large = || Error::TooLarge { url: shown(url), limit: MAX_ANSWER };
        if response.content_length().is_some_and(|length| length > MAX_ANSWER as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|source| error::transport(url, source))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }

    /// Where a 307 points. The password goes along only to the origin that it was given for.
    fn handed_to(&self, response: &Response, url: &Url) -> Result<Url, Error> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let mut next = location
            .and_then(|location| url.join(location).ok())
            .filter(|next| matches!(next.scheme(), "http" | "https"))
            .ok_or_else(|| error::nonsense(url, response.status(), b"", None))?;
        if next.origin() == self.base.origin() {
            // These two fail only for URLs without a host, which are none of http.
            let _ = next.set_username(self.base.username());
            let _ = next.set_password(self.base.password());
        }
        Ok(next)
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The URL as it may be shown.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The same for what could not be read as a URL: whatever is in front of an `@` is left out.
fn without_password(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => text.to_owned(),
    }
}
