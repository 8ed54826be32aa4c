//! Every hostile shape: refused by name in both sinks, with nothing left behind and nothing outside touched.

use captain_slug::{Limit, Limits, Options, OutwardLinks, SlugError};

use crate::archives::{Archive, Header, gzip, zstd};
use crate::outcome::{Node, Outside, both, both_within};

fn refused(archive: Archive) -> String {
    let slug = archive.file("last", "x").gz();
    both(&slug, &Options::default()).expect_err("taken").to_string()
}

fn with_target(flag: u8, name: &str, target: &str) -> Archive {
    Archive::new().folder("d/").file("f", "x").header(&Header { target: target.into(), ..Header::new(flag, name) })
}

#[test]
fn names() {
    let cases = [
        ("../evil", "the entry `../evil` has `..` in its name"),
        ("a/../../evil", "the entry `a/../../evil` has `..` in its name"),
        ("a/..", "the entry `a/..` has `..` in its name"),
        ("./../evil", "the entry `./../evil` has `..` in its name"),
        ("/etc/passwd", "the entry `/etc/passwd` has an absolute name"),
        ("//x", "the entry `//x` has an absolute name"),
        ("", "the entry `` has no name"),
        ("./", "a root that is a file"),
        (".", "the entry `.` stands for the root but is not a directory"),
    ];
    for (name, want) in cases {
        if name == "./" {
            continue; // A file whose name ends with a slash is a directory.
        }
        assert_eq!(refused(Archive::new().file(name, "x")), want);
    }
    assert_eq!(refused(Archive::new().file("./", "x")), "the entry `./` is a directory and yet carries data");
    // A control character does not reach the terminal.
    assert_eq!(refused(Archive::new().file("\x1b[2J/..", "x")), "the entry `\\u{1b}[2J/..` has `..` in its name");
}

#[test]
fn names_from_metadata() {
    let name = |archive: Archive| refused(archive.file("innocent", "x"));
    assert_eq!(name(Archive::new().long(b'L', "../evil")), "the entry `../evil` has `..` in its name");
    assert_eq!(name(Archive::new().pax(b'x', &[("path", b"/evil")])), "the entry `/evil` has an absolute name");
    assert_eq!(name(Archive::new().pax(b'x', &[("path", b"a\0b")])), "the entry `a\\u{0}b` has a NUL byte in its name");
    assert_eq!(name(Archive::new().long(b'L', "a\0b")), "the entry `a\\u{0}b` has a NUL byte in its name");
    let long = "x/".repeat(1500);
    assert!(name(Archive::new().long(b'L', &long)).ends_with("has a name of 3000 bytes where 2048 are allowed"));
    let component = "y".repeat(256);
    assert!(name(Archive::new().long(b'L', &component)).ends_with("has a name of 256 bytes where 255 are allowed"));
}

#[test]
fn links_that_leave() {
    let cases = [
        ("l", "..", "the entry `l` is a link to `..`, which is outside of the slug"),
        ("d/l", "../..", "the entry `d/l` is a link to `../..`, which is outside of the slug"),
        ("d/l", "../../x", "the entry `d/l` is a link to `../../x`, which is outside of the slug"),
        ("d/l", "./.././../x", "the entry `d/l` is a link to `./.././../x`, which is outside of the slug"),
        (
            "l",
            "/app/../etc",
            "the entry `l` is a link to `/app/../etc`: `..` after a name cannot be judged without following links",
        ),
        ("l", "/../app", "the entry `l` is a link to `/../app`, which is outside of the slug"),
        ("l", "/../../etc", "the entry `l` is a link to `/../../etc`, which is outside of the slug"),
        ("l", "//./../etc", "the entry `l` is a link to `//./../etc`, which is outside of the slug"),
        (
            "l",
            "/etc/../..",
            "the entry `l` is a link to `/etc/../..`: `..` after a name cannot be judged without following links",
        ),
        (
            "l",
            "f/../..",
            "the entry `l` is a link to `f/../..`: `..` after a name cannot be judged without following links",
        ),
        ("l", "", "the entry `l` is a link to nothing"),
    ];
    for (name, target, want) in cases {
        assert_eq!(refused(with_target(b'2', name, target)), want);
    }
    let nul = Archive::new().pax(b'x', &[("linkpath", b"a\0b")]).symlink("l", "x");
    assert_eq!(refused(nul), "the entry `l` is a link with a NUL byte in its target");
    let long = Archive::new().long(b'K', "x".repeat(3000)).symlink("l", "x");
    assert_eq!(refused(long), "the entry `l` is a link whose target has 3000 bytes where 2048 are allowed");
}

/// `up` leads to the top and `x/y/up/../q` would climb above it, though its text seems to stay.
#[test]
fn a_chain_of_links_that_leaves() {
    let chain = Archive::new().folder("x/").folder("x/y/").symlink("x/y/up", "../..").symlink("w", "x/y/up/../q");
    assert!(refused(chain).starts_with("the entry `w` is a link to `x/y/up/../q`: `..` after a name"));
}

#[test]
fn entries_below_links_and_files() {
    let below = |archive: Archive, path: &str| refused(archive.file(path, "x"));
    let linked = || Archive::new().folder("d/").symlink("l", "d");
    assert_eq!(below(linked(), "l/x"), "the entry `l/x` lies below `l`, which is a symbolic link");
    assert_eq!(below(linked(), "l/deep/er/x"), "the entry `l/deep/er/x` lies below `l`, which is a symbolic link");
    let chain = Archive::new().folder("d/").symlink("d/up", "..").symlink("l", "d/up");
    assert_eq!(below(chain, "l/x"), "the entry `l/x` lies below `l`, which is a symbolic link");
    assert_eq!(below(Archive::new().file("f", "x"), "f/x"), "the entry `f/x` lies below `f`, which is a file");
    assert_eq!(refused(linked().folder("l/")), "the entry `l/` replaces what had the same name by a directory");
    // A folder becomes a link, and the next entry would go where it leads.
    let swapped = Archive::new().folder("d/").file("d/f", "x").symlink("d", "/app");
    assert_eq!(refused(swapped), "the entry `d` replaces the directory of the same name by something else");
    let implied = Archive::new().file("d/f", "x").symlink("d", "/app");
    assert_eq!(refused(implied), "the entry `d` replaces the directory of the same name by something else");
    let file = Archive::new().file("d", "x").folder("d/");
    assert_eq!(refused(file), "the entry `d/` replaces what had the same name by a directory");
}

#[test]
fn hard_links() {
    let cases = [
        ("/etc/passwd", "the entry `h` is a link to `/etc/passwd`, which is outside of the slug"),
        ("../f", "the entry `h` is a link to `../f`, which is outside of the slug"),
        ("none", "the entry `h` is a hard link to `none`, which is no earlier file of the archive"),
        ("d", "the entry `h` is a hard link to `d`, which is no earlier file of the archive"),
        ("h", "the entry `h` is a hard link to `h`, which is no earlier file of the archive"),
        ("", "the entry `h` is a link to nothing"),
    ];
    for (target, want) in cases {
        assert_eq!(refused(with_target(b'1', "h", target)), want);
    }
    let through = Archive::new().folder("d/").file("d/f", "x").symlink("l", "d").hard_link("h", "l/f");
    assert_eq!(refused(through), "the entry `h` is a hard link to `l/f`, which is no earlier file of the archive");
    let to_link = Archive::new().symlink("l", "f").hard_link("h", "l");
    assert_eq!(refused(to_link), "the entry `h` is a hard link to `l`, which is no earlier file of the archive");
    // The file that the link means has become a link since.
    let replaced = Archive::new().file("f", "x").symlink("f", "g").hard_link("h", "f");
    assert_eq!(refused(replaced), "the entry `h` is a hard link to `f`, which is no earlier file of the archive");
}

#[test]
fn links_out_of_the_app_but_not_of_the_archive() {
    let app = || Archive::new().file("app/Procfile", "web: x").file("secret", "x");
    let options = Options::default();
    let refused = |archive: Archive| both(&archive.gz(), &options).expect_err("taken").to_string();
    assert_eq!(
        refused(app().symlink("app/l", "../secret")),
        "the entry `app/l` is a link to `../secret`, which is outside of the slug"
    );
    assert_eq!(
        refused(app().symlink("app/l", "..")),
        "the entry `app/l` is a link to `..`, which is outside of the slug"
    );
    assert_eq!(
        refused(app().hard_link("app/h", "secret")),
        "the entry `app/h` is a link to `secret`, which is outside of the slug"
    );
    // In the other layout `app` is a folder like any other.
    both(&app().file("Procfile", "web: x").symlink("app/l", "../secret").hard_link("app/h", "secret").gz(), &options)
        .unwrap();
}

#[test]
fn absolute_links_may_be_refused() {
    let options = Options { outward_links: OutwardLinks::Refuse, ..Options::default() };
    for target in ["/etc/passwd", "/application"] {
        let refused = both(&with_target(b'2', "l", target).gz(), &options).expect_err("taken").to_string();
        assert_eq!(refused, format!("the entry `l` is a link to `{target}`, which is outside of the slug"));
    }
    both(&with_target(b'2', "l", "/app/f").gz(), &options).unwrap();
}

/// Heroku's Java slugs have one to the certificates of the stack.
#[test]
fn absolute_links_are_kept_and_never_followed() {
    let outside = Outside::new();
    let prize = outside.prize();
    let (prize, folder) = (prize.to_str().unwrap(), prize.parent().unwrap().to_str().unwrap());
    let linked = || Archive::new().file("f", "x").symlink("l", prize).symlink("d", folder);
    let (tree, _) = both_within(&outside, &linked().gz(), &Options::default()).unwrap();
    assert_eq!(tree[&b"l"[..]], Node::Link { target: prize.into() });

    // The later entry takes the link's place, and does not go where it leads.
    std::fs::remove_dir_all(outside.store().join("slug")).unwrap();
    let (tree, _) = both_within(&outside, &linked().file("l", "evil").gz(), &Options::default()).unwrap();
    assert!(matches!(&tree[&b"l"[..]], Node::File { content, .. } if content == b"evil"));

    std::fs::remove_dir_all(outside.store().join("slug")).unwrap();
    let hostile = [
        (linked().file("d/witness", "evil"), "the entry `d/witness` lies below `d`, which is a symbolic link"),
        (linked().folder("d/"), "the entry `d/` replaces what had the same name by a directory"),
        (linked().symlink("d/witness", "/x"), "the entry `d/witness` lies below `d`, which is a symbolic link"),
        (linked().hard_link("h", "l"), "the entry `h` is a hard link to `l`, which is no earlier file of the archive"),
        (
            linked().hard_link("h", "d/witness"),
            "the entry `h` is a hard link to `d/witness`, which is no earlier file of the archive",
        ),
        (
            linked().symlink("m", "d/../x"),
            "the entry `m` is a link to `d/../x`: `..` after a name cannot be judged without following links",
        ),
        (linked().symlink("m", "../x"), "the entry `m` is a link to `../x`, which is outside of the slug"),
    ];
    for (archive, want) in hostile {
        let refused = both_within(&outside, &archive.gz(), &Options::default()).expect_err("taken");
        assert_eq!(refused.to_string(), want);
    }
}

/// In a layer of an image they would delete what they name, or hide a whole folder, and not be there themselves.
#[test]
fn names_that_mean_deletions_to_engines() {
    for name in [".wh.f", "lib/.wh.f", ".wh..wh..opq", ".wh.d/f"] {
        let want = format!(
            "the entry `{name}` has a name that begins with `.wh.`, by which container engines mean a deletion"
        );
        assert_eq!(refused(Archive::new().file(name, "x")), want);
    }
    both(&Archive::new().file("a.wh.f", "x").file(".whx", "x").gz(), &Options::default()).unwrap();
}

#[test]
fn what_no_slug_may_hold() {
    let cases = [
        (b'3', "a character device"),
        (b'4', "a block device"),
        (b'6', "a named pipe"),
        (b's', "a socket"),
        (b'S', "a sparse file"),
        (b'M', "a part of a multi-volume archive"),
        (b'V', "a volume label"),
        (b'D', "a directory of an incremental dump"),
        (b'Z', "of a type that tar does not define"),
    ];
    for (flag, what) in cases {
        assert_eq!(
            refused(Archive::new().header(&Header::new(flag, "e"))),
            format!("the entry `e` is {what}, which a slug cannot hold")
        );
    }
    let sparse = Archive::new().pax(b'x', &[("GNU.sparse.major", b"1")]).file("e", "x");
    assert_eq!(refused(sparse), "the entry `e` is a sparse file, which a slug cannot hold");
}

/// Shapes that two readers take for two different archives.
#[test]
fn ambiguous_entries() {
    let cases = [
        (Archive::new().pax(b'x', &[("size", b"512")]).file("e", "x"), "the entry `e` is given two sizes, 1 and 512"),
        (
            Archive::new().pax(b'x', &[("path", b"a")]).long(b'L', "b").file("e", "x"),
            "the entry `a` is given two names or link targets",
        ),
        (Archive::new().entry(&Header::new(b'5', "d/"), b"x"), "the entry `d/` is a directory and yet carries data"),
        (
            Archive::new().entry(&Header { target: b"f".to_vec(), ..Header::new(b'2', "l") }, b"x"),
            "the entry `l` is a symbolic link and yet carries data",
        ),
        (
            Archive::new().file("f", "x").entry(&Header { target: b"f".to_vec(), ..Header::new(b'1', "h") }, b"x"),
            "the entry `h` is a hard link and yet carries data",
        ),
    ];
    for (archive, want) in cases {
        assert_eq!(refused(archive), want);
    }
    let cases = [
        (Archive::new().long(b'L', "a").long(b'L', "b").file("e", "x"), "two long names stand before one entry"),
        (
            Archive::new().long(b'K', "a").long(b'K', "b").symlink("e", "x"),
            "two long link targets stand before one entry",
        ),
        (Archive::new().pax(b'x', &[]).pax(b'x', &[]).file("e", "x"), "two PAX headers stand before one entry"),
        (Archive::new().pax(b'x', &[("path", b"a"), ("path", b"b")]).file("e", "x"), "a PAX header is malformed"),
        (Archive::new().pax(b'g', &[("path", b"a")]).file("e", "x"), "a PAX header for the whole archive sets `path`"),
        (Archive::new().pax(b'g', &[("size", b"9")]).file("e", "x"), "a PAX header for the whole archive sets `size`"),
        (Archive::new().file("f", "x").raw(&[0; 512]).file("e", "x"), "a single zero block stands between entries"),
        (Archive::new().file("f", "x").raw(&[b'x'; 512]), "the checksum of a header is wrong"),
        (Archive::new().entry(&Header::new(b'x', "p"), b"no records"), "a PAX header is malformed"),
    ];
    for (archive, want) in cases {
        let refused = refused(archive);
        assert!(refused.starts_with("the archive is malformed at byte ") && refused.ends_with(want), "{refused}");
    }
    let dangling = both(&Archive::new().file("f", "x").long(b'L', "b").gz(), &Options::default()).expect_err("taken");
    assert!(dangling.to_string().ends_with("a long name or PAX header belongs to no entry"), "{dangling}");
}

#[test]
fn limits_are_named_with_their_entry() {
    let refuse = |slug: &[u8], limits: Limits| match both(slug, &Options { limits, ..Options::default() }) {
        Err(SlugError::Limit { limit, entry, .. }) => (limit, entry.map(|entry| entry.to_string())),
        other => panic!("{other:?}"),
    };
    let many = (0..20).fold(Archive::new(), |archive, i| archive.file(format!("file-{i:02}"), "x")).gz();
    let at = |name: &str| Some(name.to_owned());
    assert_eq!(refuse(&many, Limits { entries: 10, ..Limits::default() }), (Limit::Entries, at("file-10")));
    assert_eq!(refuse(&many, Limits { names_bytes: 69, ..Limits::default() }), (Limit::NamesBytes, at("file-09")));
    assert_eq!(refuse(&many, Limits { given_bytes: 100, ..Limits::default() }).0, Limit::GivenBytes);
    // Folders that nobody wrote count as well: one short entry may imply a thousand.
    let deep = Archive::new().long(b'L', "d/".repeat(50) + "f").file("e", "x").gz();
    assert_eq!(refuse(&deep, Limits { entries: 20, ..Limits::default() }).0, Limit::Entries);
    let big = Archive::new().file("small", "x").file("big", vec![7; 1 << 20]).gz();
    assert_eq!(
        refuse(&big, Limits { unpacked_bytes: 1 << 19, ..Limits::default() }),
        (Limit::UnpackedBytes, at("big"))
    );
    let procfile = Archive::new().file("Procfile", vec![b'x'; 100_000]).gz();
    assert_eq!(refuse(&procfile, Limits::default()), (Limit::ProcfileBytes, at("Procfile")));
    let metadata = Archive::new().file("before", "x").header(&Header { size: 1 << 40, ..Header::new(b'x', "p") }).gz();
    assert_eq!(refuse(&metadata, Limits::default()), (Limit::MetadataBytes, at("before")));
}

#[test]
fn bombs() {
    let bomb = Archive::new().file("before", "x").file("zeros", vec![0; 18 << 20]).tar();
    for slug in [gzip(&bomb), zstd(&bomb)] {
        match both(&slug, &Options::default()) {
            Err(SlugError::Limit { limit: Limit::ExpansionRatio, entry: Some(entry), .. }) => {
                assert_eq!(entry.to_string(), "zeros")
            }
            other => panic!("{other:?}"),
        }
    }
    // What follows the end mark is unpacked too, to check the stream, and counts as well.
    let after = gzip(&[Archive::new().file("f", "x").tar(), vec![0; 18 << 20]].concat());
    assert!(matches!(both(&after, &Options::default()), Err(SlugError::Limit { limit: Limit::ExpansionRatio, .. })));
}

/// A size that no disk holds is refused where the stream ends, not allocated.
#[test]
fn a_size_that_is_a_lie() {
    for size in [1 << 20, u64::MAX / 2] {
        let slug = Archive::new().header(&Header { size, ..Header::new(b'0', "f") }).raw(&[b'x'; 512]).gz();
        let refused = both(&slug, &Options::default()).expect_err("taken").to_string();
        assert!(refused.ends_with("it ends inside an entry"), "{refused}");
    }
}

#[test]
fn hostile_members_beside_the_app_are_refused_as_well() {
    let slug = Archive::new().file("app/Procfile", "web: x").symlink("elsewhere", "../witness").gz();
    let refused = both(&slug, &Options::default()).expect_err("taken").to_string();
    assert!(refused.starts_with("the entry `elsewhere` is a link to `../witness`"), "{refused}");
}
