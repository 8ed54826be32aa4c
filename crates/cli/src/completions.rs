//! `captain completions`: a completion script for a shell.

use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Arguments of `captain completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell that the script is for
    shell: Shell,
}

pub(crate) fn run(args: &Args, mut whole: clap::Command, printer: &mut Printer) -> Result<Exit, Failure> {
    let name = whole.get_name().to_owned();
    // Into memory first: the generator panics when a write fails, and a closed pipe is no defect.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut whole, name, &mut script);
    printer.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
