//! What an author is told.

use captain_slug::{Finding, Options, Severity, lint};

use crate::archives::{Archive, Header, gzip, zstd};

fn findings(slug: &[u8]) -> Vec<Finding> {
    lint(slug, &Options::default()).unwrap()
}

fn codes(slug: &[u8]) -> Vec<&'static str> {
    let mut codes: Vec<_> = findings(slug).iter().map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn good() -> Archive {
    Archive::new()
        .folder("./")
        .file("./Procfile", "web: bin/run\n")
        .entry(&Header { mode: 0o755, ..Header::new(b'0', "./bin/run") }, b"#!/bin/sh")
}

#[test]
fn a_good_slug_has_no_findings() {
    assert_eq!(findings(&good().gz()), []);
}

#[test]
fn each_finding_by_itself() {
    let header = |flag, name: &str, mode, uid| Header { mode, uid, ..Header::new(flag, name) };
    let cases: &[(&str, Archive)] = &[
        ("set-id", good().file_with_mode("x", 0o4755)),
        ("odd-mode", good().file_with_mode("x", 0o044)),
        ("odd-mode", good().header(&header(b'5', "x/", 0o655, 0))),
        ("world-writable", good().file_with_mode("x", 0o666)),
        ("owner", good().header(&header(b'5', "x/", 0o755, 501))),
        ("root-mode", Archive::new().header(&header(b'5', "./", 0o700, 0)).file("Procfile", "web: x")),
        ("name-not-utf8", good().file(b"\xff", "x")),
        ("profile-blank", good().file(".profile.d/a b.sh", "x")),
        ("profile-suffix", good().file(".profile.d/config_vars", "x")),
        ("git-inside", good().folder(".git/")),
        ("not-executable", good().file("vendor/bin/tool", "#!/usr/bin/env ruby")),
        ("not-executable", good().file("bin/elf", b"\x7fELF\x02")),
        ("repeated", good().file("x", "1").file("x", "2")),
        ("no-procfile", Archive::new().file("x", "x")),
        ("no-procfile", Archive::new().folder("Procfile/")),
        ("release-only", Archive::new().file(".release", "---")),
        ("procfile-link", Archive::new().file("p", "web: x").symlink("Procfile", "p")),
        ("procfile-empty", Archive::new().file("Procfile", " \n")),
        ("procfile-crlf", Archive::new().file("Procfile", "web: x\r\n")),
        ("procfile-bom", Archive::new().file("Procfile", "\u{feff}web: x\n")),
        ("procfile-not-text", Archive::new().file("Procfile", b"web: \xff\n")),
        ("name-parent", good().file("../x", "x")),
        ("name-absolute", good().file("/x", "x")),
        ("name-invalid", good().file("", "x")),
        ("link-to-stack", good().symlink("x", "/etc/ssl/certs/java/cacerts")),
        ("link-outside", good().symlink("x", "/../etc/passwd")),
        ("whiteout", good().file("lib/.wh.x", "x")),
        ("link-outside", good().symlink("x", "..")),
        ("link-unknown", good().hard_link("x", "none")),
        ("link-invalid", good().symlink("x", "")),
        ("unsupported", good().header(&Header::new(b'3', "x"))),
        ("below-link", good().symlink("x", "bin").file("x/y", "x")),
        ("type-change", good().file("Procfile/x", "x")),
        ("ambiguous", good().entry(&Header::new(b'5', "d/"), b"x")),
        ("malformed", good().raw(&[b'x'; 512])),
        ("empty", Archive::new()),
    ];
    for (code, archive) in cases {
        let found = findings(&archive.clone().gz());
        assert_eq!(found.iter().map(|finding| finding.code).collect::<Vec<_>>(), [*code], "{found:?}");
    }
}

/// Not compressed, since unoptimised decompression of so much takes long.
#[test]
fn a_large_file() {
    let large = |bytes: usize| codes(&good().file("x", vec![0; bytes]).tar());
    assert_eq!(large((100 << 20) + 1), ["large-file", "not-gzip"]);
    assert_eq!(large(1 << 20), ["not-gzip"]);
}

#[test]
fn layouts_and_compressions() {
    let heroku = Archive::new()
        .file("app/Procfile", "web: x")
        .file("app/.profile.d/a b.sh", "x")
        .file(".profile.d/c d.sh", "ignored")
        .gz();
    let found = findings(&heroku);
    assert_eq!(found.iter().map(|f| f.code).collect::<Vec<_>>(), ["profile-blank", "layout-app"]);
    assert!(found[0].sentence.contains("`.profile.d/a b.sh`"), "{}", found[0].sentence);
    assert_eq!(codes(&good().tar()), ["not-gzip"]);
    assert_eq!(codes(&zstd(&good().tar())), ["not-gzip"]);
    // A link that leaves the app only in this layout.
    assert_eq!(
        codes(&Archive::new().file("app/Procfile", "web: x").symlink("app/l", "../x").gz()),
        ["layout-app", "link-outside"]
    );
}

#[test]
fn what_cannot_be_read_is_a_finding() {
    let squashfs = findings(b"hsqs\0\0\0\0");
    assert_eq!((squashfs[0].code, squashfs[0].severity), ("squashfs", Severity::Error));
    assert!(squashfs[0].classic.is_some_and(|classic| classic.contains("mounts it")));
    assert_eq!(codes(b"<html>"), ["not-a-slug"]);
    let slug = good().file("large", vec![7; 100_000]).gz();
    assert_eq!(codes(&slug[..slug.len() - 20]), ["damaged"]);
    assert_eq!(codes(&gzip(&good().file("zeros", vec![0; 18 << 20]).tar())), ["limit"]);
}

#[test]
fn the_search_goes_on_and_the_worst_comes_first() {
    let slug = Archive::new()
        .file("/a", "x")
        .file("../b", "x")
        .file("c", "x")
        .file("../d", "x")
        .file_with_mode("e", 0o666)
        .gz();
    let found = findings(&slug);
    assert!(found.is_sorted_by(|a, b| a.severity >= b.severity));
    let refused: Vec<_> = found.iter().filter_map(|f| f.entry.as_ref().map(ToString::to_string)).collect();
    assert_eq!(refused, ["/a", "../b", "../d", "e"]);
    let many = (0..100).fold(good(), |archive, i| archive.file(format!("../{i}"), "x"));
    assert_eq!(findings(&many.gz()).len(), 20);
}
