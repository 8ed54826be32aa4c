//! `captain ps`: the instances.

use captain_api::client::{Get, InstanceFilter};
use captain_api::{Instance, InstanceState, Node};
use jiff::Timestamp;

use crate::age;
use crate::connection::Connection;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::nodes::is_healthy;
use crate::printer::{Printer, Tint};
use crate::table::{Cell, Column, Table, printable};

const STATES: [&str; 8] = ["created", "running", "paused", "restarting", "exited", "removing", "dead", "unknown"];

/// Arguments of `captain ps`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// Only those on this node
    #[arg(long, short)]
    node: Option<String>,
    /// Only those of this app
    #[arg(long)]
    app: Option<String>,
    /// Only those in this state
    #[arg(long, short, value_parser = STATES, conflicts_with = "all")]
    state: Option<String>,
    /// Those that have ended as well
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let narrowed = args.node.is_some() || args.app.is_some() || args.state.is_some();
    let state = if args.all { Some("all".to_owned()) } else { args.state };
    let query = Get::instances(&InstanceFilter { node: args.node, app: args.app, state });
    if args.connection.json {
        args.connection.pass_on(&query, printer).await?;
        return Ok(Exit::Done);
    }
    let client = args.connection.client()?;
    let mut instances = client.get(&query).await?;
    if instances.is_empty() {
        printer.say(match (narrowed, args.all) {
            (true, _) => "no such instances",
            (false, true) => "there are no instances",
            (false, false) => "no instances run; --all lists those that have ended as well",
        });
        doubt(&client.nodes().await?, printer);
        return Ok(Exit::Done);
    }
    instances.sort_by(|a, b| (&a.app, &a.node, &a.created, &a.id).cmp(&(&b.app, &b.node, &b.created, &b.id)));
    let now = Timestamp::now();
    table(&instances, now).print(printer)?;
    if instances.iter().any(|instance| instance.node_state.is_some()) {
        tell_silent_nodes(&instances, &client.nodes().await?, now, printer);
    }
    Ok(Exit::Done)
}

fn table(instances: &[Instance], now: Timestamp) -> Table<8> {
    let mut table = Table::new([
        Column::Left("ID"),
        Column::Left("APP"),
        Column::Left("NODE"),
        Column::Right("PORT"),
        Column::Right("SLOTS"),
        Column::Left("STATE"),
        Column::Right("AGE"),
        Column::Left("SLUG"),
    ]);
    for instance in instances {
        let age = age::since(instance.started.as_deref().or(instance.created.as_deref()), now);
        table.row([
            instance.id.chars().take(12).collect::<String>().into(),
            (&instance.app).into(),
            (&instance.node).into(),
            instance.port.map_or_else(|| "-".to_owned(), |port| port.to_string()).into(),
            instance.slots.into(),
            state(instance, now),
            age.into(),
            (&instance.slug_uri).into(),
        ]);
    }
    table
}

/// The state; for an instance that has ended how and when, for one that cannot be seen what its node does instead.
fn state(instance: &Instance, now: Timestamp) -> Cell {
    let (word, tint) = match instance.state {
        InstanceState::Running => ("running", Tint::Good),
        InstanceState::Created => ("created", Tint::Plain),
        InstanceState::Paused => ("paused", Tint::Odd),
        InstanceState::Restarting => ("restarting", Tint::Odd),
        InstanceState::Exited => ("exited", Tint::Odd),
        InstanceState::Removing => ("removing", Tint::Odd),
        InstanceState::Dead => ("dead", Tint::Bad),
        InstanceState::Unknown => ("unknown", Tint::Bad),
        InstanceState::Other => ("?", Tint::Bad),
    };
    let text = match (&instance.exit, &instance.node_state) {
        (Some(exit), _) => {
            let when = exit.at.as_ref().map(|at| format!(" {} ago", age::since(Some(at), now)));
            format!("{word}{}: {}", when.unwrap_or_default(), exit.reason)
        }
        (None, Some(node)) => format!("{word}: node {}", first_word(node)),
        (None, None) => word.to_owned(),
    };
    Cell::tinted(&text, tint)
}

/// One line for each node that does not answer and has instances in the list: what is wrong with it, and how old what is said of
/// them is.
fn tell_silent_nodes(instances: &[Instance], nodes: &[Node], now: Timestamp, printer: &mut Printer) {
    for node in nodes.iter().filter(|node| !is_healthy(node)) {
        if instances.iter().all(|instance| instance.node != node.id) {
            continue;
        }
        let heard = match &node.last_known {
            Some(known) => format!("its instances are shown as they were {} ago", age::since(Some(&known.at), now)),
            None => "it has not been heard yet".to_owned(),
        };
        let label = printer.talk_tint("warning:", Tint::Odd);
        printer.say(&format!("{label} {} is {}; {heard}", printable(&node.id), printable(&node.state)));
    }
}

/// An empty list is true of the nodes that answer, and of no other.
fn doubt(nodes: &[Node], printer: &mut Printer) {
    let silent: Vec<String> = nodes.iter().filter(|node| !is_healthy(node)).map(|node| printable(&node.id)).collect();
    if !silent.is_empty() {
        let label = printer.talk_tint("warning:", Tint::Odd);
        let silent = silent.join(", ");
        printer.say(&format!("{label} these nodes do not answer, and what runs on them is not known: {silent}"));
    }
}

/// `unreachable` of `unreachable: connection refused`.
pub(crate) fn first_word(state: &str) -> &str {
    state.split_once(':').map_or(state, |(word, _)| word)
}
