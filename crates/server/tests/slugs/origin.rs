//! An origin that does as it is told, and counts what it was asked and what it sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// All of it; honours `If-None-Match`, `Range` and `If-Range`.
    Properly,
    /// Only so many bytes of what is due, then the connection ends.
    Cut(usize),
    /// The head, and then a byte now and then.
    Drip(Duration),
    /// Nothing at all.
    Hang,
    /// This status and no slug.
    Status(u16),
    /// A redirect.
    Redirect(String),
    /// All of it, without a word about its length; ends with the connection.
    Unmeasured,
}

#[derive(Debug)]
struct State {
    body: Vec<u8>,
    etag: Option<String>,
    /// The next requests get these, and those after them the last one again.
    manners: VecDeque<Manner>,
    heads: Vec<String>,
    sent: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Origin {
    state: Arc<Mutex<State>>,
    port: u16,
    closing: CancellationToken,
}

impl Origin {
    pub(crate) async fn serving(body: &[u8], manners: &[Manner]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            body: body.to_vec(),
            etag: Some("\"v1\"".to_owned()),
            manners: manners.iter().cloned().collect(),
            heads: Vec::new(),
            sent: 0,
        };
        let origin = Self { state: Arc::new(Mutex::new(state)), port, closing: CancellationToken::new() };
        let serving = origin.clone();
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = serving.closing.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let origin = serving.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = origin.closing.cancelled() => {}
                        _ = origin.answer(stream) => {}
                    }
                });
            }
        });
        origin
    }

    pub(crate) async fn proper(body: &[u8]) -> Self {
        Self::serving(body, &[Manner::Properly]).await
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://127.0.0.1:{}/app.tgz", self.port)
    }

    /// From now on nobody listens there.
    pub(crate) fn switch_off(&self) {
        self.closing.cancel();
    }

    pub(crate) fn change(&self, body: &[u8], etag: Option<&str>) {
        let mut state = self.state.lock().unwrap();
        state.body = body.to_vec();
        state.etag = etag.map(str::to_owned);
    }

    pub(crate) fn behave(&self, manners: &[Manner]) {
        self.state.lock().unwrap().manners = manners.iter().cloned().collect();
    }

    /// Requests, and bytes of slugs sent, since this was asked last.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let mut state = self.state.lock().unwrap();
        let counts = (state.heads.len(), state.sent);
        state.heads.clear();
        state.sent = 0;
        counts
    }

    /// The heads of the requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let (manner, body, etag) = {
            let mut state = self.state.lock().unwrap();
            state.heads.push(head.clone());
            let manner =
                if state.manners.len() > 1 { state.manners.pop_front().unwrap() } else { state.manners[0].clone() };
            (manner, state.body.clone(), state.etag.clone())
        };
        self.carry_out(manner, &head, &body, etag.as_deref(), &mut stream).await?;
        stream.shutdown().await
    }

    async fn carry_out(
        &self,
        manner: Manner,
        head: &str,
        body: &[u8],
        etag: Option<&str>,
        stream: &mut TcpStream,
    ) -> std::io::Result<()> {
        let named = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        let tag = etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
        match manner {
            Manner::Status(status) => stream.write_all(plain(status).as_bytes()).await,
            Manner::Redirect(to) => {
                let answer =
                    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await
            }
            Manner::Hang => std::future::pending().await,
            Manner::Unmeasured => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
                self.send(stream, body).await
            }
            Manner::Properly | Manner::Cut(_) | Manner::Drip(_) => {
                if etag.is_some() && named("if-none-match") == etag {
                    return stream
                        .write_all(format!("HTTP/1.1 304 Not Modified\r\n{tag}Connection: close\r\n\r\n").as_bytes())
                        .await;
                }
                let range = named("range").filter(|_| named("if-range") == etag);
                let from: usize =
                    range.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
                let (status, total) = (if from > 0 { "206 Partial Content" } else { "200 OK" }, body.len());
                let due = &body[from..];
                let range = if from > 0 {
                    format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1)
                } else {
                    String::new()
                };
                let length = due.len();
                stream
                    .write_all(
                        format!(
                            "HTTP/1.1 {status}\r\n{tag}{range}Content-Length: {length}\r\nConnection: close\r\n\r\n"
                        )
                        .as_bytes(),
                    )
                    .await?;
                match manner {
                    Manner::Cut(bytes) => self.send(stream, &due[..bytes.min(length)]).await,
                    Manner::Drip(pause) => {
                        for byte in due.chunks(1) {
                            self.send(stream, byte).await?;
                            tokio::time::sleep(pause).await;
                        }
                        Ok(())
                    }
                    _ => self.send(stream, due).await,
                }
            }
        }
    }

    async fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
        self.state.lock().unwrap().sent += bytes.len();
        stream.write_all(bytes).await
    }
}

fn plain(status: u16) -> String {
    format!("HTTP/1.1 {status} Somehow\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n")
}
