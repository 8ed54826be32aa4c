//! The server: where Captain's decisions meet effects.
//!
//! `http → actions → {fleet, engine} → domain`; `watch` keeps the fleet true, `gc` collects, `discovery` finds nodes. [`serve`] is the
//! one place that wires them.

pub mod actions;
pub mod captain;
pub mod config;
pub mod discovery;
pub mod engine;
pub mod fleet;
pub mod gc;
pub mod http;
mod node_slugs;
pub mod open_files;
pub mod slugs;
pub mod telemetry;
pub mod watch;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use captain_domain::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use captain::{Captain, Chance, Clock};
use config::{CLOSING_PATIENCE, Config, Listen, ServeArgs};
use discovery::Discovery;
use engine::local::{self, LocalSettings};

/// Exit code for a setting that cannot be.
const USAGE: u8 = 2;

/// What the captain binary brings along for the nodes.
#[derive(Debug, Clone)]
pub struct Carried {
    /// The runner: a static program, which runs slugs on any stack.
    pub runner: &'static [u8],
    /// How the role of a monitor is entered, of which the embedded engine needs one for each instance.
    pub monitor: local::Helper,
}

/// `captain serve`: until SIGTERM or SIGINT.
pub fn serve(args: ServeArgs, carried: Carried) -> ExitCode {
    let config = match Config::parse(args) {
        Ok(config) => config,
        Err(error) => return refuse(&error, USAGE),
    };
    if let Err(error) = telemetry::init(config.log.clone(), config.log_format) {
        return refuse(&error, 1);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error, 1),
    };
    let code = runtime.block_on(run(config, carried));
    // What still runs has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn refuse(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("captain: {}", chain(error));
    ExitCode::from(code)
}

async fn run(config: Config, carried: Carried) -> ExitCode {
    let listener = match bind(config.listen).await {
        Ok(listener) => listener,
        Err((address, error)) => {
            error!(%address, %error, "cannot listen");
            return ExitCode::FAILURE;
        }
    };
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        error!("signals cannot be waited for");
        return ExitCode::FAILURE;
    };
    let runner: Arc<[u8]> = carried.runner.into();
    let local = LocalSettings {
        state: config.slugs.data.join("engine"),
        runner: Arc::clone(&runner),
        monitor: carried.monitor,
        ports: local::PORTS,
        slugs: config.docker.slugs.clone(),
    };
    let captain = Captain::new(config.policy, config.slugs, system_clock(), Chance::new(SmallRng::from_os_rng()));
    let discovery = Discovery {
        captain: captain.clone(),
        docker: config.docker.with_runner(runner),
        local,
        slots_per_node: config.slots_per_node,
    };
    discovery.begin(config.nodes);
    captain.spawn(gc::collect(captain.clone()));
    captain.spawn(node_slugs::collect(captain.clone()));
    let tidying = captain.slugs().clone();
    captain.spawn(async move { tidying.tidy().await });
    if let Ok(address) = listener.local_addr() {
        info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    let router = http::router(captain.clone(), config.hostname);
    let serving = tokio::spawn(http::serve::serve(listener, router, captain.closing().clone(), CLOSING_PATIENCE));
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: finishing what is under way"),
        _ = interrupt.recv() => info!("SIGINT: finishing what is under way"),
    }
    captain.closing().cancel();
    let answered = serving.await.unwrap_or(false);
    let finished = captain.close(CLOSING_PATIENCE).await;
    if !(answered && finished) {
        warn!("closed with something still under way: other captains and the next start see what came of it");
    }
    info!("closed");
    ExitCode::SUCCESS
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

fn system_clock() -> Clock {
    Arc::new(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    })
}

async fn bind(listen: Listen) -> Result<TcpListener, (SocketAddr, std::io::Error)> {
    let at = async |address| TcpListener::bind(address).await.map_err(|error| (address, error));
    match listen {
        Listen::At(address) => at(address).await,
        // The IPv6 wildcard takes IPv4 as well, where the machine has IPv6 at all.
        Listen::Everywhere(port) => match at(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            Err((_, error)) if error.kind() != std::io::ErrorKind::AddrInUse => {
                at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
            }
            outcome => outcome,
        },
    }
}
