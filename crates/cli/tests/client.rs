//! The typed client against a server that follows a script.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

mod scripted;

use captain_api::client::{Client, Error, InstanceFilter};
use captain_api::{Code, InstanceState, Start};
use futures_util::StreamExt;
use scripted::{Scripted, blurting, error, instance, json_answer, nobody, text_answer};
use serde_json::json;

fn redirect(location: &str) -> axum::response::Response {
    axum::response::Response::builder()
        .status(307)
        .header("location", location)
        .body(axum::body::Body::empty())
        .unwrap()
}

#[tokio::test]
async fn each_method_asks_its_route() {
    let server = Scripted::always(404, error(404, "no_such_path", "m")).await;
    let client = Client::new(&server.url()).unwrap();
    let filter = InstanceFilter { node: Some("app 1".into()), app: Some("a&b".into()), state: Some("all".into()) };
    let start = Start { app: "shop".into(), node: "app-1".into(), version: Some("47".into()), ..Start::default() };
    let refused = [
        client.ping().await.err(),
        client.instances(&InstanceFilter::default()).await.err(),
        client.instances(&filter).await.err(),
        client.instance("88/8").await.err(),
        client.start(&start, "some-operation").await.err(),
        client.stop("888").await.err(),
        client.logs("888", false).await.err(),
        client.logs("888", true).await.err(),
        client.summary().await.err(),
        client.nodes().await.err(),
        client.node("app-1").await.err(),
        client.claims().await.err(),
        client.claim("x").await.err(),
    ];
    assert!(refused.iter().all(|error| error.as_ref().and_then(Error::code) == Some(Code::NoSuchPath)), "{refused:?}");
    let expected = [
        "GET /ping/ping",
        "GET /instances/",
        "GET /instances/?node=app+1&app=a%26b&state=all",
        "GET /instances/88%2F8",
        "POST /instances/",
        "DELETE /instances/888",
        "GET /instances/888/logs?follow=0",
        "GET /instances/888/logs?follow=1",
        "GET /instances_summary/",
        "GET /nodes/",
        "GET /nodes/app-1",
        "GET /claims/",
        "GET /claims/x",
    ];
    assert_eq!(server.lines(), expected);
    let post = &server.asked()[4];
    assert_eq!(post.header("captain-operation"), Some("some-operation"));
    assert_eq!(post.header("content-type"), Some("application/json"));
    assert_eq!(post.body, r#"{"app":"shop","node":"app-1","version":"47"}"#);
}

#[tokio::test]
async fn answers_are_read_and_newer_fields_passed_over() {
    let one = instance('8', "shop", "app-1", json!({"state": "hibernating", "from_the_future": [1]}));
    let server = Scripted::always(200, json!([one])).await;
    let instances = Client::new(&server.url()).unwrap().instances(&InstanceFilter::default()).await.unwrap();
    assert_eq!(instances[0].app, "shop");
    assert_eq!(instances[0].state, InstanceState::Other);
}

#[tokio::test]
async fn a_url_may_have_a_path_and_a_password_and_errors_show_neither_password_nor_user() {
    let server = Scripted::always(200, json!({"total_instances": 0, "apps": {}})).await;
    let url = format!("http://me:hunter2@{}/fleet/", server.address);
    let client = Client::new(&url).unwrap();
    client.summary().await.unwrap();
    assert_eq!(server.lines(), ["GET /fleet/instances_summary/"]);
    assert_eq!(server.asked()[0].header("authorization"), Some("Basic bWU6aHVudGVyMg=="));
    assert_eq!(client.url(), format!("http://{}/fleet/", server.address));
    let down = nobody().await.replace("http://", "http://me:hunter2@");
    let failures = [
        client.nodes().await.unwrap_err(),
        Client::new(&down).unwrap().ping().await.unwrap_err(),
        Client::new("ftp://me:hunter2@host").unwrap_err(),
        Client::new("me:hunter2@host").unwrap_err(),
    ];
    for failure in &failures {
        assert!(!format!("{failure} {failure:?}").contains("hunter2"), "{failure:?}");
    }
}

#[tokio::test]
async fn what_is_no_url_of_a_captain_is_refused() {
    for url in ["", "captain", "localhost:8080", "unix:///run/captain.sock", "http://", "/instances"] {
        assert!(matches!(Client::new(url), Err(Error::BadUrl { .. })), "{url}");
    }
    for url in ["http://captain", "https://captain:8443/a", "http://[::1]:80"] {
        Client::new(url).unwrap();
    }
}

#[tokio::test]
async fn a_name_cannot_lead_to_another_route() {
    let server = Scripted::always(204, json!(null)).await;
    let client = Client::new(&server.url()).unwrap();
    for name in [".", ".."] {
        assert!(matches!(client.stop(name).await, Err(Error::BadName { .. })), "{name}");
    }
    client.stop("../nodes?x#y").await.unwrap();
    assert_eq!(server.lines(), ["DELETE /instances/..%2Fnodes%3Fx%23y"]);
}

#[tokio::test]
async fn a_stop_follows_307_on_connections_of_its_own() {
    let other = Scripted::answering(|_| async { text_answer(204, "text/plain", "") }).await;
    let elsewhere = format!("{}/instances/888", other.url());
    let server = Scripted::answering(move |asked| {
        let answer =
            if asked.target.ends_with("?again") { redirect(&elsewhere) } else { redirect("/instances/888?again") };
        std::future::ready(answer)
    })
    .await;
    let client = Client::new(&format!("http://me:hunter2@{}", server.address)).unwrap();
    client.stop("888").await.unwrap();
    assert_eq!(server.lines(), ["DELETE /instances/888", "DELETE /instances/888?again"]);
    assert!(server.asked().iter().all(|asked| asked.header("connection") == Some("close")));
    assert!(server.asked().iter().all(|asked| asked.header("authorization").is_some()));
    assert_eq!(other.lines(), ["DELETE /instances/888"]);
    assert_eq!(other.asked()[0].header("authorization"), None, "the password is the first captain's");
}

#[tokio::test]
async fn a_stop_is_not_handed_around_for_ever() {
    let server = Scripted::answering(|_| async { redirect("/instances/888") }).await;
    let failure = Client::new(&server.url()).unwrap().stop("888").await.unwrap_err();
    assert!(matches!(failure, Error::HandedAround { times: 10, .. }), "{failure:?}");
    assert_eq!(server.lines().len(), 11);
}

#[tokio::test]
async fn only_a_stop_follows_a_redirect() {
    let server = Scripted::answering(|_| async { redirect("http://192.0.2.1/") }).await;
    let client = Client::new(&server.url()).unwrap();
    let start = Start { app: "shop".into(), node: "app-1".into(), ..Start::default() };
    for failure in [client.start(&start, "o").await.err(), client.ping().await.err()] {
        assert!(matches!(failure, Some(Error::Unexpected { .. })), "{failure:?}");
    }
    for location in ["file:///etc/passwd", "http://[", ""] {
        let server = Scripted::answering(move |_| async move { redirect(location) }).await;
        let failure = Client::new(&server.url()).unwrap().stop("888").await.unwrap_err();
        assert!(matches!(failure, Error::Unexpected { .. } | Error::HandedAround { .. }), "{location}: {failure:?}");
    }
}

/// The peers that are none, and what the failure is called.
#[tokio::test]
async fn strangers_are_told_apart() {
    type Is = fn(&Error) -> bool;
    let cases: [(&[u8], Is); 7] = [
        (b"", |error| matches!(error, Error::Interrupted { .. })),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", |error| matches!(error, Error::Interrupted { .. })),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"tot", |error| matches!(error, Error::Interrupted { .. })),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{", |error| matches!(error, Error::TooLarge { .. })),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", |error| matches!(error, Error::Unexpected { source: Some(_), .. })),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", |error| matches!(error, Error::Unexpected { source: Some(_), .. })),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", |error| matches!(error, Error::Unexpected { source: None, .. })),
    ];
    for (bytes, is) in cases {
        let url = blurting(bytes).await;
        let failure = Client::new(&url).unwrap().summary().await.unwrap_err();
        assert!(is(&failure), "{:?}: {failure:?}", String::from_utf8_lossy(bytes));
        assert!(failure.outcome_unknown());
    }
    let failure = Client::new(&nobody().await).unwrap().summary().await.unwrap_err();
    assert!(matches!(failure, Error::Unreachable { .. }) && !failure.outcome_unknown(), "{failure:?}");
}

#[tokio::test]
async fn a_log_is_read_while_it_grows() {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Result<String, std::io::Error>>();
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let server = Scripted::answering(move |_| {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let lines =
            futures_util::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        std::future::ready(text_answer(200, "application/jsonstream", axum::body::Body::from_stream(lines)))
    })
    .await;
    let mut lines = Client::new(&server.url()).unwrap().logs("888", true).await.unwrap();
    for text in ["one\n", "two\n"] {
        // Each is read before the next is sent: nothing is held back.
        sender.send(Ok(format!("{}\n", json!({"msg": text})))).unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap().msg, text);
    }
    sender.send(Err(std::io::Error::other("the server died"))).unwrap();
    let failure = lines.next().await.unwrap().unwrap_err();
    assert!(matches!(failure, Error::Interrupted { .. }), "{failure:?}");
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn the_servers_error_is_whole() {
    let mut body = error(503, "over_capacity", "There aren't enough free slots on app-1 to service your request");
    body["help"] = json!("app-2 has 4 slots free");
    let server = Scripted::answering(move |_| std::future::ready(json_answer(503, &body))).await;
    let start = Start { app: "shop".into(), node: "app-1".into(), ..Start::default() };
    let Err(Error::Server(body)) = Client::new(&server.url()).unwrap().start(&start, "o").await else {
        panic!("an error of the server's");
    };
    assert_eq!((body.code, body.status), (Code::OverCapacity, 503));
    assert_eq!(body.help.as_deref(), Some("app-2 has 4 slots free"));
}
