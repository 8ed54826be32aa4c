//! Each command as a process against a server that follows a script: what it asks, what it prints where, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

mod scripted;

use scripted::{Ended, Scripted, ago, blurting, captain, error, instance, json_answer, nobody, node, text_answer};
use serde_json::{Value, json};

fn ended(code: i32, stdout: &str, stderr: &str) -> Ended {
    Ended { code: Some(code), stdout: stdout.to_owned(), stderr: stderr.to_owned() }
}

#[tokio::test]
async fn ps_lists_instances_and_marks_those_that_cannot_be_seen() {
    let exit = json!({"code": 137, "signal": 9, "out_of_memory": true, "at": ago(300),
        "reason": "killed: it used more memory than its 2 slots"});
    let gone = json!({"state": "unknown", "node_state": "unreachable"});
    let instances = json!([
        instance('3', "worker", "app-2", gone),
        instance('2', "shop", "app-1", json!({"state": "exited", "port": null, "slots": 110, "exit": exit})),
        instance('1', "random-frontend", "app-1", json!({})),
    ]);
    let known = json!({"slots": {"free": 8, "total": 10, "used": 2}, "at": ago(180), "age_seconds": 180});
    let nodes = json!([
        node("app-1", 2, 10, json!({})),
        node("app-2", 0, 0, json!({"state": "unreachable: connection refused", "last_known": known})),
        node("app-3", 0, 0, json!({"state": "unreachable: no such host"})),
    ]);
    let server = Scripted::answering(move |asked| {
        let answer = json_answer(200, if asked.target.starts_with("/nodes") { &nodes } else { &instances });
        std::future::ready(answer)
    })
    .await;
    let table = "\
ID            APP              NODE    PORT  SLOTS  STATE                                                        AGE  SLUG
111111111111  random-frontend  app-1  49490      2  running                                                       3h  http://slugs/random-frontend.tgz
222222222222  shop             app-1      -    110  exited 5m ago: killed: it used more memory than its 2 slots   3h  http://slugs/shop.tgz
333333333333  worker           app-2  49490      2  unknown: node unreachable                                     3h  http://slugs/worker.tgz
";
    let warning = "warning: app-2 is unreachable: connection refused; its instances are shown as they were 3m ago\n";
    assert_eq!(
        captain(&server.url(), &["ps", "--all", "--node", "app-1", "--app", "shop"]).await,
        ended(0, table, warning)
    );
    assert_eq!(server.lines(), ["GET /instances/?node=app-1&app=shop&state=all", "GET /nodes/"]);
}

#[tokio::test]
async fn nothing_to_list_is_said_on_stderr() {
    let empty = Scripted::always(200, json!([])).await;
    let cases: [(&[&str], &str); 6] = [
        (&["ps"], "no instances run; --all lists those that have ended as well\n"),
        (&["ps", "-a"], "there are no instances\n"),
        (&["ps", "--app", "shop"], "no such instances\n"),
        (&["ps", "--state", "exited"], "no such instances\n"),
        (&["nodes"], "this captain has no nodes\n"),
        (&["claims"], "no start is under way\n"),
    ];
    for (arguments, said) in cases {
        assert_eq!(captain(&empty.url(), arguments).await, ended(0, "", said), "{arguments:?}");
    }
    let none = Scripted::always(200, json!({"total_instances": 0, "apps": {}})).await;
    assert_eq!(captain(&none.url(), &["summary"]).await, ended(0, "", "no instances run\n"));
}

#[tokio::test]
async fn json_is_the_servers_own() {
    let document = r#"[ {"id":"1", "from_the_future": 1.50} ]"#;
    let server = Scripted::answering(move |_| async move { text_answer(200, "application/json", document) }).await;
    let cases: [&[&str]; 5] = [&["ps"], &["nodes"], &["summary"], &["claims"], &["claims", "x"]];
    for command in cases {
        let arguments = [command, &["--json"]].concat();
        assert_eq!(captain(&server.url(), &arguments).await, ended(0, &format!("{document}\n"), ""), "{command:?}");
    }
    let start = ["start", "shop", "--node", "app-1", "--slug", "http://s/s.tgz", "--json"];
    assert_eq!(captain(&server.url(), &start).await, ended(0, &format!("{document}\n"), ""));
}

#[tokio::test]
async fn nodes_shows_slots_and_says_what_is_wrong() {
    let last = json!({"slots": {"free": 32, "total": 110, "used": 78}, "at": ago(240), "age_seconds": 240});
    let server = Scripted::always(
        200,
        json!([
            node("app-2", 0, 0, json!({"state": "unreachable: connection refused", "since": ago(240), "engine": null, "last_known": last})),
            node("app-1", 32, 110, json!({"warnings": ["110 slots need 14.1 GB; the machine has 8.3 GB"]})),
        ]),
    )
    .await;
    let table = "\
NODE   STATE        FREE  USED  TOTAL  ENGINE
app-1  healthy        32    78    110  docker 20.10.24
app-2  unreachable     -     -      -  -
";
    let talk = "\
warning: app-1: 110 slots need 14.1 GB; the machine has 8.3 GB
warning: app-2 is unreachable: connection refused (for 4m; 4m ago, 32 of its 110 slots were free)
";
    assert_eq!(captain(&server.url(), &["nodes"]).await, ended(0, table, talk));
}

#[tokio::test]
async fn summary_counts_apps() {
    let server = Scripted::always(200, json!({"total_instances": 13, "apps": {"bee": 1, "demo": 12}})).await;
    let table = "APP   INSTANCES\nbee           1\ndemo         12\n";
    assert_eq!(captain(&server.url(), &["summary"]).await, ended(0, table, "13 instances of 2 apps\n"));
}

#[tokio::test]
async fn claims_tells_how_far_starts_are() {
    let claim = json!({"operation": "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11", "app": "shop", "node": "app-1", "slots": 2,
        "phase": "preparing", "detail": "pulling flynn/slugrunner:0.0.0", "since": ago(7200)});
    let listed = claim.clone();
    let server = Scripted::answering(move |asked| {
        let answer = if asked.target == "/claims/" { json!([listed]) } else { listed.clone() };
        std::future::ready(json_answer(200, &answer))
    })
    .await;
    let table = "\
OPERATION                             APP   NODE   SLOTS  PHASE      AGE  DETAIL
0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11  shop  app-1      2  preparing   2h  pulling flynn/slugrunner:0.0.0
";
    assert_eq!(captain(&server.url(), &["claims"]).await, ended(0, table, ""));
    assert_eq!(captain(&server.url(), &["claims", "0b8c"]).await, ended(0, table, ""));
    assert_eq!(server.lines(), ["GET /claims/", "GET /claims/0b8c"]);
    let over = Scripted::always(404, error(404, "no_such_claim", "no start 0b8c is under way")).await;
    assert_eq!(captain(&over.url(), &["claims", "0b8c"]).await, ended(4, "", "error: no start 0b8c is under way\n"));
}

#[tokio::test]
async fn an_empty_list_is_not_taken_for_the_whole_truth_while_nodes_are_silent() {
    let ill = json!({"state": "unreachable: connection refused"});
    let nodes = json!([node("app-2", 0, 0, ill.clone()), node("app-1", 4, 4, json!({})), node("app-3", 0, 0, ill)]);
    let server = Scripted::answering(move |asked| {
        let answer = if asked.target == "/nodes/" { nodes.clone() } else { json!([]) };
        std::future::ready(json_answer(200, &answer))
    })
    .await;
    let said = "\
no instances run; --all lists those that have ended as well
warning: these nodes do not answer, and what runs on them is not known: app-2, app-3
";
    assert_eq!(captain(&server.url(), &["ps"]).await, ended(0, "", said));
}

/// Stops everything but `missing` and `busy`.
async fn stopping() -> Scripted {
    Scripted::answering(|asked| {
        std::future::ready(match asked.target.as_str() {
            "/instances/missing" => json_answer(404, &error(404, "no_such_instance", "there is no instance missing")),
            "/instances/busy" => json_answer(503, &error(503, "busy", "captain is shutting down")),
            _ => text_answer(204, "text/plain", ""),
        })
    })
    .await
}

#[tokio::test]
async fn stop_goes_on_after_a_failure_and_its_code_tells() {
    let url = stopping().await.url();
    assert_eq!(captain(&url, &["stop", "aaa"]).await, ended(0, "aaa\n", ""));
    let missing = "error: there is no instance missing\n";
    assert_eq!(captain(&url, &["stop", "missing", "aaa"]).await, ended(4, "aaa\n", missing));
    assert_eq!(captain(&url, &["stop", "missing", "missing"]).await.code, Some(4));
    assert_eq!(captain(&url, &["stop", "missing", "busy"]).await.code, Some(1));
    let mixed = captain(&url, &["stop", "--json", "missing", "aaa"]).await;
    let document: Value = serde_json::from_str(&mixed.stdout).unwrap();
    assert_eq!(document[0]["id"], "missing");
    assert_eq!(document[0]["error"]["code"], "no_such_instance");
    assert_eq!(document[1], json!({"id": "aaa", "stopped": true}));
    assert_eq!(mixed.code, Some(4));
    let all = captain(&url, &["stop", "a", "b", "c", "d"]).await;
    let mut stopped: Vec<&str> = all.stdout.lines().collect();
    stopped.sort_unstable();
    assert_eq!(stopped, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn logs_prints_what_the_instance_wrote_and_no_more() {
    let log = "{\"msg\":\"one\\n\"}\n{\"msg\":\"\\n\"}\n{\"msg\":\"\\u001b[31mtwo\\n\"}\n{\"msg\":\"\\n\"}\n";
    let server = Scripted::answering(move |asked| {
        let body = if asked.target.contains("/empty/") { "{\"msg\":\"\\n\"}\n" } else { log };
        std::future::ready(text_answer(200, "application/jsonstream", body))
    })
    .await;
    let url = server.url();
    assert_eq!(captain(&url, &["logs", "888"]).await, ended(0, "one\n\n\u{1b}[31mtwo\n", ""));
    assert_eq!(captain(&url, &["logs", "empty"]).await, ended(0, "", ""));
    assert_eq!(captain(&url, &["logs", "888", "-f"]).await, ended(0, "one\n\n\u{1b}[31mtwo\n\n", ""));
    assert_eq!(captain(&url, &["logs", "888", "--json"]).await, ended(0, log, ""));
    let missing = Scripted::always(404, error(404, "no_such_instance", "there is no instance 888")).await;
    assert_eq!(captain(&missing.url(), &["logs", "888"]).await, ended(4, "", "error: there is no instance 888\n"));
}

#[tokio::test]
async fn a_log_that_breaks_off_is_printed_as_far_as_it_came() {
    let url = blurting(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"msg\":\"one\\n\"}\n{\"ms").await;
    let cut = captain(&url, &["logs", "888"]).await;
    assert_eq!((cut.code, cut.stdout.as_str()), (Some(3), "one\n"));
    assert!(
        cut.stderr.starts_with(&format!("error: {url}/instances/888/logs?follow=0 gave no whole answer: ")),
        "{cut:?}"
    );
}

#[tokio::test]
async fn start_sends_what_it_was_told_and_prints_the_id() {
    let server = Scripted::always(201, instance('8', "shop", "app-1", json!({}))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.env");
    std::fs::write(&file, "# settings\nA=file\nB=x y\n").unwrap();
    let file = file.to_str().unwrap();
    let arguments = [
        "start",
        "shop",
        "--node",
        "app-1",
        "--slug",
        "http://s/s.tgz",
        "--env",
        "A=line",
        "-e",
        "C=a=b",
        "--env-file",
        file,
        "--slots",
        "3",
        "--hostname",
        "till",
        "--runner-version",
        "1.2",
    ];
    assert_eq!(captain(&server.url(), &arguments).await, ended(0, &format!("{}\n", "8".repeat(64)), ""));
    let asked = server.asked();
    let post = asked.iter().find(|asked| asked.method == "POST").unwrap();
    let body: Value = serde_json::from_str(&post.body).unwrap();
    let expected = json!({"app": "shop", "node": "app-1", "slug_uri": "http://s/s.tgz", "slots": 3, "hostname": "till",
        "slug_runner_version": "1.2", "environment": {"A": "line", "B": "x y", "C": "a=b"}});
    assert_eq!(body, expected);
    let operation = post.header("captain-operation").unwrap();
    assert!(uuid::Uuid::parse_str(operation).is_ok(), "{operation}");
}

/// Answers `/nodes/` with these and every start with success.
async fn with_nodes(nodes: Value) -> Scripted {
    Scripted::answering(move |asked| {
        std::future::ready(match asked.target.as_str() {
            "/nodes/" => json_answer(200, &nodes),
            "/instances/" => json_answer(201, &instance('8', "shop", "app-7", json!({}))),
            _ => json_answer(404, &error(404, "no_such_claim", "m")),
        })
    })
    .await
}

#[tokio::test]
async fn start_needs_no_node_where_there_is_one_and_asks_where_there_are_more() {
    let start = ["start", "shop", "--version", "47"];
    let one = with_nodes(json!([node("app-7", 0, 4, json!({}))])).await;
    assert_eq!(captain(&one.url(), &start).await.code, Some(0));
    let posted = one.asked().iter().find(|asked| asked.method == "POST").unwrap().body.clone();
    assert_eq!(posted, r#"{"app":"shop","node":"app-7","version":"47"}"#);

    let ill = json!({"state": "unreachable: connection refused"});
    let three = with_nodes(json!([
        node("app-1", 2, 4, json!({})),
        node("app-2", 3, 4, json!({})),
        node("app-3", 0, 0, ill.clone())
    ]))
    .await;
    let talk = "\
error: there are 3 nodes: which one is it to be?
help: name one of them with --node: app-2 (3 slots free), app-1 (2 slots free)
";
    assert_eq!(captain(&three.url(), &start).await, ended(2, "", talk));
    let all_ill = with_nodes(json!([node("app-1", 0, 0, ill.clone()), node("app-2", 0, 0, ill)])).await;
    let talk = "\
error: there are 2 nodes: which one is it to be?
help: none of them is healthy now; `captain nodes` says why
";
    assert_eq!(captain(&all_ill.url(), &start).await, ended(2, "", talk));
    let none = with_nodes(json!([])).await;
    assert_eq!(captain(&none.url(), &start).await, ended(2, "", "error: this captain has no nodes to start on\n"));
    assert!(three.asked().iter().chain(&all_ill.asked()).chain(&none.asked()).all(|asked| asked.method == "GET"));
}

#[tokio::test]
async fn a_refusal_is_the_servers_sentence_and_its_help() {
    let sentence = "There aren't enough free slots on app-1 to service your request";
    let mut body = error(503, "over_capacity", sentence);
    body["help"] = json!("app-2 has 4 slots free\u{1b}[2J");
    let server = Scripted::always(503, body).await;
    let start = ["start", "shop", "--node", "app-1", "--version", "47"];
    let talk = format!("error: {sentence}\nhelp: app-2 has 4 slots free\u{fffd}[2J\n");
    assert_eq!(captain(&server.url(), &start).await, ended(5, "", &talk));
    let server =
        Scripted::always(422, error(422, "image_unavailable", "app-1 has no image x/y:1 and cannot pull it")).await;
    assert_eq!(
        captain(&server.url(), &start).await,
        ended(1, "", "error: app-1 has no image x/y:1 and cannot pull it\n")
    );
}

#[tokio::test]
async fn a_server_that_is_none_is_exit_code_3() {
    let url = nobody().await;
    let talk = format!(
        "error: no captain can be reached at {url}/nodes/: Connection refused (os error 111)\n\
         help: `captain serve` starts one; --url or CAPTAIN_URL says where it is\n"
    );
    assert_eq!(captain(&url, &["nodes"]).await, ended(3, "", &talk));

    let url = blurting(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>\n<h1>502</h1>").await;
    let talk = format!(
        "error: {url}/nodes/ answered 502 Bad Gateway with what is no answer of a captain: `<html> <h1>502</h1>`\n\
         help: is the URL (--url, CAPTAIN_URL) that of a captain?\n"
    );
    assert_eq!(captain(&url, &["nodes"]).await, ended(3, "", &talk));

    let url = blurting(b"HTTP/1.1 200 OK\r\n\r\n[{\"id\":\"hunter2\"}]").await;
    let talk = format!(
        "error: {url}/nodes/ answered 200 OK with what is no answer of a captain: missing field `slots` at line 1 column 17\n\
         help: is the URL (--url, CAPTAIN_URL) that of a captain?\n"
    );
    assert_eq!(captain(&url, &["nodes"]).await, ended(3, "", &talk));

    let url = blurting(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
    let garbled = captain(&url, &["nodes"]).await;
    assert_eq!((garbled.code, garbled.stdout.as_str()), (Some(3), ""));
    assert!(garbled.stderr.starts_with(&format!("error: {url}/nodes/ gave no whole answer: ")), "{garbled:?}");
    assert_eq!(garbled.stderr.lines().count(), 1);
}

#[tokio::test]
async fn a_start_without_an_answer_tells_its_operation() {
    let url = blurting(b"HTTP/1.1 201 Created\r\ncontent-length: 900\r\n\r\n{").await;
    let cut = captain(&url, &["start", "shop", "--node", "app-1", "--version", "47"]).await;
    assert_eq!((cut.code, cut.stdout.as_str()), (Some(3), ""));
    assert!(cut.stderr.starts_with("the start may go on at the server: `captain claims "), "{cut:?}");
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2_and_asks_nobody() {
    let server = Scripted::always(500, json!(null)).await;
    let cases: [(&[&str], &str); 10] = [
        (&[], "Usage: captain"),
        (&["ps", "--state", "sleeping"], "possible values: created, running"),
        (&["ps", "--all", "--state", "exited"], "cannot be used with"),
        (&["start", "shop"], "--slug <URI|FILE|FOLDER>|--version <VERSION>"),
        (&["start", "shop", "--slug", "u", "--version", "1"], "cannot be used with"),
        (&["start", "shop", "--slug", "u", "--env", "A"], "a variable is NAME=value"),
        (&["start", "shop", "--slug", "u", "--slots", "0"], "0 is not in 1.."),
        (
            &["start", "shop", "--slug", "u", "--env-file", "/nonexistent"],
            "error: cannot read /nonexistent: No such file",
        ),
        (&["stop"], "required arguments were not provided"),
        (&["nodes", "--url", "localhost:8080"], "error: `localhost:8080` is no URL of a captain"),
    ];
    for (arguments, said) in cases {
        let wrong = captain(&server.url(), arguments).await;
        assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""), "{arguments:?}: {wrong:?}");
        assert!(wrong.stderr.contains(said), "{arguments:?}: {}", wrong.stderr);
    }
    assert_eq!(server.lines(), [""; 0]);
}

#[tokio::test]
async fn help_documents_the_exit_codes_and_hides_the_url_of_the_environment() {
    for command in ["ps", "start", "stop", "logs", "nodes", "summary", "claims"] {
        let help = captain("http://me:hunter2@host", &[command, "--help"]).await;
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.ends_with(&format!("{}\n", captain_cli::EXIT_CODES)), "{command}: {}", help.stdout);
        assert!(help.stdout.contains("[env: CAPTAIN_URL]") && !help.stdout.contains("hunter2"), "{command}");
    }
}

#[tokio::test]
async fn completions_and_manual_know_every_command() {
    let url = nobody().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = captain(&url, &["completions", shell]).await;
        assert_eq!((script.code, script.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(script.stdout.contains("captain") && script.stdout.contains("env-file"), "{shell}");
    }
    let page = captain(&url, &["man", "start"]).await;
    assert!(page.code == Some(0) && page.stdout.contains(".TH captain-start 1"), "{page:?}");
    assert!(page.stdout.contains("Exit codes:") && page.stdout.contains("\\-\\-env\\-file"), "{page:?}");
    assert!(captain(&url, &["man"]).await.stdout.contains("captain\\-nodes(1)"));
    assert_eq!(
        captain(&url, &["man", "fly"]).await,
        ended(2, "", "error: there is no command `fly`\nhelp: `captain help` lists the commands\n")
    );

    let folder = tempfile::tempdir().unwrap();
    let written = captain(&url, &["man", "--dir", folder.path().to_str().unwrap()]).await;
    assert_eq!(written, ended(0, "", ""));
    for page in ["captain.1", "captain-ps.1", "captain-logs.1"] {
        assert!(folder.path().join(page).is_file(), "{page}");
    }
    assert_eq!(captain(&url, &["man", "--dir", "/nonexistent"]).await.code, Some(2));
}
