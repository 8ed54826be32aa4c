//! A slug on disk appears whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::mpsc;
use std::thread;

use captain_slug::{Durability, Options, Owner, SlugError, sweep_partials, unpack_into};

use crate::archives::{Archive, Header};
use crate::outcome::Outside;

fn unpack(outside: &Outside, slug: &[u8], durability: Durability) -> Result<captain_slug::Report, SlugError> {
    unpack_into(slug, &outside.store(), OsStr::new("slug"), durability, &Options::default())
}

#[test]
fn both_durabilities_leave_only_the_slug() {
    for durability in [Durability::Synced, Durability::Cache] {
        for slug in [
            Archive::new().file("Procfile", "web: x"),
            Archive::new().file("app/Procfile", "web: x").file("beside", "x"),
        ] {
            let outside = Outside::new();
            unpack(&outside, &slug.gz(), durability).unwrap();
            outside.assert_untouched(&["slug"]);
            assert_eq!(fs::read(outside.store().join("slug/Procfile")).unwrap(), b"web: x");
        }
    }
}

/// Trap 8: the archive's `./` (or `app/`) says 0700 and a stranger's uid.
#[test]
fn the_root_is_not_the_archives_to_say() {
    for root in ["./", "app/"] {
        let outside = Outside::new();
        let root_entry = Header { mode: 0o700, uid: 12345, ..Header::new(b'5', root) };
        let slug = Archive::new().header(&root_entry).file(format!("{root}Procfile"), "web: x").gz();
        unpack(&outside, &slug, Durability::Cache).unwrap();
        let metadata = fs::metadata(outside.store().join("slug")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }
}

#[test]
fn the_owner_is_set_on_everything() {
    // Only root may give files away; as anyone else the test gives them to itself.
    let (own_uid, own_gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let owner = if own_uid.is_root() {
        Owner { uid: 1234, gid: 2345 }
    } else {
        Owner { uid: own_uid.as_raw(), gid: own_gid.as_raw() }
    };
    let outside = Outside::new();
    let slug =
        Archive::new().file("d/f", "x").symlink("l", "d/f").hard_link("h", "d/f").file_with_mode("s", 0o4755).gz();
    let options = Options { owner: Some(owner), ..Options::default() };
    unpack_into(&slug[..], &outside.store(), OsStr::new("slug"), Durability::Cache, &options).unwrap();
    for path in ["", "d", "d/f", "l", "h", "s"] {
        let metadata = outside.store().join("slug").join(path).symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (owner.uid, owner.gid), "{path}");
        assert_eq!(metadata.mode() & 0o7000, 0, "{path}");
    }
}

#[test]
fn what_is_there_already_stays() {
    let outside = Outside::new();
    fs::create_dir(outside.store().join("slug")).unwrap();
    fs::write(outside.store().join("slug/mine"), "mine").unwrap();
    let there = unpack(&outside, &Archive::new().file("f", "x").gz(), Durability::Cache).expect_err("overwritten");
    assert!(matches!(there, SlugError::AlreadyThere { .. }), "{there:?}");
    assert_eq!(fs::read(outside.store().join("slug/mine")).unwrap(), b"mine");
    outside.assert_untouched(&["slug"]);
}

#[test]
fn a_name_is_one_visible_component() {
    let outside = Outside::new();
    for name in ["", ".", "..", "../slug", "a/b", "/slug", ".hidden", "slug/"] {
        let slug = Archive::new().file("f", "x").gz();
        let bad = unpack_into(&slug[..], &outside.store(), OsStr::new(name), Durability::Cache, &Options::default())
            .expect_err(name);
        assert!(matches!(bad, SlugError::Destination { .. }), "{bad:?}");
    }
    outside.assert_untouched(&[]);
}

#[test]
fn a_missing_parent_is_named() {
    let outside = Outside::new();
    let slug = Archive::new().file("f", "x").gz();
    let gone = outside.store().join("gone");
    let bad = unpack_into(&slug[..], &gone, OsStr::new("slug"), Durability::Cache, &Options::default())
        .expect_err("unpacked");
    assert!(bad.to_string().starts_with(&format!("cannot make the folder {}/.partial-", gone.display())), "{bad}");
}

/// Gives out what it is sent; says when it is asked for more.
struct Fed {
    asked: mpsc::Sender<()>,
    fed: mpsc::Receiver<Vec<u8>>,
    left: Vec<u8>,
}

impl Read for Fed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            let _ = self.asked.send(());
            self.left = self.fed.recv().unwrap_or_default();
        }
        let n = buf.len().min(self.left.len());
        buf[..n].copy_from_slice(&self.left[..n]);
        self.left.drain(..n);
        Ok(n)
    }
}

#[test]
fn a_sweep_takes_what_is_dead_and_leaves_what_is_at_work() {
    let outside = Outside::new();
    let dead = outside.store().join(".partial-1-1");
    fs::create_dir_all(dead.join("app/d")).unwrap();
    fs::write(dead.join("app/d/f"), "x").unwrap();
    let (asked_tx, asked) = mpsc::channel();
    let (feed, fed) = mpsc::channel();
    let store = outside.store();
    let work = thread::spawn(move || {
        let input = Fed { asked: asked_tx, fed, left: Vec::new() };
        unpack_into(input, &store, OsStr::new("slug"), Durability::Cache, &Options::default())
    });
    // It asks only once its partial folder is made and locked.
    asked.recv().unwrap();
    assert_eq!(sweep_partials(&outside.store()).unwrap(), 1);
    assert!(!dead.exists());
    let in_store: Vec<_> =
        outside.store().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        in_store.iter().any(|name| name.starts_with(".partial-")),
        "the living one's folder was swept: {in_store:?}"
    );
    assert!(!in_store.contains(&"slug".to_owned()));
    for piece in Archive::new().file("f", "x").tar().chunks(400) {
        feed.send(piece.to_vec()).unwrap();
    }
    drop(feed);
    work.join().unwrap().unwrap();
    outside.assert_untouched(&["slug"]);
    assert_eq!(sweep_partials(&outside.store()).unwrap(), 0);
}

#[test]
fn many_at_once_for_one_place_give_one_slug() {
    let outside = Outside::new();
    let slug = (0..50).fold(Archive::new(), |archive, i| archive.file(format!("d/{i}"), "x")).gz();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| unpack(&outside, &slug, Durability::Cache))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert!(
        outcomes.iter().flat_map(|outcome| outcome.as_ref().err()).all(|e| matches!(e, SlugError::AlreadyThere { .. }))
    );
    assert_eq!(outside.store().join("slug/d").read_dir().unwrap().count(), 50);
    outside.assert_untouched(&["slug"]);
}
