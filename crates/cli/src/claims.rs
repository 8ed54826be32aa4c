//! `captain claims`: the starts that are under way.

use captain_api::client::Get;
use captain_api::{Claim, Phase};
use jiff::Timestamp;

use crate::age;
use crate::connection::Connection;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::table::{Column, Table};

/// Arguments of `captain claims`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// Only this start; it is not found (exit code 4) once it has ended
    operation: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let connection = args.connection;
    match (args.operation, connection.json) {
        (Some(operation), true) => connection.pass_on(&Get::claim(&operation), printer).await?,
        (None, true) => connection.pass_on(&Get::claims(), printer).await?,
        (Some(operation), false) => list(&[connection.client()?.claim(&operation).await?], printer)?,
        (None, false) => list(&connection.client()?.claims().await?, printer)?,
    }
    Ok(Exit::Done)
}

fn list(claims: &[Claim], printer: &mut Printer) -> std::io::Result<()> {
    if claims.is_empty() {
        printer.say("no start is under way");
        return Ok(());
    }
    let mut table = Table::new([
        Column::Left("OPERATION"),
        Column::Left("APP"),
        Column::Left("NODE"),
        Column::Right("SLOTS"),
        Column::Left("PHASE"),
        Column::Right("AGE"),
        Column::Left("DETAIL"),
    ]);
    let now = Timestamp::now();
    for claim in claims {
        table.row([
            (&claim.operation).into(),
            (&claim.app).into(),
            (&claim.node).into(),
            claim.slots.into(),
            phase(claim.phase).into(),
            age::since(Some(&claim.since), now).into(),
            claim.detail.as_deref().unwrap_or("-").into(),
        ]);
    }
    table.print(printer)
}

/// The phase in a word.
pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Preparing => "preparing",
        Phase::Creating => "creating",
        Phase::Claiming => "claiming",
        Phase::Starting => "starting",
        Phase::Withdrawing => "withdrawing",
        Phase::Other => "?",
    }
}
