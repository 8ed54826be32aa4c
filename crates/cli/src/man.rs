//! `captain man`: the manual, from the same definition as `--help`.

use std::path::PathBuf;

use clap_mangen::Man;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Arguments of `captain man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The page of this command instead of the first one: `start`, `slug pack`
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    page: Vec<String>,
    /// Write all pages into this folder, which must exist: captain.1, captain-start.1, …
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, whole: clap::Command, printer: &mut Printer) -> Result<Exit, Failure> {
    if let Some(path) = args.dir {
        clap_mangen::generate_to(whole, &path).map_err(|source| Failure::File { path, source })?;
        return Ok(Exit::Done);
    }
    let command = page_of(whole, &args.page)?;
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    printer.data(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

fn page_of(mut whole: clap::Command, path: &[String]) -> Result<clap::Command, Failure> {
    whole.build();
    let mut name = whole.get_name().to_owned();
    let mut command = &whole;
    for word in path {
        name = format!("{name}-{word}");
        command = command.find_subcommand(word).ok_or_else(|| Failure::Usage {
            message: format!("there is no command `{}`", path.join(" ")),
            help: Some(format!("`{} help` lists the commands", whole.get_name())),
        })?;
    }
    Ok(command.clone().name(name))
}
