//! `captain summary`: how many instances of each app run.

use captain_api::client::Get;

use crate::connection::Connection;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::table::{Column, Table};

/// Arguments of `captain summary`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: &Args, printer: &mut Printer) -> Result<Exit, Failure> {
    if args.connection.json {
        args.connection.pass_on(&Get::summary(), printer).await?;
        return Ok(Exit::Done);
    }
    let summary = args.connection.client()?.summary().await?;
    if summary.apps.is_empty() {
        printer.say("no instances run");
        return Ok(Exit::Done);
    }
    let mut table = Table::new([Column::Left("APP"), Column::Right("INSTANCES")]);
    for (app, instances) in &summary.apps {
        table.row([app.into(), instances.into()]);
    }
    table.print(printer)?;
    let (instances, apps) = (summary.total_instances, summary.apps.len());
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    printer.say(&format!("{instances} instance{} of {apps} app{}", plural(instances), plural(apps as u64)));
    Ok(Exit::Done)
}
