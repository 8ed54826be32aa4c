//! `captain logs`: what an instance wrote.

use captain_api::LogLine;
use captain_api::client::{Client, LogLines};
use serde_json::value::RawValue;

use crate::connection::{Connection, document};
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;

/// Arguments of `captain logs`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The instance: its id, or at least the first 12 digits of it
    id: String,
    /// Go on with what it writes from now on, until it ends
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let client = args.connection.client()?;
    if args.connection.json {
        pass_on(&client, &args, printer).await?;
    } else {
        print(client.logs(&args.id, args.follow).await?, args.follow, printer).await?;
    }
    Ok(Exit::Done)
}

/// The server's lines as they are: one JSON document each.
async fn pass_on(client: &Client, args: &Args, printer: &mut Printer) -> Result<(), Failure> {
    let mut lines = client.logs_as::<Box<RawValue>>(&args.id, args.follow).await?;
    while let Some(line) = lines.next_line().await {
        document(&line?, printer)?;
    }
    Ok(())
}

/// The text alone. A log that is not followed ends with a blank line which the instance did not write; for that one to be left out,
/// each line waits for the next.
async fn print(mut lines: LogLines<LogLine>, follow: bool, printer: &mut Printer) -> Result<(), Failure> {
    let mut held: Option<String> = None;
    while let Some(line) = lines.next_line().await {
        let line = match line {
            Ok(line) => line.msg,
            Err(error) => {
                printer.data(held.as_deref().unwrap_or_default())?;
                return Err(error.into());
            }
        };
        if follow {
            printer.data(&line)?;
            // A prompt has no line feed, and is to be seen all the same.
            printer.flush()?;
        } else if let Some(earlier) = held.replace(line) {
            printer.data(&earlier)?;
        }
    }
    printer.data(held.as_deref().filter(|last| *last != "\n").unwrap_or_default())?;
    Ok(())
}
