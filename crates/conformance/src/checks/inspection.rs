//! What an inspection says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use captain_domain::{Hostname, State, Timestamp};
use captain_server::engine::{CreateSpec, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stage::{LONG_GRACE, Stage, eventually, read, with_variables};
use crate::subject::App;

/// What shells, JSON and lists of `NAME=value` might trip over.
const ODD: &[(&str, &str)] = &[
    ("PLAIN", "value"),
    ("EMPTY", ""),
    ("EQUALS", "a=b=c"),
    ("QUOTES", r#"it's "so" \ so"#),
    ("DOLLAR", "$HOME ${PATH} `id` $(id)"),
    ("LINES", "one\ntwo\n"),
    ("WIDE", "Grüße, 世界"),
    ("lower.dotted-name", "x"),
];

pub(super) async fn an_inspection_gives_back_what_was_given(stage: Arc<Stage>) {
    let mut spec = stage.spec(&App::Idle);
    spec.environment = with_variables(&spec.environment, ODD);
    let id = stage.create(&spec).await;
    for state in [State::Created, State::Running, State::Exited] {
        match state {
            State::Running => stage.engine.start(id).await.unwrap(),
            State::Exited => stage.engine.stop(id, LONG_GRACE).await.unwrap(),
            _ => {}
        }
        let instance = stage.instance(id).await;
        assert_eq!(instance.state, state);
        assert_eq!((instance.id, &instance.node), (id, stage.engine.node()));
        assert_eq!((&instance.app, instance.slots), (&spec.labels.app, spec.labels.slots));
        assert_eq!(instance.slug_uri, spec.labels.slug_uri);
        assert_eq!(instance.operation, Some(spec.labels.operation));
        let mut expected = ODD.to_vec();
        expected.sort_unstable();
        assert_eq!(instance.environment.iter().collect::<Vec<_>>(), expected, "{state:?}");
    }
}

pub(super) async fn a_host_name_is_the_one_asked_for_or_the_beginning_of_the_id(stage: Arc<Stage>) {
    let id = stage.create(&stage.spec(&App::Idle)).await;
    assert_eq!(stage.instance(id).await.hostname.as_str(), id.short());
    let wished = Hostname::parse("web-1.example").unwrap();
    let spec = CreateSpec { hostname: Some(wished.clone()), ..stage.spec(&App::Idle) };
    let id = stage.create(&spec).await;
    assert_eq!(stage.instance(id).await.hostname, wished);
}

pub(super) async fn the_app_gets_its_environment(stage: Arc<Stage>) {
    for (name, value) in [("QUOTES", ODD[3].1), ("DOLLAR", ODD[4].1), ("LINES", ODD[5].1), ("WIDE", ODD[6].1)] {
        let mut spec = stage.spec(&App::Shows(name));
        spec.environment = with_variables(&spec.environment, ODD);
        let id = stage.create(&spec).await;
        stage.engine.start(id).await.unwrap();
        stage.becomes(id, State::Exited).await;
        assert_eq!(read(stage.engine.logs(id, false).await.unwrap(), Output::Stdout).await, value, "{name}");
    }
}

pub(super) async fn times_are_told(stage: Arc<Stage>) {
    let before = now();
    let id = stage.create(&stage.spec(&App::Idle)).await;
    let created = stage.instance(id).await;
    assert_eq!((created.started, created.exit), (None, None), "nothing of it has happened");
    stage.engine.start(id).await.unwrap();
    let running = stage.instance(id).await;
    let started = running.started.expect("when it was started");
    assert_eq!((running.created, running.exit), (created.created, None));
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    let ended = stage.instance(id).await;
    let at = ended.exit.and_then(|exit| exit.at).expect("when it ended");
    assert_eq!((ended.created, ended.started), (created.created, Some(started)));
    // Whole seconds will do for a reader; the order must be right all the same.
    let slack = Duration::from_secs(1);
    let order = [earlier(before, slack), created.created, started, at, later(now(), slack)];
    assert!(order.is_sorted(), "created, started and ended in no order: {order:?}");
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0 - i64::try_from(by.as_millis()).unwrap())
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0 + i64::try_from(by.as_millis()).unwrap())
}

pub(super) async fn a_port_is_told_while_it_runs_and_leads_to_it(stage: Arc<Stage>) {
    let id = stage.create(&stage.spec(&App::Serves)).await;
    assert_eq!(stage.instance(id).await.port, None, "it has not been started");
    stage.engine.start(id).await.unwrap();
    let port = stage.instance(id).await.port.expect("the port of what runs");
    let second = stage.started(&App::Serves).await;
    assert_ne!(stage.instance(second).await.port, Some(port), "two instances have one port");
    let address = stage.subject.reach(port);
    eventually("the app to answer on its port", || async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.contains("hello").then_some(())
    })
    .await;
    stage.engine.stop(id, LONG_GRACE).await.unwrap();
    assert_eq!(stage.instance(id).await.port, None, "somebody else may have it by now");
}
