//! An engine that is not well: what real engines do on bad days, at will.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::wire::{Head, Reply, Server, serve};

/// What ails it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ailment {
    /// Nothing: an engine without containers.
    None,
    /// It answers pings; listing is an error.
    CannotList,
    /// It answers pings; listing never comes back.
    ListHangs,
    /// It answers pings; its list is no JSON.
    ListIsGarbage,
    /// It takes connections and says nothing.
    Silent,
    /// It speaks, but not HTTP.
    TalksGarbage,
    /// Every answer is an error 500.
    OnlyErrors,
    /// It wants a user and a password, `user` and `p4ssw0rd-planted`.
    WantsPassword,
}

/// The password that `WantsPassword` wants. Captain must never log it.
pub const PASSWORD: &str = "p4ssw0rd-planted";

/// `user:p4ssw0rd-planted` in base 64.
const AUTHORIZATION: &str = "Basic dXNlcjpwNHNzdzByZC1wbGFudGVk";

/// The engine. It listens on loopback and ends when dropped.
#[derive(Debug)]
pub struct FakeEngine {
    server: Server,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeEngine {
    /// Starts one.
    pub async fn start(ailment: Ailment) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let server = serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), move |head| {
            log.lock().unwrap().push(format!("{} {}", head.method, head.target));
            answer(ailment, head)
        })
        .await;
        Self { server, requests }
    }

    /// Its address, as a URI.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Its address with user and password.
    #[must_use]
    pub fn uri_with_password(&self) -> String {
        format!("http://user:{PASSWORD}@{}", self.server.address)
    }

    /// The requests so far, as `GET /v1.41/info`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(ailment: Ailment, head: &Head) -> Reply {
    match ailment {
        Ailment::Silent => return Reply::Silence,
        Ailment::TalksGarbage => return Reply::Raw(b"\x00\x01\xfe\xffSSH-2.0-not a Docker engine\r\n\r\n".to_vec()),
        Ailment::OnlyErrors => return error(500, "something is broken inside"),
        Ailment::WantsPassword if head.header("authorization") != Some(AUTHORIZATION) => {
            return error(401, "who are you?");
        }
        _ => {}
    }
    let path = head.target.split('?').next().unwrap_or("");
    let path = path.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
    match (path, ailment) {
        ("/_ping", _) => whole(200, b"OK".to_vec()),
        ("/version", _) => whole(200, version().to_string().into_bytes()),
        ("/info", _) => whole(200, info().to_string().into_bytes()),
        ("/events", _) => Reply::OpenStream,
        ("/containers/json", Ailment::CannotList) => error(500, "cannot read the list of containers"),
        ("/containers/json", Ailment::ListHangs) => Reply::Silence,
        ("/containers/json", Ailment::ListIsGarbage) => whole(200, b"[{\"Id\": 17, \"State\": [".to_vec()),
        ("/containers/json" | "/images/json", _) => whole(200, b"[]".to_vec()),
        _ => error(404, "page not found"),
    }
}

fn whole(status: u16, body: Vec<u8>) -> Reply {
    let headers = [
        ("content-type", "application/json"),
        ("api-version", "1.41"),
        ("ostype", "linux"),
        ("server", "Docker/20.10.24 (linux)"),
    ];
    Reply::Whole { status, headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(), body }
}

fn error(status: u16, message: &str) -> Reply {
    whole(status, json!({"message": message}).to_string().into_bytes())
}

fn version() -> serde_json::Value {
    json!({
        "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Os": "linux", "Arch": "amd64", "GitCommit": "0", "GoVersion": "go1.19",
        "KernelVersion": "6.1.0", "BuildTime": "2023-01-01T00:00:00.000000000+00:00", "Platform": {"Name": ""},
        "Components": [{"Name": "Engine", "Version": "20.10.24", "Details": {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}}],
    })
}

fn info() -> serde_json::Value {
    json!({
        "ID": "FAKE", "Name": "fake", "Containers": 0, "ContainersRunning": 0, "ContainersPaused": 0, "ContainersStopped": 0, "Images": 0,
        "Driver": "overlay2", "MemTotal": 16_000_000_000_i64, "NCPU": 4, "ServerVersion": "20.10.24", "OperatingSystem": "Fake", "OSType": "linux",
        "Architecture": "x86_64", "KernelVersion": "6.1.0", "MemoryLimit": true, "SwapLimit": true, "PidsLimit": true, "CPUShares": true,
        "CgroupDriver": "cgroupfs", "CgroupVersion": "1", "SecurityOptions": [],
    })
}
