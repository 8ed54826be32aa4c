//! The mock, and what it says.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::discovery::ec2::{Credentials, Ec2, Ec2Error, Finder, Limits};

pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub(super) const TOKEN: &str = "a session/token==";

/// As much time as a busy machine may need; few bytes and pages, to be gone beyond.
pub(super) const SMALL: Limits = Limits {
    connect: Duration::from_secs(30),
    page_time: Duration::from_secs(30),
    metadata_time: Duration::from_secs(30),
    page_bytes: 64 << 10,
    pages: 3,
};

/// For a silence that is to be waited for.
pub(super) const HASTY: Limits =
    Limits { page_time: Duration::from_millis(300), metadata_time: Duration::from_millis(300), ..SMALL };

// === The mock ===

#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) line: String,
    headers: HeaderMap,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a readable header"))
    }

    pub(super) fn field(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.body.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

/// A server that answers by a script, until it is dropped.
pub(super) struct Mock {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Mock {
    pub(super) async fn new(script: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, script) = (asked.clone(), Arc::new(script));
        let app = axum::Router::new().fallback(move |request: Request| {
            let (kept, script) = (kept.clone(), script.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
                let asked = Asked {
                    line: format!("{} {}", parts.method, parts.uri),
                    headers: parts.headers,
                    body: String::from_utf8(body.into()).expect("text"),
                };
                kept.lock().expect("the list").push(asked.clone());
                script(&asked)
            }
        });
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("a server") });
        Self { url, asked, serving }
    }

    /// Gives these answers, in this order, and after them none that is of use.
    pub(super) async fn answering(answers: impl IntoIterator<Item = Response>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect::<VecDeque<_>>());
        let spent = || StatusCode::IM_A_TEAPOT.into_response();
        Self::new(move |_| answers.lock().expect("the answers").pop_front().unwrap_or_else(spent)).await
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("the list").clone()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

/// A metadata service. `expires_in` is how long the credentials hold; each time there are others (`ID-1`, `ID-2`, …).
pub(super) async fn metadata(expires_in: Duration) -> Mock {
    let leases = Mutex::new(0);
    Mock::new(move |asked| match asked.line.as_str() {
        "PUT /latest/api/token" if asked.header("x-aws-ec2-metadata-token-ttl-seconds") == "60" => {
            "the-token\n".into_response()
        }
        _ if asked.header("x-aws-ec2-metadata-token") != "the-token" => StatusCode::UNAUTHORIZED.into_response(),
        "GET /latest/meta-data/placement/region" => "eu-north-1".into_response(),
        "GET /latest/meta-data/iam/security-credentials/" => "node-finder".into_response(),
        "GET /latest/meta-data/iam/security-credentials/node-finder" => {
            let mut count = leases.lock().expect("the count");
            *count += 1;
            role_credentials(*count, expires_in).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await
}

pub(super) fn role_credentials(number: u32, expires_in: Duration) -> String {
    let expires = jiff::Timestamp::try_from(SystemTime::now() + expires_in).expect("a time");
    serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2024-05-01T12:00:00Z",
        "AccessKeyId": format!("ID-{number}"), "SecretAccessKey": SECRET, "Token": TOKEN, "Expiration": expires.to_string(),
    })
    .to_string()
}

// === What EC2 says ===

/// As EC2 writes it: an instance's own address, those of its interfaces deeper down, and elements of no interest.
pub(super) fn instance(address: &str) -> String {
    format!(
        "<item><instanceId>i-0</instanceId><instanceState><code>16</code><name>running</name></instanceState><dnsName/>\
         <privateIpAddress>{address}</privateIpAddress><ipAddress>203.0.113.7</ipAddress>\
         <networkInterfaceSet><item><privateIpAddress>192.0.2.1</privateIpAddress><privateIpAddressesSet><item>\
         <privateIpAddress>192.0.2.2</privateIpAddress></item></privateIpAddressesSet></item></networkInterfaceSet>\
         <tagSet><item><key>role</key><value>a &amp; b</value></item></tagSet></item>"
    )
}

/// One page; each slice is a reservation.
pub(super) fn page(reservations: &[&[&str]], next: Option<&str>) -> String {
    let reservations: String = reservations
        .iter()
        .map(|addresses| addresses.iter().map(|address| instance(address)).collect::<String>())
        .map(|instances| {
            format!(
                "<item><reservationId>r-0</reservationId><groupSet/><instancesSet>{instances}</instancesSet></item>"
            )
        })
        .collect();
    let next = next.map(|next| format!("<nextToken>{next}</nextToken>")).unwrap_or_default();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\n\
         <requestId>8f7724cf</requestId><reservationSet>{reservations}</reservationSet>{next}\n</DescribeInstancesResponse>"
    )
}

pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>\
         </Error></Errors><RequestID>ea966190</RequestID></Response>"
    );
    (status, xml).into_response()
}

pub(super) fn configured(ec2: &Mock) -> Ec2 {
    Ec2 {
        tag_name: "role".into(),
        tag_value: "docker host".into(),
        every: Duration::from_secs(60),
        region: Some("eu-west-1".into()),
        endpoint: Some(ec2.url.clone()),
        // Nobody answers there, so a question that is not due fails.
        metadata: Some("http://127.0.0.1:9".into()),
        credentials: Some(Credentials { id: "AKIDEXAMPLE".into(), secret: SECRET.into(), token: Some(TOKEN.into()) }),
    }
}

pub(super) fn by_role(ec2: &Mock, metadata: &Mock) -> Ec2 {
    Ec2 { region: None, credentials: None, metadata: Some(metadata.url.clone()), ..configured(ec2) }
}

pub(super) async fn ask(ec2: Ec2) -> Result<Vec<IpAddr>, Ec2Error> {
    ask_within(ec2, SMALL).await
}

pub(super) async fn ask_within(ec2: Ec2, limits: Limits) -> Result<Vec<IpAddr>, Ec2Error> {
    Finder::within(ec2, limits)?.addresses().await
}

/// The error of an asking that is answered so, with all its causes.
pub(super) async fn refused_because_of(answer: impl IntoResponse) -> (Ec2Error, String) {
    let mock = Mock::answering([answer.into_response()]).await;
    let error = ask(configured(&mock)).await.expect_err("an error");
    let told = told(&error);
    (error, told)
}

pub(super) fn told(error: &Ec2Error) -> String {
    let mut told = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

pub(super) fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}
