//! Compressions, names of other things, metadata, modes, and damage.

use std::io::{self, Read};

use captain_slug::{Compression, Digest, Options, Owner, SlugError, inspect, normalise_to_tar};

use crate::archives::{Archive, Header, gzip, zstd};
use crate::outcome::{Node, both, paths};

fn small() -> Archive {
    Archive::new()
        .folder("./")
        .file("./Procfile", "web: run\n")
        .file("./.release", "---\n")
        .file("./run", "#!/bin/sh\n")
}

#[test]
fn all_compressions_give_the_same_tree() {
    let tar = small().tar();
    let half = 700;
    let members = [gzip(&tar[..half]), gzip(&tar[half..])].concat();
    let frames = [zstd(&tar[..half]), zstd(&tar[half..])].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4], &zstd(&tar)[..]].concat();
    let cases = [
        (tar.clone(), Compression::None),
        (gzip(&tar), Compression::Gzip),
        (members, Compression::Gzip),
        (zstd(&tar), Compression::Zstd),
        (frames, Compression::Zstd),
        (skippable, Compression::Zstd),
    ];
    let (want, _) = both(&tar, &Options::default()).unwrap();
    for (slug, compression) in cases {
        let (tree, report) = both(&slug, &Options::default()).unwrap();
        assert_eq!((&tree, report.compression), (&want, compression));
        assert_eq!(report.given_bytes, slug.len() as u64);
        assert_eq!(report.procfile.as_deref(), Some(&b"web: run\n"[..]));
        assert_eq!(report.release.as_deref(), Some(&b"---\n"[..]));
    }
}

#[test]
fn other_things_are_called_by_their_name() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "an empty file"),
        (
            b"hsqs\x07\0\0\0",
            "a squashfs image (as Flynn made from late 2016 on); unpack it with `unsquashfs` and pack it again",
        ),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (b"\n <html lang=en>", "an HTML page"),
        (
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>",
            "an XML document (object stores answer so when they refuse)",
        ),
        (b"{\"error\": \"not found\"}", "a JSON document"),
        (b"PK\x03\x04", "a zip file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"BZh91AY", "a bzip2 file"),
        (b"\x7fELF\x02", "an ELF program"),
        (b"#!/bin/sh\n", "a script"),
        (b"not found\n", "a text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; the file itself was not fetched"),
        (
            b"\x01\x02\x03\x04\x05\x06\x07\x08\x09",
            "something unknown that begins with the bytes 01 02 03 04 05 06 07 08",
        ),
    ];
    for (bytes, what) in cases {
        let refused = both(bytes, &Options::default()).expect_err("taken").to_string();
        assert_eq!(refused, format!("this is not a slug but {what}"));
        // And inside of a compression, where only the unpacked bytes tell.
        let refused =
            both(&gzip(&[*bytes, &vec![b' '; 600][..]].concat()), &Options::default()).expect_err("taken").to_string();
        assert!(bytes.is_empty() || refused == format!("this is not a slug but {what}"), "{refused}");
    }
    let nested = both(&gzip(&small().gz()), &Options::default()).expect_err("taken").to_string();
    assert_eq!(nested, "this is not a slug but gzip within gzip or zstd");
    assert!(matches!(both(&[0; 10240], &Options::default()), Err(SlugError::Empty)));
    assert!(matches!(both(&gzip(&[0; 1024]), &Options::default()), Err(SlugError::Empty)));
}

#[test]
fn long_names_of_every_kind() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let hundred = "h".repeat(100);
    let slug = Archive::new()
        .long(b'L', &long)
        .file("cut", "gnu")
        .pax(
            b'x',
            &[
                ("path", format!("p/{long}").as_bytes()),
                ("mtime", b"1.5"),
                ("SCHILY.xattr.security.capability", b"\x01"),
            ],
        )
        .file("cut", "pax")
        .file(&hundred, "exact")
        .long(b'K', &long)
        .symlink("l", "cut")
        .long(b'K', &long)
        .hard_link("h", "cut")
        .pax(b'g', &[("comment", b"a commit")])
        .file(b"latin-\xe9", "x");
    let (tree, report) = both(&slug.gz(), &Options::default()).unwrap();
    let content = |path: &str| match &tree[path.as_bytes()] {
        Node::File { content, .. } => String::from_utf8(content.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (content(&long), content(&format!("p/{long}")), content(&hundred), content("h")),
        ("gnu".into(), "pax".into(), "exact".into(), "gnu".into())
    );
    assert_eq!(tree[&b"l"[..]], Node::Link { target: long.into_bytes() });
    assert!(paths(&tree).contains(&"latin-\\xe9".to_owned()));
    assert_eq!((report.counts.files, report.counts.symlinks, report.counts.hard_links), (4, 1, 1));
}

/// The first block of ustar's prefix field, an old header without any magic, a directory by its slash alone.
#[test]
fn old_headers() {
    let mut ustar = tar::Header::new_ustar();
    ustar.set_path(format!("{}/{}", "p".repeat(90), "n".repeat(90))).unwrap();
    let mut old = tar::Header::new_old();
    old.set_path("old").unwrap();
    for header in [&mut ustar, &mut old] {
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
    }
    let slug = Archive::new()
        .raw(ustar.as_bytes())
        .raw(old.as_bytes())
        .header(&Header::new(0, "folder/"))
        .file("folder/f", "x");
    let (tree, _) = both(&slug.gz(), &Options::default()).unwrap();
    assert!(tree.contains_key(format!("{}/{}", "p".repeat(90), "n".repeat(90)).as_bytes()));
    assert!(matches!(tree[&b"folder"[..]], Node::Folder { .. }) && tree.contains_key(&b"old"[..]));
}

#[test]
fn modes_and_times() {
    let slug = Archive::new()
        .header(&Header { mode: 0o700, uid: 12345, ..Header::new(b'5', "./") })
        .file_with_mode("setuid", 0o6755)
        .file_with_mode("private", 0o600)
        .header(&Header { mode: 0o1777, ..Header::new(b'5', "tmp/") })
        .entry(&Header { mtime: 1_234_567_890, ..Header::new(b'0', "dated") }, b"x");
    let (tree, report) = both(&slug.clone().gz(), &Options::default()).unwrap();
    let mode = |path: &str| match tree[path.as_bytes()] {
        Node::File { mode, .. } | Node::Folder { mode } => mode,
        Node::Link { .. } => panic!("{path}"),
    };
    assert_eq!((mode("setuid"), mode("private"), mode("tmp")), (0o755, 0o644, 0o755));
    assert_eq!(report.counts.privileged, 2);
    assert!(matches!(tree[&b"dated"[..]], Node::File { mtime: 1_234_567_890, .. }));
    // An owner other than root keeps what is private.
    let mut tar = Vec::new();
    let options = Options { owner: Some(Owner { uid: 2000, gid: 3000 }), ..Options::default() };
    normalise_to_tar(&slug.gz()[..], &mut tar, "app", &options).unwrap();
    let mut modes = Vec::new();
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (2000, 3000));
        modes.push(entry.header().mode().unwrap());
    }
    assert_eq!(modes, [0o755, 0o755, 0o600, 0o755, 0o644]);
}

#[test]
fn of_two_files_with_one_name_the_later_counts() {
    let slug =
        Archive::new().file("f", "first").hard_link("h", "f").file("f", "second").symlink("s", "f").file("s", "third");
    let (tree, report) = both(&slug.gz(), &Options::default()).unwrap();
    let contents: Vec<_> = tree
        .values()
        .map(|node| match node {
            Node::File { content, .. } => String::from_utf8_lossy(content).into_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((paths(&tree).join(" "), contents.join(" ")), ("f h s".into(), "second first third".into()));
    assert_eq!(report.counts.repeated, 2);
}

#[test]
fn cut_off_at_every_place() {
    let whole = small().tar();
    for slug in [whole.clone(), gzip(&whole), zstd(&whole)] {
        // Plain tar may lose its second zero block and its padding without losing anything.
        let complete = if slug == whole { slug.len() - 512 } else { slug.len() };
        // Around the edges of blocks and members every byte, in between every eleventh: a run takes a few milliseconds.
        for end in (0..complete).filter(|end| end % 512 < 3 || complete - end < 20 || end % 11 == 0) {
            assert!(
                both(&slug[..end], &Options::default()).is_err(),
                "{end} of {} bytes were taken for a slug",
                slug.len()
            );
        }
    }
    let refused = both(&small().open_end(), &Options::default()).expect_err("taken").to_string();
    assert!(refused.ends_with("it ends without an end-of-archive mark, so it may be cut off"), "{refused}");
}

#[test]
fn a_flipped_byte_is_a_wrong_digest_whatever_else_it_broke() {
    let slug = small().gz();
    let sha256 = inspect(&slug[..], &Options::default()).unwrap().report.sha256;
    let options = Options { sha256: Some(sha256), ..Options::default() };
    assert_eq!(both(&slug, &options).unwrap().1.sha256, sha256);
    for place in 0..slug.len() {
        let mut flipped = slug.clone();
        flipped[place] ^= 0x10;
        let refused = both(&flipped, &options).expect_err("taken");
        assert!(
            matches!(refused, SlugError::DigestDiffers { expected, .. } if expected == sha256),
            "at {place}: {refused}"
        );
    }
    let known: Digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap();
    let refused = both(b"abc", &Options { sha256: Some(Digest([0; 32])), ..Options::default() });
    assert!(matches!(refused, Err(SlugError::DigestDiffers { found, .. }) if found == known), "{refused:?}");
}

/// Hands out the bytes one at a time, with an interruption before each, and breaks at the end.
struct Stuttering<'a>(&'a [u8], bool);

impl Read for Stuttering<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match self.0.split_first() {
            Some((&first, rest)) => {
                buf[0] = first;
                self.0 = rest;
                Ok(1)
            }
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

#[test]
fn a_broken_connection_is_not_the_slugs_fault() {
    for slug in [small().gz(), zstd(&small().tar()), small().tar()] {
        let broken = inspect(Stuttering(&slug[..slug.len() - 9], false), &Options::default()).expect_err("taken");
        assert!(
            matches!(&broken, SlugError::Input { source, .. } if source.kind() == io::ErrorKind::ConnectionReset),
            "{broken:?}"
        );
        assert!(!broken.is_slugs_fault());
        // Slow is fine.
        let whole = inspect(Stuttering(&slug, false).take(slug.len() as u64), &Options::default()).unwrap();
        assert_eq!(whole.report.counts.files, 3);
    }
}

#[test]
fn a_full_disk_is_told_from_a_bad_slug() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let slug = small().file("large", vec![1; 1 << 20]).gz();
    let full = normalise_to_tar(&slug[..], Full, "app/", &Options::default()).expect_err("written");
    assert!(full.is_disk_full() && !full.is_slugs_fault(), "{full:?}");
    assert_eq!(full.to_string(), "cannot write `large`");
}

#[test]
fn the_largest_files() {
    let slug = (0..30_usize).fold(small(), |archive, i| archive.file(format!("d/{i:02}"), vec![b'x'; i * 10]));
    let summary = inspect(&slug.gz()[..], &Options::default()).unwrap();
    let largest: Vec<_> = summary.largest.iter().map(|large| (large.bytes, large.path.to_string())).collect();
    assert_eq!(largest.len(), 10);
    assert_eq!((&largest[0], &largest[9]), (&(290, "d/29".to_owned()), &(200, "d/20".to_owned())));
    let app = Archive::new().file("app/Procfile", "web: x").file("beside", vec![0; 1000]);
    let summary = inspect(&app.gz()[..], &Options::default()).unwrap();
    assert_eq!(summary.largest.iter().map(|large| large.path.to_string()).collect::<Vec<_>>(), ["Procfile"]);
}
