//! Nodes among the running EC2 instances: those that carry a tag, known by their private addresses.
//!
//! [`Ec2`] is what was configured; [`Finder`] asks, and remembers the machine's region and the credentials of its role between
//! askings. An answer is whole or it is an error: every page, every reservation, every instance. A partial list would make nodes
//! leave that are alive. Nothing is retried here, for the caller asks again after its interval; so each asking is bounded by
//! [`Limits`], and can be dropped at any await.
//!
//! No proxy is used, and no redirect is followed: a signed request is for the one it was made for.

mod api;
mod error;
mod exchange;
mod metadata;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use tracing::debug;

use api::Api;
pub use error::{AnswerError, Ec2Error, ExchangeError, Wanted};
use metadata::{Lease, Metadata};

/// Which instances are nodes, and how EC2 is asked for them.
#[derive(Debug, Clone)]
pub struct Ec2 {
    /// The tag that marks them. As in every EC2 filter, `*` and `?` are wildcards.
    pub tag_name: String,
    /// The value that this tag has.
    pub tag_value: String,
    /// How often to ask.
    pub every: Duration,
    /// The region; by default that of this machine.
    pub region: Option<String>,
    /// Where the EC2 API is; by default its usual place in the region.
    pub endpoint: Option<String>,
    /// Where the instance metadata service is; by default its usual address.
    pub metadata: Option<String>,
    /// Who asks; by default the role of this machine.
    pub credentials: Option<Credentials>,
}

/// What signs a request to AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id; no secret.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token that belongs to temporary keys. A secret as well.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Credentials {
    /// `text` without the secrets, should it have them: some AWS refusals repeat the signed request.
    fn scrub(&self, text: &str) -> String {
        let secrets = [Some(self.secret.as_str()), self.token.as_deref()];
        secrets
            .into_iter()
            .flatten()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| text.replace(secret, "<secret>"))
    }
}

/// What bounds an asking.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// To connect to the EC2 API.
    connect: Duration,
    /// For one page, from the first byte sent to the last one received.
    page_time: Duration,
    /// For one question to the metadata service, which is on this very machine.
    metadata_time: Duration,
    /// Bytes of one page. It has at most [`api::PAGE_INSTANCES`], so this allows 32 KiB for each: some four times what one with
    /// several interfaces and many tags takes.
    page_bytes: usize,
    /// Pages of one answer. With this many full ones there are 50,000 nodes; a service that goes on and on is broken.
    pages: usize,
}

const LIMITS: Limits = Limits {
    connect: Duration::from_secs(5),
    page_time: Duration::from_secs(15),
    metadata_time: Duration::from_secs(2),
    page_bytes: 16 << 20,
    pages: 100,
};

/// Asks EC2 for nodes.
#[derive(Debug)]
pub struct Finder {
    api: Api,
    metadata: Metadata,
    given: Option<Credentials>,
    /// Once known it stays: a machine does not move.
    region: Option<String>,
    lease: Option<Lease>,
}

impl Finder {
    /// Checks what was configured, and loads the machine's root certificates. Nothing is asked yet.
    pub fn new(ec2: Ec2) -> Result<Self, Ec2Error> {
        Self::within(ec2, LIMITS)
    }

    fn within(ec2: Ec2, limits: Limits) -> Result<Self, Ec2Error> {
        let region = ec2.region.map(region_name).transpose()?;
        let endpoint = ec2.endpoint.as_deref().map(|url| base_url("EC2 API", url)).transpose()?;
        let metadata = base_url("instance metadata service", ec2.metadata.as_deref().unwrap_or(metadata::USUAL_PLACE))?;
        Ok(Self {
            api: Api::new(endpoint, &ec2.tag_name, ec2.tag_value, limits)?,
            metadata: Metadata::new(metadata, limits.metadata_time)?,
            given: ec2.credentials,
            region,
            lease: None,
        })
    }

    /// The private addresses of all matching instances, sorted, each once. An instance without a private IPv4 address is no node:
    /// a node's URI is made of that.
    pub async fn addresses(&mut self) -> Result<Vec<IpAddr>, Ec2Error> {
        let region = self.region().await?;
        let credentials = self.credentials().await?;
        let answer = self.api.running(&region, &credentials).await;
        if matches!(answer, Err(Ec2Error::Refused { .. })) {
            // The role may have been given other keys, or another role. To ask again is three local questions.
            self.lease = None;
        }
        answer
    }

    async fn region(&mut self) -> Result<String, Ec2Error> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let region = region_name(self.metadata.region().await?)?;
        Ok(self.region.insert(region).clone())
    }

    async fn credentials(&mut self) -> Result<Credentials, Ec2Error> {
        if let Some(given) = &self.given {
            return Ok(given.clone());
        }
        let now = SystemTime::now();
        if let Some(lease) = self.lease.as_ref().filter(|lease| lease.is_fresh(now)) {
            return Ok(lease.credentials.clone());
        }
        match self.metadata.lease().await {
            Ok(lease) => Ok(self.lease.insert(lease).credentials.clone()),
            Err(error) => match self.lease.as_ref().filter(|lease| lease.is_valid(now)) {
                Some(lease) => {
                    debug!(%error, "the role's credentials cannot be renewed yet; the old ones still hold");
                    Ok(lease.credentials.clone())
                }
                None => Err(error),
            },
        }
    }
}

/// A region becomes part of a host name and of what is signed.
fn region_name(name: String) -> Result<String, Ec2Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // The longest today has 15 characters; a label of a host name may have 63.
    if (1..=63).contains(&name.len()) && name.bytes().all(plain) { Ok(name) } else { Err(Ec2Error::Region { name }) }
}

/// A URL under which a service is. One with a user or a password is not shown back, for it may be a secret.
fn base_url(service: &'static str, text: &str) -> Result<Url, Ec2Error> {
    Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .filter(|url| url.username().is_empty() && url.password().is_none())
        .filter(|url| url.query().is_none() && url.fragment().is_none())
        .ok_or(Ec2Error::Url { service })
}
