//! Connections to an engine, used one request after another.
//!
//! A connection has no task of its own: whoever waits for its answer drives it, and one that waits for a request is looked at when
//! it is taken. A task would be woken, often on another processor, and would wake the one that waits, for each request and each
//! piece of an answer; and while it reads on, the piece before is still in use, so that every piece needs a buffer of its own.
//!
//! Not hyper-util's pooled client. Where a request follows the end of an answer at once, as one inspection follows another, that client
//! does not find the connection back yet and opens a further one, for every request: half a million inspections filled the kernel's
//! table of connections. Here a connection is back as soon as its answer has ended.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::connect::{Conn, Connector};
use super::failure::Failure;
use super::share::Share;
use super::wire::Body;

/// Longer than the usual time between two listings, shorter than the patience of proxies and firewalls in between.
const IDLE: Duration = Duration::from_secs(90);

/// The connections of one engine.
pub(super) struct Pool {
    connector: Connector,
    shelf: Arc<Shelf>,
}

/// Those that wait for a request.
struct Shelf {
    idle: Mutex<Vec<(Box<Link>, Instant)>>,
    most: usize,
    share: Arc<Share>,
}

/// A connection.
struct Link {
    sender: SendRequest<Body>,
    /// What reads and writes. None once the connection has ended: with it goes what it had not answered.
    driver: Option<http1::Connection<TokioIo<Conn>, Body>>,
}

/// The body of an answer. Read to its end, it gives its connection back; dropped before, it closes it.
pub(super) struct Answer {
    body: Incoming,
    link: Option<(Box<Link>, Arc<Shelf>)>,
}

impl Pool {
    /// At most so many connections wait at once.
    pub(super) fn new(connector: Connector, share: Arc<Share>, most: usize) -> Self {
        Self { connector, shelf: Arc::new(Shelf { idle: Mutex::default(), most, share }) }
    }

    /// Sends a request and gives the head of its answer. Tried again, on another connection, only where nothing of it was sent.
    pub(super) async fn send(&self, mut request: Box<Request<Body>>) -> Result<Response<Answer>, Failure> {
        while let Some(mut link) = self.shelf.take() {
            match link.send(*request).await {
                Ok(response) => return Ok(self.answer(response, link)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => *request = unsent,
                    None => return Err(Failure::transport(&error.into_error())),
                },
            }
        }
        // Rare, and large: it would make every call's future as large.
        let mut link = Box::pin(self.open()).await?;
        let response = link.send(*request).await.map_err(|error| Failure::transport(&error.into_error()))?;
        Ok(self.answer(response, link))
    }

    /// Closes the connections that wait.
    pub(super) fn close_idle(&self) {
        self.shelf.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn open(&self) -> Result<Box<Link>, Failure> {
        let stream = self.connector.connect().await.map_err(|error| Failure::transport(&error))?;
        let (sender, driver) = http1::Builder::new()
            // Left to itself, it keeps a buffer as large as was ever of use to it.
            .read_buf_exact_size(Some(self.shelf.share.buffer()))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::transport(&error))?;
        Ok(Box::new(Link { sender, driver: Some(driver) }))
    }

    fn answer(&self, response: Response<Incoming>, link: Box<Link>) -> Response<Answer> {
        response.map(|body| {
            let mut answer = Answer { body, link: Some((link, Arc::clone(&self.shelf))) };
            answer.give_back_at_end();
            answer
        })
    }
}

/// Looks at what only driving brings forward, right after that: it need not wake anybody. Nor may tokio put it off for the sake of other
/// tasks, as it does with one that has done much: nobody would come back to it.
fn look<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(&mut Context::from_waker(Waker::noop()))
}

impl Link {
    fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> {
        let mut sent = Box::pin(self.sender.try_send_request(request));
        poll_fn(move |context| {
            drive(&mut self.driver, context);
            look(|context| sent.as_mut().poll(context))
        })
    }

    /// Whether it can take a request now. One that cannot after its answer has ended is still busy with a request that the engine
    /// answered early, or has been closed by it.
    fn is_ready(&mut self) -> bool {
        // Also so that no task that is over is woken, and kept in memory for that, by what comes next.
        let _ = look(|context| {
            drive(&mut self.driver, context);
            Poll::Ready(())
        });
        self.driver.is_some() && self.sender.is_ready()
    }
}

/// Reads and writes what can be. What went wrong is told to whoever waits for an answer.
fn drive(driver: &mut Option<http1::Connection<TokioIo<Conn>, Body>>, context: &mut Context<'_>) {
    if let Some(connection) = driver
        && Pin::new(connection).poll(context).is_ready()
    {
        *driver = None;
    }
}

impl Shelf {
    fn take(&self) -> Option<Box<Link>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < IDLE);
        // The last one back: the others may grow old and go.
        idle.pop().map(|(link, _)| link)
    }

    fn put(&self, link: Box<Link>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.most && self.share.has_room() {
            idle.push((link, Instant::now()));
        }
    }
}

impl Answer {
    /// The next piece of it; none at its end.
    pub(super) async fn piece(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match poll_fn(|context| self.poll_frame(context)).await.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(piece))) if piece.is_empty() => {}
                Some(Ok(Ok(piece))) => {
                    self.give_back_at_end();
                    return Some(Ok(piece));
                }
                Some(Ok(Err(_trailers))) => {}
                Some(Err(error)) => {
                    self.link = None;
                    return Some(Err(Failure::transport(&error)));
                }
                None => {
                    self.give_back();
                    return None;
                }
            }
        }
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = look(|context| Pin::new(&mut self.body).poll_frame(context));
        match &mut self.link {
            Some((link, _)) if frame.is_pending() => {
                drive(&mut link.driver, context);
                look(|context| Pin::new(&mut self.body).poll_frame(context))
            }
            _ => frame,
        }
    }

    /// Where the length was told beforehand, or there is no body, the end is known without asking for more.
    fn give_back_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some((mut link, shelf)) = self.link.take()
            && link.is_ready()
        {
            shelf.put(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::{BodyExt, Full};
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

    fn pool_to(route: &Route) -> Pool {
        let share = Shares::default().take();
        let connector = Connector::new(route, &Tls::default(), Duration::from_secs(5), Arc::clone(&share)).unwrap();
        Pool::new(connector, share, 8)
    }

    async fn ask(pool: &Pool) -> usize {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        let mut answer =
            pool.send(Box::new(Request::get("/").header("host", "x").body(body).unwrap())).await.unwrap().into_body();
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
            let pool = pool_to(&route);
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
        let pool = pool_to(&route);
        for _ in 0..5 {
            assert_eq!(ask(&pool).await, 3);
        }
        assert_eq!(connections.load(Ordering::Relaxed), 5);
    }

    /// An engine that answers, and goes on to close its connection a moment later without a word of it.
    #[tokio::test]
    async fn connections_that_were_closed_while_they_waited_are_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (close, _) = tokio::sync::broadcast::channel::<()>(1);
        let closing = close.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut closed = closing.subscribe();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    loop {
                        tokio::select! {
                            read = stream.read(&mut request) => if read.unwrap_or(0) == 0 { return },
                            _ = closed.recv() => return,
                        }
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes").await.unwrap();
                    }
                });
            }
        });
        let pool = pool_to(&Route::Tcp { host: "127.0.0.1".to_owned(), port, tls: false });
        for _ in 0..3 {
            assert_eq!(tokio::join!(ask(&pool), ask(&pool), ask(&pool)), (3, 3, 3));
            assert_eq!(pool.shelf.idle.lock().unwrap().len(), 3);
            close.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(ask(&pool).await, 3);
            assert_eq!(pool.shelf.idle.lock().unwrap().len(), 1, "those that were closed are gone");
        }
    }

    /// A task may do so much before others have their turn (tokio's budget). Wherever a request comes to that, it goes on.
    #[tokio::test]
    async fn a_request_goes_on_wherever_its_turn_ends() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\ny\r\n2\r\nes\r\n0\r\n\r\n",
        ] {
            let (route, connections) = engine(answer).await;
            let pool = pool_to(&route);
            for done_before in 64..128 {
                let mut asking = Box::pin(ask(&pool));
                let turns = poll_fn(|context| {
                    for _ in 0..done_before {
                        let _ = pin!(tokio::task::coop::consume_budget()).poll(context);
                    }
                    asking.as_mut().poll(context)
                });
                let begun = Instant::now();
                // Its end would be noticed when the time is over, too.
                assert_eq!(tokio::time::timeout(Duration::from_secs(5), turns).await, Ok(3), "{done_before}");
                assert!(begun.elapsed() < Duration::from_secs(4), "{done_before}");
            }
            assert_eq!(connections.load(Ordering::Relaxed), 1);
        }
    }
}
