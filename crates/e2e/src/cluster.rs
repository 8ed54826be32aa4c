//! The engines that a test may use.
//!
//! The first test of the process brings the cluster up, through `scripts/cluster`; it goes when the process ends, however it ends.
//! A test leases the nodes it needs, alone, and finds them empty and well. What it breaks, it gives back broken: whoever leases
//! the node next has it mended first.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::eventually;
use crate::http::Endpoint;

/// As many tests as this run at once; more engines would only make two cores busier. The last one speaks TLS and has an sshd.
const NODES: u8 = 4;

/// What an engine is told beside its command line.
const USUAL_SETTINGS: &str = "{}";

/// Numbers of clusters that test processes choose from. 0 is the developer's own.
const NUMBERS: std::ops::RangeInclusive<u8> = 1..=9;

/// The cluster of this process.
#[derive(Debug)]
struct Cluster {
    number: u8,
    directory: PathBuf,
    nodes: Vec<Node>,
    /// Which nodes are free.
    free: Mutex<Vec<bool>>,
    /// Held by the one test that waits for nodes, so that those who want many are served in their turn.
    turnstile: tokio::sync::Mutex<()>,
    returned: Notify,
    /// Keeps other test processes off this cluster; the kernel lets go of it when the process ends.
    _claim: Option<File>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name: `app-1`.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    socket: PathBuf,
    secure: bool,
}

/// Nodes that belong to one test until this is dropped.
#[derive(Debug)]
pub struct Lease {
    nodes: Vec<usize>,
}

/// Leases any `count` nodes.
pub async fn lease(count: usize) -> Lease {
    acquire(|free| {
        let chosen: Vec<usize> = (0..free.len()).filter(|&at| free[at]).take(count).collect();
        (chosen.len() == count).then_some(chosen)
    })
    .await
}

/// Leases a node whose engine speaks plain HTTP on TCP: for those who cut its cable or tap its wire.
pub async fn lease_on_tcp(count: usize) -> Lease {
    acquire(|free| {
        let chosen: Vec<usize> = (0..free.len() - 1).filter(|&at| free[at]).take(count).collect();
        (chosen.len() == count).then_some(chosen)
    })
    .await
}

/// Leases the node that serves https and ssh.
pub async fn lease_secure() -> Lease {
    acquire(|free| free.last().copied().unwrap_or(false).then(|| vec![free.len() - 1])).await
}

async fn acquire(choose: impl Fn(&[bool]) -> Option<Vec<usize>>) -> Lease {
    let cluster = cluster();
    let turn = cluster.turnstile.lock().await;
    let lease = loop {
        let returned = cluster.returned.notified();
        tokio::pin!(returned);
        returned.as_mut().enable(); // before looking, so that a return in between is not missed
        if let Some(nodes) = cluster.take(&choose) {
            break Lease { nodes };
        }
        returned.await;
    };
    drop(turn);
    for node in lease.nodes() {
        node.make_ready().await;
    }
    lease
}

impl Cluster {
    fn take(&self, choose: impl Fn(&[bool]) -> Option<Vec<usize>>) -> Option<Vec<usize>> {
        let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let chosen = choose(&free)?;
        for &node in &chosen {
            free[node] = false;
        }
        Some(chosen)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let cluster = cluster();
        let mut free = cluster.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for &node in &self.nodes {
            free[node] = true;
        }
        cluster.returned.notify_waiters();
    }
}

impl Lease {
    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &'static Node> + '_ {
        self.nodes.iter().map(|&at| &cluster().nodes[at])
    }

    /// The node with this number, from 0.
    #[must_use]
    pub fn node(&self, number: usize) -> &'static Node {
        &cluster().nodes[self.nodes[number]]
    }

    /// The address of this machine as the nodes and their containers see it.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        gateway(cluster().number)
    }

    /// The registry that the nodes pull from.
    #[must_use]
    pub fn registry(&self) -> SocketAddr {
        SocketAddr::from((self.gateway(), 5077))
    }

    /// The runner image that most tests use: a shell and a web server.
    #[must_use]
    pub fn runner_image(&self) -> String {
        format!("{}/slugrunner", self.registry())
    }

    /// The runner image with Python, put into the registry if it is not there.
    #[must_use]
    pub fn python_runner_image(&self) -> String {
        static BUILT: OnceLock<()> = OnceLock::new();
        BUILT.get_or_init(|| script(cluster().number, &["image", "slugrunner-python"]));
        format!("{}/slugrunner-python", self.registry())
    }

    /// Where the client certificate, its key and the authority's certificate are: `cert.pem`, `key.pem`, `ca.pem`.
    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        cluster().directory.join("tls")
    }

    /// A directory whose `ssh` has the key of the nodes.
    #[must_use]
    pub fn ssh_directory(&self) -> PathBuf {
        cluster().directory.join("ssh/bin")
    }
}

impl Node {
    fn new(number: u8, index: u8, directory: &Path) -> Self {
        let name = format!("app-{index}");
        let socket = directory.join(&name).join("docker.sock");
        Self { socket, name, address: Ipv4Addr::new(10, 77, number, 10 + index), secure: index == NODES }
    }

    /// Its engine's socket in the file system.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its engine's TCP address, which speaks plain HTTP; not for the node that serves https.
    #[must_use]
    pub fn engine_address(&self) -> SocketAddr {
        assert!(!self.secure, "{} speaks https on TCP", self.name);
        SocketAddr::from((self.address, 2375))
    }

    /// What `DOCKER_NODES` says of it.
    #[must_use]
    pub fn entry(&self) -> String {
        if self.secure { self.entry_by_socket() } else { format!("{}=tcp://{}", self.name, self.engine_address()) }
    }

    /// The same by its Unix socket, which works while its network is cut.
    #[must_use]
    pub fn entry_by_socket(&self) -> String {
        format!("{}=unix://{}", self.name, self.socket.display())
    }

    /// Its engine, asked directly.
    #[must_use]
    pub fn engine(&self) -> Engine {
        Engine::new(Endpoint::Unix(self.socket.clone()))
    }

    /// A port of this node, to ask an instance over HTTP.
    #[must_use]
    pub fn port(&self, port: &serde_json::Value) -> Endpoint {
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or_else(|| panic!("no port: {port}"));
        Endpoint::Tcp(SocketAddr::from((self.address, port)))
    }

    /// Stops its engine where it stands.
    pub fn hang(&self) {
        self.fault("hang");
    }

    /// Lets a hung engine go on.
    pub fn wake(&self) {
        self.fault("wake");
    }

    /// Ends its engine at once; the containers stay.
    pub fn kill(&self) {
        self.fault("kill");
    }

    /// Ends its engine at once and starts it again.
    pub fn restart(&self) {
        self.fault("restart");
    }

    /// Whether what runs is to outlive its engine: restarts the engine with that setting. Whoever leases the node next has it as usual.
    pub fn live_restore(&self, on: bool) {
        std::fs::write(self.settings(), if on { "{\"live-restore\": true}" } else { USUAL_SETTINGS }).unwrap();
        self.restart();
    }

    fn settings(&self) -> PathBuf {
        self.socket.with_file_name("daemon.json")
    }

    /// Where its engine keeps everything.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.socket.with_file_name("data")
    }

    /// Listens on these ports of the node as a program of somebody else would, as long as what is returned lives. Ports that are
    /// taken are left out.
    #[must_use]
    pub fn occupy(&self, ports: impl Iterator<Item = u16> + Send + 'static) -> Vec<TcpListener> {
        let network = File::open(format!("/run/netns/captain-{}-{}", cluster().number, self.name)).unwrap();
        // A thread of its own, which ends in the other network.
        let listening = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            ports.filter_map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()).collect()
        });
        listening.join().unwrap()
    }

    /// Unplugs its network.
    pub fn cut(&self) {
        self.fault("cut");
    }

    /// Plugs its network in again.
    pub fn join(&self) {
        self.fault("join");
    }

    /// Lets its engine be reached on the port where EC2's are expected, too.
    pub fn listen_as_on_ec2(&self) {
        let network = format!("--net=/run/netns/captain-{}-{}", cluster().number, self.name);
        let rule = ["PREROUTING", "-p", "tcp", "--dport", "9400", "-j", "REDIRECT", "--to-ports", "2376"];
        let iptables = |does: &str| {
            Command::new("nsenter").args([&network, "iptables", "-t", "nat", does]).args(rule).output().unwrap()
        };
        if !iptables("-C").status.success() {
            let output = iptables("-A");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Lets it go on if it hangs; one that is dead stays so.
    fn wake_if_alive(&self) {
        let _ = Command::new(script_path())
            .args(["wake", &self.name])
            .env("CLUSTER", cluster().number.to_string())
            .output();
    }

    fn fault(&self, command: &str) {
        script(cluster().number, &[command, &self.name]);
    }

    /// Mends what the test before broke, and takes away what it left.
    async fn make_ready(&self) {
        let engine = self.engine();
        let answers =
            || async { matches!(tokio::time::timeout(Duration::from_secs(2), engine.answers()).await, Ok(true)) };
        self.join();
        if std::fs::read_to_string(self.settings()).is_ok_and(|settings| settings.trim() != USUAL_SETTINGS) {
            self.live_restore(false);
        }
        if !answers().await {
            self.wake_if_alive();
            if !answers().await {
                self.restart();
            }
        }
        engine.clear().await;
        eventually("an empty node", Duration::from_secs(20), || async {
            engine.containers().await.is_empty().then_some(())
        })
        .await;
    }
}

fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, number, 1)
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let root = PathBuf::from(std::env::var("CLUSTER_DIR").unwrap_or_else(|_| "/var/tmp/captain-cluster".into()));
        let (number, claim) = choose_number(&root);
        let (count, owner, secure) = (NODES.to_string(), std::process::id().to_string(), format!("app-{NODES}"));
        script(number, &["up", &count, "--tls", &secure, "--ssh", &secure, "--owner", &owner]);
        let directory = root.join(number.to_string());
        Cluster {
            number,
            nodes: (1..=NODES).map(|index| Node::new(number, index, &directory)).collect(),
            directory,
            free: Mutex::new(vec![true; usize::from(NODES)]),
            turnstile: tokio::sync::Mutex::default(),
            returned: Notify::new(),
            _claim: claim,
        }
    })
}

/// The cluster that `CLUSTER` names, or else the first that no other test process uses.
fn choose_number(root: &Path) -> (u8, Option<File>) {
    if let Ok(number) = std::env::var("CLUSTER") {
        return (number.parse().unwrap_or_else(|_| panic!("CLUSTER={number}: a number is meant")), None);
    }
    std::fs::create_dir_all(root).unwrap();
    for number in NUMBERS {
        let file = File::create(root.join(format!("{number}.tests"))).unwrap();
        if file.try_lock().is_ok() {
            return (number, Some(file));
        }
    }
    panic!("{} test processes run already on the clusters in {}", NUMBERS.count(), root.display());
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/cluster")
}

fn script(number: u8, arguments: &[&str]) {
    let path = script_path();
    let output = Command::new(&path).args(arguments).env("CLUSTER", number.to_string()).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "scripts/cluster {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
