//! `captain slug lint`: what is wrong with a slug.

use std::path::PathBuf;

use captain_domain::procfile::{self, Concern, Procfile, ProcfileError};
use captain_slug::{EntryName, Finding, Options, Severity};
use serde_json::{Value, json};

use super::read;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::{Printer, Tint};
use crate::table::printable;

/// Arguments of `captain slug lint`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The slug; - for stdin
    file: PathBuf,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// The findings are the data. An error among them is a refusal; warnings and notes are not.
pub(crate) fn run(args: &Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let findings = read(&args.file, printer, |input| captain_slug::lint_with(input, &Options::default(), of_procfile))?;
    if args.json {
        let document: Vec<Value> = findings.iter().map(document).collect();
        printer.data(&format!("{}\n", Value::from(document)))?;
    } else {
        for finding in &findings {
            let text = told(finding, printer);
            printer.data(&text)?;
        }
        if findings.is_empty() {
            printer.say("nothing is wrong with it");
        }
    }
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if refused { Exit::Refused } else { Exit::Done })
}

/// What the runner will make of the Procfile, and others.
fn of_procfile(bytes: &[u8]) -> Vec<Finding> {
    let finding = |severity, code, sentence: String, classic| Finding {
        severity,
        code,
        entry: Some(EntryName::from(&b"Procfile"[..])),
        sentence,
        classic,
    };
    match Procfile::parse(bytes) {
        // Said of the bytes already.
        Err(ProcfileError::Text(_)) => Vec::new(),
        Err(error) => {
            let sentence = format!("the Procfile cannot be read, so nothing in it can be started: {error}");
            vec![finding(Severity::Error, "procfile-invalid", sentence, None)]
        }
        Ok(procfile) if procfile.processes().is_empty() => Vec::new(),
        Ok(_) => procfile::lint(bytes)
            .into_iter()
            .filter_map(|found| {
                let (severity, code) = judged(&found.concern)?;
                Some(finding(severity, code, found.to_string(), None))
            })
            .collect(),
    }
}

/// None where it is said of the bytes already.
fn judged(concern: &Concern) -> Option<(Severity, &'static str)> {
    Some(match concern {
        Concern::ByteOrderMark | Concern::CarriageReturn => return None,
        Concern::Duplicate { .. } => (Severity::Warning, "procfile-duplicate"),
        Concern::NoBlankAfterColon { .. } => (Severity::Note, "procfile-no-blank"),
        Concern::ReadAsYaml => (Severity::Warning, "procfile-yaml"),
        Concern::ClassicDiffers { .. } => (Severity::Note, "procfile-classic-differs"),
        Concern::ClassicFails => (Severity::Note, "procfile-classic-fails"),
        Concern::NoWeb => (Severity::Note, "procfile-no-web"),
    })
}

fn told(finding: &Finding, printer: &Printer) -> String {
    let tint = match finding.severity {
        Severity::Error => Tint::Bad,
        Severity::Warning => Tint::Odd,
        Severity::Note => Tint::Faint,
    };
    let label = printer.data_tint(&format!("{}[{}]:", finding.severity, finding.code), tint);
    let mut text = format!("{label} {}\n", printable(&finding.sentence));
    if let Some(classic) = finding.classic {
        text += &format!("  the classic runners: {}\n", printable(classic));
    }
    text
}

fn document(finding: &Finding) -> Value {
    json!({
        "severity": finding.severity.to_string(), "code": finding.code, "sentence": finding.sentence,
        "entry": finding.entry.as_ref().map(ToString::to_string), "classic": finding.classic,
    })
}
