//! Creation: what a container is told to be.

use bytes::Bytes;
use captain_domain::{Environment, InstanceId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::failure::{Failure, one_line};
use super::list::INSTANCE_PORT;
use super::negotiate::Kind;
use super::wire::{Call, Wire};
use crate::engine::{CreateSpec, Preparation};

/// The answer is an id and warnings.
const LIMIT: usize = 1 << 20;
/// A JVM's thousand threads live under it; a fork bomb does not take the machine's process table (32,768 by default).
const PROCESS_LIMIT: u32 = 4096;
/// Shorter values are words like `web` or `true`, which a message may hold by chance.
const SECRET_MIN: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// What is mounted read-only in an instance on a stack: what Docker takes by itself (this list replaces its own), and every folder that a
/// stack has by the file hierarchy standard. With the whole root file system read-only, Docker could give an instance a writable `/app`
/// only by copying the slug. What lies beside these folders is sealed by ownership (`slugs::seal`), and so is everything where an engine
/// passes the list over, as Docker before 18.09 does. Of Podman it is not known.
/// A path that a stack does not have is passed over by the engine.
const READ_ONLY: [&str; 23] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/usr",
    "/var",
];

/// Creates a container, and does not start it.
pub(super) async fn create(wire: &Wire, spec: &CreateSpec, image: &str) -> Result<InstanceId, Failure> {
    let call = async {
        let kind = wire.profile().await?.kind;
        let mut call = Call::post(format!("/containers/create?name={}", super::encoded(&spec.name)));
        call.body = Bytes::from(document(spec, image, kind).to_string());
        super::wire::read(wire.send(&call).await?.into_body(), LIMIT).await
    };
    let body = super::wire::within(wire.timeout(), call)
        .await
        .map_err(|failure| Failure { message: redacted(failure.message, &spec.environment), ..failure })?;
    let created: Created = super::wire::decode(&body)?;
    for warning in created.warnings.iter().flatten() {
        let warning = redacted(one_line(warning), &spec.environment);
        tracing::warn!(container = spec.name, warning, "the engine created a container with a warning");
    }
    created.id.parse().map_err(|_| Failure::garbled("it created a container and gave no id of 64 hex digits"))
}

fn document(spec: &CreateSpec, image: &str, kind: Kind) -> Value {
    let port = format!("{INSTANCE_PORT}/tcp");
    let environment: Vec<String> = spec.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let labels: Map<_, _> = spec.labels.write().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut document = json!({
        "Image": image,
        "Cmd": spec.command,
        "Env": environment,
        "Labels": labels,
        "ExposedPorts": { &port: {} },
        "HostConfig": {
            "PortBindings": { &port: [{ "HostIp": "", "HostPort": "" }] }, // the engine chooses, and never twice the same
            "Memory": spec.memory_bytes,
            "MemorySwap": spec.memory_bytes, // the sum of both: no swap beside the memory
            "CpuShares": spec.cpu_shares,
            "PidsLimit": PROCESS_LIMIT,
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": { "Name": "" }, // an instance that ends has ended: Captain shows why
            "LogConfig": log_config(kind),
        },
    });
    if let Some(hostname) = &spec.hostname {
        document["Hostname"] = hostname.as_str().into();
    }
    if let Preparation::Slug(_) = &spec.preparation {
        run_by_our_runner(&mut document, spec);
    }
    document
}

/// A slug on a stack is run by our own runner, which needs no privilege. A foreign runner image may (it changes users), so nothing of
/// this is asked of one. Nobody is asked whether he wants it, and the seccomp profile is the engine's own.
fn run_by_our_runner(document: &mut Value, spec: &CreateSpec) {
    let command: Vec<&str> = ["run"].into_iter().chain(spec.command.iter().map(String::as_str)).collect();
    document["Cmd"] = command.into();
    document["Healthcheck"] = json!({ "Test": ["NONE"] });
    let host = &mut document["HostConfig"];
    host["CapDrop"] = json!(["ALL"]);
    host["IpcMode"] = "private".into();
    host["ReadonlyPaths"] = json!(READ_ONLY);
    // In memory, and counted as the instance's: half of it, so that a full one is an error in the app and not its end. Programs may be
    // in it, for Java unpacks its native libraries there.
    let size = spec.memory_bytes / 2;
    host["Tmpfs"] = json!({ "/tmp": format!("rw,nosuid,nodev,exec,mode=1777,size={size}") });
}

/// Output is read back through the engine, so it must be a driver that can, whatever the node's default; and it is bounded, for an
/// engine on a full disk cannot even stop what filled it.
fn log_config(kind: Kind) -> Value {
    match kind {
        Kind::Docker => json!({ "Type": "json-file", "Config": { "max-size": "10m", "max-file": "3" } }),
        // One file, cut when it is full: Podman keeps no older ones.
        Kind::Podman => json!({ "Type": "k8s-file", "Config": { "max-size": "30m" } }),
    }
}

/// Engines quote what they were given and did not like. Values of the environment are for nobody else.
fn redacted(mut message: String, environment: &Environment) -> String {
    for (name, value) in environment.iter().filter(|(name, value)| *name != "PORT" && value.len() >= SECRET_MIN) {
        for quoted in [value, one_line(value).as_str()] {
            if !quoted.is_empty() && message.contains(quoted) {
                message = message.replace(quoted, &format!("[{name}]"));
            }
            if let Some(cut) = message.strip_suffix('…').and_then(|kept| cut_value(kept, quoted)) {
                message.truncate(cut);
                message.push('…');
            }
        }
    }
    message
}

/// Where a bounded message ends in the beginning of a value.
fn cut_value(message: &str, value: &str) -> Option<usize> {
    let ends = (SECRET_MIN..value.len()).rev().filter(|end| value.is_char_boundary(*end));
    ends.map(|end| &value[..end]).find(|part| message.ends_with(part)).map(|part| message.len() - part.len())
}

#[cfg(test)]
mod tests {
    use captain_domain::label::Labels;
    use captain_domain::{AppName, Hostname, OperationId, Slots, SlugUri};

    use super::*;
    use crate::engine::SlugOnStack;

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

    #[test]
    fn a_slug_is_run_by_our_runner_without_any_privilege() {
        let slug = SlugOnStack {
            digest: captain_slug::Digest([1; 32]),
            file: std::path::Path::new("/slug").into(),
            stack: "scratch".into(),
        };
        let spec = CreateSpec { preparation: Preparation::Slug(slug), command: vec!["worker".to_owned()], ..spec() };
        let document = document(&spec, "captain/slug:1", Kind::Docker);
        let host = &document["HostConfig"];
        assert_eq!((&document["Image"], &document["Cmd"]), (&json!("captain/slug:1"), &json!(["run", "worker"])));
        assert_eq!((&host["CapDrop"], &host["SecurityOpt"]), (&json!(["ALL"]), &json!(["no-new-privileges"])));
        assert_eq!(host["Tmpfs"], json!({ "/tmp": "rw,nosuid,nodev,exec,mode=1777,size=134217728" }));
        assert_eq!((&host["IpcMode"], &host["PidsLimit"]), (&json!("private"), &json!(4096)));
        assert_eq!(host["ReadonlyPaths"], json!(READ_ONLY));
        for weakening in ["Privileged", "CapAdd", "Binds", "Mounts", "Devices", "PidMode", "UsernsMode"] {
            assert_eq!(host[weakening], Value::Null, "{weakening}");
        }
        assert_eq!((&document["User"], &document["Entrypoint"]), (&Value::Null, &Value::Null)); // the image's
    }

    #[test]
    fn every_limit_is_in_the_document() {
        let document = document(&spec(), "flynn/slugrunner:0.0.0", Kind::Docker);
        let host = &document["HostConfig"];
        assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(268_435_456), &json!(268_435_456)));
        assert_eq!((&host["CpuShares"], &host["PidsLimit"]), (&json!(20), &json!(4096)));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
        assert_eq!(host["LogConfig"]["Config"], json!({ "max-size": "10m", "max-file": "3" }));
        assert_eq!(host["PortBindings"], json!({ "8080/tcp": [{ "HostIp": "", "HostPort": "" }] }));
        assert_eq!(document["Env"], json!(["PORT=8080", "TOKEN=hunter2"]));
        assert_eq!(document["Labels"]["captain.slots"], json!("2"));
        assert_eq!(document.get("Hostname"), None);
    }

    #[test]
    fn a_host_name_is_given_when_asked_for() {
        let spec = CreateSpec { hostname: Some(Hostname::parse("web-1").unwrap()), ..spec() };
        assert_eq!(document(&spec, "a:1", Kind::Podman)["Hostname"], json!("web-1"));
    }

    #[test]
    fn a_quoted_value_is_not_passed_on() {
        let message = "invalid environment variable: TOKEN=hunter2, port 8080".to_owned();
        assert_eq!(redacted(message, &spec().environment), "invalid environment variable: TOKEN=[TOKEN], port 8080");
        let cut = format!("{} TOKEN=hunt…", "x".repeat(390));
        assert!(redacted(cut, &spec().environment).ends_with("x TOKEN=…"));
    }
}
