//! Streams: pulls, output, events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use captain_domain::InstanceId;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::Semaphore;

use super::fake::{CHUNKED, Fake, Reply, Seen, chunk};
use crate::engine::{Engine, EngineError, ErrorKind, Hint, Output, Preparation};

const ID: InstanceId = InstanceId::from_bytes([0xab; 32]);
const BOUND: Duration = Duration::from_secs(20);

fn event(action: &str) -> String {
    chunk(&format!("{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{ID}\"}}}}\n"))
}

#[tokio::test]
async fn a_subscription_stands_before_it_is_given_out_and_has_no_gap_behind_it() {
    let gate = Arc::new(Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let fake = Fake::tcp(move |seen| {
        let open = || Reply::Open(CHUNKED.to_owned());
        seen.target.contains("/events").then(|| Reply::After(Arc::clone(&closed), Box::new(open())))
    })
    .await;
    let engine = fake.client_with(BOUND);
    let mut subscribing = engine.events();
    let seen = tokio::select! {
        _ = &mut subscribing => panic!("given out before the engine answered"),
        seen = fake.wait_for("/events") => seen,
    };
    // The engine's own clock, from its Date header: 2026-11-22T10:00:00Z.
    assert!(seen.target.starts_with("/v1.41/events?since=1795341600&filters="), "{}", seen.target);
    gate.add_permits(1);
    let mut hints = subscribing.await.unwrap();
    fake.push(event("exec_create: sh") + &event("die"));
    assert_eq!(hints.next().await.unwrap().unwrap(), Hint { id: ID, begins: false });
    fake.push("0\r\n\r\n".to_owned());
    assert!(hints.next().await.is_none());
}

#[tokio::test]
async fn a_subscription_that_is_not_answered_ends_at_the_deadline() {
    let fake = Fake::tcp(|seen| seen.target.contains("/events").then(|| Reply::Open(String::new()))).await;
    let error = fake.client_with(Duration::from_millis(300)).events().await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_broken_event_stream_says_so_once_and_ends() {
    for (said, expected) in
        [(event("die"), ErrorKind::Interrupted), (event("die") + &chunk("<html>\n"), ErrorKind::Garbled)]
    {
        let fake =
            Fake::tcp(move |seen| seen.target.contains("/events").then(|| Reply::Raw(format!("{CHUNKED}{said}"))))
                .await;
        let hints: Vec<_> = fake.client().events().await.unwrap().collect().await;
        assert_eq!(hints.len(), 2);
        assert_eq!(hints[0].as_ref().unwrap().id, ID);
        assert_eq!(hints[1].as_ref().unwrap_err().kind, expected);
    }
}

/// A container whose output is `said`, and whose engine does what `follow` says on a followed request.
fn writing(logs: impl Fn(bool) -> Reply + Send + Sync + 'static) -> impl Fn(&Seen) -> Option<Reply> {
    move |seen| {
        if seen.target.ends_with("/json") {
            return Some(Reply::Json(200, json!({"Config": {"Tty": false}})));
        }
        seen.target.contains("/logs").then(|| logs(seen.target.contains("follow=true")))
    }
}

const OUTPUT: &str = "\u{1}\0\0\0\0\0\0\u{4}one\n\u{2}\0\0\0\0\0\0\u{4}two\n";

#[tokio::test]
async fn output_is_read_to_its_end_with_both_streams_apart() {
    let fake = Fake::tcp(writing(|_| Reply::Raw(format!("{CHUNKED}{}0\r\n\r\n", chunk(OUTPUT))))).await;
    let chunks: Vec<_> = fake.client().logs(ID, false).await.unwrap().map(Result::unwrap).collect().await;
    let shown: Vec<_> = chunks.iter().map(|chunk| (chunk.output, &chunk.bytes[..])).collect();
    assert_eq!(shown, [(Output::Stdout, &b"one\n"[..]), (Output::Stderr, &b"two\n"[..])]);
}

#[tokio::test]
async fn following_begins_before_the_first_output() {
    // As Docker 20.10: not even a head before there is something to say.
    let fake =
        Fake::tcp(writing(|follow| if follow { Reply::Open(String::new()) } else { Reply::Json(500, json!({})) }))
            .await;
    let engine = fake.client_with(Duration::from_secs(10));
    let mut chunks = engine.logs(ID, true).await.unwrap();
    let first = async {
        fake.wait_for("follow=true").await;
        fake.push(format!("{CHUNKED}{}", chunk(OUTPUT)));
    };
    let (chunk, ()) = tokio::join!(chunks.next(), first);
    assert_eq!(&chunk.unwrap().unwrap().bytes[..], b"one\n");
}

#[tokio::test]
async fn output_of_nothing_is_an_error_of_the_call() {
    let fake = Fake::tcp(|seen| {
        seen.target.contains("/containers/").then(|| Reply::Json(404, json!({"message": "No such container: ab"})))
    })
    .await;
    for follow in [false, true] {
        let error = fake.client().logs(ID, follow).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn output_that_breaks_off_says_so() {
    let fake = Fake::tcp(writing(|_| Reply::Raw(format!("{CHUNKED}{}", chunk(&OUTPUT[..10]))))).await;
    let chunks: Vec<_> = fake.client().logs(ID, false).await.unwrap().collect().await;
    assert_eq!(chunks.len(), 2);
    assert_eq!(chunks[1].as_ref().unwrap_err().kind, ErrorKind::Interrupted);
}

/// What a pull gives: the engine lacks the image until `lines` have been sent, and has it then where `arrives` is set.
async fn pulled(arrives: bool, head: Option<Reply>, lines: &str) -> (Result<(), EngineError>, Vec<String>, Vec<Seen>) {
    let asked = AtomicUsize::new(0);
    let head = Mutex::new(head);
    let body = format!("{CHUNKED}{}0\r\n\r\n", chunk(lines));
    let fake = Fake::tcp(move |seen| {
        if seen.target.contains("/images/create") {
            return Some(head.lock().unwrap().take().unwrap_or_else(|| Reply::Raw(body.clone())));
        }
        seen.target.contains("/images/").then(|| match asked.fetch_add(1, Ordering::SeqCst) > 0 && arrives {
            true => Reply::Json(200, json!({"Id": "sha256:1"})),
            false => Reply::Json(404, json!({"message": "No such image: registry:5000/runner:1"})),
        })
    })
    .await;
    let told = Mutex::new(Vec::new());
    let preparation = Preparation::RunnerImage { image: "registry:5000/runner:1".to_owned() };
    let result = fake.client().prepare(&preparation, &|sentence| told.lock().unwrap().push(sentence)).await;
    (result, told.into_inner().unwrap(), fake.seen())
}

#[tokio::test]
async fn a_missing_image_is_pulled() {
    let (result, told, seen) = pulled(true, None, "{\"status\":\"Pulling from runner\"}\r\nodd\n").await;
    result.unwrap();
    assert_eq!(told, ["pulling registry:5000/runner:1"]);
    let targets: Vec<_> = seen.iter().skip(1).map(|seen| seen.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/v1.41/images/registry:5000/runner:1/json",
            "/v1.41/images/create?fromImage=registry%3A5000%2Frunner&tag=1",
            "/v1.41/images/registry:5000/runner:1/json"
        ]
    );
}

#[tokio::test]
async fn a_pull_that_fails_names_the_image_however_the_engine_says_it() {
    let refused = |status, words: &str| Some(Reply::Json(status, json!({"message": words})));
    let cases = [
        (pulled(true, refused(404, "pull access denied for runner"), "").await, "pull access denied"),
        (pulled(true, refused(500, "Get https://registry:5000/v2/: refused"), "").await, "refused"),
        (
            pulled(true, None, "{\"errorDetail\":{\"message\":\"x\"},\"error\":\"manifest unknown\"}\n").await,
            "manifest unknown",
        ),
        (pulled(false, None, "{\"status\":\"Done\"}\n").await, "does not have it"),
    ];
    for ((result, ..), words) in cases {
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ImageUnavailable, "{error}");
        assert!(error.message.contains("registry:5000/runner:1") && error.message.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_pull_that_breaks_off_or_fills_the_disk_is_not_the_images_fault() {
    let broken = Reply::Raw(format!("{CHUNKED}{}", chunk("{\"status\":\"Downloading\"}\n")));
    let (result, ..) = pulled(true, Some(broken), "").await;
    assert_eq!(result.unwrap_err().kind, ErrorKind::Interrupted);
    let (result, ..) = pulled(true, None, "{\"error\":\"write /var/lib/x: no space left on device\"}\n").await;
    assert_eq!(result.unwrap_err().kind, ErrorKind::NoSpace);
}
