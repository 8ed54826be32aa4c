//! Connections to an engine, used one request after another.
//!
//! Not hyper-util's pooled client. Where a request follows the end of an answer at once, as one inspection follows another, that client
//! does not find the connection back yet and opens a further one, for every request: half a million inspections filled the kernel's
//! table of connections. Here a connection is back as soon as its answer has ended, and the next request waits the moment until it is
//! ready.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::connect::Connector;
use super::failure::Failure;
use super::share::Share;
use super::wire::Body;

/// Longer than the usual time between two listings, shorter than the patience of proxies and firewalls in between.
const IDLE: Duration = Duration::from_secs(90);
/// A connection that is back is ready in microseconds. One that is not is still busy with a request that the engine answered early.
const READY_WITHIN: Duration = Duration::from_millis(100);

/// The connections of one engine.
pub(super) struct Pool {
    connector: Connector,
    shelf: Arc<Shelf>,
}

/// Those that wait for a request.
struct Shelf {
    idle: Mutex<Vec<(SendRequest<Body>, Instant)>>,
    most: usize,
    share: Arc<Share>,
}

/// The body of an answer. Read to its end, it gives its connection back; dropped before, it closes it.
pub(super) struct Answer {
    body: Incoming,
    connection: Option<(SendRequest<Body>, Arc<Shelf>)>,
}

impl Pool {
    /// At most so many connections wait at once.
    pub(super) fn new(connector: Connector, share: Arc<Share>, most: usize) -> Self {
        Self { connector, shelf: Arc::new(Shelf { idle: Mutex::default(), most, share }) }
    }

    /// Sends a request and gives the head of its answer. Tried again, on another connection, only where nothing of it was sent.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Answer>, Failure> {
        while let Some(mut connection) = self.shelf.take() {
            if !connection.is_ready() {
                let Ok(Ok(())) = timeout(READY_WITHIN, connection.ready()).await else { continue };
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::transport(&error.into_error())),
                },
            }
        }
        let mut connection = self.open().await?;
        let response = connection.send_request(request).await.map_err(|error| Failure::transport(&error))?;
        Ok(self.answer(response, connection))
    }

    /// Closes the connections that wait.
    pub(super) fn close_idle(&self) {
        self.shelf.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn open(&self) -> Result<SendRequest<Body>, Failure> {
        let stream = self.connector.connect().await.map_err(|error| Failure::transport(&error))?;
        let (connection, driver) = http1::Builder::new()
            // Left to itself, it keeps a buffer as large as was ever of use to it.
            .read_buf_exact_size(Some(self.shelf.share.buffer()))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::transport(&error))?;
        // Ends with the connection; what went wrong is told to whoever waits for an answer.
        tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(connection)
    }

    fn answer(&self, response: Response<Incoming>, connection: SendRequest<Body>) -> Response<Answer> {
        response.map(|body| {
            let mut answer = Answer { body, connection: Some((connection, Arc::clone(&self.shelf))) };
            answer.give_back_at_end();
            answer
        })
    }
}

impl Shelf {
    fn take(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(connection, since)| since.elapsed() < IDLE && !connection.is_closed());
        // The last one back: the others may grow old and go.
        idle.pop().map(|(connection, _)| connection)
    }

    fn put(&self, connection: SendRequest<Body>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most && self.share.has_room() {
            idle.push((connection, Instant::now()));
        }
    }
}

impl Answer {
    /// The next piece of it; none at its end.
    pub(super) async fn piece(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match self.body.frame().await.map(|frame| frame.map(hyper::body::Frame::into_data)) {
                Some(Ok(Ok(piece))) if piece.is_empty() => {}
                Some(Ok(Ok(piece))) => {
                    self.give_back_at_end();
                    return Some(Ok(piece));
                }
                Some(Ok(Err(_trailers))) => {}
                Some(Err(error)) => {
                    self.connection = None;
                    return Some(Err(Failure::transport(&error)));
                }
                None => {
                    self.give_back();
                    return None;
                }
            }
        }
    }

    /// Where the length was told beforehand, or there is no body, the end is known without asking for more.
    fn give_back_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some((connection, shelf)) = self.connection.take() {
            shelf.put(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::endpoint::Route;
    use super::super::share::Shares;
    use super::super::tls::Tls;
    use super::*;

    /// An engine that answers every request so, and counts its connections.
    async fn engine(answer: &'static [u8]) -> (Route, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        (Route::Tcp { host: "127.0.0.1".to_owned(), port, tls: false }, connections)
    }

    async fn ask(pool: &Pool) -> usize {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let mut answer =
            pool.send(Request::get("/").header("host", "x").body(body).unwrap()).await.unwrap().into_body();
        let mut read = 0;
        while let Some(piece) = answer.piece().await {
            read += piece.unwrap().len();
        }
        read
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_request_after_another_takes_one_connection() {
        for (answer, bytes) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"[..], 3),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n2\r\n!!\r\n0\r\n\r\n", 5),
            (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        ] {
            let (route, connections) = engine(answer).await;
            let share = Shares::default().take();
            let connector =
                Connector::new(&route, &Tls::default(), Duration::from_secs(5), Arc::clone(&share)).unwrap();
            let pool = Pool::new(connector, share, 8);
            for _ in 0..200 {
                assert_eq!(ask(&pool).await, bytes);
            }
            assert_eq!(connections.load(Ordering::Relaxed), 1, "{}", String::from_utf8_lossy(answer));
        }
    }

    #[tokio::test]
    async fn a_connection_that_the_engine_closes_is_replaced() {
        let (route, connections) =
            engine(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nyes").await;
        let share = Shares::default().take();
        let connector = Connector::new(&route, &Tls::default(), Duration::from_secs(5), Arc::clone(&share)).unwrap();
        let pool = Pool::new(connector, share, 8);
        for _ in 0..5 {
            assert_eq!(ask(&pool).await, 3);
        }
        assert_eq!(connections.load(Ordering::Relaxed), 5);
    }
}
