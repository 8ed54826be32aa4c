//! Malformed input in bulk: always JSON, always a status that says whose fault it is, never a container.

use captain_e2e::captain::Captain;
use captain_e2e::http::raw;
use captain_e2e::slugs;
use serde_json::{Value, json};

use crate::{Stage, assert_error};

/// A body that would work.
fn good(stage: &Stage) -> Value {
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    json!({"app": "demo", "node": stage.node().name, "slug_uri": slug})
}

async fn nothing_was_made(stage: &Stage) {
    assert!(stage.node().engine().containers().await.is_empty());
    assert_eq!(stage.captain.node(&stage.node().name).await["slots"]["used"], 0);
    let _ = stage.captain.get("/ping/ping").await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_the_wrong_type_is_400_and_named() {
    let stage = Stage::with(1).await;
    let odd = [json!(true), json!(1.5), json!([]), json!({}), json!(["x"]), json!({"a": 1})];
    let wrong: &[(&str, &[Value])] = &[
        ("app", &[json!(5), Value::Null]),
        ("node", &[json!(5), Value::Null]),
        ("slug_uri", &[json!(5)]),
        ("environment", &[json!("A=b"), json!(5)]),
        ("slots", &[json!("2"), json!(-1), json!(1e99), json!(4_294_967_296_u64)]),
        ("hostname", &[json!(5)]),
        ("slug_runner_version", &[]),
    ];
    for (field, values) in wrong {
        for value in values.iter().chain(&odd) {
            if *field == "environment" && (*value == json!({"a": 1}) || *value == json!({})) {
                continue; // these are fine
            }
            let mut body = good(&stage);
            body[field] = value.clone();
            let answer = stage.captain.post("/instances/", body.to_string()).await;
            let message = assert_error(&answer, 400, "bad_request");
            assert!(message.contains(field), "{field} = {value}: {message}");
        }
    }
    for value in odd.iter().chain(&[Value::Null]).filter(|value| **value != json!(1.5)) {
        let mut body = good(&stage);
        body["environment"] = json!({"NAME": value});
        let message = assert_error(&stage.captain.post("/instances/", body.to_string()).await, 400, "bad_request");
        assert!(message.contains("environment") && message.contains("NAME"), "NAME = {value}: {message}");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_unknown_field_is_400_and_named() {
    let stage = Stage::with(1).await;
    for field in ["app", "node", "slug_uri"] {
        let mut body = good(&stage);
        body.as_object_mut().unwrap().remove(field);
        let message = assert_error(&stage.captain.post("/instances/", body.to_string()).await, 400, "bad_request");
        assert!(message.contains(field), "without {field}: {message}");
    }
    for field in ["slot", "App", "enviroment", "", "a\nb", "ü"] {
        let mut body = good(&stage);
        body[field] = json!(1);
        let answer = stage.captain.post("/instances/", body.to_string()).await;
        let message = assert_error(&answer, 400, "bad_request");
        assert!(field.is_empty() || field.contains('\n') || message.contains(field), "{field}: {message}");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_400() {
    let stage = Stage::with(1).await;
    let deep_list = "[".repeat(100_000);
    let deep_field = format!(r#"{{"environment": {}"#, r#"{"a":"#.repeat(50_000));
    let deep_and_closed =
        format!(r#"{{"app": "a", "environment": {}1{}}}"#, r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
    let bodies: &[&[u8]] = &[
        b"",
        b" ",
        b"null",
        b"[]",
        b"\"text\"",
        b"17",
        b"{",
        b"}",
        b"{]",
        b"{\"app\": }",
        b"{'app': 'x'}",
        b"app=demo&node=app-1",
        b"\xff\xfe\x00",
        b"{\"app\": \"\xff\xfe\"}",
        b"{\"app\": \"\\ud800\"}",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"<xml/>",
        b"{\"app\": NaN}",
        b"\0\0\0\0",
        deep_list.as_bytes(),
        deep_field.as_bytes(),
        deep_and_closed.as_bytes(),
    ];
    for body in bodies {
        let answer = stage.captain.post("/instances/", body.to_vec()).await;
        assert_error(&answer, 400, "bad_request");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_work_is_422_and_named() {
    let stage = Stage::with(1).await;
    let long = "x".repeat(5_000);
    let values: &[(&str, Value)] = &[
        ("app", json!("")),
        ("app", json!("with space")),
        ("app", json!("slash/es")),
        ("app", json!("grün")),
        ("app", json!("new\nline")),
        ("app", json!("nul\0")),
        ("app", json!("../up")),
        ("app", json!(long)),
        ("slug_uri", json!("")),
        ("slug_uri", json!("no uri")),
        ("slug_uri", json!("http://host/with\nline")),
        ("hostname", json!("under score")),
        ("hostname", json!(long)),
        ("hostname", json!("-x")),
        ("slug_runner_version", json!("no such:tag/")),
        ("slug_runner_version", json!("grün")),
        ("environment", json!({"": "x"})),
        ("environment", json!({"A=B": "x"})),
        ("environment", json!({"A": "nul\0"})),
    ];
    for (field, value) in values {
        let mut body = good(&stage);
        body[field] = value.clone();
        let answer = stage.captain.post("/instances/", body.to_string()).await;
        let code = if answer.status == 400 { "bad_request" } else { "unprocessable" };
        let message = assert_error(&answer, answer.status.as_u16(), code);
        assert!([400, 422].contains(&answer.status.as_u16()), "{field} = {value}: {}", answer.text());
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_without_a_template_is_an_error_that_names_the_setting() {
    let stage = Stage::with(1).await;
    let body = json!({"app": "demo", "node": stage.node().name, "version": "47"}).to_string();
    let answer = stage.captain.post("/instances/", body).await;
    assert!([400, 422].contains(&answer.status.as_u16()), "{}", answer.text());
    assert!(answer.text().contains("SLUG_PATH"), "{}", answer.text());
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_taken() {
    let stage = Stage::with(1).await;
    let body = good(&stage).to_string();
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "nonsense",
        "",
    ] {
        let answer =
            stage.captain.endpoint().send("POST", "/instances/", &[("content-type", media)], body.clone()).await;
        assert_error(&answer, 415, "unsupported_media_type");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_413() {
    let stage = Stage::with(1).await;
    let mut body = good(&stage);
    body["environment"] = json!({"LONG": "x".repeat(20_000_000)});
    let body = body.to_string();
    let announced = format!(
        "POST /instances/ HTTP/1.1\r\nhost: captain\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(stage.captain.address(), announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");

    let head = "POST /instances/ HTTP/1.1\r\nhost: captain\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let answer = raw(stage.captain.address(), chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_environment_that_is_allowed_works() {
    let stage = Stage::with(1).await;
    let mut body = good(&stage);
    body["environment"] = json!({"LONG": "x".repeat(50_000)});
    let instance = stage.captain.start(body).await.expect(201).json();
    assert_eq!(instance["environment"]["LONG"].as_str().unwrap().len(), 50_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_harms_nobody() {
    let stage = Stage::with(1).await;
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: captain\r\n\r\n", "x".repeat(200_000));
    let long_header = format!("GET /ping/ping HTTP/1.1\r\nhost: captain\r\nx: {}\r\n\r\n", "x".repeat(2_000_000));
    let requests: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /ping/ping HTTP/9.9\r\n\r\n",
        b"GET /ping/ping HTTP/1.1\r\nhost captain\r\n\r\n",
        b"POST /instances/ HTTP/1.1\r\nhost: c\r\ncontent-length: -5\r\n\r\n",
        b"POST /instances/ HTTP/1.1\r\nhost: c\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /instances/ HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long_path.as_bytes(),
        long_header.as_bytes(),
    ];
    for request in requests {
        let answer = raw(stage.captain.address(), request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    nothing_was_made(&stage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_paths_are_answered_properly() {
    let stage = Stage::with(1).await;
    for path in odd_paths() {
        for method in ["GET", "DELETE"] {
            let answer = stage.captain.endpoint().send(method, &path, &[], "").await;
            assert!((400..500).contains(&answer.status.as_u16()), "{method} {path}: {}", answer.text());
            assert!(answer.json()["message"].is_string(), "{method} {path}: {}", answer.text());
        }
    }
    still_well(&stage.captain).await;
}

fn odd_paths() -> Vec<String> {
    let long = "f".repeat(4_000);
    let ids =
        ["%00", "%ff%fe", "..", "%2e%2e", "%2F", "a%20b", "'", "%22%3E%3Cscript%3E", "0", "-1", &long, "%f0%9f%90%b3"];
    ids.iter()
        .flat_map(|id| [format!("/instances/{id}"), format!("/instances/{id}/logs"), format!("/nodes/{id}")])
        .collect()
}

async fn still_well(captain: &Captain) {
    let _ = captain.get("/ping/ping").await.expect(204);
    let _ = captain.get("/instances/").await.expect(200);
}
