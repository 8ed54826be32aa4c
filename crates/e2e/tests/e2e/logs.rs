//! Logs: one JSON object a line, from the beginning, as they come.

use std::time::{Duration, Instant};

use captain_e2e::slugs;
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

/// The messages of a body of JSON lines.
#[track_caller]
fn messages(body: &str) -> Vec<String> {
    let lines = body
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line:?}")));
    lines.map(|line| line["msg"].as_str().unwrap_or_else(|| panic!("no msg: {line}")).to_owned()).collect()
}

async fn ended(stage: &Stage, script: &str) -> String {
    let slug = stage.origin.offer("script.tgz", slugs::script(script));
    let id = id(&stage.captain.started("script", &stage.node().name, &slug).await);
    stage.captain.instance_becomes(&id, "exited").await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_from_the_beginning_and_one_empty_line_at_the_end() {
    let stage = Stage::with(1).await;
    let id = ended(&stage, "echo line one\nsleep 0.2\necho to stderr >&2\nsleep 0.2\nprintf 'no line feed'").await;
    for query in ["", "?follow=0", "?follow=2", "?follow=-1"] {
        let answer = stage.captain.get(&format!("/instances/{id}/logs{query}")).await.expect(200);
        assert_eq!(answer.header("content-type"), "application/jsonstream");
        let messages = messages(&answer.text());
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert_eq!(&messages[..2], ["line one\n", "to stderr\n"]);
        assert_eq!(messages[2].trim_end(), "no line feed");
        assert_eq!(messages[3], "\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_output_there_is_the_one_empty_line() {
    let stage = Stage::with(1).await;
    let id = ended(&stage, "exit 0").await;
    assert_eq!(messages(&stage.captain.get(&format!("/instances/{id}/logs")).await.text()), ["\n"]);
    let followed =
        stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await.end(Duration::from_secs(10)).await;
    assert!(followed.is_empty(), "with follow it just ends: {followed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_utf8_become_the_replacement_character() {
    let stage = Stage::with(1).await;
    let id = ended(&stage, r#"printf 'gr\303\274n \377\376 end\nquote " and \134 and \001\n'"#).await;
    let messages = messages(&stage.captain.get(&format!("/instances/{id}/logs")).await.text());
    assert_eq!(&messages[..2], ["grün \u{fffd}\u{fffd} end\n", "quote \" and \\ and \u{1}\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_is_an_integer() {
    let stage = Stage::with(1).await;
    let id = ended(&stage, "echo hello").await;
    for wrong in ["yes", "true", "", "1.5", "%00", "999999999999999999999999999999x"] {
        let message =
            assert_error(&stage.captain.get(&format!("/instances/{id}/logs?follow={wrong}")).await, 400, "bad_request");
        assert!(message.contains("follow"), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn following_shows_headers_at_once_and_lines_as_they_come_and_ends_with_the_instance() {
    let stage = Stage::with(1).await;
    let script = "trap 'echo goodbye; exit 0' TERM\nwhile [ ! -f /tmp/go ]; do sleep 0.1; done\necho first\nwhile :; do sleep 1 & wait $!; done";
    let slug = stage.origin.offer("quiet.tgz", slugs::script(script));
    let id = id(&stage.captain.started("quiet", &stage.node().name, &slug).await);

    let begin = Instant::now();
    let mut logs = stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "headers came after {:?}, with no output yet", begin.elapsed());
    assert_eq!(logs.status, 200);
    assert_eq!(logs.headers["content-type"], "application/jsonstream");

    exec(&stage, &id, "touch /tmp/go").await;
    let seen = logs.until("first", Duration::from_secs(5)).await; // not held back until the next line
    assert_eq!(messages(&seen), ["first\n"]);
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
    assert_eq!(messages(&logs.end(Duration::from_secs(5)).await), ["first\n", "goodbye\n"]);
}

/// Runs a command in an instance, past Captain.
async fn exec(stage: &Stage, id: &str, command: &str) {
    let engine = stage.node().engine();
    let wish = json!({"Cmd": ["sh", "-c", command], "AttachStdout": false});
    let exec = engine.call("POST", &format!("/containers/{id}/exec"), wish).await.expect(201).json();
    let start = format!("/exec/{}/start", exec["Id"].as_str().unwrap());
    let _ = engine.call("POST", &start, json!({"Detach": true})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_followers_see_the_same() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("counting.tgz", slugs::script("for n in 1 2 3 4 5; do echo $n; sleep 0.2; done"));
    let id = id(&stage.captain.started("counting", &stage.node().name, &slug).await);
    let path = format!("/instances/{id}/logs?follow=1");
    let follow = || async { stage.captain.stream(&path).await.end(Duration::from_secs(20)).await };
    let (a, b, c) = tokio::join!(follow(), follow(), follow());
    for seen in [a, b, c] {
        assert_eq!(messages(&seen), ["1\n", "2\n", "3\n", "4\n", "5\n"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_costs_no_memory_and_holds_nobody_up() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("flood.tgz", slugs::script(slugs::FLOOD));
    let id = id(&stage.captain.started("flood", &stage.node().name, &slug).await);
    let path = format!("/instances/{id}/logs?follow=1");
    let before = stage.captain.resident_memory();
    let mut deaf = stage.captain.stream(&path).await;
    deaf.until("a line of a flood", Duration::from_secs(10)).await; // and from here on it reads no more

    // Meanwhile another one reads 30 MB.
    let mut reader = stage.captain.stream(&path).await;
    let mut grown = 0;
    for _ in 0..30 {
        reader.skip(1_000_000, Duration::from_secs(20)).await;
        grown = grown.max(stage.captain.resident_memory().saturating_sub(before));
    }
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes more for a client that does not read");
    drop(deaf);
    let _ = stage.captain.delete(&format!("/instances/{id}")).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endless_line_is_no_trouble() {
    let stage = Stage::with(1).await;
    let slug =
        stage.origin.offer("endless.tgz", slugs::script("head -c 3000000 /dev/zero | tr '\\0' x\necho\necho done"));
    let id = id(&stage.captain.started("endless", &stage.node().name, &slug).await);
    stage.captain.instance_becomes(&id, "exited").await;
    let messages = messages(&stage.captain.get(&format!("/instances/{id}/logs")).await.expect(200).text());
    let length: usize = messages.iter().map(|message| message.matches('x').count()).sum();
    assert_eq!(length, 3_000_000, "in {} pieces", messages.len());
    assert!(messages.iter().any(|message| message == "done\n"));
}
