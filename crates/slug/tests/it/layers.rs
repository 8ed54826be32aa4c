//! Slugs in several archives, one on top of the other.

use std::io::{self, Read as _};

use captain_slug::{Digest, Layer, LayersError, Options, Owner, SlugError, normalise_to_layers};
use sha2::{Digest as _, Sha256};

use crate::archives::{Archive, Header};
use crate::outcome::{Node, Tree, tree_of_tar};

fn options() -> Options {
    Options { owner: Some(Owner { uid: 5000, gid: 5000 }), ..Options::default() }
}

/// What is in each archive, the last one's digest checked.
fn layers(slug: Archive, room: u64) -> Result<Vec<Tree>, LayersError> {
    let mut all = Vec::new();
    let taken = |all: &mut Vec<Layer>, layer| all.push(layer);
    let (_, last) = normalise_to_layers(
        &slug.gz()[..],
        "app/",
        &options(),
        |_| room,
        |layer| {
            taken(&mut all, layer);
            Ok(())
        },
    )?;
    all.push(last);
    Ok(all.into_iter().map(tree).collect())
}

fn tree(mut layer: Layer) -> Tree {
    let mut bytes = Vec::new();
    layer.file.read_to_end(&mut bytes).unwrap();
    assert_eq!((layer.bytes, layer.sha256), (bytes.len() as u64, Digest(Sha256::digest(&bytes).into())));
    tree_of_tar(&bytes, b"")
}

fn paths(tree: &Tree) -> Vec<&str> {
    tree.keys().map(|path| std::str::from_utf8(path).unwrap()).collect()
}

#[test]
fn each_names_the_folders_above_its_entries_as_they_were_last_given() {
    let slug = Archive::new()
        .file("Procfile", "web: x")
        .header(&Header { mode: 0o700, ..Header::new(b'5', "keys/") })
        .file("keys/a", [b'a'; 3000])
        .file("keys/b", [b'b'; 3000])
        .file("lib/c", [b'c'; 3000]);
    let layers = layers(slug, 6000).unwrap();
    let expected: [&[&str]; 3] = [
        &["app", "app/Procfile", "app/keys", "app/keys/a"],
        &["app", "app/keys", "app/keys/b", "app/lib"],
        &["app", "app/lib", "app/lib/c"],
    ];
    assert_eq!(layers.iter().map(paths).collect::<Vec<_>>(), expected);
    assert_eq!(
        layers[1][&b"app/keys"[..]],
        Node::Folder { mode: 0o700 },
        "not what engines give to folders nobody names"
    );
}

#[test]
fn a_file_larger_than_the_room_has_an_archive_of_its_own() {
    let slug = Archive::new().file("Procfile", "web: x").file("large", vec![b'x'; 100_000]).file("small", "x");
    let layers = layers(slug, 10_000).unwrap();
    assert_eq!(
        layers.iter().map(|tree| paths(tree).pop().unwrap()).collect::<Vec<_>>(),
        ["app/Procfile", "app/large", "app/small"]
    );
}

#[test]
fn a_small_slug_is_one_archive() {
    let layers =
        layers(Archive::new().file("Procfile", "web: x").symlink("l", "Procfile").hard_link("h", "Procfile"), 1 << 20);
    assert_eq!(layers.unwrap().len(), 1);
}

#[test]
fn a_hard_link_out_of_its_archive_is_told() {
    let slug = |name: &str| {
        Archive::new().file("Procfile", "web: x").file("a", [b'a'; 3000]).file("b", [b'b'; 3000]).hard_link("h", name)
    };
    assert!(layers(slug("b"), 4000).is_ok());
    match layers(slug("a"), 4000) {
        Err(LayersError::Indivisible(entry)) => assert_eq!(entry.as_bytes(), b"app/h"),
        other => panic!("{other:?}"),
    }
    assert!(
        layers(slug("none"), 4000).is_err_and(|error| matches!(error, LayersError::Slug(_))),
        "a fault of the slug comes first"
    );
}

#[test]
fn the_last_is_not_given_before_all_is_checked_and_a_taker_can_end_it() {
    let slug = Archive::new().file("Procfile", "web: x").file("a", [b'a'; 3000]).file("b", [b'b'; 3000]).gz();
    let other = Options { sha256: Some(Digest([7; 32])), ..options() };
    let mut given = 0;
    let refused = normalise_to_layers(
        &slug[..],
        "app/",
        &other,
        |_| 4000,
        |_| {
            given += 1;
            Ok(())
        },
    );
    assert!(matches!(refused, Err(LayersError::Slug(SlugError::DigestDiffers { .. }))) && given == 2);
    let stopped =
        normalise_to_layers(&slug[..], "app/", &options(), |_| 4000, |_| Err(io::ErrorKind::BrokenPipe.into()));
    assert!(
        matches!(stopped, Err(LayersError::Slug(SlugError::Write { source, .. })) if source.kind() == io::ErrorKind::BrokenPipe)
    );
}
