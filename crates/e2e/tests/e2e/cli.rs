//! The command line against a running captain.

use std::process::Output;
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::slugs;
use serde_json::{Value, json};

use crate::Stage;

#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn as_json(output: &Output) -> Value {
    let text = stdout(output, 0);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_from_start_to_stop() {
    let stage = Stage::with(1).await;
    let node = &stage.node().name;
    let slug = stage.origin.offer("web.tgz", slugs::web("by hand"));
    let started = as_json(
        &stage
            .captain
            .cli(&["start", "web", "--node", node, "--slug", &slug, "--slots", "3", "--env", "A=b", "--json"]),
    );
    assert_eq!(
        (&started["app"], &started["slots"], &started["environment"]["A"]),
        (&json!("web"), &json!(3), &json!("b"))
    );
    let id = started["id"].as_str().unwrap().to_owned();
    assert_eq!(stage.captain.ids().await, [id.as_str()]);

    assert_eq!(as_json(&stage.captain.cli(&["ps", "--json"])), json!([started]));
    let table = stdout(&stage.captain.cli(&["ps"]), 0);
    assert!(table.contains("web") && table.contains(node.as_str()) && table.contains(&id[..12]), "{table}");
    let nodes = as_json(&stage.captain.cli(&["nodes", "--json"]));
    assert_eq!(nodes[0]["slots"]["used"], 3);
    assert!(stdout(&stage.captain.cli(&["nodes"]), 0).contains("healthy"));
    assert_eq!(as_json(&stage.captain.cli(&["summary", "--json"]))["total_instances"], 1);

    captain_e2e::eventually("its first line", Duration::from_secs(10), || async {
        stdout(&stage.captain.cli(&["logs", &id[..12]]), 0).contains("listening").then_some(())
    })
    .await;
    stdout(&stage.captain.cli(&["stop", &id[..12]]), 0);
    assert!(stage.captain.ids().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn following_ends_with_the_instance() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("brief.tgz", slugs::script("for n in 1 2 3; do echo $n; sleep 0.3; done"));
    let id = crate::id(&stage.captain.started("brief", &stage.node().name, &slug).await);
    let seen = stdout(&stage.captain.cli(&["logs", "-f", &id]), 0);
    assert_eq!(seen, "1\n2\n3\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_the_servers_message_on_stderr() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let refused =
        stage.captain.cli(&["start", "web", "--node", &stage.node().name, "--slug", &slug, "--slots", "5000"]);
    let unknown = stage.captain.cli(&["stop", &"f".repeat(64)]);
    for (output, expected) in [(&refused, "enough free slots"), (&unknown, "instance")] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!matches!(output.status.code(), Some(0) | None), "{said}");
        assert!(said.contains(expected) && !said.contains('{') && !said.contains("panicked"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_captain_there_is_a_message() {
    let stage = Stage::with(1).await;
    let (status, _) = {
        let captain = Settings::of(&stage.lease).start().await;
        let url = captain.url();
        let gone = captain.end();
        let output = stage.captain.cli(&["ps", "--url", &url]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!matches!(output.status.code(), Some(0) | None), "{said}");
        assert!(said.contains(url.trim_start_matches("http://")), "{said}");
        gone
    };
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_are_there_for_the_usual_shells() {
    let stage = Stage::with(1).await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&stage.captain.cli(&["completions", shell]), 0).contains("captain"), "{shell}");
    }
}
