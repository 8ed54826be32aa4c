//! What must hold for every input, whichever target made it.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::LazyLock;

use captain_slug::{Durability, Limits, Options, inspect, lint, normalise_to_tar, unpack_into};

/// `outer/witness` and `outer/store/witness` must stay; made once, since every run leaves it as it was.
static OUTER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let fast = Path::new("/dev/shm");
    let outer = if fast.is_dir() { tempfile::tempdir_in(fast) } else { tempfile::tempdir() }.expect("a folder");
    std::fs::create_dir(outer.path().join("store")).expect("a folder");
    for witness in ["witness", "store/witness"] {
        std::fs::write(outer.path().join(witness), "untouched").expect("a witness");
    }
    outer
});

/// Reads the slug in every way that there is. They must agree, and touch nothing outside.
pub fn check(slug: &[u8]) {
    let limits =
        Limits { unpacked_bytes: 1 << 20, entries: 64, metadata_bytes: 4096, zstd_window_log: 22, ..Limits::default() };
    let options = Options { limits, ..Options::default() };
    let mut tar = Vec::new();
    let streamed = normalise_to_tar(slug, &mut tar, "app/", &options);
    let store = OUTER.path().join("store");
    let unpacked = unpack_into(slug, &store, OsStr::new("slug"), Durability::Cache, &options);
    let inspected = inspect(slug, &options).map(|summary| format!("{:?}", summary.report));
    let said = |result: &Result<_, _>| match result {
        Ok(report) => format!("{report:?}"),
        Err(error) => format!("{error}"),
    };
    let streamed_said = said(&streamed);
    assert_eq!(streamed_said, said(&unpacked));
    assert_eq!(streamed_said, inspected.unwrap_or_else(|error| error.to_string()));
    lint(slug, &options).expect("reading from memory does not fail");
    if streamed.is_ok() {
        let on_disk = count(&store.join("slug"));
        let in_tar = names(&tar);
        assert_eq!(on_disk, in_tar, "the sinks disagree");
        std::fs::remove_dir_all(store.join("slug")).expect("removal");
    }
    assert_eq!(list(OUTER.path()), ["store", "witness"]);
    assert_eq!(list(&store), ["witness"]);
    for witness in ["witness", "store/witness"] {
        assert_eq!(std::fs::read(OUTER.path().join(witness)).expect("the witness"), b"untouched");
    }
}

fn list(folder: &Path) -> Vec<String> {
    let names =
        folder.read_dir().expect("a folder").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn count(folder: &Path) -> usize {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry"));
    entries.map(|entry| 1 + if entry.file_type().expect("a type").is_dir() { count(&entry.path()) } else { 0 }).sum()
}

/// How many different paths the tar crate finds, the prefix's own left out.
fn names(tar: &[u8]) -> usize {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().expect("a tar").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> =
        entries.map(|entry| entry.path_bytes().strip_suffix(b"/").unwrap_or(&entry.path_bytes()).to_vec()).collect();
    names.sort();
    names.dedup();
    names.len() - 1
}
