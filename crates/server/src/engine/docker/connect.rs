//! Connections to an engine: a stream of bytes, whatever the route.
//!
//! A failure here means that nothing was asked of the engine. So whatever can fail before the first request is made to fail here:
//! name, route, TLS handshake, and for ssh the whole way to the far engine.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::endpoint::Route;
use super::share::{Place, Share};
use super::ssh::Ssh;
use super::tls::{Tls, TlsError};

/// A dead peer (machine off, cable out) is noticed on a silent stream after 30 + 3 × 10 seconds.
const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// No connection could be made. A sentence for people.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct ConnectError(pub(super) String);

/// Makes connections along one route.
#[derive(Clone)]
pub(super) struct Connector {
    way: Arc<Way>,
    limit: Duration,
    share: Arc<Share>,
}

enum Way {
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
    Unix { path: std::path::PathBuf },
    Ssh(Ssh),
}

impl Connector {
    /// `limit` bounds each connection's making, so that a machine that is away is told from an engine that does not answer.
    pub(super) fn new(route: &Route, tls: &Tls, limit: Duration, share: Arc<Share>) -> Result<Self, TlsError> {
        let way = match route {
            Route::Unix { path } => Way::Unix { path: path.clone() },
            Route::Ssh { user, host, port, socket } => {
                Way::Ssh(Ssh::new(user.as_deref(), host, *port, socket.as_deref(), limit))
            }
            Route::Tcp { host, port, tls: encrypted } => {
                let tls = if *encrypted {
                    let name = ServerName::try_from(host.clone()).map_err(|_| {
                        TlsError::Setup(rustls::Error::General(format!("{host} cannot be in a certificate")))
                    })?;
                    Some((TlsConnector::from(tls.config()?), name))
                } else {
                    None
                };
                Way::Tcp { host: host.clone(), port: *port, tls }
            }
        };
        Ok(Self { way: Arc::new(way), limit, share })
    }

    /// A connection, in its engine's share.
    pub(super) async fn connect(&self) -> Result<Conn, ConnectError> {
        let place = self.share.connect();
        Ok(Conn { stream: self.stream().await?, _place: place })
    }

    async fn stream(&self) -> Result<Box<dyn Bytestream>, ConnectError> {
        let connecting = async {
            match &*self.way {
                Way::Unix { path } => unix(path).await,
                Way::Ssh(ssh) => Ok(Box::new(ssh.connect().await?) as Box<dyn Bytestream>),
                Way::Tcp { host, port, tls } => {
                    let stream = tcp(host, *port, self.limit).await?;
                    match tls {
                        None => Ok(Box::new(stream) as _),
                        Some((connector, name)) => match connector.connect(name.clone(), stream).await {
                            Ok(stream) => Ok(Box::new(stream) as _),
                            Err(error) => Err(ConnectError(tls_sentence(host, *port, &error))),
                        },
                    }
                }
            }
        };
        match tokio::time::timeout(self.limit, connecting).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError(format!("no connection to {} within {:?}", self.way.place(), self.limit))),
        }
    }
}

impl Way {
    fn place(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix { path } => path.display().to_string(),
            Self::Ssh(ssh) => ssh.place(),
        }
    }
}

/// Tries the host's addresses in turn, each within its part of the limit: one dead address of two does not take it all.
async fn tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| ConnectError(format!("the name {host} cannot be resolved: {error}")))?
        .collect();
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = format!("the name {host} has no address");
    for address in addresses {
        last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match prepare(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => format!("the connection to {host}:{port} cannot be set up: {error}"),
            },
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                format!("{host}:{port} refuses connections: no engine listens there")
            }
            Ok(Err(error)) => format!("no connection to {host}:{port}: {error}"),
            Err(_) => format!("no connection to {host}:{port} within {share:?}"),
        };
    }
    Err(ConnectError(last))
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

async fn unix(path: &Path) -> Result<Box<dyn Bytestream>, ConnectError> {
    let shown = path.display();
    UnixStream::connect(path).await.map(|stream| Box::new(stream) as _).map_err(|error| {
        ConnectError(match error.kind() {
            io::ErrorKind::NotFound => format!("there is no socket at {shown}: is the engine running?"),
            io::ErrorKind::PermissionDenied => format!("Captain may not use the socket {shown}: permission denied"),
            io::ErrorKind::ConnectionRefused => format!("no engine listens at {shown}"),
            _ => format!("no connection to {shown}: {error}"),
        })
    })
}

fn tls_sentence(host: &str, port: u16, error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!("{host}:{port} does not speak TLS: is its URI http:// rather than https://?")
        }
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            format!("the certificate of {host}:{port} is signed by no CA that Captain trusts")
        }
        Some(cause) => format!("no TLS with {host}:{port}: {cause}"),
        None => format!("no TLS with {host}:{port}: {error}"),
    }
}

/// A stream of bytes of any kind.
pub(super) trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytestream for T {}

/// A connection to an engine.
pub(super) struct Conn {
    stream: Box<dyn Bytestream>,
    _place: Place,
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
