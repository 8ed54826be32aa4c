//! A small HTTP client over TCP and Unix sockets, which shows what really came: no redirects followed, nothing retried, one
//! connection a request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::{contract, within};

/// No answer that a test waits for takes longer: a stop with its grace takes 10 s, a call of an engine 15 s.
const BOUND: Duration = Duration::from_secs(60);

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// An address.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A captain's address: each of its answers is held against its documentation.
    Captain(SocketAddr),
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Whether it answers a HEAD.
    pub(crate) head_only: bool,
}

impl Response {
    /// The body as JSON; panics with the body where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: not JSON ({error}): {}", self.status, self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header, or the empty string.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Asserts the status, showing the body where it is another.
    #[must_use]
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Streaming {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    seen: BytesMut,
}

impl Streaming {
    /// Reads until the body contains `needle`; panics after `bound` or when the body ends without it.
    pub async fn until(&mut self, needle: &str, bound: Duration) -> String {
        let what = format!("{needle:?} in a stream");
        within(&what, bound, async {
            while !String::from_utf8_lossy(&self.seen).contains(needle) {
                assert!(
                    self.more().await,
                    "the stream ended without {needle:?}: {}",
                    String::from_utf8_lossy(&self.seen)
                );
            }
        })
        .await;
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads to the end of the body, which must come within `bound`.
    pub async fn end(mut self, bound: Duration) -> String {
        within("the end of a stream", bound, async { while self.more().await {} }).await;
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads this many bytes more and forgets all that was read.
    pub async fn skip(&mut self, bytes: usize, bound: Duration) {
        within("bytes of a stream", bound, async {
            self.seen.clear();
            while self.seen.len() < bytes {
                assert!(self.more().await, "the stream ended");
            }
            self.seen.clear();
        })
        .await;
    }

    async fn more(&mut self) -> bool {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.seen.extend_from_slice(&data);
                }
                true
            }
            Some(Err(error)) => panic!("the stream broke: {error}"),
            None => false,
        }
    }
}

impl Endpoint {
    /// Sends a request and reads the whole answer.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response {
        let what = format!("{method} {path}");
        let body = body.into();
        let answer = within(&what, BOUND, async {
            let response = self.open(method, path, headers, body).await?;
            let (head, incoming) = response.into_parts();
            let body = incoming.collect().await.map_err(std::io::Error::other)?.to_bytes();
            std::io::Result::Ok(Response {
                status: head.status,
                headers: head.headers,
                body,
                head_only: method == "HEAD",
            })
        });
        let answer = answer.await.unwrap_or_else(|error| panic!("{method} {path} at {self:?}: {error}"));
        if let Self::Captain(_) = self {
            contract::check(method, path, &answer);
        }
        answer
    }

    /// Sends a request and returns once the headers of the answer are there.
    pub async fn stream(&self, path: &str) -> Streaming {
        let response =
            self.open("GET", path, &[], Bytes::new()).await.unwrap_or_else(|error| panic!("GET {path}: {error}"));
        let (head, body) = response.into_parts();
        if let Self::Captain(_) = self {
            contract::check_status("GET", path, head.status);
        }
        Streaming { status: head.status, headers: head.headers, body, seen: BytesMut::new() }
    }

    /// Like `send`, for when the server may not be there.
    pub async fn try_get(&self, path: &str) -> std::io::Result<StatusCode> {
        Ok(self.open("GET", path, &[], Bytes::new()).await?.status())
    }

    async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> std::io::Result<http::Response<Incoming>> {
        match self {
            Self::Tcp(address) | Self::Captain(address) => {
                exchange(TcpStream::connect(address).await?, &address.to_string(), method, path, headers, body).await
            }
            Self::Unix(socket) => {
                exchange(UnixStream::connect(socket).await?, "engine", method, path, headers, body).await
            }
        }
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> std::io::Result<http::Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection); // ends with the response's body
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", host);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body)).unwrap();
    sender.send_request(request).await.map_err(std::io::Error::other)
}

/// Writes bytes as they are and returns all that comes back until the server closes or is silent for two seconds.
/// Reads while it writes, because a server that refuses a long body answers before it has read it.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await; // refused half way: the answer says why
        writer
    });
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_secs(2), reader.read(&mut chunk)).await {
        answer.extend_from_slice(&chunk[..read]);
    }
    writing.abort();
    String::from_utf8_lossy(&answer).into_owned()
}
