//! One connection that is kept: what a program that uses an API for more than one request does.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// The connection.
#[derive(Debug)]
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Wire {
    /// Opens it and asks for `ping` once, so that nothing is done for the first time when it is measured.
    pub(crate) async fn warm(address: SocketAddr, ping: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut wire = Self { sender, host: address.to_string() };
        wire.send("GET", ping, &Bytes::new(), &[200, 204]).await;
        wire
    }

    /// Sends a request and reads the whole answer, which must have one of these statuses.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &Bytes, expected: &[u16]) -> Bytes {
        let request = Request::builder().method(method).uri(path).header("host", &self.host);
        let request = if body.is_empty() { request } else { request.header("content-type", "application/json") };
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request.body(Full::new(body.clone())).unwrap()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(expected.contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        body
    }
}

/// A field that is a text.
#[track_caller]
pub(crate) fn text(body: &[u8], field: &str) -> String {
    let body: Value = serde_json::from_slice(body).unwrap();
    body[field].as_str().unwrap_or_else(|| panic!("no {field}: {body}")).to_owned()
}
