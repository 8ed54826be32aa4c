//! What can be wrong with an asking. No variant holds a secret.

use std::fmt;

use reqwest::StatusCode;
use thiserror::Error;

/// Why EC2 could not be asked, or its answer not be used.
#[derive(Debug, Error)]
pub enum Ec2Error {
    /// A configured URL is none, or has more than a scheme, a host, a port and a path.
    #[error("the URL of the {service} is not http[s]://host[:port][/path]")]
    Url {
        /// What it is the URL of.
        service: &'static str,
    },
    /// What is configured, or what the metadata service said, cannot be a region.
    #[error("{name:?} is not the name of an AWS region")]
    Region {
        /// What was there instead.
        name: String,
    },
    /// Without root certificates nobody can be trusted.
    #[error("this machine has no root certificates, without which {url} cannot be trusted")]
    Roots {
        /// What was to be spoken to.
        url: String,
        /// Why, where there is more to say.
        source: Option<rustls_native_certs::Error>,
    },
    /// The TLS library refuses its own provider.
    #[error("cannot set TLS up for {url}")]
    Tls {
        /// What was to be spoken to.
        url: String,
        /// Why.
        source: rustls::Error,
    },
    /// There is no HTTP client for this.
    #[error("cannot set an HTTP client up for {url}")]
    Client {
        /// What was to be spoken to.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The metadata service did not answer.
    #[error("cannot get {wanted} from the instance metadata service at {url}")]
    Metadata {
        /// What was asked for.
        wanted: Wanted,
        /// Where.
        url: String,
        /// What happened.
        source: ExchangeError,
    },
    /// The metadata service answered no.
    #[error("the instance metadata service refuses {wanted} at {url}: HTTP {status}")]
    MetadataRefused {
        /// What was asked for.
        wanted: Wanted,
        /// Where.
        url: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The metadata service answered something else.
    #[error("what the instance metadata service has at {url} is not {wanted}: {reason}")]
    MetadataAnswer {
        /// What was asked for.
        wanted: Wanted,
        /// Where.
        url: String,
        /// What is wrong with it; never a part of it, for it may be a secret.
        reason: String,
    },
    /// Nobody to ask as.
    #[error("no AWS credentials were given, and this machine has no instance role that would have some")]
    NoRole,
    /// The request could not be signed.
    #[error("cannot sign DescribeInstances for {url}")]
    Sign {
        /// For whom.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// EC2 did not answer.
    #[error("cannot ask EC2 at {url} for instances")]
    Ask {
        /// Where.
        url: String,
        /// What happened.
        source: ExchangeError,
    },
    /// EC2 answered no, and why.
    #[error("EC2 at {url} refuses DescribeInstances (HTTP {status}): {code}: {message}")]
    Refused {
        /// Where.
        url: String,
        /// Its answer.
        status: StatusCode,
        /// The AWS error code: `UnauthorizedOperation`.
        code: String,
        /// The AWS error message.
        message: String,
    },
    /// What is there answered no, but not as EC2 does.
    #[error("{url} answers DescribeInstances with HTTP {status}, and not as EC2 does")]
    Status {
        /// Where.
        url: String,
        /// Its answer.
        status: StatusCode,
    },
    /// What is there answered yes, but not as EC2 does.
    #[error("what {url} answers is no list of instances")]
    Answer {
        /// Where.
        url: String,
        /// What is wrong with it.
        source: AnswerError,
    },
    /// The list goes on and on.
    #[error("EC2 at {url} has more than {pages} pages of instances")]
    Endless {
        /// Where.
        url: String,
        /// How many were read.
        pages: usize,
    },
}

/// Why a page could not be read.
#[derive(Debug, Error)]
pub enum AnswerError {
    /// It is not XML, or has not the elements of a DescribeInstances answer.
    #[error("its XML cannot be read")]
    Xml(#[from] quick_xml::DeError),
    /// An instance has an address that is none.
    #[error("{text:?} is not an IP address")]
    Address {
        /// What was there instead.
        text: String,
    },
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Connecting, sending or receiving failed, or took too long.
    #[error("the exchange failed")]
    Transport(#[source] reqwest::Error),
    /// The answer is too long.
    #[error("the answer has more than {limit} bytes")]
    TooLong {
        /// How many are read.
        limit: usize,
    },
}

/// What the metadata service is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The token without which it answers nothing.
    Token,
    /// The region of this machine.
    Region,
    /// The name of this machine's role.
    Role,
    /// The credentials of that role.
    Credentials,
}

impl fmt::Display for Wanted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Token => "a metadata token",
            Self::Region => "the region of this machine",
            Self::Role => "the role of this machine",
            Self::Credentials => "the credentials of the role of this machine",
        })
    }
}
