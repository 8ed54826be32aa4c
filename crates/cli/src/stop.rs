//! `captain stop`: ends instances.

use captain_api::client::{Client, Error};
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::connection::Connection;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::progress::Progress;

/// Each stop may take the grace of its app. The server bounds the load on a node; this only bounds its connections from here.
const AT_ONCE: usize = 16;

/// Arguments of `captain stop`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The instances: their ids, or at least the first 12 digits of each
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

/// Stops all that can be stopped. The ids of those are printed as they end; each of the others is a failure of its own.
pub(crate) async fn run(args: Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let client = args.connection.client()?;
    let stopped = stop_all(&client, &args.ids, args.connection.json, printer).await?;
    if args.connection.json {
        let document: Vec<_> = args.ids.iter().zip(&stopped).map(|(id, ended)| outcome(id, ended.as_ref())).collect();
        printer.data(&format!("{}\n", serde_json::Value::from(document)))?;
    }
    let mut exits: Vec<Exit> = stopped.iter().flatten().map(Failure::exit).collect();
    exits.dedup();
    Ok(match exits[..] {
        [] => Exit::Done,
        [same] => same,
        _ => Exit::Refused,
    })
}

/// For each id, in their order, why it could not be stopped.
async fn stop_all(
    client: &Client,
    ids: &[String],
    json: bool,
    printer: &mut Printer,
) -> Result<Vec<Option<Failure>>, Failure> {
    let mut failures: Vec<Option<Failure>> = ids.iter().map(|_| None).collect();
    let attempts = ids.iter().enumerate().map(|(at, id)| async move { (at, client.stop(id).await) });
    let mut attempts = stream::iter(attempts).buffer_unordered(AT_ONCE);
    let mut left = ids.len();
    loop {
        let next = {
            let mut progress = Progress::new(printer, false);
            progress.show("stopping", &format!(": {left} of {} left", ids.len()));
            attempts.next().await
        };
        let Some((at, ended)) = next else { return Ok(failures) };
        left -= 1;
        match ended {
            Ok(()) if json => {}
            Ok(()) => printer.data(&format!("{}\n", ids[at]))?,
            Err(error) => {
                let failure = Failure::from(error);
                failure.tell(printer);
                failures[at] = Some(failure);
            }
        }
    }
}

fn outcome(id: &str, failure: Option<&Failure>) -> serde_json::Value {
    match failure {
        None => json!({"id": id, "stopped": true}),
        Some(Failure::Request(Error::Server(body))) => json!({"id": id, "stopped": false, "error": body}),
        Some(failure) => json!({"id": id, "stopped": false, "error": {"message": failure.to_string()}}),
    }
}
