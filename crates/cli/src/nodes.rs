//! `captain nodes`: the nodes and their slots.

use captain_api::Node;
use captain_api::client::Get;
use jiff::Timestamp;

use crate::age;
use crate::connection::Connection;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::{Printer, Tint};
use crate::ps::first_word;
use crate::table::{Cell, Column, Table, printable};

/// Arguments of `captain nodes`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args, printer: &mut Printer) -> Result<Exit, Failure> {
    if args.connection.json {
        args.connection.pass_on(&Get::nodes(), printer).await?;
        return Ok(Exit::Done);
    }
    let mut nodes = args.connection.client()?.nodes().await?;
    if nodes.is_empty() {
        printer.say("this captain has no nodes");
        return Ok(Exit::Done);
    }
    nodes.sort_by(|a, b| a.id.cmp(&b.id));
    table(&nodes).print(printer)?;
    let now = Timestamp::now();
    for node in &nodes {
        tell(node, now, printer);
    }
    Ok(Exit::Done)
}

pub(crate) fn is_healthy(node: &Node) -> bool {
    node.state == "healthy"
}

fn table(nodes: &[Node]) -> Table<6> {
    let mut table = Table::new([
        Column::Left("NODE"),
        Column::Left("STATE"),
        Column::Right("FREE"),
        Column::Right("USED"),
        Column::Right("TOTAL"),
        Column::Left("ENGINE"),
    ]);
    for node in nodes {
        let healthy = is_healthy(node);
        // The zeros of a node that does not answer are not its figures.
        let figure = |slots: u32| if healthy { slots.to_string() } else { "-".to_owned() };
        let engine = node.engine.as_ref().map_or_else(|| "-".to_owned(), |e| format!("{} {}", e.kind, e.version));
        table.row([
            (&node.id).into(),
            Cell::tinted(first_word(&node.state), if healthy { Tint::Good } else { Tint::Bad }),
            figure(node.slots.free).into(),
            figure(node.slots.used).into(),
            figure(node.slots.total).into(),
            engine.into(),
        ]);
    }
    table
}

/// What is wrong with a node, what was known of it last, and its warnings.
fn tell(node: &Node, now: Timestamp, printer: &mut Printer) {
    let label = printer.talk_tint("warning:", Tint::Odd);
    let id = printable(&node.id);
    if !is_healthy(node) {
        let mut history = Vec::new();
        history.extend(node.since.as_ref().map(|at| format!("for {}", age::since(Some(at), now))));
        history.extend(node.last_known.as_ref().map(|known| {
            let age = age::since(Some(&known.at), now);
            format!("{age} ago, {} of its {} slots were free", known.slots.free, known.slots.total)
        }));
        let history = if history.is_empty() { String::new() } else { format!(" ({})", history.join("; ")) };
        printer.say(&format!("{label} {id} is {}{history}", printable(&node.state)));
    }
    for warning in &node.warnings {
        printer.say(&format!("{label} {id}: {}", printable(warning)));
    }
}
