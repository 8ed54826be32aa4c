//! One HTTP request and its answer, bounded in time and bytes.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Request, StatusCode, Url, redirect};
use rustls::{ClientConfig, RootCertStore};

use super::error::{Ec2Error, ExchangeError};

/// Connections serve the pages of one asking. By the next one the other side may have closed them, and the request that finds out
/// is lost.
const IDLE: Duration = Duration::from_secs(10);

/// A client for `url`: trusting the machine's roots where that is https, else needing none.
pub(super) fn client(url: &Url, connect: Duration, whole: Duration) -> Result<Client, Ec2Error> {
    Client::builder()
        .user_agent(concat!("captain/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls(url)?)
        .connect_timeout(connect)
        .timeout(whole)
        .pool_idle_timeout(IDLE)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|source| Ec2Error::Client { url: url.to_string(), source })
}

/// The provider is named here, since reqwest left to itself panics where the process has not installed one.
fn tls(url: &Url) -> Result<ClientConfig, Ec2Error> {
    let roots = if url.scheme() == "https" { machine_roots(url)? } else { RootCertStore::empty() };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| Ec2Error::Tls { url: url.to_string(), source })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A machine's store may hold certificates that cannot be read; the others are as good.
fn machine_roots(url: &Url) -> Result<RootCertStore, Ec2Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(Ec2Error::Roots { url: url.to_string(), source: found.errors.into_iter().next() });
    }
    Ok(roots)
}

/// Sends `request`, and reads all of the answer, if that is not more than `limit` bytes.
pub(super) async fn exchange(
    client: &Client,
    request: Request,
    limit: usize,
) -> Result<(StatusCode, Vec<u8>), ExchangeError> {
    // Each error of ours names the URL once.
    let transport = |error: reqwest::Error| ExchangeError::Transport(error.without_url());
    let mut answer = client.execute(request).await.map_err(transport)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > limit {
            return Err(ExchangeError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok((answer.status(), body))
}
