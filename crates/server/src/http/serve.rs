//! The accept loop: connections are bounded, slow ones are let go, and closing waits for what is under way.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::open_files;

/// Connections at once; further ones wait in the kernel's queue. Each costs a file descriptor and some kilobytes.
const CONNECTIONS: usize = 8_192;

/// So much of the process's file descriptors is for clients; the rest is for engines, so that clients cannot cut Captain off.
const SHARE: usize = 2;

/// A request's head must arrive within this; so long may a connection also be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(60);

/// After accepting failed (no file descriptors left): time for some to be given back.
const AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(100);

/// Serves until `closing`, then lets requests under way end, for at most `patience`. Answers whether they all did.
pub async fn serve(listener: TcpListener, router: Router, closing: CancellationToken, patience: Duration) -> bool {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 * 1024);
    let places = std::sync::Arc::new(Semaphore::new(places()));
    let open = GracefulShutdown::new();
    let mut told = false;
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "connections cannot be accepted; trying on");
                }
                sleep(AFTER_ACCEPT_ERROR).await;
                continue;
            }
        };
        told = false;
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    timeout(patience, open.shutdown()).await.is_ok()
}

/// How many connections there is room for.
fn places() -> usize {
    (open_files::limit() / SHARE).clamp(1, CONNECTIONS)
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
