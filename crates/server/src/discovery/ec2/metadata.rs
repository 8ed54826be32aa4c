//! The instance metadata service (version 2: each session begins with a token): where this machine is, and what its role may sign
//! with.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use reqwest::header::HeaderValue;
use reqwest::{Client, Method, Request, StatusCode, Url};
use serde::Deserialize;

use super::Credentials;
use super::error::{Ec2Error, Wanted};
use super::exchange::{client, exchange};

/// The address that every EC2 machine has it at.
pub(super) const USUAL_PLACE: &str = "http://169.254.169.254";

/// All that is asked for is a few short lines; credentials have some 2 KiB.
const ANSWER_BYTES: usize = 64 << 10;

/// A session is two questions long, each of at most two seconds.
const TOKEN_SECONDS: HeaderValue = HeaderValue::from_static("60");

/// The service has new credentials at least five minutes before the old ones expire, so from then on it pays to ask.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// Credentials for a while.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) credentials: Credentials,
    expires: SystemTime,
}

impl Lease {
    /// There can be no newer ones.
    pub(super) fn is_fresh(&self, now: SystemTime) -> bool {
        self.is_valid(now + RENEW_BEFORE)
    }

    /// AWS takes them.
    pub(super) fn is_valid(&self, now: SystemTime) -> bool {
        now < self.expires
    }
}

/// What the service says of a role. Fields that it has besides are of no use here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RoleCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

/// Where EC2 cannot assume the role, this is all that there is to read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Verdict {
    code: Option<String>,
}

/// A token; a header value that is shown nowhere.
struct Session(HeaderValue);

/// The service.
pub(super) struct Metadata {
    http: Client,
    base: Url,
}

impl fmt::Debug for Metadata {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Metadata({})", self.base)
    }
}

impl Metadata {
    pub(super) fn new(base: Url, patience: Duration) -> Result<Self, Ec2Error> {
        Ok(Self { http: client(&base, patience, patience)?, base })
    }

    /// The region of this machine.
    pub(super) async fn region(&self) -> Result<String, Ec2Error> {
        let session = self.session().await?;
        self.get(&session, Wanted::Region, "latest/meta-data/placement/region").await.map(|(_, region)| region)
    }

    /// The credentials of this machine's role.
    pub(super) async fn lease(&self) -> Result<Lease, Ec2Error> {
        let session = self.session().await?;
        let roles = "latest/meta-data/iam/security-credentials/";
        let (_, listed) = self.get(&session, Wanted::Role, roles).await.map_err(no_role)?;
        // A machine has one role at most; the list is from the days when that was open.
        let role = listed.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(Ec2Error::NoRole);
        }
        let (url, text) = self.get(&session, Wanted::Credentials, &format!("{roles}{role}")).await?;
        lease(&text).map_err(|reason| Ec2Error::MetadataAnswer { wanted: Wanted::Credentials, url, reason })
    }

    async fn session(&self) -> Result<Session, Ec2Error> {
        let url = self.url("latest/api/token");
        let mut request = Request::new(Method::PUT, url.clone());
        request.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
        let token = self.ask(Wanted::Token, request).await?;
        let mut token = HeaderValue::from_str(&token).map_err(|_| Ec2Error::MetadataAnswer {
            wanted: Wanted::Token,
            url: url.to_string(),
            reason: "it has characters that a header cannot have".to_owned(),
        })?;
        token.set_sensitive(true);
        Ok(Session(token))
    }

    async fn get(&self, session: &Session, wanted: Wanted, path: &str) -> Result<(String, String), Ec2Error> {
        let url = self.url(path);
        let mut request = Request::new(Method::GET, url.clone());
        request.headers_mut().insert("x-aws-ec2-metadata-token", session.0.clone());
        Ok((url.to_string(), self.ask(wanted, request).await?))
    }

    async fn ask(&self, wanted: Wanted, request: Request) -> Result<String, Ec2Error> {
        let url = request.url().to_string();
        let (status, body) = match exchange(&self.http, request, ANSWER_BYTES).await {
            Ok(answer) => answer,
            Err(source) => return Err(Ec2Error::Metadata { wanted, url, source }),
        };
        if status != StatusCode::OK {
            return Err(Ec2Error::MetadataRefused { wanted, url, status });
        }
        match String::from_utf8(body) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(_) => Err(Ec2Error::MetadataAnswer { wanted, url, reason: "it is not UTF-8".to_owned() }),
        }
    }

    /// The path is not resolved as a link would be: a base may have a path of its own, and a role cannot lead elsewhere.
    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }
}

fn no_role(error: Ec2Error) -> Ec2Error {
    match error {
        Ec2Error::MetadataRefused { status: StatusCode::NOT_FOUND, .. } => Ec2Error::NoRole,
        other => other,
    }
}

/// Reads a role's credentials. What is wrong is told by place, not by content.
fn lease(text: &str) -> Result<Lease, String> {
    let verdict: Verdict = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    if let Some(code) = verdict.code.filter(|code| code != "Success") {
        return Err(format!("its Code is {code:?}"));
    }
    let role: RoleCredentials = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let expires = Timestamp::from_str(&role.expiration).map_err(|_| "its Expiration is not a time".to_owned())?;
    Ok(Lease {
        credentials: Credentials { id: role.access_key_id, secret: role.secret_access_key, token: Some(role.token) },
        expires: expires.into(),
    })
}

fn unreadable(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a field is missing, or not a string",
        _ => "it is not JSON",
    };
    format!("{kind} (line {}, column {})", error.line(), error.column())
}
