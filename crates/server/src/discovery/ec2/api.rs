//! The EC2 Query API, as far as one call goes: DescribeInstances, signed with Signature Version 4.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Method, Request, StatusCode, Url};
use serde::Deserialize;

use super::error::{AnswerError, Ec2Error};
use super::exchange::{client, exchange};
use super::{Credentials, Limits};

/// Instances of one page: half of what EC2 allows, so that a page of large ones stays within its bytes.
pub(super) const PAGE_INSTANCES: &str = "500";

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Characters of an AWS message that are shown. Those with an encoded explanation are the longest, and have some 1,500.
const MESSAGE_CHARS: usize = 2000;

/// The API, and what it is asked.
pub(super) struct Api {
    http: Client,
    endpoint: Option<Url>,
    tag: String,
    value: String,
    limits: Limits,
}

impl fmt::Debug for Api {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Api({:?}={:?})", self.tag, self.value)
    }
}

impl Api {
    /// Without an endpoint, it is at its usual place.
    pub(super) fn new(endpoint: Option<Url>, tag: &str, value: String, limits: Limits) -> Result<Self, Ec2Error> {
        // Which region it is in does not matter to the client; that the usual place is https does.
        let somewhere = endpoint.clone().map_or_else(|| usual_place("us-east-1"), Ok)?;
        let http = client(&somewhere, limits.connect, limits.page_time)?;
        Ok(Self { http, endpoint, tag: format!("tag:{tag}"), value, limits })
    }

    /// The private addresses of the running instances that match: all of them, or an error.
    pub(super) async fn running(&self, region: &str, credentials: &Credentials) -> Result<Vec<IpAddr>, Ec2Error> {
        let url = self.endpoint.clone().map_or_else(|| usual_place(region), Ok)?;
        let mut addresses = BTreeSet::new();
        let mut next = None;
        for _ in 0..self.limits.pages {
            let form = self.form(next.as_deref());
            let request = signed(&url, form, region, credentials, SystemTime::now())?;
            let page = self.page(&url, request, credentials).await?;
            page.addresses(&mut addresses).map_err(|source| Ec2Error::Answer { url: url.to_string(), source })?;
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(addresses.into_iter().collect());
            }
        }
        Err(Ec2Error::Endless { url: url.to_string(), pages: self.limits.pages })
    }

    fn form(&self, next: Option<&str>) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([
            ("Action", "DescribeInstances"),
            ("Version", "2016-11-15"),
            ("Filter.1.Name", &self.tag),
            ("Filter.1.Value.1", &self.value),
            ("Filter.2.Name", "instance-state-name"),
            ("Filter.2.Value.1", "running"),
            ("MaxResults", PAGE_INSTANCES),
        ]);
        form.extend_pairs(next.map(|token| ("NextToken", token)));
        form.finish()
    }

    async fn page(&self, url: &Url, request: Request, credentials: &Credentials) -> Result<Page, Ec2Error> {
        let (status, body) = match exchange(&self.http, request, self.limits.page_bytes).await {
            Ok(answer) => answer,
            Err(source) => return Err(Ec2Error::Ask { url: url.to_string(), source }),
        };
        let url = url.to_string();
        match quick_xml::de::from_reader(body.as_slice()) {
            Ok(Answer::Response(refusal)) => Err(refusal.into_error(url, status, credentials)),
            Ok(Answer::DescribeInstancesResponse(page)) if status == StatusCode::OK => Ok(page),
            Err(error) if status == StatusCode::OK => Err(Ec2Error::Answer { url, source: error.into() }),
            Ok(Answer::DescribeInstancesResponse(_)) | Err(_) => Err(Ec2Error::Status { url, status }),
        }
    }
}

/// China is a partition of its own, with its own domain. The closed partitions need an endpoint that is given.
pub(super) fn usual_place(region: &str) -> Result<Url, Ec2Error> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    Url::parse(&format!("https://ec2.{region}.{domain}/")).map_err(|_| Ec2Error::Region { name: region.to_owned() })
}

/// The request, with the headers that prove who sends it.
pub(super) fn signed(
    url: &Url,
    form: String,
    region: &str,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Request, Ec2Error> {
    let Credentials { id, secret, token } = credentials.clone();
    let keys = aws_credential_types::Credentials::new(id, secret, token, None, "captain");
    let headers =
        signature(url, &form, region, keys, now).map_err(|source| Ec2Error::Sign { url: url.to_string(), source })?;
    let mut request = Request::new(Method::POST, url.clone());
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
    request.headers_mut().extend(headers);
    *request.body_mut() = Some(form.into());
    Ok(request)
}

type Headers = Vec<(HeaderName, HeaderValue)>;

/// The library's own way to apply its headers panics at a token that no header can have; so they are taken one by one.
fn signature(
    url: &Url,
    form: &str,
    region: &str,
    keys: aws_credential_types::Credentials,
    now: SystemTime,
) -> Result<Headers, Box<dyn std::error::Error + Send + Sync>> {
    let identity = keys.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("ec2")
        .time(now)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let content_type = [(CONTENT_TYPE.as_str(), FORM)];
    let body = SignableBody::Bytes(form.as_bytes());
    let request = SignableRequest::new("POST", Cow::from(url.as_str()), content_type.into_iter(), body)?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    let mut headers = Headers::new();
    for (name, value) in instructions.headers() {
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(true);
        headers.push((HeaderName::from_bytes(name.as_bytes())?, value));
    }
    Ok(headers)
}

// === What EC2 answers ===

/// The name of the outermost element says which it is. Both can come with any status.
#[derive(Deserialize)]
enum Answer {
    DescribeInstancesResponse(Page),
    Response(Refusal),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    reservation_set: Items<Reservation>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Items<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    instances_set: Items<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    private_ip_address: Option<String>,
}

impl Page {
    fn addresses(&self, into: &mut BTreeSet<IpAddr>) -> Result<(), AnswerError> {
        let instances = self.reservation_set.item.iter().flat_map(|reservation| &reservation.instances_set.item);
        for text in instances.filter_map(|instance| instance.private_ip_address.as_deref()) {
            // EC2 writes some values that are not there as empty elements.
            if !text.is_empty() {
                into.insert(text.parse().map_err(|_| AnswerError::Address { text: text.to_owned() })?);
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    errors: Faults,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Faults {
    error: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fault {
    code: String,
    #[serde(default)]
    message: String,
}

impl Refusal {
    /// EC2 gives one reason. Of a message the first line is shown: what follows, where something does, is the signed request.
    fn into_error(self, url: String, status: StatusCode, credentials: &Credentials) -> Ec2Error {
        let Some(fault) = self.errors.error.into_iter().next() else {
            return Ec2Error::Status { url, status };
        };
        let shown = |text: &str| {
            let line = credentials.scrub(text.lines().next().unwrap_or_default());
            line.chars().take(MESSAGE_CHARS).collect()
        };
        Ec2Error::Refused { url, status, code: shown(&fault.code), message: shown(&fault.message) }
    }
}
