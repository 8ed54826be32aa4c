//! `captain man`: the manual, from the same definition as `--help`.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Arguments of `captain man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The page of this command instead of the first one
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    page: Option<String>,
    /// Write all pages into this folder, which must exist: captain.1, captain-start.1, …
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, whole: clap::Command, printer: &mut Printer) -> Result<Exit, Failure> {
    if let Some(path) = args.dir {
        clap_mangen::generate_to(whole, &path).map_err(|source| Failure::File { path, source })?;
        return Ok(Exit::Done);
    }
    let command = match args.page {
        None => whole,
        Some(page) => page_of(whole, &page)?,
    };
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    printer.data(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

fn page_of(mut whole: clap::Command, page: &str) -> Result<clap::Command, Failure> {
    whole.build();
    let name = format!("{}-{page}", whole.get_name());
    match whole.find_subcommand(page) {
        Some(command) => Ok(command.clone().name(name)),
        None => Err(Failure::Usage {
            message: format!("there is no command `{page}`"),
            help: Some(format!("`{} help` lists the commands", whole.get_name())),
        }),
    }
}
