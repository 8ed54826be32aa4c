//! Settings: a wrong one is one message that names it, and no start.

use std::net::{Ipv4Addr, TcpListener};

use captain_e2e::captain::Settings;
use captain_e2e::cluster::lease;
use captain_e2e::fake::{Ailment, FakeEngine};

/// Settings that would work, with engines that need not be there.
fn minimum() -> Settings {
    Settings::default()
        .set("DOCKER_NODES", "app-1=tcp://127.0.0.1:1")
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", "flynn/slugrunner")
        .set("PORT", 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_and_exit_code_2() {
    let wrong = [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("SLOTS_PER_NODE", "many"),
        ("SLOTS_PER_NODE", "-1"),
        ("SLOT_MEMORY_MB", "0"),
        ("SLOT_MEMORY_MB", "1.5"),
        ("DEFAULT_SLOTS_PER_INSTANCE", "0"),
        ("DEFAULT_SLOTS_PER_INSTANCE", "x"),
        ("DOCKER_TIMEOUT", "soon"),
        ("DOCKER_TIMEOUT", "0"),
        ("DOCKER_GC_GRACE_PERIOD", "-5"),
        ("SLUG_PATH", "http://slugs/{app}-{nonsense}.tgz"),
        ("SLUG_RUNNER_VERSION", "not a tag"),
    ];
    for (name, value) in wrong {
        let output = minimum().set(name, value).run_to_end(&[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {said}");
        assert!(said.contains(name), "{name}={value}: {said}");
        assert!(!said.contains("panicked"), "{name}={value}: {said}");
        assert!(output.stdout.is_empty(), "stdout is data: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_the_same_id_are_an_error() {
    let output = minimum().set("DOCKER_NODES", "app-1=tcp://127.0.0.1:1,app-1=tcp://127.0.0.1:2").run_to_end(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("app-1") && said.contains("DOCKER_NODES"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_nodes_and_discovery_exclude_each_other() {
    let output = minimum().set("AWS_DOCKER_HOST_TAG_VALUE", "docker").run_to_end(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("nodes") && said.to_lowercase().replace('_', "-").contains("aws-docker-host-tag-value"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_one_message() {
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = minimum().set("PORT", port).run_to_end(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0));
    assert!(said.contains(&port.to_string()) && said.contains("in use"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_uri_is_reported_and_the_others_work() {
    let lease = lease(1).await;
    let node = lease.node(0);
    for bad in ["gopher://elsewhere:70", "http://", "app-7=", "not a uri at all", "tcp://host:notaport"] {
        let captain = Settings::of(&lease).set("DOCKER_NODES", format!("{bad},{}", node.entry())).start_anyhow().await;
        captain.node_becomes(&node.name, "healthy").await;
        let logs = captain.logs();
        assert!(logs.contains("DOCKER_NODES") || logs.contains("node"), "{bad}: {logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_when_nobody_watches() {
    let lease = lease(1).await;
    let captain = Settings::of(&lease).start().await;
    let (status, logs) = captain.end();
    assert_eq!(status.code(), Some(0), "{logs}");
    assert!(!logs.trim().is_empty(), "a start and an end are worth a line");
    for line in logs.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_is_a_flag_of_serve() {
    let help = minimum().run_to_end(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for name in [
        "AWS_CALL_INTERVAL_SECS",
        "AWS_DOCKER_HOST_TAG_NAME",
        "AWS_DOCKER_HOST_TAG_VALUE",
        "DOCKER_NODES",
        "DOCKER_GC_GRACE_PERIOD",
        "DOCKER_TIMEOUT",
        "SLOTS_PER_NODE",
        "SLOT_MEMORY_MB",
        "DEFAULT_SLOTS_PER_INSTANCE",
        "SLUG_RUNNER_COMMAND",
        "SLUG_RUNNER_IMAGE",
        "SLUG_RUNNER_VERSION",
        "SLUG_PATH",
        "PORT",
    ] {
        assert!(help.contains(name), "{name} is not in the help: {help}");
        let flag = if name == "DOCKER_NODES" {
            "--nodes".to_owned()
        } else {
            format!("--{}", name.to_lowercase().replace('_', "-"))
        };
        assert!(help.contains(&flag), "{flag} is not in the help: {help}");
    }
    let wrong = minimum().run_to_end(&["--slots-per-node", "many"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--slots-per-node"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_carry_the_negotiated_version_and_the_password_of_the_uri() {
    let engine = FakeEngine::start(Ailment::WantsPassword).await;
    let captain = Settings::default()
        .set("DOCKER_NODES", format!("locked={}", engine.uri_with_password()))
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", "flynn/slugrunner")
        .start()
        .await;
    assert_eq!(captain.node("locked").await["slots"]["free"], 110);
    let requests = engine.requests();
    let lists: Vec<&String> = requests.iter().filter(|request| request.contains("/containers/json")).collect();
    assert!(!lists.is_empty(), "{requests:?}");
    assert!(lists.iter().all(|request| request.contains("/v1.41/")), "the version is not sent: {lists:?}");
}
