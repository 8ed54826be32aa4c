//! What is sent, and what is not because of how it is configured.

use std::time::{Duration, SystemTime};

use axum::response::IntoResponse;
use reqwest::Url;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::mock::*;
use crate::discovery::ec2::{Credentials, Ec2, Ec2Error, Finder, api};

// === Signing ===

/// The expected signatures are botocore's (1.43.11), for the same request at the same time.
#[test]
fn the_signature_is_that_of_another_implementation() {
    let form = "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3Arole&Filter.1.Value.1=docker+host\
                &Filter.2.Name=instance-state-name&Filter.2.Value.1=running&MaxResults=500";
    let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20240501/eu-west-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date";
    let cases = [
        (None, "", "4fe0492eaa8a7f2abc156964e7a9de675605ad645f8c5497b5cae8185c4ef353"),
        (Some(TOKEN), ";x-amz-security-token", "aa17e1c5af32fff7b62257eb4ec66ee0fb5d0ec0f38f9bd7d68bcf69af76d94a"),
    ];
    for (token, signed_too, signature) in cases {
        let keys = Credentials { id: "AKIDEXAMPLE".into(), secret: SECRET.into(), token: token.map(str::to_owned) };
        let url = Url::parse("https://ec2.eu-west-1.amazonaws.com/").expect("a URL");
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_714_564_800);
        let request = api::signed(&url, form.to_owned(), "eu-west-1", &keys, noon).expect("a request");
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(header("authorization"), Some(format!("{scope}{signed_too}, Signature={signature}").as_str()));
        assert_eq!(header("x-amz-date"), Some("20240501T120000Z"));
        assert_eq!(header("x-amz-security-token"), token);
        assert!(!format!("{request:?}").contains(TOKEN));
    }
}

#[tokio::test]
async fn the_request_asks_for_running_instances_with_the_tag_and_is_signed() {
    let mock = Mock::answering([page(&[], None).into_response()]).await;
    ask(configured(&mock)).await.expect("an answer");
    let asked = mock.asked().remove(0);
    assert_eq!(asked.line, "POST /");
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded; charset=utf-8");
    assert_eq!(format!("http://{}", asked.header("host")), mock.url);
    assert_eq!(asked.header("x-amz-security-token"), TOKEN);
    let day = &asked.header("x-amz-date")[..8];
    let start = format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{day}/eu-west-1/ec2/aws4_request, SignedHeaders=");
    assert!(asked.header("authorization").starts_with(&start), "{}", asked.header("authorization"));
    let expected = [
        ("Action", "DescribeInstances"),
        ("Version", "2016-11-15"),
        ("Filter.1.Name", "tag:role"),
        ("Filter.1.Value.1", "docker host"),
        ("Filter.2.Name", "instance-state-name"),
        ("Filter.2.Value.1", "running"),
        ("MaxResults", "500"),
    ];
    let fields: Vec<_> = form_urlencoded::parse(asked.body.as_bytes()).collect();
    let fields: Vec<_> = fields.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_token_that_no_header_can_have_is_an_error() {
    let mock = Mock::answering([]).await;
    let mut ec2 = configured(&mock);
    ec2.credentials = Some(Credentials { id: "ID".into(), secret: SECRET.into(), token: Some("two\nlines".into()) });
    let error = ask(ec2).await.expect_err("an error");
    assert!(matches!(error, Ec2Error::Sign { .. }), "{}", told(&error));
    assert!(!told(&error).contains("two"), "{}", told(&error));
}

// === What is configured ===

#[tokio::test]
async fn urls_and_regions_that_cannot_be_are_refused_before_anything_is_asked() {
    let mock = Mock::answering([]).await;
    for url in ["", "ec2.local", "ftp://ec2", "http://", "http://me:hush@ec2", "http://ec2/?a=b", "http://ec2/#a"] {
        for ec2 in [
            Ec2 { endpoint: Some(url.into()), ..configured(&mock) },
            Ec2 { metadata: Some(url.into()), ..configured(&mock) },
        ] {
            let error = Finder::new(ec2).expect_err(url);
            assert!(matches!(error, Ec2Error::Url { .. }) && !told(&error).contains("hush"), "{url}: {}", told(&error));
        }
    }
    for region in ["", "eu west", "eu-west-1.evil.example/", "EU-WEST-1", "eu-west-1\n", &"a".repeat(64)] {
        let error = Finder::new(Ec2 { region: Some(region.into()), ..configured(&mock) }).expect_err(region);
        assert!(matches!(error, Ec2Error::Region { .. }), "{region}: {}", told(&error));
    }
}

#[test]
fn the_usual_place_is_in_the_region() {
    for (region, host) in
        [("eu-west-1", "ec2.eu-west-1.amazonaws.com"), ("cn-north-1", "ec2.cn-north-1.amazonaws.com.cn")]
    {
        assert_eq!(api::usual_place(region).expect("a URL").as_str(), format!("https://{host}/"));
    }
}

/// No provider has been installed in this process, and none is needed.
#[tokio::test]
async fn an_https_endpoint_is_spoken_to_in_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let first_bytes = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut hello = [0; 2];
        stream.read_exact(&mut hello).await.expect("the first bytes");
        hello
    });
    let mock = Mock::answering([]).await;
    let error = ask(Ec2 { endpoint: Some(url), ..configured(&mock) }).await.expect_err("no TLS there");
    assert!(matches!(error, Ec2Error::Ask { .. }), "{}", told(&error));
    assert_eq!(first_bytes.await.expect("the listener"), [0x16, 0x03], "a TLS handshake begins so");
}

#[test]
fn debug_output_has_no_secret() {
    let keys = Credentials { id: "AKIDEXAMPLE".into(), secret: SECRET.into(), token: Some(TOKEN.into()) };
    let ec2 = Ec2 {
        tag_name: "role".into(),
        tag_value: "docker".into(),
        every: Duration::from_secs(60),
        region: Some("eu-west-1".into()),
        endpoint: Some("http://127.0.0.1:9".into()),
        metadata: None,
        credentials: Some(keys),
    };
    let shown = format!("{ec2:?} {:?}", Finder::new(ec2.clone()).expect("a finder"));
    assert!(shown.contains("AKIDEXAMPLE") && !shown.contains(SECRET) && !shown.contains(TOKEN), "{shown}");
}
