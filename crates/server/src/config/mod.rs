//! Configuration: what was given on the command line or in the environment, and what it means.
//!
//! Two steps. [`ServeArgs`] is what was given, by flag or by variable; its help is the reference. [`Config::parse`] says what it
//! means, or names what is wrong. Inside there are only valid values, and nothing else reads the environment.

mod nodes;
mod slugs;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use captain_domain::{ImageTag, SlotSize, Slots};
use clap::Args;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

pub use nodes::{EngineSpec, NodeSpec, parse_node};

use crate::captain::{Mode, Policy};
use crate::chain;
use crate::discovery::ec2::{Credentials, Ec2, Finder};
use crate::engine::docker::{self, TlsError};
use crate::telemetry::LogFormat;

/// `captain serve`: every setting is a flag and a variable.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The nodes: engine URIs, separated by commas
    ///
    /// http://, https://, tcp://, unix:// or ssh:// for Docker's API, local:// for this machine by itself. A node's id is the host name in its URI, or the name before it:
    /// `app-1=unix:///var/run/docker.sock`. `user:password@` is basic authentication. `?slots=64` gives a node its own number of
    /// slots. `@FILE` stands for the entries in a file, one a line. Without this and without AWS_DOCKER_HOST_TAG_VALUE, the one node is this machine by itself (with
    /// SLUG_RUNNER_IMAGE, its Docker at /var/run/docker.sock).
    #[arg(long = "nodes", env = "DOCKER_NODES", value_name = "URI,…", hide_env_values = true)]
    docker_nodes: Option<String>,

    /// Find nodes among running EC2 instances whose tag has this value; their URI is https://<private ip>:9400
    #[arg(long, env = "AWS_DOCKER_HOST_TAG_VALUE", value_name = "VALUE", conflicts_with = "docker_nodes")]
    aws_docker_host_tag_value: Option<String>,

    /// The tag that marks such EC2 instances
    #[arg(long, env = "AWS_DOCKER_HOST_TAG_NAME", value_name = "NAME", default_value = "role")]
    aws_docker_host_tag_name: String,

    /// How often to ask EC2, in seconds
    #[arg(long, env = "AWS_CALL_INTERVAL_SECS", value_name = "SECONDS", default_value = "60")]
    aws_call_interval_secs: u64,

    /// The AWS region; by default that of the machine, as its metadata service says
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    aws_region: Option<String>,

    /// Where the EC2 API is, if not at its usual place
    #[arg(long, env = "AWS_ENDPOINT_URL_EC2", value_name = "URL")]
    aws_endpoint_url_ec2: Option<String>,

    /// Where the EC2 metadata service is, if not at its usual place
    #[arg(long, env = "AWS_EC2_METADATA_SERVICE_ENDPOINT", value_name = "URL")]
    aws_ec2_metadata_service_endpoint: Option<String>,

    /// AWS credentials; by default those of the machine's role
    #[arg(
        long,
        env = "AWS_ACCESS_KEY_ID",
        value_name = "ID",
        hide_env_values = true,
        requires = "aws_secret_access_key"
    )]
    aws_access_key_id: Option<String>,

    /// The secret of the AWS credentials
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    aws_secret_access_key: Option<String>,

    /// The session token of temporary AWS credentials
    #[arg(long, env = "AWS_SESSION_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    aws_session_token: Option<String>,

    /// How long an ended instance stays readable before it is removed, in seconds
    #[arg(long, env = "DOCKER_GC_GRACE_PERIOD", value_name = "SECONDS", default_value = "86400")]
    docker_gc_grace_period: u64,

    /// The longest that one engine call may take, in seconds. Does not shorten the grace of a stop, nor a pull
    #[arg(long, env = "DOCKER_TIMEOUT", value_name = "SECONDS", default_value = "15")]
    docker_timeout: u64,

    /// The longest that pulling a runner image may take, in seconds
    #[arg(long, env = "CAPTAIN_PULL_TIMEOUT", value_name = "SECONDS", default_value = "900")]
    pull_timeout: u64,

    /// CA certificates (PEM) that sign those of https:// nodes; by default the system's
    #[arg(long, env = "CAPTAIN_DOCKER_CA", value_name = "FILE")]
    docker_ca: Option<PathBuf>,

    /// Client certificate (PEM) for https:// nodes
    #[arg(long, env = "CAPTAIN_DOCKER_CERT", value_name = "FILE", requires = "docker_key")]
    docker_cert: Option<PathBuf>,

    /// Key (PEM) of the client certificate
    #[arg(long, env = "CAPTAIN_DOCKER_KEY", value_name = "FILE", requires = "docker_cert")]
    docker_key: Option<PathBuf>,

    /// Slots of a node that has no number of its own
    #[arg(long, env = "SLOTS_PER_NODE", value_name = "SLOTS", default_value = "110")]
    slots_per_node: u32,

    /// Memory of a slot, in MiB
    #[arg(long, env = "SLOT_MEMORY_MB", value_name = "MIB", default_value = "128")]
    slot_memory_mb: NonZeroU64,

    /// Slots of an instance whose start asks for none
    #[arg(long, env = "DEFAULT_SLOTS_PER_INSTANCE", value_name = "SLOTS", default_value = "2")]
    default_slots_per_instance: u32,

    #[command(flatten)]
    slugs: slugs::SlugArgs,

    /// The command given to the runner image, e.g. `start web`
    #[arg(long, env = "SLUG_RUNNER_COMMAND", value_name = "COMMAND")]
    slug_runner_command: Option<String>,

    /// An image that fetches and runs slugs, without its tag, e.g. flynn/slugrunner. Without it, Captain's own runner runs them
    #[arg(long, env = "SLUG_RUNNER_IMAGE", value_name = "IMAGE")]
    slug_runner_image: Option<String>,

    /// The tag of the runner image
    #[arg(long, env = "SLUG_RUNNER_VERSION", value_name = "TAG", default_value = "0.0.0")]
    slug_runner_version: String,

    /// Makes the slug's URI for a start by `version`, e.g. http://slugs/{app_name}-v{app_version}.tgz
    #[arg(long, env = "SLUG_PATH", value_name = "TEMPLATE", hide_env_values = true)]
    slug_path: Option<String>,

    /// Listen on this port, on all addresses. Without it: on 127.0.0.1:8080
    #[arg(long, env = "PORT", value_name = "PORT")]
    port: Option<u16>,

    /// Listen on this address and port instead
    #[arg(long, env = "CAPTAIN_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// What to log: error, warn, info, debug, trace, or a filter such as `info,captain_server=debug`
    #[arg(long, env = "CAPTAIN_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How to log
    #[arg(long, env = "CAPTAIN_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "auto")]
    log_format: LogFormat,
}

/// A setting that cannot be. Names the variable; its flag is called the same.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The value is not one.
    #[error("{variable}: {problem}")]
    Value {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it, without its value where that may be a secret.
        problem: String,
    },
    /// A file that a variable names.
    #[error("{variable}: cannot read {}: {source}", path.display())]
    File {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The machine does not say what it is called.
    #[error("cannot read this machine's host name from /proc/sys/kernel/hostname: {0}")]
    Hostname(#[source] std::io::Error),
}

fn wrong(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { variable, problem: problem.into() }
}

/// Where the nodes come from.
#[derive(Debug)]
pub enum Nodes {
    /// From a list. The second are entries that could not be read: what is wrong with each.
    Listed(Vec<NodeSpec>, Vec<String>),
    /// From EC2, asked again after each such time.
    Ec2(Box<Finder>, Duration),
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// This port on all addresses.
    Everywhere(u16),
    /// This address.
    At(SocketAddr),
}

/// What the settings mean.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// Where the nodes come from.
    pub nodes: Nodes,
    /// Slots of a node that has no number of its own.
    pub slots_per_node: Slots,
    /// How Docker engines are spoken to.
    pub docker: docker::Settings,
    /// How instances are made.
    pub policy: Policy,
    /// How slugs are had and kept.
    pub slugs: crate::slugs::Settings,
    /// The machine's or container's host name.
    pub hostname: String,
    /// How logs are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: EnvFilter,
}

/// A request that is under way when the captain closes may take this much longer than one engine call.
pub const CLOSING_PATIENCE: Duration = Duration::from_secs(60);

impl Config {
    /// Says what the settings mean.
    pub fn parse(args: ServeArgs) -> Result<Self, ConfigError> {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(ConfigError::Hostname)?;
        let hostname = hostname.trim().to_owned();
        let log = EnvFilter::try_new(&args.log).map_err(|error| wrong("CAPTAIN_LOG", error.to_string()))?;
        if args.slots_per_node == 0 {
            return Err(wrong("SLOTS_PER_NODE", "a node without slots can run nothing: give 1 or more"));
        }
        if args.default_slots_per_instance == 0 {
            return Err(wrong("DEFAULT_SLOTS_PER_INSTANCE", "an instance takes at least 1 slot"));
        }
        let policy = policy(&args)?;
        let mode = policy.mode.clone();
        let slugs = args.slugs.settings(region(&args), credentials(&args))?;
        let mut docker = docker_settings(&args)?;
        docker.slugs.limits = slugs.limits.clone(); // what was good enough to be kept is to a node as well
        Ok(Self {
            listen: listen(&args),
            policy,
            slugs,
            docker,
            slots_per_node: Slots(args.slots_per_node),
            log_format: args.log_format,
            nodes: nodes_from(args, &hostname, &mode)?,
            hostname,
            log,
        })
    }
}

fn listen(args: &ServeArgs) -> Listen {
    match (args.listen, args.port) {
        (Some(address), _) => Listen::At(address),
        (None, Some(port)) => Listen::Everywhere(port),
        // Nobody else's business until somebody says so.
        (None, None) => Listen::At(SocketAddr::from(([127, 0, 0, 1], 8080))),
    }
}

fn policy(args: &ServeArgs) -> Result<Policy, ConfigError> {
    let timeout = Duration::from_secs(args.docker_timeout);
    Ok(Policy {
        slot_size: SlotSize::from_mib(args.slot_memory_mb),
        default_slots: Slots(args.default_slots_per_instance),
        mode: slugs::mode(args)?,
        slug_path: slug_path(args)?,
        stop_grace: Duration::from_secs(10),
        exited_kept: Duration::from_secs(args.docker_gc_grace_period),
        claim_patience: Duration::from_secs(10),
        // A claim that its captain still pursues is started within its patience and a few calls.
        claim_grace: Duration::from_secs(10) + timeout * 2,
        relist_every: Duration::from_secs(30),
        ping_every: Duration::from_secs(5),
        node_slug_bytes: args.slugs.node_bytes(),
    })
}

fn runner_version(args: &ServeArgs) -> Result<String, ConfigError> {
    let tag = ImageTag::parse(&args.slug_runner_version);
    tag.map(|tag| tag.to_string()).map_err(|error| wrong("SLUG_RUNNER_VERSION", error.to_string()))
}

fn region(args: &ServeArgs) -> Option<String> {
    args.aws_region.clone().filter(|region| !region.is_empty())
}

fn credentials(args: &ServeArgs) -> Option<Credentials> {
    let (id, secret) = args.aws_access_key_id.clone().zip(args.aws_secret_access_key.clone())?;
    Some(Credentials { id, secret, token: args.aws_session_token.clone().filter(|token| !token.is_empty()) })
}

fn slug_path(args: &ServeArgs) -> Result<Option<String>, ConfigError> {
    let Some(path) = args.slug_path.clone().filter(|path| !path.is_empty()) else { return Ok(None) };
    let rest = path.replace("{app_name}", "").replace("{app_version}", "");
    if rest.contains(['{', '}']) {
        return Err(wrong("SLUG_PATH", "only {app_name} and {app_version} may stand in braces"));
    }
    Ok(Some(path))
}

fn docker_settings(args: &ServeArgs) -> Result<docker::Settings, ConfigError> {
    if args.docker_timeout == 0 {
        return Err(wrong("DOCKER_TIMEOUT", "must be 1 second or more"));
    }
    let read = |variable, path: &Path| {
        std::fs::read(path).map_err(|source| ConfigError::File { variable, path: path.to_owned(), source })
    };
    let ca = args.docker_ca.as_deref().map(|path| read("CAPTAIN_DOCKER_CA", path)).transpose()?;
    let identity = match (&args.docker_cert, &args.docker_key) {
        (Some(cert), Some(key)) => Some((read("CAPTAIN_DOCKER_CERT", cert)?, read("CAPTAIN_DOCKER_KEY", key)?)),
        _ => None,
    };
    let own_material = ca.is_some() || identity.is_some();
    let tls = docker::Tls::new(docker::TlsMaterial { ca, identity });
    // Files that are given are looked at now; the system's roots, half a megabyte, only when a node needs them.
    if own_material {
        tls.check().map_err(|error| {
            let variable = match error {
                TlsError::Certificate => "CAPTAIN_DOCKER_CERT",
                TlsError::Key | TlsError::Identity(_) => "CAPTAIN_DOCKER_KEY",
                TlsError::Ca | TlsError::NoRoots | TlsError::Setup(_) => "CAPTAIN_DOCKER_CA",
            };
            wrong(variable, chain(&error))
        })?;
    }
    Ok(docker::Settings::new(Duration::from_secs(args.docker_timeout), Duration::from_secs(args.pull_timeout), tls))
}

fn nodes_from(args: ServeArgs, hostname: &str, mode: &Mode) -> Result<Nodes, ConfigError> {
    let listed = args.docker_nodes.as_deref().map(str::trim).filter(|nodes| !nodes.is_empty());
    let Some(listed) = listed else {
        return match args.aws_docker_host_tag_value.clone() {
            Some(value) if !value.is_empty() => {
                let ec2 = ec2(args, value);
                let every = ec2.every;
                let finder = Finder::new(ec2).map_err(|error| wrong("AWS_DOCKER_HOST_TAG_VALUE", chain(&error)))?;
                Ok(Nodes::Ec2(Box::new(finder), every))
            }
            _ => nodes::this_machine(hostname, mode).map(|node| Nodes::Listed(vec![node], Vec::new())),
        };
    };
    let (specs, problems) = nodes::parse_list(listed, hostname)?;
    Ok(Nodes::Listed(specs, problems))
}

fn ec2(args: ServeArgs, tag_value: String) -> Ec2 {
    Ec2 {
        region: region(&args),
        credentials: credentials(&args),
        tag_name: args.aws_docker_host_tag_name,
        tag_value,
        every: Duration::from_secs(args.aws_call_interval_secs.max(1)),
        endpoint: args.aws_endpoint_url_ec2.filter(|url| !url.is_empty()),
        metadata: args.aws_ec2_metadata_service_endpoint.filter(|url| !url.is_empty()),
    }
}
