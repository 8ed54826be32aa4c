//! A server that can misbehave: it reads the head of a request and then does exactly what it is told, which a proper HTTP library
//! would refuse to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The longest head that is read; those of the tests are a tenth of it.
const HEAD: usize = 16 * 1024;

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Answer properly.
    Whole { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Promise the whole body, send half of it, and close.
    Truncated { body: Vec<u8> },
    /// Send the body in pieces with pauses between them.
    Slow { body: Vec<u8>, piece: usize, pause: Duration },
    /// Send the headers of a stream, and then nothing.
    OpenStream,
    /// Say nothing, and keep the connection.
    Silence,
    /// Send these bytes and close.
    Raw(Vec<u8>),
}

/// A server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepting: AbortHandle,
}

impl Server {
    /// Listens no more. Connections that there are go on.
    pub(crate) fn close(&self) {
        self.accepting.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

pub(crate) async fn serve(address: SocketAddr, answer: impl Fn(&Head) -> Reply + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("listening on {address}: {error}"));
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { while matches!(one(&mut stream, &*answer).await, Ok(true)) {} });
        }
    });
    Server { address, accepting: accepting.abort_handle() }
}

/// Serves one request; whether the connection can carry another.
async fn one(stream: &mut TcpStream, answer: &(impl Fn(&Head) -> Reply + Sync)) -> io::Result<bool> {
    let Some(head) = read_head(stream).await? else { return Ok(false) };
    let length = head.header("content-length").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    tokio::io::copy(&mut (&mut *stream).take(length), &mut tokio::io::sink()).await?;
    match answer(&head) {
        Reply::Whole { status, headers, body } => {
            let mut text = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            stream.write_all(text.as_bytes()).await?;
            stream.write_all(b"\r\n").await?;
            if head.method != "HEAD" {
                stream.write_all(&body).await?;
            }
            return Ok(true);
        }
        Reply::Truncated { body } => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
            stream.write_all(&body[..body.len() / 2]).await?;
        }
        Reply::Slow { body, piece, pause } => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
            for chunk in body.chunks(piece) {
                stream.write_all(chunk).await?;
                tokio::time::sleep(pause).await;
            }
        }
        Reply::OpenStream => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                .await?;
            wait_for_close(stream).await;
        }
        Reply::Silence => wait_for_close(stream).await,
        Reply::Raw(bytes) => stream.write_all(&bytes).await?,
    }
    stream.shutdown().await?;
    Ok(false)
}

async fn wait_for_close(stream: &mut TcpStream) {
    let mut byte = [0];
    while matches!(stream.read(&mut byte).await, Ok(1)) {}
}

/// Reads byte by byte, so that nothing of the next request is taken; the heads of tests are short.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 || bytes.len() > HEAD {
            return Ok(None);
        }
        bytes.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or("").split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Some(Head { method, target, headers }))
}
