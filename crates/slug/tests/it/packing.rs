//! The same tree gives the same bytes, and what is packed is taken.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use captain_slug::{Layout, Limits, Options, PackError, PackOptions, Packed, inspect, pack};

use crate::outcome::{Node, both, paths};

fn make_tree(root: &Path, order: impl Iterator<Item = usize>) {
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("app")).unwrap();
    for i in order {
        fs::write(root.join(format!("app/file-{i}")), format!("content {i}")).unwrap();
    }
    fs::write(root.join("app-file"), "sorts between").unwrap();
    fs::write(root.join("Procfile"), "web: bin/run\n").unwrap();
    fs::write(root.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../bin/run", root.join("app/run")).unwrap();
    symlink("/app/bin/run", root.join("absolute")).unwrap();
    fs::hard_link(root.join("Procfile"), root.join("hard")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"latin-\xe9")), "x").unwrap();
    fs::write(root.join("n".repeat(200)), "long").unwrap();
}

fn packed(root: &Path) -> Result<(Vec<u8>, Packed), PackError> {
    let mut slug = Vec::new();
    let packed = pack(root, &mut slug, &PackOptions::default(), &mut |_| {})?;
    Ok((slug, packed))
}

fn refused(root: &Path) -> String {
    let error = packed(root).expect_err("packed");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}").replace(&root.display().to_string(), "ROOT")
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_tree(one.path(), 0..50);
    make_tree(two.path(), (0..50).rev());
    fs::set_permissions(two.path().join("app/file-1"), fs::Permissions::from_mode(0o600)).unwrap();
    let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(two.path().join("app/file-2")).unwrap().set_times(old).unwrap();
    let ((slug_one, packed_one), (slug_two, packed_two)) = (packed(one.path()).unwrap(), packed(two.path()).unwrap());
    assert_eq!(packed_one, packed_two);
    assert_eq!(slug_one, slug_two);
    assert_eq!(slug_one[4..8], [0; 4], "the gzip header holds a time");
    let summary = inspect(&slug_one[..], &Options::default()).unwrap();
    assert_eq!(summary.report.sha256, packed_one.sha256);
    assert_eq!(summary.report.given_bytes, packed_one.bytes);
    assert_eq!(summary.report.counts.content_bytes, packed_one.content_bytes);
    // A change shows.
    fs::set_permissions(two.path().join("app/file-1"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(packed(two.path()).unwrap().1.sha256, packed_one.sha256);
}

#[test]
fn what_is_packed_comes_out_again() {
    let root = tempfile::tempdir().unwrap();
    make_tree(root.path(), 0..3);
    let (slug, _) = packed(root.path()).unwrap();
    let (tree, report) = both(&slug, &Options::default()).unwrap();
    assert_eq!(report.layout, Layout::Top);
    assert_eq!(report.procfile.as_deref(), Some(&b"web: bin/run\n"[..]));
    assert_eq!(
        paths(&tree),
        [
            "Procfile",
            "absolute",
            "app",
            "app-file",
            "app/file-0",
            "app/file-1",
            "app/file-2",
            "app/run",
            "bin",
            "bin/run",
            "empty",
            "hard",
            "latin-\\xe9",
            &"n".repeat(200)
        ]
    );
    assert_eq!(tree[&b"bin/run"[..]], Node::File { mode: 0o755, mtime: 315_532_800, content: b"#!/bin/sh\n".to_vec() });
    assert_eq!(tree[&b"app/run"[..]], Node::Link { target: b"../bin/run".to_vec() });
}

/// The classic runners unpack with `tar -xzC /app`.
#[test]
fn gnu_tar_unpacks_it() {
    let (root, to, file) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    make_tree(root.path(), 0..3);
    fs::write(file.path(), packed(root.path()).unwrap().0).unwrap();
    let tar = std::process::Command::new("tar").arg("-xzf").arg(file.path()).arg("-C").arg(to.path()).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(fs::read(to.path().join("n".repeat(200))).unwrap(), b"long");
    assert_eq!(fs::read_link(to.path().join("absolute")).unwrap(), Path::new("/app/bin/run"));
    assert_eq!(fs::metadata(to.path().join("bin/run")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn slugignore_and_git_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    for folder in [".git/objects", "docs", "lib/docs", "node_modules/x/.git"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
        fs::write(root.path().join(folder).join("f"), "x").unwrap();
    }
    fs::write(root.path().join("Procfile"), "web: x").unwrap();
    fs::write(root.path().join("a.log"), "x").unwrap();
    fs::write(root.path().join(".slugignore"), "/docs\n*.log\n").unwrap();
    let (slug, packed) = packed(root.path()).unwrap();
    assert_eq!(packed.left_out, 4);
    let (tree, _) = both(&slug, &Options::default()).unwrap();
    assert_eq!(
        paths(&tree),
        [".slugignore", "Procfile", "lib", "lib/docs", "lib/docs/f", "node_modules", "node_modules/x"]
    );
    fs::write(root.path().join(".slugignore"), "*.log\n!keep.log\n").unwrap();
    assert_eq!(refused(root.path()), "cannot use ROOT/.slugignore: line 2: patterns with `!` are not supported");
}

#[test]
fn what_would_be_refused_is_not_packed() {
    let root = tempfile::tempdir().unwrap();
    symlink("../passwd", root.path().join("link")).unwrap();
    assert_eq!(
        refused(root.path()),
        "ROOT cannot be packed: the entry `./link` is a link to `../passwd`, which is outside of the slug"
    );
    fs::remove_file(root.path().join("link")).unwrap();
    let _socket = UnixListener::bind(root.path().join("socket")).unwrap();
    assert_eq!(
        refused(root.path()),
        "ROOT cannot be packed: the entry `./socket` is a socket, which a slug cannot hold"
    );
    fs::remove_file(root.path().join("socket")).unwrap();
    fs::write(root.path().join("big"), vec![0; 100]).unwrap();
    let options = PackOptions { limits: Limits { unpacked_bytes: 99, ..Limits::default() }, ..PackOptions::default() };
    assert!(matches!(pack(root.path(), Vec::new(), &options, &mut |_| {}), Err(PackError::Refused { .. })));
    let missing = packed(&root.path().join("missing")).expect_err("packed");
    assert!(missing.to_string().starts_with("cannot look at "), "{missing}");
}

#[test]
fn a_file_that_changes_meanwhile_is_named() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a"), "x").unwrap();
    fs::write(root.path().join("grows"), "x").unwrap();
    let path = root.path().join("grows");
    // By the first report of progress, everything has been planned and nothing opened.
    let mut grow = |_| fs::write(&path, "xx").unwrap();
    let changed = pack(root.path(), Vec::new(), &PackOptions::default(), &mut grow).expect_err("packed");
    assert_eq!(changed.to_string(), format!("{} changed while it was packed", path.display()));
    // A link put in its place must not bring in another file.
    let mut swap = |_| {
        let _ = fs::remove_file(&path);
        let _ = symlink("/etc/passwd", &path);
    };
    let swapped = pack(root.path(), Vec::new(), &PackOptions::default(), &mut swap).expect_err("packed");
    assert_eq!(swapped.to_string(), format!("cannot open {}", path.display()));
}

#[test]
fn progress_ends_at_its_total() {
    let root = tempfile::tempdir().unwrap();
    make_tree(root.path(), 0..5);
    let mut seen = Vec::new();
    pack(root.path(), Vec::new(), &PackOptions::default(), &mut |progress| seen.push(progress)).unwrap();
    assert!(seen.is_sorted_by_key(|progress| (progress.entries, progress.bytes)));
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    assert_eq!((first.entries, first.bytes), (0, 0));
    assert_eq!((last.entries, last.bytes), (last.entries_total, last.bytes_total));
    assert_eq!(last.entries_total, first.entries_total);
}
