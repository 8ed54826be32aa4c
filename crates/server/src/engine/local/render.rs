//! From what the jail has recorded to what the trait says, and from an order to what the jail is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use captain_domain::label::{LabelError, Labels};
use captain_domain::{Environment, Exit, Hostname, Instance, InstanceId, NodeId, State, Timestamp};
use captain_jail::state::{Ending, Exited};
use captain_jail::{Limits, LogBound, Phase, Record, Spec};

use crate::engine::{CreateSpec, Owner};

/// Where an instance finds its programs when its start names no `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the slug is.
const HOME: &str = "/app";
/// Where the jail shows the runner.
const RUNNER: &str = "/.captain/runner";
/// From SIGTERM to SIGKILL by the runner, in seconds: it ends what is left of the instance before the usual ten are over.
const GRACE: &str = "8";
/// The exit code of what died with its monitor: the kernel killed it.
const KILLED: i64 = 137;
/// The exit code of what never began, as shells have it.
const NOT_STARTED: i64 = 127;

/// What the jail is told.
pub(super) fn spec_of(id: InstanceId, order: &CreateSpec, slug: PathBuf, runner: PathBuf, port: u16) -> Spec {
    let variables = order.environment.iter().filter(|(name, _)| *name != "SLUG_URL");
    let mut env: BTreeMap<String, String> =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    // The network is the host's: whatever port was meant inside, it is the reserved one.
    env.insert("PORT".to_owned(), port.to_string());
    env.insert("HOME".to_owned(), HOME.to_owned());
    env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    let words = [RUNNER, "--grace", GRACE, "run"].into_iter().map(str::to_owned);
    let defaults = Limits::default();
    Spec {
        slug,
        runner: Some(runner),
        argv: words.chain(order.command.iter().cloned()).collect(),
        env,
        hostname: order.hostname.as_ref().map_or_else(|| id.short(), Hostname::to_string),
        limits: Limits {
            memory_bytes: order.memory_bytes,
            cpu_shares: order.cpu_shares.into(),
            // What is written lies in the same memory: half is left for the app, as the kernel's own default has it.
            scratch_bytes: (order.memory_bytes / 2).max(1 << 20),
            ..defaults
        },
        log: LogBound::default(),
        labels: order.labels.write().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

/// Whose it is.
pub(super) fn owner(record: &Record) -> Owner {
    match labels(record) {
        Some(Ok(labels)) => Owner::Captain(labels),
        Some(Err(error)) => Owner::Unreadable(error),
        None => Owner::Foreign,
    }
}

pub(super) fn labels(record: &Record) -> Option<Result<Labels, LabelError>> {
    Labels::read(|name| record.spec.labels.get(name).map(String::as_str))
}

/// The port that was reserved for it.
pub(super) fn port(record: &Record) -> Option<u16> {
    record.spec.env.get("PORT")?.parse().ok()
}

/// Its state. What is being started has not begun: to others it is still a claim.
pub(super) const fn state(phase: &Phase) -> State {
    match phase {
        Phase::Created | Phase::Starting => State::Created,
        Phase::Running(_) => State::Running,
        Phase::Exited(_) => State::Exited,
        // Its processes may still be dying: whoever sees this makes sure of it, or its slots stay taken.
        Phase::Lost => State::Dead,
    }
}

/// The port that leads to it.
pub(super) fn running_port(record: &Record, phase: &Phase) -> Option<u16> {
    port(record).filter(|_| matches!(phase, Phase::Running(_)))
}

/// The instance, where the record is that of one.
pub(super) fn instance(node: &NodeId, id: InstanceId, record: &Record, phase: &Phase, labels: Labels) -> Instance {
    let (started, exit) = match phase {
        Phase::Created | Phase::Starting | Phase::Lost => (None, None),
        Phase::Running(running) => (Some(running.started_ms), None),
        Phase::Exited(exited) => (exited.started_ms, Some(exit(exited))),
    };
    let environment: Environment =
        record.spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Instance {
        id,
        node: node.clone(),
        app: labels.app,
        slug_uri: labels.slug_uri,
        environment: environment.without_reserved(),
        slots: labels.slots,
        port: running_port(record, phase),
        hostname: Hostname::trusted(&record.spec.hostname),
        state: state(phase),
        created: moment(record.created_ms),
        started: started.map(moment),
        exit,
        operation: Some(labels.operation),
    }
}

fn exit(exited: &Exited) -> Exit {
    let code = match exited.ending {
        Ending::Code(code) => code.into(),
        Ending::Signal(signal) => 128 + i64::from(signal),
        Ending::NotStarted(_) => NOT_STARTED,
        Ending::Lost => KILLED,
    };
    Exit { code, out_of_memory: exited.out_of_memory(), at: Some(moment(exited.finished_ms)) }
}

fn moment(millis: u64) -> Timestamp {
    Timestamp(i64::try_from(millis).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use captain_domain::{AppName, OperationId, Slots, SlugUri};
    use captain_jail::{ProcessRef, state::Running};
    use captain_slug::Digest;

    use super::*;
    use crate::engine::{Preparation, SlugOnStack};

    fn order() -> CreateSpec {
        let slug = SlugOnStack {
            digest: Digest([7; 32]),
            file: std::path::Path::new("/slug.tgz").into(),
            stack: "scratch".into(),
        };
        CreateSpec {
            name: "demo_1".to_owned(),
            preparation: Preparation::Slug(slug),
            command: vec!["web".to_owned()],
            labels: Labels {
                app: AppName::parse("demo").unwrap(),
                slots: Slots(2),
                slug_uri: SlugUri::parse("sha256:07").unwrap(),
                operation: OperationId::from_bytes([1; 16]),
                attempt: None,
            },
            environment: Environment::from_entries(["PORT=8080", "SLUG_URL=http://u:p@x/", "COLOUR=red", "HOME=/root"]),
            hostname: None,
            memory_bytes: 256 << 20,
            cpu_shares: 20,
        }
    }

    fn record() -> Record {
        let id = InstanceId::from_bytes([0xab; 32]);
        let spec = spec_of(id, &order(), "/slugs/x".into(), "/runner".into(), 20_001);
        let (group, id) = (String::new(), captain_jail::Id::try_from(id.to_string()).unwrap());
        Record { version: 1, id, uid: 7, group, created_ms: 5, spec }
    }

    fn shown(phase: &Phase) -> Instance {
        let record = record();
        let Owner::Captain(labels) = owner(&record) else { panic!("not ours") };
        instance(&NodeId::trusted("here"), InstanceId::from_bytes([0xab; 32]), &record, phase, labels)
    }

    #[test]
    fn the_reserved_port_stands_in_for_whatever_port_was_meant() {
        let env = record().spec.env;
        let shown: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(shown, [("COLOUR", "red"), ("HOME", "/app"), ("PATH", PATH), ("PORT", "20001")]);
        assert_eq!(record().spec.hostname, "abababababab");
        assert_eq!(record().spec.argv, ["/.captain/runner", "--grace", "8", "run", "web"]);
    }

    #[test]
    fn what_is_written_on_an_instance_reads_back() {
        let process = ProcessRef { pid: 1, start_ticks: 1, boot: String::new() };
        let running = Running {
            monitor: process.clone(),
            init: process,
            groups: Vec::new(),
            started_ms: 9,
            limitations: Vec::new(),
        };
        let instance = shown(&Phase::Running(running));
        assert_eq!(
            (instance.state, instance.port, instance.started),
            (State::Running, Some(20_001), Some(Timestamp(9)))
        );
        assert_eq!(instance.environment.iter().collect::<Vec<_>>(), [("COLOUR", "red")]);
        assert_eq!((instance.slots, instance.operation), (Slots(2), Some(OperationId::from_bytes([1; 16]))));
    }

    #[test]
    fn an_end_is_told_as_the_kernel_told_it() {
        let exited = |ending, oom_kills| {
            let exited = Exited {
                started_ms: Some(6),
                finished_ms: 8,
                ending,
                oom_kills,
                output_bytes_lost: 0,
                groups: Vec::new(),
            };
            shown(&Phase::Exited(exited))
        };
        for (ending, oom_kills, code, out_of_memory) in [
            (Ending::Code(3), 0, 3, false),
            (Ending::Signal(9), 1, 137, true),
            (Ending::Code(0), 1, 0, false),
            (Ending::Lost, 0, KILLED, false),
        ] {
            let instance = exited(ending, oom_kills);
            assert_eq!((instance.state, instance.port), (State::Exited, None));
            assert_eq!(instance.exit, Some(Exit { code, out_of_memory, at: Some(Timestamp(8)) }));
        }
    }
}
