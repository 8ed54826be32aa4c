//! Creation: what a container is told to be.

use bytes::Bytes;
use captain_domain::label::Labels;
use captain_domain::{Environment, Hostname, InstanceId};
use serde::{Deserialize, Serialize, Serializer};

use super::failure::{Failure, one_line};
use super::list::INSTANCE_PORT_NAME;
use super::negotiate::Kind;
use super::wire::{Call, Wire};
use crate::engine::{CreateSpec, ErrorKind, Preparation};

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
        let document = serde_json::to_vec(&document(spec, image, kind));
        call.body = document
            .map(Bytes::from)
            .map_err(|error| Failure::new(ErrorKind::Invalid, format!("the container cannot be described: {error}")))?;
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

/// What Docker calls the body of `ContainerCreate`, as far as Captain has something to say. What is none is left to the engine.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    image: &'a str,
    cmd: Vec<&'a str>,
    env: Variables<'a>,
    labels: Written<'a>,
    exposed_ports: One<Nothing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    host_config: HostConfig,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    port_bindings: One<[Binding; 1]>,
    memory: u64,
    memory_swap: u64,
    cpu_shares: u32,
    pids_limit: u32,
    security_opt: [&'static str; 1],
    restart_policy: RestartPolicy,
    log_config: LogConfig,
    #[serde(flatten)]
    confinement: Option<Confinement>,
}

/// What an instance is not to do, where Captain's own runner runs it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Confinement {
    cap_drop: [&'static str; 1],
    ipc_mode: &'static str,
    readonly_paths: &'static [&'static str],
    tmpfs: One<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    host_ip: &'static str,
    host_port: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestartPolicy {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    r#type: &'static str,
    config: LogLimits,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LogLimits {
    max_size: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_file: Option<&'static str>,
}

/// An object without fields.
#[derive(Serialize)]
struct Nothing {}

/// An object with one field.
struct One<T>(&'static str, T);

impl<T: Serialize> Serialize for One<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(self.0, &self.1)])
    }
}

/// The environment as a list of `NAME=value`.
struct Variables<'a>(&'a Environment);

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(name, value)| format!("{name}={value}")))
    }
}

struct Written<'a>(&'a Labels);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.write())
    }
}

fn document<'a>(spec: &'a CreateSpec, image: &'a str, kind: Kind) -> Document<'a> {
    // A slug on a stack is run by our own runner, which needs no privilege. A foreign runner image may (it changes users), so nothing of
    // this is asked of one. Nobody is asked whether he wants it, and the seccomp profile is the engine's own.
    let by_our_runner = matches!(spec.preparation, Preparation::Slug(_));
    let command = spec.command.iter().map(String::as_str);
    Document {
        image,
        cmd: by_our_runner.then_some("run").into_iter().chain(command).collect(),
        env: Variables(&spec.environment),
        labels: Written(&spec.labels),
        exposed_ports: One(INSTANCE_PORT_NAME, Nothing {}),
        hostname: spec.hostname.as_ref().map(Hostname::as_str),
        healthcheck: by_our_runner.then_some(Healthcheck { test: ["NONE"] }),
        host_config: HostConfig {
            port_bindings: One(INSTANCE_PORT_NAME, [Binding { host_ip: "", host_port: "" }]), // the engine chooses, and never twice the same
            memory: spec.memory_bytes,
            memory_swap: spec.memory_bytes, // the sum of both: no swap beside the memory
            cpu_shares: spec.cpu_shares,
            pids_limit: PROCESS_LIMIT,
            security_opt: ["no-new-privileges"],
            restart_policy: RestartPolicy { name: "" }, // an instance that ends has ended: Captain shows why
            log_config: log_config(kind),
            confinement: by_our_runner.then(|| confinement(spec)),
        },
    }
}

fn confinement(spec: &CreateSpec) -> Confinement {
    // In memory, and counted as the instance's: half of it, so that a full one is an error in the app and not its end. Programs may be
    // in it, for Java unpacks its native libraries there.
    let size = spec.memory_bytes / 2;
    Confinement {
        cap_drop: ["ALL"],
        ipc_mode: "private",
        readonly_paths: &READ_ONLY,
        tmpfs: One("/tmp", format!("rw,nosuid,nodev,exec,mode=1777,size={size}")),
    }
}

/// Output is read back through the engine, so it must be a driver that can, whatever the node's default; and it is bounded, for an
/// engine on a full disk cannot even stop what filled it.
fn log_config(kind: Kind) -> LogConfig {
    let (r#type, max_size, max_file) = match kind {
        Kind::Docker => ("json-file", "10m", Some("3")),
        // One file, cut when it is full: Podman keeps no older ones.
        Kind::Podman => ("k8s-file", "30m", None),
    };
    LogConfig { r#type, config: LogLimits { max_size, max_file } }
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
    use captain_domain::{AppName, OperationId, Slots, SlugUri};
    use serde_json::{Value, json};

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

    fn value(document: Document<'_>) -> Value {
        serde_json::to_value(document).unwrap()
    }

    #[test]
    fn a_slug_is_run_by_our_runner_without_any_privilege() {
        let slug = SlugOnStack {
            digest: captain_slug::Digest([1; 32]),
            file: std::path::Path::new("/slug").into(),
            stack: "scratch".into(),
        };
        let spec = CreateSpec { preparation: Preparation::Slug(slug), command: vec!["worker".to_owned()], ..spec() };
        let document = value(document(&spec, "captain/slug:1", Kind::Docker));
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
        let spec = spec();
        let document = value(document(&spec, "flynn/slugrunner:0.0.0", Kind::Docker));
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
        assert_eq!(value(document(&spec, "a:1", Kind::Podman))["Hostname"], json!("web-1"));
    }

    #[test]
    fn a_quoted_value_is_not_passed_on() {
        let message = "invalid environment variable: TOKEN=hunter2, port 8080".to_owned();
        assert_eq!(redacted(message, &spec().environment), "invalid environment variable: TOKEN=[TOKEN], port 8080");
        let cut = format!("{} TOKEN=hunt…", "x".repeat(390));
        assert!(redacted(cut, &spec().environment).ends_with("x TOKEN=…"));
    }
}
