//! Where an engine is, as its URI says it.
//!
//! | URI | meaning |
//! | --- | --- |
//! | `http://host[:2375]` | plain |
//! | `https://host[:2376]` | TLS |
//! | `tcp://host[:2375]` | plain, except on port 2376, which Docker keeps for TLS |
//! | `unix:///path/to/socket` | a socket of this machine |
//! | `ssh://[user@]host[:port][/path/to/socket]` | the `docker` command on the far side, reached by this machine's `ssh` |
//!
//! `user:password@`, percent-encoded, is basic authentication, except for ssh, where keys are ssh's own business.
//! Invariant: no credential is in the `Debug`, the `Display` or an error of anything here. That is why errors name a part of the
//! URI and never quote it: where a password holds a stray `/` or `@`, any part may be a piece of it.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Where an engine is and how to get there.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(super) route: Route,
    /// The value of the `Authorization` header.
    pub(super) authorization: Option<String>,
}

/// The way to an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Tcp { host: String, port: u16, tls: bool },
    Unix { path: PathBuf },
    Ssh { user: Option<String>, host: String, port: Option<u16>, socket: Option<String> },
}

/// Why a text is no engine's URI. Never quotes what may be a part of a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// There is no `scheme://`.
    #[error("it has no scheme: write http://, https://, tcp://, unix:// or ssh:// in front")]
    NoScheme,
    /// The scheme is none of ours.
    #[error("{0}:// is not a way to an engine: it is http://, https://, tcp://, unix:// or ssh://")]
    UnknownScheme(String),
    /// There is no host.
    #[error("it names no host")]
    NoHost,
    /// The host cannot be one.
    #[error("its host is not a host name or an address (a password must be percent-encoded: / is %2F, @ is %40)")]
    BadHost,
    /// The port cannot be one.
    #[error("its port is not a number from 1 to 65535 (a password must be percent-encoded: / is %2F, : is %3A)")]
    BadPort,
    /// There is more behind the host than an engine's address has.
    #[error("there must be nothing behind its host and port")]
    Trailing,
    /// The socket is not an absolute path.
    #[error("its socket is not an absolute path: write unix:///var/run/docker.sock")]
    BadSocket,
    /// What stands before the `@` cannot be used.
    #[error("its user or password cannot be used: percent-encode it; an ssh URI takes a user and no password")]
    BadCredentials,
}

impl Endpoint {
    /// Docker's usual socket on this machine.
    pub const LOCAL: &'static str = "unix:///var/run/docker.sock";

    /// Reads a URI.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(EndpointError::NoScheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => Self::tcp(rest, 2375, |_| false),
            "https" => Self::tcp(rest, 2376, |_| true),
            "tcp" => Self::tcp(rest, 2375, |port| port == 2376),
            "unix" => Self::unix(rest),
            "ssh" => Self::ssh(rest),
            other if !other.is_empty() && other.len() <= 16 && other.bytes().all(|c| c.is_ascii_alphanumeric()) => {
                Err(EndpointError::UnknownScheme(other.to_owned()))
            }
            _ => Err(EndpointError::NoScheme),
        }
    }

    /// The host in the URI, which is the node's id unless it is given another; a socket has none.
    pub fn default_node_name(&self) -> Option<&str> {
        match &self.route {
            Route::Tcp { host, .. } | Route::Ssh { host, .. } => Some(host),
            Route::Unix { .. } => None,
        }
    }

    fn tcp(rest: &str, default_port: u16, tls: fn(u16) -> bool) -> Result<Self, EndpointError> {
        let authority = Authority::split(rest)?;
        if !matches!(authority.behind, "" | "/") {
            return Err(EndpointError::Trailing);
        }
        let port = authority.port.unwrap_or(default_port);
        let authorization = authority.credentials.map(basic).transpose()?;
        Ok(Self { route: Route::Tcp { host: authority.host, port, tls: tls(port) }, authorization })
    }

    fn unix(rest: &str) -> Result<Self, EndpointError> {
        let path = decoded(rest).ok_or(EndpointError::BadSocket)?;
        if !is_socket_path(&path) {
            return Err(EndpointError::BadSocket);
        }
        Ok(Self { route: Route::Unix { path: path.into() }, authorization: None })
    }

    fn ssh(rest: &str) -> Result<Self, EndpointError> {
        let authority = Authority::split(rest)?;
        let user = authority.credentials.map(|user| ssh_user(user).ok_or(EndpointError::BadCredentials)).transpose()?;
        let socket = match authority.behind {
            "" | "/" => None,
            path => Some(decoded(path).filter(|path| is_socket_path(path)).ok_or(EndpointError::BadSocket)?),
        };
        Ok(Self { route: Route::Ssh { user, host: authority.host, port: authority.port, socket }, authorization: None })
    }
}

/// The parts of `[credentials@]host[:port][/behind]`.
struct Authority<'a> {
    credentials: Option<&'a str>,
    host: String,
    port: Option<u16>,
    behind: &'a str,
}

impl<'a> Authority<'a> {
    fn split(rest: &'a str) -> Result<Self, EndpointError> {
        let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if behind.contains('@') {
            return Err(EndpointError::BadHost); // a password that is not encoded: whatever stands before is a piece of it
        }
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (address, port) = bracketed.split_once(']').ok_or(EndpointError::BadHost)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| EndpointError::BadHost)?;
                (address, port)
            }
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        if !is_host(host) {
            return Err(EndpointError::BadHost);
        }
        Ok(Self { credentials, host: host.to_owned(), port: read_port(port)?, behind })
    }
}

fn read_port(text: &str) -> Result<Option<u16>, EndpointError> {
    match text.strip_prefix(':') {
        None if text.is_empty() => Ok(None),
        Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port != 0).map(Some).ok_or(EndpointError::BadPort)
        }
        _ => Err(EndpointError::BadPort),
    }
}

/// A first `-` would make it an option of the `ssh` command.
fn is_host(host: &str) -> bool {
    !host.starts_with('-')
        && host.len() <= 253
        && host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':'))
}

fn is_socket_path(path: &str) -> bool {
    Path::new(path).is_absolute() && path.len() > 1 && !path.bytes().any(|c| c.is_ascii_control())
}

fn ssh_user(text: &str) -> Option<String> {
    let right = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b'@' | b'+');
    decoded(text).filter(|user| !user.is_empty() && !user.starts_with('-') && user.bytes().all(right))
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(String::from)
}

fn basic(credentials: &str) -> Result<String, EndpointError> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let read = |text| decoded(text).filter(|text| !text.bytes().any(|c| c.is_ascii_control()));
    match (read(user), read(password)) {
        // A colon in the user would end it early on the other side.
        (Some(user), Some(password)) if !user.is_empty() && !user.contains(':') => {
            let text = format!("{user}:{password}");
            Ok(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)))
        }
        _ => Err(EndpointError::BadCredentials),
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "{}", path.display()),
            Self::Ssh { host, .. } => write!(f, "ssh to {host}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("route", &self.route)
            .field("basic_auth", &self.authorization.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        Endpoint::parse(text).unwrap().route
    }

    fn tcp(host: &str, port: u16, tls: bool) -> Route {
        Route::Tcp { host: host.to_owned(), port, tls }
    }

    fn ssh(user: Option<&str>, port: Option<u16>, socket: Option<&str>) -> Route {
        Route::Ssh { user: user.map(Into::into), host: "far".to_owned(), port, socket: socket.map(Into::into) }
    }

    #[test]
    fn ways_that_people_write() {
        let cases = [
            ("http://app-1", tcp("app-1", 2375, false)),
            ("HTTP://app-1:80/", tcp("app-1", 80, false)),
            ("https://10.0.0.7:9400", tcp("10.0.0.7", 9400, true)),
            ("https://app-1", tcp("app-1", 2376, true)),
            ("tcp://app-1", tcp("app-1", 2375, false)),
            ("tcp://app-1:2376", tcp("app-1", 2376, true)),
            ("http://[fd00::1]:2375", tcp("fd00::1", 2375, false)),
            ("unix:///run/my%20docker.sock", Route::Unix { path: "/run/my docker.sock".into() }),
            ("ssh://far", ssh(None, None, None)),
            ("ssh://deploy@far:2222", ssh(Some("deploy"), Some(2222), None)),
            ("ssh://far/run/user/1000/docker.sock", ssh(None, None, Some("/run/user/1000/docker.sock"))),
        ];
        for (text, expected) in cases {
            assert_eq!(route(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        use EndpointError::*;
        let cases = [
            ("", NoScheme),
            ("app-1:2375", NoScheme),
            ("ftp://app-1", UnknownScheme("ftp".to_owned())),
            ("http://", NoHost),
            ("http://:2375", NoHost),
            ("http://a b", BadHost),
            ("http://[fd00::1", BadHost),
            ("ssh://-oProxyCommand=evil", BadHost),
            ("http://app-1:0", BadPort),
            ("http://app-1:99999", BadPort),
            ("http://app-1:+80", BadPort),
            ("http://app-1:", BadPort),
            ("http://app-1/v1.41", Trailing),
            ("http://app-1?x=1", Trailing),
            ("unix://run/docker.sock", BadSocket),
            ("unix://", BadSocket),
            ("ssh://u:p@far", BadCredentials),
            ("http://:p@app-1", BadCredentials),
        ];
        for (text, expected) in cases {
            assert_eq!(Endpoint::parse(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let endpoint = Endpoint::parse("https://captain:p%40ss%3Aw%2Frd@app-1:9400").unwrap();
        let expected = base64::engine::general_purpose::STANDARD.encode("captain:p@ss:w/rd");
        assert_eq!(endpoint.authorization.as_deref(), Some(format!("Basic {expected}").as_str()));
        let shown = format!("{endpoint:?}");
        assert!(!shown.contains(&expected) && !shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
        for wrong in ["http://captain:hunter/2@app-1", "http://captain:hunter?2@app-1", "http://u:hunter@app-1:x"] {
            let error = Endpoint::parse(wrong).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter"), "{error}");
        }
    }

    #[test]
    fn the_host_names_the_node() {
        assert_eq!(Endpoint::parse("https://u:p@app-1:9400").unwrap().default_node_name(), Some("app-1"));
        assert_eq!(Endpoint::parse("ssh://u@far").unwrap().default_node_name(), Some("far"));
        assert_eq!(Endpoint::parse(Endpoint::LOCAL).unwrap().default_node_name(), None);
    }
}
