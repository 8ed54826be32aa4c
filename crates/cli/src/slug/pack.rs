//! `captain slug pack`: a slug of a folder.

use std::fs::Permissions;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use captain_slug::{PackOptions, Packed};
use serde_json::json;
use tempfile::NamedTempFile;

use super::SlugFailure;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::printer::Printer;
use crate::progress::{Progress, Transfer, size};
use crate::table::printable;

/// Arguments of `captain slug pack`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXIT_CODES)]
pub struct Args {
    /// The folder of the built app; what its .slugignore names is left out
    folder: PathBuf,
    /// The slug to write; by default the folder's name with .tgz, in the current folder
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print what was packed as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, printer: &mut Printer) -> Result<Exit, Failure> {
    let open = |path: &Path| path.canonicalize().map_err(|source| SlugFailure::Open { path: path.to_owned(), source });
    let folder = open(&args.folder)?;
    let output = match (&args.output, folder.file_name()) {
        (Some(output), _) => output.clone(),
        (None, Some(name)) => Path::new(name).with_added_extension("tgz"),
        (None, None) => return Err(usage("the folder has no name to call the slug by", "name the slug with -o FILE")),
    };
    let beside = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if open(beside)?.starts_with(&folder) {
        return Err(usage("the slug would be packed into itself", "write it elsewhere, as with -o ../app.tgz"));
    }
    let packed = write(&folder, beside, &output, printer)?;
    tell(&output, &packed, args.json, printer)?;
    Ok(Exit::Done)
}

/// Packs into a file of another name, which takes the slug's name once it is whole: whoever fetches it meanwhile gets the one before.
fn write(folder: &Path, beside: &Path, output: &Path, printer: &mut Printer) -> Result<Packed, SlugFailure> {
    let unwritable = |source| SlugFailure::Write { path: output.to_owned(), source };
    let file = NamedTempFile::new_in(beside).map_err(unwritable)?;
    let mut transfer = Transfer::new(Progress::new(printer, false), format!("packing {}", folder.display()));
    let packed = captain_slug::pack(folder, BufWriter::new(&file), &PackOptions::default(), &mut |done| {
        transfer.at(done.bytes, Some(done.bytes_total));
    })?;
    // Temporary files are their owner's alone; a slug is made to be served.
    file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(unwritable)?;
    file.persist(output).map_err(|error| unwritable(error.error))?;
    Ok(packed)
}

fn tell(output: &Path, packed: &Packed, json: bool, printer: &mut Printer) -> std::io::Result<()> {
    if json {
        let document = json!({
            "file": output, "sha256": packed.sha256.to_string(), "bytes": packed.bytes, "entries": packed.entries,
            "content_bytes": packed.content_bytes, "left_out": packed.left_out,
        });
        return printer.data(&format!("{document}\n"));
    }
    printer.data(&format!("sha256:{}\n", packed.sha256))?;
    let left_out = if packed.left_out > 0 { format!("; {} left out", packed.left_out) } else { String::new() };
    let (output, entries) = (printable(&output.to_string_lossy()), packed.entries);
    printer.say(&format!(
        "packed {entries} entries ({}) into {output} ({}){left_out}",
        size(packed.content_bytes),
        size(packed.bytes)
    ));
    Ok(())
}

fn usage(message: &str, help: &str) -> Failure {
    Failure::Usage { message: message.to_owned(), help: Some(help.to_owned()) }
}
