//! `captain slug inspect`: what is in a slug.

use std::path::PathBuf;

use captain_domain::procfile::Procfile;
use captain_slug::{Options, Summary};
use serde_json::{Value, json};

use super::read;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::progress::size;
use crate::table::printable;

/// Arguments of `captain slug inspect`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The slug; - for stdin
    file: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let summary = read(&args.file, printer, |input| captain_slug::inspect(input, &Options::default()))?;
    let text = if args.json { format!("{}\n", document(&summary)) } else { page(&summary) };
    printer.data(&text)?;
    Ok(Exit::Done)
}

/// Name and command of each process type, or why they cannot be had.
fn processes(summary: &Summary) -> Result<Vec<(String, String)>, String> {
    let Some(bytes) = &summary.report.procfile else { return Ok(Vec::new()) };
    let procfile = Procfile::parse(bytes).map_err(|error| error.to_string())?;
    Ok(procfile.processes().iter().map(|process| (process.name.to_string(), process.command.to_string())).collect())
}

fn page(summary: &Summary) -> String {
    let report = &summary.report;
    let counts = &report.counts;
    let mut lines = vec![
        format!("sha256       {}", report.sha256),
        format!("size         {}, {}", size(report.given_bytes), report.compression),
        format!("layout       {}", report.layout),
        format!(
            "content      {} in {} files, {} folders, {} links",
            size(counts.content_bytes),
            counts.files,
            counts.directories,
            counts.symlinks + counts.hard_links
        ),
    ];
    match processes(summary) {
        Err(fault) => lines.push(format!("Procfile     {fault}")),
        Ok(all) if all.is_empty() && report.release.is_some() => {
            lines.push("processes    those of .release".to_owned())
        }
        Ok(all) if all.is_empty() => lines.push("processes    none: there is no Procfile".to_owned()),
        Ok(all) => lines.extend(all.iter().map(|(name, command)| format!("process      {name}: {command}"))),
    }
    lines.extend(summary.largest.iter().map(|file| format!("large file   {:>9}  {}", size(file.bytes), file.path)));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn document(summary: &Summary) -> Value {
    let report = &summary.report;
    let counts = &report.counts;
    let (processes, fault) = match processes(summary) {
        Ok(all) => (all, None),
        Err(fault) => (Vec::new(), Some(fault)),
    };
    let processes: Vec<Value> =
        processes.into_iter().map(|(name, command)| json!({"type": name, "command": command})).collect();
    let largest: Vec<Value> =
        summary.largest.iter().map(|file| json!({"path": file.path.to_string(), "bytes": file.bytes})).collect();
    json!({
        "sha256": report.sha256.to_string(), "bytes": report.given_bytes, "compression": report.compression.to_string(),
        "layout": report.layout.to_string(), "content_bytes": counts.content_bytes, "files": counts.files,
        "folders": counts.directories, "symlinks": counts.symlinks, "hard_links": counts.hard_links,
        "has_release": report.release.is_some(), "processes": processes, "procfile_fault": fault, "largest": largest,
    })
}
