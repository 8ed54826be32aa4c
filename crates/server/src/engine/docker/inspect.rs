//! Inspection: one container, read as an instance; and the adoption of what the original Captain made.

use std::collections::BTreeMap;

use captain_domain::label::Labels;
use captain_domain::{
    AppName, Environment, Exit, Hostname, Instance, InstanceId, NodeId, Slots, SlugUri, State, Timestamp,
};
use serde::Deserialize;

use super::failure::{Failure, place};
use super::list::{INSTANCE_PORT_NAME, originals_app, state};
use super::slugs::label;
use super::text::Text;
use super::wire::{Call, Wire};
use crate::engine::Inspected;

/// An environment has at most 2 MiB (the kernel's limit for a program's start), each byte of it perhaps six as JSON.
const LIMIT: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    created: Text<'a>,
    #[serde(default, borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    state: StateDocument<'a>,
    #[serde(borrow)]
    config: Config<'a>,
    #[serde(default, borrow)]
    host_config: Option<HostConfig<'a>>,
    #[serde(default, borrow)]
    network_settings: Option<NetworkSettings<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct StateDocument<'a> {
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(rename = "OOMKilled")]
    out_of_memory: Option<bool>,
    exit_code: Option<i64>,
    #[serde(borrow)]
    started_at: Option<Text<'a>>,
    #[serde(borrow)]
    finished_at: Option<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Config<'a> {
    #[serde(borrow)]
    hostname: Option<Text<'a>>,
    #[serde(borrow)]
    env: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    labels: Option<BTreeMap<Text<'a>, Text<'a>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig<'a> {
    cpu_shares: Option<i64>,
    #[serde(borrow)]
    port_bindings: Option<Ports<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings<'a> {
    #[serde(borrow)]
    ports: Option<Ports<'a>>,
}

type Ports<'a> = BTreeMap<Text<'a>, Option<Vec<Binding<'a>>>>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Binding<'a> {
    #[serde(borrow)]
    host_ip: Option<Text<'a>>,
    #[serde(borrow)]
    host_port: Option<Text<'a>>,
}

/// How its output is written down: as a terminal's, or with stdout and stderr apart.
pub(super) struct OutputShape {
    pub(super) terminal: bool,
}

/// Inspects a container.
pub(super) async fn inspect(wire: &Wire, node: &NodeId, id: InstanceId) -> Result<Inspected, Failure> {
    let call = call(id);
    let turn = wire.share().inspection().await;
    let body = wire.ask(&call, wire.timeout(), LIMIT).await?;
    drop(turn);
    read(&body, node)
}

/// Whether there is such a container, and how it writes.
pub(super) async fn output_shape(wire: &Wire, id: InstanceId) -> Result<OutputShape, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Part {
        config: Terminal,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Terminal {
        #[serde(default)]
        tty: Option<bool>,
    }
    let part: Part = wire.ask_json(&call(id), LIMIT).await?;
    Ok(OutputShape { terminal: part.config.tty == Some(true) })
}

fn call(id: InstanceId) -> Call {
    Call::get(format!("/containers/{id}/json"))
}

fn read(body: &[u8], node: &NodeId) -> Result<Inspected, Failure> {
    let document: Document<'_> = match serde_json::from_slice(body) {
        Ok(document) => document,
        // One odd container is not a node that talks nonsense.
        Err(error) if error.is_data() => {
            return Ok(Inspected::Unreadable(format!("the engine's description of it has {}", place(&error))));
        }
        Err(error) => return Err(Failure::undecodable(&error)),
    };
    Ok(document.into_inspected(node))
}

impl Document<'_> {
    fn into_inspected(self, node: &NodeId) -> Inspected {
        let labels = self.config.labels.as_ref();
        let read = Labels::read(|name| labels.and_then(|labels| labels.get(name)).map(|value| &**value));
        let (app, slots, slug_uri, operation) = match read {
            Some(Ok(labels)) => (labels.app, labels.slots, labels.slug_uri, Some(labels.operation)),
            Some(Err(error)) => return Inspected::Unreadable(error.to_string()),
            None => match self.adopted() {
                Some(adopted) => (adopted.app, adopted.slots, adopted.slug_uri, None),
                None => return Inspected::Foreign,
            },
        };
        let Ok(id) = self.id.parse::<InstanceId>() else {
            return Inspected::Unreadable("its id is not 64 hex digits".to_owned());
        };
        // A claim's age is counted from here: a time that cannot be read must not make it look forgotten.
        let Some(created) = moment(&self.created) else {
            return Inspected::Unreadable("its time of creation cannot be read".to_owned());
        };
        let state = self.state();
        let hostname = self.hostname().map_or_else(|| Hostname::trusted(&id.short()), Hostname::trusted);
        Inspected::Instance(Box::new(Instance {
            id,
            node: node.clone(),
            app,
            slug_uri,
            environment: self.callers_environment(),
            slots,
            port: self.port(),
            hostname,
            state,
            created,
            started: self.state.started_at.as_deref().and_then(moment),
            exit: self.exit(state),
            operation,
        }))
    }

    fn state(&self) -> State {
        state(self.state.status.as_deref().unwrap_or_default())
    }

    fn hostname(&self) -> Option<&str> {
        self.config.hostname.as_deref().filter(|name| !name.is_empty())
    }

    fn exit(&self, state: State) -> Option<Exit> {
        matches!(state, State::Exited | State::Dead).then(|| Exit {
            code: self.state.exit_code.unwrap_or(0),
            out_of_memory: self.state.out_of_memory == Some(true),
            at: self.state.finished_at.as_deref().and_then(moment),
        })
    }

    /// What the caller gave, as far as a container tells: without Captain's variables, those of the stack, and those that Podman adds.
    fn callers_environment(&self) -> Environment {
        let entries = self.config.env.iter().flatten().map(|entry| &**entry);
        let is_podmans = |entry: &str| match entry.split_once('=') {
            Some(("container", value)) => matches!(value, "podman" | "oci"),
            Some(("TERM", value)) => value == "xterm",
            Some(("HOSTNAME", value)) => Some(value) == self.hostname(),
            _ => false,
        };
        let marked = entries.clone().any(|entry| matches!(entry, "container=podman" | "container=oci"));
        let stacks = self.stacks_environment();
        let is_stacks = |entry: &str| stacks.iter().any(|stacks| stacks == entry);
        Environment::from_entries(entries.filter(|entry| !(is_stacks(entry) || marked && is_podmans(entry))))
            .without_reserved()
    }

    /// What every instance on its stack has; none where it is no slug on a stack.
    fn stacks_environment(&self) -> Vec<String> {
        let noted = self.config.labels.as_ref().and_then(|labels| labels.get(label::ENVIRONMENT));
        noted.and_then(|noted| serde_json::from_str(noted).ok()).unwrap_or_default()
    }

    /// The port that leads to it. Podman goes on to tell the port of what has ended: somebody else may have it by now.
    fn port(&self) -> Option<u16> {
        if !self.state().is_running() {
            return None;
        }
        let ports = self.network_settings.as_ref()?.ports.as_ref()?;
        bound_port(ports.get(INSTANCE_PORT_NAME)?.as_ref()?)
    }

    /// What the original Captain made has no labels: its signature is all there is. Of what runs it took all with exactly one port,
    /// 8080/tcp; only those with a slug are ours. What does not run has no port any more, so more is asked of it.
    fn adopted(&self) -> Option<Adopted> {
        let name = self.name.as_deref().unwrap_or_default().trim_start_matches('/');
        let environment = Environment::from_entries(self.config.env.iter().flatten().map(|entry| &**entry));
        let slug_uri = environment.get("SLUG_URL").filter(|uri| !uri.is_empty())?;
        let app = originals_app(name);
        let genuine = if self.state().is_running() {
            let ports = self.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
            ports.is_some_and(|ports| ports.len() == 1) && self.port().is_some()
        } else {
            let bindings = self.host_config.as_ref().and_then(|host| host.port_bindings.as_ref());
            let one_port = bindings.is_some_and(|ports| ports.len() == 1 && ports.contains_key(INSTANCE_PORT_NAME));
            one_port && environment.get("PORT") == Some("8080") && app.is_some()
        };
        let shares = self.host_config.as_ref().and_then(|host| host.cpu_shares).unwrap_or(0);
        genuine.then(|| Adopted {
            app: AppName::trusted(app.unwrap_or(name)),
            // Engines of later years dropped the shares that the original asked for; but nothing runs on no slots.
            slots: Slots(u32::try_from(shares.max(1)).unwrap_or(u32::MAX)),
            slug_uri: SlugUri::trusted(slug_uri),
        })
    }
}

struct Adopted {
    app: AppName,
    slots: Slots,
    slug_uri: SlugUri,
}

/// A port published on both protocols has two bindings, which may even differ: the IPv4 one is the one that clients reach.
fn bound_port(bindings: &[Binding<'_>]) -> Option<u16> {
    let port = |binding: &Binding<'_>| binding.host_port.as_deref()?.parse::<u16>().ok().filter(|port| *port != 0);
    let is_ipv6 = |binding: &&Binding<'_>| binding.host_ip.as_deref().is_some_and(|ip| ip.contains(':'));
    let ipv4 = bindings.iter().filter(|binding| !is_ipv6(binding)).find_map(port);
    ipv4.or_else(|| bindings.iter().find_map(port))
}

/// A time as engines write it. Their zero, `0001-01-01T00:00:00Z`, is none.
fn moment(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    (time.as_millisecond() > 0).then(|| Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "888f02560d34aa0011223344556677889900aabbccddeeff0123456789abcdef";
    const UUID: &str = "0b8c2d0e-7d3c-4a53-9d6f-2f4f0a6a1c11";

    /// A container of the original, as Docker 20.10 describes it.
    fn original() -> Value {
        json!({
            "Id": ID, "Created": "2026-11-22T10:00:00.123456789Z", "Name": format!("/my_app_{UUID}"),
            "State": {"Status": "running", "Running": true, "OOMKilled": false, "Dead": false, "Pid": 42, "ExitCode": 0,
                "Error": "", "StartedAt": "2026-11-22T10:00:01.5Z", "FinishedAt": "0001-01-01T00:00:00Z"},
            "HostConfig": {"CpuShares": 2, "Memory": 268435456, "PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": ""}]}},
            "Config": {"Hostname": "888f02560d34", "Tty": false, "Labels": {},
                "Env": ["A=b=c", "PORT=8080", "SLUG_URL=http://s/d.tgz", "PATH=/bin", "HOME=/app"]},
            "NetworkSettings": {"Ports": {"8080/tcp": [{"HostIp": "::", "HostPort": "49154"}, {"HostIp": "0.0.0.0", "HostPort": "49153"}]}},
        })
    }

    /// The same, made by this Captain.
    fn ours() -> Value {
        let mut document = original();
        document["Config"]["Labels"] = json!({"captain.app": "my_app", "captain.slots": "3",
            "captain.slug": "http://s/e.tgz", "captain.operation": UUID});
        document
    }

    fn exited(mut document: Value) -> Value {
        document["State"] = json!({"Status": "exited", "OOMKilled": true, "ExitCode": 137,
            "StartedAt": "2026-11-22T10:00:01Z", "FinishedAt": "2026-11-22T11:00:02+01:00"});
        document["NetworkSettings"]["Ports"] = json!({});
        document
    }

    fn inspected(document: &Value) -> Inspected {
        read(document.to_string().as_bytes(), &NodeId::trusted("app-1")).unwrap()
    }

    fn instance(document: &Value) -> Instance {
        match inspected(document) {
            Inspected::Instance(instance) => *instance,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_labelled_container_is_read_by_its_labels() {
        let instance = instance(&ours());
        assert_eq!(
            (instance.app.as_str(), instance.slots, instance.slug_uri.as_str()),
            ("my_app", Slots(3), "http://s/e.tgz")
        );
        assert_eq!(instance.environment.iter().collect::<Vec<_>>(), [("A", "b=c")]);
        assert_eq!((instance.port, instance.hostname.as_str()), (Some(49153), "888f02560d34"));
        assert_eq!(instance.created, Timestamp(1_795_341_600_123));
        assert_eq!(instance.started, Some(Timestamp(1_795_341_601_500)));
        assert_eq!((instance.state, instance.exit), (State::Running, None));
        assert_eq!(instance.operation.map(|operation| operation.to_string()).as_deref(), Some(UUID));
    }

    #[test]
    fn an_exit_is_read() {
        let instance = instance(&exited(ours()));
        let exit = instance.exit.unwrap();
        assert_eq!((exit.code, exit.out_of_memory, exit.at), (137, true, Some(Timestamp(1_795_341_602_000))));
        let mut podmans = exited(ours());
        podmans["NetworkSettings"]["Ports"] = json!({"8080/tcp": [{"HostIp": "", "HostPort": "39875"}]});
        assert_eq!((instance.port, self::instance(&podmans).port), (None, None));
    }

    #[test]
    fn the_originals_are_adopted_whether_they_run_or_not() {
        for document in [original(), exited(original())] {
            let instance = instance(&document);
            assert_eq!((instance.app.as_str(), instance.slots, instance.operation), ("my_app", Slots(2), None));
            assert_eq!(instance.slug_uri.as_str(), "http://s/d.tgz");
        }
    }

    #[test]
    fn what_lacks_a_part_of_the_signature_is_foreign() {
        let changed = |base: fn() -> Value, pointer: &str, value: Value| {
            let mut document = base();
            *document.pointer_mut(pointer).unwrap() = value;
            inspected(&document)
        };
        let dead = || exited(original());
        let two = json!({"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "1"}], "9090/tcp": null});
        let foreign = [
            changed(original, "/Config/Env", json!(["PORT=8080"])),
            changed(original, "/NetworkSettings/Ports", two),
            changed(original, "/NetworkSettings/Ports", json!({"8080/tcp": null})),
            changed(dead, "/Name", json!("/my_app")),
            changed(dead, "/Config/Env", json!(["PORT=80", "SLUG_URL=x"])),
            changed(dead, "/HostConfig/PortBindings", json!({})),
        ];
        for (case, inspected) in foreign.into_iter().enumerate() {
            assert_eq!(inspected, Inspected::Foreign, "case {case}");
        }
    }

    #[test]
    fn odd_documents_are_unreadable_and_garbage_is_an_error() {
        let mut poisoned = ours();
        poisoned["Config"]["Labels"]["captain.slots"] = json!("many");
        assert!(matches!(inspected(&poisoned), Inspected::Unreadable(why) if why.contains("captain.slots")));
        let mut timeless = ours();
        timeless["Created"] = json!("yesterday");
        assert!(matches!(inspected(&timeless), Inspected::Unreadable(_)));
        let mut odd = ours();
        odd["Config"]["Env"] = json!("SECRET=hunter2");
        assert!(matches!(inspected(&odd), Inspected::Unreadable(why) if !why.contains("hunter2")));
        assert!(read(b"<html>", &NodeId::trusted("app-1")).is_err());
    }

    #[test]
    fn the_stacks_variables_are_not_the_callers_unless_he_changed_them() {
        let mut document = ours();
        document["Config"]["Labels"][label::ENVIRONMENT] = json!(r#"["LANG=C.UTF-8","RUBY=3"]"#);
        document["Config"]["Env"] = json!(["LANG=C.UTF-8", "RUBY=4", "A=1"]);
        assert_eq!(instance(&document).environment.iter().collect::<Vec<_>>(), [("A", "1"), ("RUBY", "4")]);
    }

    #[test]
    fn podmans_own_variables_are_not_the_callers() {
        let mut document = ours();
        document["Config"]["Env"] = json!(["TERM=xterm", "container=podman", "HOSTNAME=888f02560d34", "A=1"]);
        assert_eq!(instance(&document).environment.iter().collect::<Vec<_>>(), [("A", "1")]);
        document["Config"]["Env"] = json!(["TERM=xterm", "A=1"]);
        assert_eq!(instance(&document).environment.len(), 2);
    }
}
