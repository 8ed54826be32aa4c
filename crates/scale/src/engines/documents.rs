//! What engines answer: documents with the fields, and the size, of Docker 20.10's.
//!
//! They were made by looking at what a real dockerd says of a real instance (its record in a listing: 1.2 kB, its inspection:
//! 5.3 kB) and keeping every field. Paths are those of a usual installation. A decoder that skips what it does not know has as much to
//! skip here as there.

use std::io::Write;

use captain_domain::label;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::containers::Found;
use super::facts::{self, SLOTS};
use super::template::Template;

/// The image of everything: present on every engine.
pub const IMAGE: &str = "registry.internal.example.com/slugrunner:0.0.0";

/// What is different from container to container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hole {
    Id,
    Short,
    Name,
    /// Sixteen hex digits of no meaning.
    Noise(u64),
    Address,
    Labels,
    Attributes,
    Environment,
    Ports,
    Bindings,
    Created,
    CreatedSeconds,
    Started,
    Finished,
    Status,
    UpFor,
    Running,
    Pid,
    ExitCode,
    Memory,
    Shares,
    HostName,
    Action,
    Seconds,
    Nanoseconds,
}

fn hole(name: &str) -> Hole {
    match name {
        "id" => Hole::Id,
        "short" => Hole::Short,
        "name" => Hole::Name,
        "noise" => Hole::Noise(1),
        "noise2" => Hole::Noise(2),
        "address" => Hole::Address,
        "labels" => Hole::Labels,
        "attributes" => Hole::Attributes,
        "environment" => Hole::Environment,
        "ports" => Hole::Ports,
        "bindings" => Hole::Bindings,
        "created" => Hole::Created,
        "created_seconds" => Hole::CreatedSeconds,
        "started" => Hole::Started,
        "finished" => Hole::Finished,
        "status" => Hole::Status,
        "up_for" => Hole::UpFor,
        "running" => Hole::Running,
        "pid" => Hole::Pid,
        "exit_code" => Hole::ExitCode,
        "memory" => Hole::Memory,
        "shares" => Hole::Shares,
        "host_name" => Hole::HostName,
        "action" => Hole::Action,
        "seconds" => Hole::Seconds,
        "nanoseconds" => Hole::Nanoseconds,
        other => panic!("no such hole: {other}"),
    }
}

const DIGEST: &str = "sha256:3f1c0d7a9be84f2287c1d6a5e0b94c3f7a2e8d915b6c40f3d7e1a98b2c5f6071";
const NETWORK: &str = "5b1f9ac27d30e84bb6a1c9d2f8e7430a6d5c1b2e9f80a7364d2c5b1e8f9a0d73";
/// A container's folder on a usual installation.
const FOLDER: &str = "/var/lib/docker/containers/⟦id⟧";
/// Of an image of a few layers.
const LAYERS: &str = "/var/lib/docker/overlay2/⟦noise⟧⟦noise2⟧⟦noise⟧⟦noise2⟧";

/// The documents, cut once.
#[derive(Debug)]
pub(super) struct Documents {
    summary: Template<Hole>,
    inspection: Template<Hole>,
    event: Template<Hole>,
}

impl Documents {
    pub(super) fn new() -> Self {
        Self {
            summary: Template::cut_in_order(&summary(), hole),
            inspection: Template::cut(&inspection(), hole),
            event: Template::cut(&event(), hole),
        }
    }

    /// Appends a container's record in a listing.
    pub(super) fn summary(&self, out: &mut Vec<u8>, container: &Found<'_>) {
        out.reserve(self.summary.length());
        self.summary.write(out, |hole, out| fill(hole, container, out));
    }

    /// Its inspection.
    pub(super) fn inspection(&self, container: &Found<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.inspection.length());
        self.inspection.write(&mut out, |hole, out| fill(hole, container, out));
        out
    }

    /// An event, with the end of its line.
    pub(super) fn event(&self, container: &Found<'_>, action: &str) -> Vec<u8> {
        let now = Timestamp::now().as_nanosecond();
        let mut out = Vec::with_capacity(self.event.length());
        self.event.write(&mut out, |hole, out| match hole {
            Hole::Action => out.extend_from_slice(action.as_bytes()),
            Hole::Seconds => put(out, now / 1_000_000_000),
            Hole::Nanoseconds => put(out, now),
            other => fill(other, container, out),
        });
        out.push(b'\n');
        out
    }
}

fn put(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").unwrap();
}

fn moment(out: &mut Vec<u8>, nanoseconds: i64) {
    match nanoseconds {
        0 => out.extend_from_slice(b"0001-01-01T00:00:00Z"),
        at => put(out, Timestamp::from_nanosecond(at.into()).unwrap()),
    }
}

fn fill(hole: Hole, container: &Found<'_>, out: &mut Vec<u8>) {
    let times = container.times();
    match hole {
        Hole::Id => out.extend_from_slice(&container.hex),
        Hole::Short => out.extend_from_slice(&container.hex[..12]),
        Hole::HostName => match container.made() {
            Some(made) if !made.hostname.is_empty() => out.extend_from_slice(made.hostname.as_bytes()),
            _ => out.extend_from_slice(&container.hex[..12]),
        },
        Hole::Name => name(container, out),
        Hole::Noise(purpose) => write!(out, "{:016x}", container.container.chance(8 + purpose)).unwrap(),
        Hole::Address => {
            let number = container.container.number;
            write!(out, "172.17.{}.{}", number / 250 % 250, number % 250 + 2).unwrap();
        }
        Hole::Labels => {
            out.push(b'{');
            labels(container, out);
            out.push(b'}');
        }
        Hole::Attributes => {
            out.push(b'{');
            labels(container, out);
            write!(out, r#","image":"{IMAGE}","name":""#).unwrap();
            name(container, out);
            out.extend_from_slice(br#""}"#);
        }
        Hole::Environment => environment(container, out),
        Hole::Ports | Hole::Bindings => ports(hole, container, out),
        Hole::Created => moment(out, times.created),
        Hole::CreatedSeconds => put(out, times.created / 1_000_000_000),
        Hole::Started => moment(out, times.started),
        Hole::Finished => moment(out, times.finished),
        Hole::Status => out.extend_from_slice(container.life.word().as_bytes()),
        Hole::UpFor => container.up_for(out),
        Hole::Running => put(out, container.life.runs()),
        Hole::Pid => put(out, if container.life.runs() { 4_000 + container.container.number } else { 0 }),
        Hole::ExitCode => put(out, container.life.code()),
        Hole::Memory => put(out, container.made().map_or(u64::from(SLOTS) << 27, |made| made.memory)),
        Hole::Shares => put(out, container.made().map_or(SLOTS * 10, |made| made.shares)),
        Hole::Action | Hole::Seconds | Hole::Nanoseconds => unreachable!("only events have one"),
    }
}

fn name(container: &Found<'_>, out: &mut Vec<u8>) {
    match container.made() {
        Some(made) => out.extend_from_slice(made.name.as_bytes()),
        None => {
            write!(out, "shop-frontend-{:04}_{}", container.app, container.container.operation()).unwrap();
        }
    }
}

/// The pairs, without braces around them.
fn labels(container: &Found<'_>, out: &mut Vec<u8>) {
    if let Some(made) = container.made() {
        out.extend_from_slice(made.label_pairs().as_bytes());
        return;
    }
    let (app, of) = (container.app, container.container);
    write!(
        out,
        r#""{}":"shop-frontend-{app:04}","{}":"{}","{}":"{}","{}":"{SLOTS}","{}":"{}""#,
        label::APP,
        label::ATTEMPT,
        of.attempt(),
        label::OPERATION,
        of.operation(),
        label::SLOTS,
        label::SLUG,
        facts::slug_uri(app, of.release()),
    )
    .unwrap();
}

fn environment(container: &Found<'_>, out: &mut Vec<u8>) {
    if let Some(made) = container.made() {
        out.extend_from_slice(made.environment.get().as_bytes());
        return;
    }
    let (app, release) = (container.app, container.container.release());
    out.push(b'[');
    for (name, value) in facts::environment(app, release) {
        write!(out, r#""{name}={value}","#).unwrap();
    }
    let slug = facts::slug_uri(app, release);
    write!(out, r#""PORT=8080","SLUG_URL={slug}","PATH=/usr/local/bin:/usr/bin:/bin"]"#).unwrap();
}

/// In a listing (`Ports`) and in an inspection (`Bindings`): nothing of what does not run.
fn ports(hole: Hole, container: &Found<'_>, out: &mut Vec<u8>) {
    let port = container.container.port();
    let runs = container.life.runs();
    let written = match hole {
        Hole::Ports if !runs => write!(out, "[]"),
        Hole::Ports => write!(
            out,
            r#"[{{"IP":"0.0.0.0","PrivatePort":8080,"PublicPort":{port},"Type":"tcp"}},{{"IP":"::","PrivatePort":8080,"PublicPort":{port},"Type":"tcp"}}]"#
        ),
        _ if !runs => write!(out, "{{}}"),
        _ => write!(
            out,
            r#"{{"8080/tcp":[{{"HostIp":"0.0.0.0","HostPort":"{port}"}},{{"HostIp":"::","HostPort":"{port}"}}]}}"#
        ),
    };
    written.unwrap();
}

fn network() -> Value {
    json!({"bridge": {
        "IPAMConfig": null, "Links": null, "Aliases": null, "NetworkID": NETWORK,
        "EndpointID": "⟦noise⟧⟦noise2⟧⟦noise⟧⟦noise2⟧", "Gateway": "172.17.0.1", "IPAddress": "⟦address⟧", "IPPrefixLen": 16,
        "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "02:42:ac:11:00:02", "DriverOpts": null,
    }})
}

/// In Docker's order, the id first.
fn summary() -> [(&'static str, Value); 13] {
    [
        ("Id", json!("⟦id⟧")),
        ("Names", json!(["/⟦name⟧"])),
        ("Image", json!(IMAGE)),
        ("ImageID", json!(DIGEST)),
        ("Command", json!("/runner/init start web")),
        ("Created", json!("⟦#created_seconds⟧")),
        ("Ports", json!("⟦#ports⟧")),
        ("Labels", json!("⟦#labels⟧")),
        ("State", json!("⟦status⟧")),
        ("Status", json!("⟦up_for⟧")),
        ("HostConfig", json!({"NetworkMode": "default"})),
        ("NetworkSettings", json!({"Networks": network()})),
        ("Mounts", json!([])),
    ]
}

fn event() -> Value {
    json!({
        "status": "⟦action⟧", "id": "⟦id⟧", "from": IMAGE, "Type": "container", "Action": "⟦action⟧",
        "Actor": {"ID": "⟦id⟧", "Attributes": "⟦#attributes⟧"},
        "scope": "local", "time": "⟦#seconds⟧", "timeNano": "⟦#nanoseconds⟧",
    })
}

fn inspection() -> Value {
    let in_folder = |file: &str| format!("{FOLDER}/{file}");
    let in_layers = |part: &str| format!("{LAYERS}{part}");
    json!({
        "Id": "⟦id⟧", "Created": "⟦created⟧", "Path": "/runner/init", "Args": ["start", "web"],
        "State": {
            "Status": "⟦status⟧", "Running": "⟦#running⟧", "Paused": false, "Restarting": false, "OOMKilled": false, "Dead": false,
            "Pid": "⟦#pid⟧", "ExitCode": "⟦#exit_code⟧", "Error": "", "StartedAt": "⟦started⟧", "FinishedAt": "⟦finished⟧",
        },
        "Image": DIGEST, "ResolvConfPath": in_folder("resolv.conf"), "HostnamePath": in_folder("hostname"),
        "HostsPath": in_folder("hosts"), "LogPath": in_folder("⟦id⟧-json.log"), "Name": "/⟦name⟧", "RestartCount": 0,
        "Driver": "overlay2", "Platform": "linux", "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "docker-default",
        "ExecIDs": null, "HostConfig": host_config(),
        "GraphDriver": {"Name": "overlay2", "Data": {
            "LowerDir": format!("{}:{}", in_layers("-init/diff"), in_layers("/diff")),
            "MergedDir": in_layers("/merged"), "UpperDir": in_layers("/diff"), "WorkDir": in_layers("/work"),
        }},
        "Mounts": [], "Config": config(),
        "NetworkSettings": {
            "Bridge": "", "SandboxID": "⟦noise2⟧⟦noise⟧⟦noise2⟧⟦noise⟧", "HairpinMode": false, "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0, "Ports": "⟦#bindings⟧", "SandboxKey": "/var/run/docker/netns/⟦short⟧",
            "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "EndpointID": "⟦noise⟧⟦noise2⟧⟦noise⟧⟦noise2⟧",
            "Gateway": "172.17.0.1", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPAddress": "⟦address⟧", "IPPrefixLen": 16,
            "IPv6Gateway": "", "MacAddress": "02:42:ac:11:00:02", "Networks": network(),
        },
    })
}

fn config() -> Value {
    json!({
        "Hostname": "⟦host_name⟧", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "ExposedPorts": {"8080/tcp": {}}, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": "⟦#environment⟧",
        "Cmd": ["start", "web"], "Image": IMAGE, "Volumes": null, "WorkingDir": "", "Entrypoint": ["/runner/init"], "OnBuild": null,
        "Labels": "⟦#labels⟧",
    })
}

/// Much of it is nothing, and every dockerd says so at length.
fn host_config() -> Value {
    let mut host = json!({
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}, "NetworkMode": "default",
        "PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": ""}]}, "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
        "SecurityOpt": ["no-new-privileges"], "CgroupnsMode": "private", "IpcMode": "private", "ShmSize": 67_108_864,
        "Runtime": "runc", "ConsoleSize": [0, 0], "CpuShares": "⟦#shares⟧", "Memory": "⟦#memory⟧", "MemorySwap": "⟦#memory⟧",
        "PidsLimit": 4096,
        "MaskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
        "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let nothing: [(Value, &[&str]); 4] = [
        (
            Value::Null,
            &[
                "Binds",
                "VolumesFrom",
                "CapAdd",
                "CapDrop",
                "Dns",
                "DnsOptions",
                "DnsSearch",
                "ExtraHosts",
                "GroupAdd",
                "Links",
                "BlkioWeightDevice",
                "BlkioDeviceReadBps",
                "BlkioDeviceWriteBps",
                "BlkioDeviceReadIOps",
                "BlkioDeviceWriteIOps",
                "Devices",
                "DeviceCgroupRules",
                "DeviceRequests",
                "MemorySwappiness",
                "Ulimits",
            ],
        ),
        (
            json!(""),
            &[
                "ContainerIDFile",
                "VolumeDriver",
                "Cgroup",
                "PidMode",
                "UTSMode",
                "UsernsMode",
                "Isolation",
                "CgroupParent",
                "CpusetCpus",
                "CpusetMems",
            ],
        ),
        (json!(false), &["AutoRemove", "Privileged", "PublishAllPorts", "ReadonlyRootfs", "OomKillDisable"]),
        (
            json!(0),
            &[
                "OomScoreAdj",
                "NanoCpus",
                "BlkioWeight",
                "CpuPeriod",
                "CpuQuota",
                "CpuRealtimePeriod",
                "CpuRealtimeRuntime",
                "KernelMemory",
                "KernelMemoryTCP",
                "MemoryReservation",
                "CpuCount",
                "CpuPercent",
                "IOMaximumIOps",
                "IOMaximumBandwidth",
            ],
        ),
    ];
    for (value, fields) in nothing {
        for field in fields {
            host[*field] = value.clone();
        }
    }
    host
}

/// `GET /version`.
pub(super) fn version() -> Value {
    json!({
        "Platform": {"Name": "Docker Engine - simulated"},
        "Components": [
            {"Name": "Engine", "Version": "20.10.24", "Details": {"ApiVersion": "1.41", "Arch": "amd64", "MinAPIVersion": "1.12", "Os": "linux"}},
            {"Name": "containerd", "Version": "1.6.20", "Details": {"GitCommit": ""}},
        ],
        "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64",
    })
}

/// `GET /info`: a machine on which everything fits.
pub(super) fn info() -> Value {
    json!({
        "ID": "SIMU:LATE:DENG:INES", "ServerVersion": "20.10.24", "Driver": "overlay2", "NCPU": 64, "MemTotal": 549_755_813_888_i64,
        "MemoryLimit": true, "SwapLimit": true, "CPUShares": true, "CPUSet": true, "PidsLimit": true, "OomKillDisable": true,
        "KernelVersion": "6.1.0", "OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "OSType": "linux", "Architecture": "x86_64",
        "LoggingDriver": "json-file", "CgroupDriver": "systemd", "CgroupVersion": "2", "Warnings": null,
    })
}
