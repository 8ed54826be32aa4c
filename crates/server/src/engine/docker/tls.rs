//! TLS to engines: whom Captain trusts, and what it shows of itself. One configuration for all nodes, made when the first needs it.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

/// What Captain shows engines and trusts of them, as PEM. Empty: this machine's own roots, and no client certificate.
#[derive(Clone, Default)]
pub struct TlsMaterial {
    /// The authorities that sign engines' certificates. When given, no other is trusted.
    pub ca: Option<Vec<u8>>,
    /// Captain's own certificate (with its chain) and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// TLS for the engines. Cheap to clone: every node shares one configuration, whose roots alone take half a megabyte.
#[derive(Clone, Default)]
pub struct Tls(Arc<Inner>);

#[derive(Default)]
struct Inner {
    material: TlsMaterial,
    config: OnceLock<Arc<ClientConfig>>,
}

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The CA cannot be read.
    #[error("the engines' CA is no PEM certificate")]
    Ca,
    /// The client certificate cannot be read.
    #[error("the client certificate for engines is no PEM certificate")]
    Certificate,
    /// The key cannot be read.
    #[error("the client key for engines is no PEM key")]
    Key,
    /// Certificate and key do not go together.
    #[error("the client certificate and key for engines cannot be used together")]
    Identity(#[source] rustls::Error),
    /// No CA is known at all.
    #[error(
        "no CA is known by which an engine's certificate could be checked: this machine has none, and none was given"
    )]
    NoRoots,
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

impl Tls {
    /// TLS with this material. It is read when the first node needs it, or by [`Tls::check`].
    pub fn new(material: TlsMaterial) -> Self {
        Self(Arc::new(Inner { material, config: OnceLock::new() }))
    }

    /// Whether the material can be used: to be asked at start, so that a wrong file is an error before the first node.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config().map(drop)
    }

    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(config) = self.0.config.get() {
            return Ok(Arc::clone(config));
        }
        let made = Arc::new(self.0.material.config()?);
        Ok(Arc::clone(self.0.config.get_or_init(|| made)))
    }
}

impl TlsMaterial {
    fn config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(self.roots()?);
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let chain = certificates(certificate).ok_or(TlsError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Identity)
            }
        }
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(ca) => {
                for certificate in certificates(ca).ok_or(TlsError::Ca)? {
                    roots.add(certificate).map_err(|_| TlsError::Ca)?;
                }
            }
            // A machine's store may hold certificates that nothing can read; the others are as good.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!certificates.is_empty()).then_some(certificates)
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.material.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(ca: &str, identity: Option<(&str, &str)>) -> Result<(), TlsError> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let identity = identity.map(|(certificate, key)| (bytes(certificate), bytes(key)));
        Tls::new(TlsMaterial { ca: Some(bytes(ca)), identity }).check()
    }

    #[test]
    fn material_that_is_none_is_named() {
        let good = include_str!("tests/ca.pem");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for ca in ["", "nothing", broken] {
            assert!(matches!(checked(ca, None), Err(TlsError::Ca)), "{ca:?}");
        }
        assert!(matches!(checked(good, Some(("nothing", "nothing"))), Err(TlsError::Certificate)));
        assert!(matches!(checked(good, Some((good, "nothing"))), Err(TlsError::Key)));
        checked(good, None).unwrap();
    }

    #[test]
    fn keys_are_not_shown() {
        let material = TlsMaterial { ca: None, identity: Some((b"cert".to_vec(), b"hunter2".to_vec())) };
        let shown = format!("{:?}", Tls::new(material));
        assert_eq!(shown, "TlsMaterial { ca: false, identity: true }");
    }
}
