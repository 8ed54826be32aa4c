//! Calls: what is sent, how often, over how many connections, and what goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use captain_domain::label::Labels;
use captain_domain::{AppName, InstanceId, NodeId, OperationId, Slots, SlugUri, State};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::fake::{CHUNKED, Fake, Reply, Seen, chunk, client};
use crate::engine::docker::{Docker, Endpoint, Settings, Tls, TlsMaterial};
use crate::engine::{CreateSpec, Engine, EngineError, ErrorKind, Inspected, Preparation};

const ID: InstanceId = InstanceId::from_bytes([0xab; 32]);

fn answering(part: &'static str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> impl Fn(&Seen) -> Option<Reply> {
    move |seen| seen.target.contains(part).then(&reply)
}

fn spec() -> CreateSpec {
    CreateSpec {
        name: "demo_1".to_owned(),
        preparation: Preparation::RunnerImage { image: "flynn/slugrunner:0.0.0".to_owned() },
        command: vec!["start".to_owned(), "web".to_owned()],
        labels: Labels {
            app: AppName::parse("demo").unwrap(),
            slots: Slots(2),
            slug_uri: SlugUri::parse("http://s/d.tgz").unwrap(),
            operation: OperationId::from_bytes([7; 16]),
            attempt: None,
        },
        environment: [("PORT", "8080"), ("TOKEN", "hunter2")].into_iter().collect(),
        hostname: None,
        memory_bytes: 256 << 20,
        cpu_shares: 20,
    }
}

#[tokio::test]
async fn nothing_is_asked_before_the_first_call_and_the_version_agreed_on_is_in_each_path() {
    let fake = Fake::tcp(answering("/containers/json", || Reply::Json(200, json!([])))).await;
    let engine = fake.client();
    assert_eq!((fake.connections(), fake.seen().len()), (0, 0));
    engine.list().await.unwrap();
    engine.list().await.unwrap();
    let targets: Vec<_> = fake.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/version", "/v1.41/containers/json?all=true", "/v1.41/containers/json?all=true"]);
}

/// Each call allocates and moves what it holds, and each start makes four. The bound is where the C library's allocator, of a captain
/// that is built without jemalloc, begins to take many times as long.
#[tokio::test]
async fn a_call_holds_little() {
    let engine = Fake::tcp(|_| None).await.client();
    let spec = spec();
    let sizes = [
        size_of_val(&*engine.create(&spec)),
        size_of_val(&*engine.list()),
        size_of_val(&*engine.start(ID)),
        size_of_val(&*engine.inspect(ID)),
    ];
    assert!(sizes.iter().all(|size| *size <= 1_032), "{sizes:?}");
}

#[tokio::test]
async fn a_hundred_calls_share_one_connection() {
    let fake = Fake::tcp(answering("/containers/json", || Reply::Json(200, json!([])))).await;
    let engine = fake.client();
    for _ in 0..100 {
        engine.list().await.unwrap();
    }
    assert_eq!((fake.connections(), fake.seen().len()), (1, 101));
}

#[tokio::test]
async fn refusals_leave_the_connection_usable() {
    let fake = Fake::tcp(answering("/json", || Reply::Json(404, json!({"message": "No such container: ab"})))).await;
    let engine = fake.client();
    for _ in 0..10 {
        assert_eq!(engine.inspect(ID).await.unwrap_err().kind, ErrorKind::NotFound);
    }
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn an_engine_that_was_replaced_is_asked_for_its_version_anew() {
    let replaced = Arc::new(AtomicBool::new(false));
    let older = Arc::clone(&replaced);
    let fake = Fake::tcp(move |seen| match (older.load(Ordering::SeqCst), seen.target.as_str()) {
        (true, "/version") => Some(Reply::Json(200, json!({"ApiVersion": "1.30"}))),
        (true, target) if target.starts_with("/v1.41") => Some(Reply::Json(
            400,
            json!({"message": "client version 1.41 is too new. Maximum supported API version is 1.30"}),
        )),
        (_, target) if target.contains("/containers/json") => Some(Reply::Json(200, json!([]))),
        _ => None,
    })
    .await;
    let engine = fake.client();
    engine.list().await.unwrap();
    replaced.store(true, Ordering::SeqCst);
    engine.list().await.unwrap();
    assert_eq!(fake.seen().last().unwrap().target, "/v1.30/containers/json?all=true");
}

#[tokio::test]
async fn credentials_are_in_each_request_and_in_no_debug() {
    let fake = Fake::tcp(answering("/containers/json", || Reply::Json(401, json!({"message": "who?"})))).await;
    let engine = client(&fake.uri().replace("http://", "http://captain:p%40ss@"), Duration::from_secs(20));
    let error = engine.list().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert_eq!(error.message, "it refuses Captain's credentials: who?");
    assert!(
        fake.seen().iter().all(|seen| seen.head.contains("authorization: Basic Y2FwdGFpbjpwQHNz")),
        "{:?}",
        fake.seen()
    );
    let shown = format!("{engine:?} {error} {error:?}");
    assert!(!shown.contains("p@ss") && !shown.contains("p%40ss") && !shown.contains("Y2FwdGFpbj"), "{shown}");
}

#[tokio::test]
async fn unix_sockets_work() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::unix(&folder.path().join("engine.sock"), |_| None).await;
    let facts = fake.client().facts().await.unwrap();
    assert_eq!(
        (facts.kind, facts.version.as_str(), facts.memory_bytes, facts.cpus),
        ("docker", "20.10.24", 1 << 30, 2)
    );
    assert!(fake.seen().iter().all(|seen| seen.head.contains("host: localhost\r\n")));
}

async fn list_error(script: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> EngineError {
    Fake::tcp(script).await.client().list().await.unwrap_err()
}

#[tokio::test]
async fn no_connection_means_that_nothing_was_done() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = client(&format!("http://{free}"), Duration::from_secs(20)).list().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("could not list containers on app-1: {free} refuses connections: no engine listens there")
    );
    let absent = client("unix:///nonexistent/engine.sock", Duration::from_secs(20)).list().await.unwrap_err();
    assert!(absent.message.contains("there is no socket at /nonexistent/engine.sock"), "{absent}");
    let nameless = client("http://nobody.invalid", Duration::from_secs(20)).list().await.unwrap_err();
    assert!(nameless.message.contains("the name nobody.invalid cannot be resolved"), "{nameless}");
    for error in [refused, absent, nameless] {
        assert_eq!((error.kind, error.is_unknown()), (ErrorKind::Unreachable, false), "{error}");
    }
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_said() {
    // Some certificate, so that the test needs none of the machine's: the handshake never gets as far as looking at it.
    let tls = Tls::new(TlsMaterial { ca: Some(include_bytes!("ca.pem").to_vec()), identity: None });
    let settings = Settings::new(Duration::from_secs(20), Duration::from_secs(20), tls);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    });
    let endpoint = Endpoint::parse(&format!("https://{address}")).unwrap();
    let error = Docker::new(NodeId::trusted("app-1"), endpoint, &settings).unwrap().list().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.contains("does not speak TLS"), "{error}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline_before_and_in_the_middle_of_an_answer() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[".to_owned();
    for (case, said) in [("nothing", String::new()), ("half a body", half), ("half a head", "HTTP/1.1 2".to_owned())] {
        let fake = Fake::tcp(answering("/containers/json", move || Reply::Open(said.clone()))).await;
        let engine = fake.client_with(Duration::from_millis(300));
        let began = Instant::now();
        let error = engine.list().await.unwrap_err();
        assert_eq!((error.kind, error.is_unknown()), (ErrorKind::TimedOut, true), "{case}");
        assert!(began.elapsed() < Duration::from_secs(5), "{case}");
    }
}

#[tokio::test]
async fn a_stop_has_its_grace_beside_the_deadline() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let fake = Fake::tcp(answering("/stop", move || {
        Reply::After(Arc::clone(&closed), Box::new(Reply::Json(204, Value::Null)))
    }))
    .await;
    let engine = fake.client_with(Duration::from_millis(200));
    // The answer comes after the ordinary deadline, and within the grace.
    let opened = async {
        let seen = fake.wait_for("/stop").await;
        assert!(seen.target.ends_with("/stop?t=20"), "{}", seen.target);
        tokio::time::timeout(Duration::from_millis(400), gate.acquire()).await.unwrap_err();
        gate.add_permits(1);
    };
    let (stopped, ()) = tokio::join!(engine.stop(ID, Duration::from_millis(19_500)), opened);
    stopped.unwrap();
}

#[tokio::test]
async fn broken_and_senseless_answers_are_told_apart() {
    use ErrorKind::{Garbled, Interrupted};
    let cases = [
        ("closed at once", String::new(), Interrupted),
        ("closed in the body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]".to_owned(), Interrupted),
        ("closed in the chunks", format!("{CHUNKED}{}", chunk("[")), Interrupted),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), Garbled),
        ("no chunk", format!("{CHUNKED}zzz\r\n"), Garbled),
        ("no JSON", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".to_owned(), Garbled),
        ("other JSON", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(), Garbled),
        ("redirected", "HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned(), Garbled),
    ];
    for (case, said, expected) in cases {
        let error = list_error(answering("/containers/json", move || Reply::Raw(said.clone()))).await;
        assert_eq!((error.kind, error.is_unknown()), (expected, true), "{case}: {error}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let flood = format!("{CHUNKED}{}", chunk(&" ".repeat(8 << 20)).repeat(3));
    let fake = Fake::tcp(answering("/start", move || Reply::Open(flood.clone()))).await;
    let error = fake.client().start(ID).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Garbled, "its answer is larger than 1 MiB"));
}

#[tokio::test]
async fn engines_too_old_are_refused_by_a_sentence() {
    let error =
        list_error(answering("/version", || Reply::Json(200, json!({"Version": "1.9.1", "ApiVersion": "1.21"})))).await;
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("1.9.1 is too old"), "{error}");
}

#[tokio::test]
async fn a_container_is_created_as_the_spec_says() {
    let fake = Fake::tcp(answering("/containers/create", || {
        Reply::Json(201, json!({"Id": ID.to_string(), "Warnings": null}))
    }))
    .await;
    assert_eq!(fake.client().create(&spec()).await.unwrap(), ID);
    let seen = fake.wait_for("/containers/create").await;
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/v1.41/containers/create?name=demo_1"));
    assert!(seen.head.contains("content-type: application/json"));
    assert_eq!(
        (&seen.body["Image"], &seen.body["HostConfig"]["Memory"]),
        (&json!("flynn/slugrunner:0.0.0"), &json!(256 << 20))
    );
}

#[tokio::test]
async fn a_failed_creation_has_its_kind_and_keeps_secrets() {
    let cases = [
        (404, "No such image: flynn/slugrunner:0.0.0", ErrorKind::ImageMissing),
        (409, "Conflict. The container name \"/demo_1\" is already in use", ErrorKind::Conflict),
        (400, "invalid environment variable: TOKEN=hunter2", ErrorKind::Invalid),
        (500, "mkdir /var/lib/docker/overlay2/x: no space left on device", ErrorKind::NoSpace),
        (500, "something else", ErrorKind::Failed),
    ];
    for (status, words, expected) in cases {
        let fake =
            Fake::tcp(answering("/containers/create", move || Reply::Json(status, json!({"message": words})))).await;
        let error = fake.client().create(&spec()).await.unwrap_err();
        assert_eq!(error.kind, expected, "{words}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn what_is_so_already_is_a_success() {
    let fake = Fake::tcp(|seen| (seen.method == "POST").then_some(Reply::Json(304, Value::Null))).await;
    let engine = fake.client();
    engine.start(ID).await.unwrap();
    engine.stop(ID, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn removal_asks_for_what_it_was_asked() {
    let fake = Fake::tcp(|seen| {
        let forced = seen.target.contains("force=true");
        let running =
            json!({"message": "You cannot remove a running container ab. Stop the container before removing it"});
        (seen.method == "DELETE").then_some(if forced {
            Reply::Json(204, Value::Null)
        } else {
            Reply::Json(409, running)
        })
    })
    .await;
    let engine = fake.client();
    assert_eq!(engine.remove(ID, false).await.unwrap_err().kind, ErrorKind::Conflict);
    engine.remove(ID, true).await.unwrap();
    assert_eq!(fake.seen().last().unwrap().target, format!("/v1.41/containers/{ID}?force=true&v=true"));
}

#[tokio::test]
async fn an_operations_container_is_found_by_its_label() {
    let record = json!([{"Id": ID.to_string(), "State": "created", "Labels": null}]);
    let fake = Fake::tcp(answering("filters=", move || Reply::Json(200, record.clone()))).await;
    let found = fake.client().find(OperationId::from_bytes([7; 16])).await.unwrap();
    assert_eq!((found.len(), found[0].id, found[0].state), (1, ID, State::Created));
    let target = fake.seen().last().unwrap().target.clone();
    assert!(target.contains("captain.operation%3D07070707-0707-0707-0707-070707070707"), "{target}");
}

#[tokio::test]
async fn an_odd_container_is_unreadable_and_the_node_is_well() {
    let fake = Fake::tcp(answering("/json", || Reply::Json(200, json!({"Id": 7})))).await;
    assert!(matches!(fake.client().inspect(ID).await.unwrap(), Inspected::Unreadable(_)));
}
