//! Podman, by its Docker-compatible API: a service of our own, in a network of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use captain_conformance::{App, Exception, Recipe, Subject, run_all};
use captain_domain::NodeId;
use captain_server::engine::docker::{Docker, Endpoint, Settings, Tls, TlsMaterial};
use captain_server::engine::{Engine, Preparation};
use tempfile::TempDir;

use crate::scripts::{ENTRYPOINT, image, script};

const IMAGE: &str = "localhost/captain-conformance:1";

/// The ends of the cable to it, on this machine and in its network. A /30 that neither the cluster nor a default of Podman uses.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 79, 77, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 79, 77, 2);

const NETWORK: &str = "captain-podman";
const CABLE: &str = "captpodman";

/// All that Podman would share with another Podman of this machine is given a place of its own here.
const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"] # not the machine's: a sandbox may allow no more than less
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"#;

/// A running service. It ends with what it ran when dropped.
struct Service {
    directory: TempDir,
    child: Child,
    /// One of these a machine at a time; the kernel lets go of it when the process ends.
    _turn: File,
}

impl Service {
    fn start() -> Self {
        let turn = File::create("/var/tmp/captain-podman.lock").unwrap();
        turn.lock().unwrap();
        unplug(); // what a run that was killed left behind
        let directory = tempfile::Builder::new().prefix("captain-podman.").tempdir_in("/var/tmp").unwrap();
        std::fs::write(directory.path().join("containers.conf"), CONFIGURATION).unwrap();
        let (here, there) = (format!("{HERE}/30"), format!("{THERE}/30"));
        ip(&["netns", "add", NETWORK]);
        ip(&["link", "add", CABLE, "type", "veth", "peer", "name", "eth0", "netns", NETWORK]);
        ip(&["addr", "add", &here, "dev", CABLE]);
        ip(&["link", "set", CABLE, "up"]);
        ip(&["-n", NETWORK, "link", "set", "lo", "up"]);
        ip(&["-n", NETWORK, "addr", "add", &there, "dev", "eth0"]);
        ip(&["-n", NETWORK, "link", "set", "eth0", "up"]);
        ip(&["-n", NETWORK, "route", "add", "default", "via", &HERE.to_string()]);
        let socket = format!("unix://{}", directory.path().join("podman.sock").display());
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = podman(&directory);
        command.args(["system", "service", "--time", "0", &socket]);
        command.current_dir(directory.path()); // its helper leaves a file `oom` wherever the service was started
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let service = Self { directory, child, _turn: turn };
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(service.socket()).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(30), "podman did not come up: {}", service.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        service
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn import(&self) {
        let tar = self.directory.path().join("image.tar");
        std::fs::write(&tar, image()).unwrap();
        let entrypoint = format!("ENTRYPOINT={ENTRYPOINT}");
        let output = podman(&self.directory).args(["import", "-q", "-c", &entrypoint]).arg(&tar).arg(IMAGE).output();
        let output = output.unwrap();
        assert!(output.status.success(), "podman import: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Also where a check failed and could not clear up after itself.
        let _ = podman(&self.directory).args(["rm", "--all", "--force", "--time", "0"]).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let storage = self.directory.path().join("root/overlay");
        let _ = Command::new("umount").args(["--lazy", "--quiet"]).arg(storage).output();
        unplug();
    }
}

fn podman(directory: &TempDir) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{NETWORK}")).arg("podman");
    for (flag, below) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(flag).arg(directory.path().join(below));
    }
    command.env("CONTAINERS_CONF", directory.path().join("containers.conf"));
    command
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unplug() {
    let _ = Command::new("ip").args(["link", "delete", CABLE]).output();
    let _ = Command::new("ip").args(["netns", "delete", NETWORK]).output();
}

impl Subject for Service {
    fn name(&self) -> &str {
        "podman"
    }

    fn engine(&self) -> Arc<dyn Engine> {
        let uri = format!("unix://{}", self.socket().display());
        let timeout = Duration::from_secs(60); // fifty creations at once: it makes one after another
        let settings = Settings::new(timeout, timeout, Tls::new(TlsMaterial { ca: None, identity: None }));
        Arc::new(Docker::new(NodeId::trusted("podman"), Endpoint::parse(&uri).unwrap(), &settings).unwrap())
    }

    fn recipe(&self, app: &App) -> Recipe {
        Recipe { preparation: Preparation::RunnerImage { image: IMAGE.to_owned() }, command: vec![script(app)] }
    }

    fn unprepared(&self) -> Recipe {
        let image = "localhost/captain-conformance:never-pulled".to_owned();
        Recipe { preparation: Preparation::RunnerImage { image }, ..self.recipe(&App::Idle) }
    }

    fn unavailable(&self) -> (Preparation, String) {
        let image = "127.0.0.1:1/captain-conformance:9.9.9".to_owned(); // nobody listens there
        (Preparation::RunnerImage { image: image.clone() }, image)
    }

    fn reach(&self, port: u16) -> SocketAddr {
        SocketAddr::from((THERE, port))
    }

    fn exceptions(&self) -> &[Exception] {
        // Measured with Podman 4.3 of Debian 12, whose helper leaves the news in a file where the service was started.
        &[Exception {
            check: "want_of_memory_is_told",
            reason: "it does not tell: OOMKilled is false for each of four that were killed so. The end then reads as SIGKILL, which \
                     is true and says less",
        }]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_keeps_the_contract() {
    let service = Service::start();
    service.import();
    run_all(service).await;
}
