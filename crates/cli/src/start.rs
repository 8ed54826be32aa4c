//! `captain start`: starts an instance, and says meanwhile how far it is.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use captain_api::client::{Client, Error};
use captain_api::{Claim, Instance, Node, Start};
use serde_json::value::RawValue;

use crate::claims::phase;
use crate::connection::{Connection, document};
use crate::environment;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::nodes::is_healthy;
use crate::printer::{Printer, Tint};
use crate::progress::Progress;
use crate::table::printable;

/// Quick enough to look alive; an answer from memory costs the server some microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A refusal lists no more nodes than a person reads.
const NODES_TOLD: usize = 8;

/// Arguments of `captain start`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES, disable_version_flag = true)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["slug", "version"]))]
pub struct Args {
    /// The app that the instance belongs to
    app: String,
    /// The node to start it on; where there is only one, that one
    #[arg(long, short)]
    node: Option<String>,
    /// The slug: its URI, or a file or a folder here, which is brought to the captain first
    #[arg(long, value_name = "URI|FILE|FOLDER")]
    slug: Option<String>,
    /// The process type to run; web if not given
    #[arg(long, value_name = "TYPE")]
    process: Option<String>,
    /// The digest that the slug must have
    #[arg(long, value_name = "DIGEST")]
    sha256: Option<String>,
    /// The version of the app; the server knows where the slugs of versions are (SLUG_PATH)
    #[arg(long)]
    version: Option<String>,
    /// A variable for the instance; may be given several times, and wins over those of files
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = environment::variable)]
    env: Vec<(String, String)>,
    /// A file of variables, one NAME=VALUE a line; lines that begin with # are comments
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Slots to take; the server has a default
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// The host name of the instance; by default the first 12 digits of its id
    #[arg(long)]
    hostname: Option<String>,
    /// The tag of the runner image, where the server uses one
    #[arg(long, value_name = "TAG")]
    runner_version: Option<String>,
    /// Say each stage, also where stderr is no terminal
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let client = args.connection.client()?;
    let (json, verbose) = (args.connection.json, args.verbose);
    let start = order(args, &client, printer).await?;
    let operation = uuid::Uuid::new_v4().to_string();
    let ended = {
        let mut progress = Progress::new(printer, verbose);
        progress.show(&format!("starting {} on {}", start.app, start.node), "");
        tokio::select! {
            // The answer first: an interrupt that comes with it has come too late.
            biased;
            ended = send(&client, &start, &operation, json) => Some(ended),
            never = watch(&client, &operation, &mut progress) => match never {},
            _ = tokio::signal::ctrl_c() => None,
        }
    };
    match ended {
        Some(Ok(Answer::Json(answer))) => document(&answer, printer)?,
        Some(Ok(Answer::Instance(instance))) => tell_started(&instance, printer)?,
        Some(Err(error)) => {
            if error.outcome_unknown() {
                printer.say(&format!(
                    "the start may go on at the server: `captain claims {operation}` tells while it does"
                ));
            }
            return Err(error.into());
        }
        None => {
            printer.say(&format!(
                "interrupted; the start of {} on {} goes on at the server as operation {operation}",
                printable(&start.app),
                printable(&start.node)
            ));
            return Ok(Exit::Interrupted);
        }
    }
    Ok(Exit::Done)
}

/// A start that succeeded: as the server wrote it, for programs, or to be told to a person.
enum Answer {
    Json(Box<RawValue>),
    Instance(Box<Instance>),
}

async fn send(client: &Client, start: &Start, operation: &str, json: bool) -> Result<Answer, Error> {
    if json {
        return client.start_as(start, operation).await.map(Answer::Json);
    }
    client.start(start, operation).await.map(|instance| Answer::Instance(Box::new(instance)))
}

/// What to ask the server for.
async fn order(args: Args, client: &Client, printer: &mut Printer) -> Result<Start, Failure> {
    let environment = environment::gather(&args.env_file, args.env)?;
    let node = match args.node {
        Some(node) => node,
        None => only(client.nodes().await?)?,
    };
    // Last: what is wrong with the rest is said before anything is sent.
    let slug = match args.slug {
        Some(slug) if is_here(&slug) => {
            Some(format!("sha256:{}", crate::slug::push_path(Path::new(&slug), client, printer).await?))
        }
        slug => slug,
    };
    Ok(Start {
        app: args.app,
        node,
        slug_uri: slug,
        process: args.process,
        slug_sha256: args.sha256,
        version: args.version,
        environment,
        slots: args.slots,
        hostname: args.hostname,
        slug_runner_version: args.runner_version,
        ..Start::default()
    })
}

/// Whether it is a file or a folder of this machine, and not a URI.
fn is_here(slug: &str) -> bool {
    let is_uri = slug.contains("://") || slug.starts_with("sha256:");
    !is_uri && Path::new(slug).exists()
}

/// The one node that there is.
fn only(mut nodes: Vec<Node>) -> Result<String, Failure> {
    if nodes.len() == 1 {
        return Ok(nodes.remove(0).id);
    }
    if nodes.is_empty() {
        return Err(Failure::Usage { message: "this captain has no nodes to start on".to_owned(), help: None });
    }
    let count = nodes.len();
    let mut healthy: Vec<Node> = nodes.into_iter().filter(is_healthy).collect();
    healthy.sort_by_key(|node| (std::cmp::Reverse(node.slots.free), node.id.clone()));
    let told: Vec<String> =
        healthy.iter().take(NODES_TOLD).map(|node| format!("{} ({} slots free)", node.id, node.slots.free)).collect();
    let more = if healthy.len() > NODES_TOLD { ", …" } else { "" };
    let help = match healthy.is_empty() {
        true => "none of them is healthy now; `captain nodes` says why".to_owned(),
        false => format!("name one of them with --node: {}{more}", told.join(", ")),
    };
    Err(Failure::Usage { message: format!("there are {count} nodes: which one is it to be?"), help: Some(help) })
}

/// Shows how far the start is, for as long as it is polled. Whatever fails here is of no matter: the answer to the start decides.
async fn watch(client: &Client, operation: &str, progress: &mut Progress<'_>) -> Infallible {
    let began = std::time::Instant::now();
    let mut seen: Option<Claim> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        seen = client.claim(operation).await.ok().or(seen);
        if let Some(claim) = &seen {
            let stage = format!("starting {} on {}: {}", claim.app, claim.node, phase(claim.phase));
            let detail = claim.detail.as_ref().map(|detail| format!(", {detail}")).unwrap_or_default();
            progress.show(&stage, &format!("{detail} ({} s)", began.elapsed().as_secs()));
        }
    }
}

fn tell_started(instance: &Instance, printer: &mut Printer) -> std::io::Result<()> {
    printer.data(&format!("{}\n", instance.id))?;
    if let Some(port) = instance.port.filter(|_| printer.talk_is_seen() && printer.data_is_seen()) {
        let (app, node) = (printable(&instance.app), printable(&instance.node));
        let label = printer.talk_tint("started", Tint::Good);
        printer.say(&format!("{label} {app} on {node}: http://{node}:{port}"));
    }
    Ok(())
}
