//! Whatever the archive: nothing outside is touched, nothing panics, both sinks agree, and what is taken stays inside. The checks are in
//! [`crate::outcome`]; the same run as fuzz targets in `crates/slug/fuzz`.

use std::io::Read as _;

use captain_slug::{LayersError, Layout, Limits, Options, inspect, lint, normalise_to_layers, normalise_to_tar};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::archives::{Archive, Header, gzip, zstd};
use crate::outcome::{Outside, both, both_within, tree_of_tar};

/// Few names, so that they meet; each kind of badness among them.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let component = prop_oneof![
        12 => prop::sample::select(vec![&b"a"[..], b"b", b"app", b"Procfile", b".release", b"l"]).prop_map(<[u8]>::to_vec),
        1 => prop::sample::select(vec![&b".."[..], b".", b"", b"\xff", b"witness", b"store"]).prop_map(<[u8]>::to_vec),
        1 => prop::sample::select(vec![99_usize, 100, 101, 255, 256]).prop_map(|n| vec![b'x'; n]),
    ];
    vec(component, 1..4).prop_map(|components| components.join(&b'/'))
}

#[derive(Clone, Debug)]
enum Piece {
    Entry { header: Header, content: Vec<u8>, long: bool },
    Meta { flag: u8, text: Vec<u8> },
    Noise(Vec<u8>),
}

fn piece() -> impl Strategy<Value = Piece> {
    let flag = prop_oneof![
        8 => Just(b'0'), 4 => Just(b'5'), 4 => Just(b'2'), 4 => Just(b'1'),
        1 => prop::sample::select(b"\x00347SVMDZs".to_vec()),
    ];
    let entry = (flag, name(), name(), any::<u16>(), vec(any::<u8>(), 0..40), any::<bool>()).prop_map(
        |(flag, name, target, mode, content, long)| {
            // Links and folders with contents are refused at once; a few are enough.
            let content = if matches!(flag, b'1' | b'2' | b'5') && mode % 16 != 0 { Vec::new() } else { content };
            Piece::Entry { header: Header { target, mode: mode.into(), ..Header::new(flag, name) }, content, long }
        },
    );
    let meta = (prop::sample::select(b"LKxg".to_vec()), vec(any::<u8>(), 0..30))
        .prop_map(|(flag, text)| Piece::Meta { flag, text });
    prop_oneof![30 => entry, 1 => meta, 1 => vec(any::<u8>(), 512..=512).prop_map(Piece::Noise)]
}

fn archive() -> impl Strategy<Value = Archive> {
    vec(piece(), 0..12).prop_map(|pieces| {
        pieces.into_iter().fold(Archive::new(), |archive, piece| match piece {
            Piece::Entry { header, content, long } => {
                let archive = if long || header.name.len() > 100 { archive.long(b'L', &header.name) } else { archive };
                let archive = if header.target.len() > 100 { archive.long(b'K', &header.target) } else { archive };
                archive.entry(&header, &content)
            }
            Piece::Meta { flag, text } => archive.entry(&Header::new(flag, "meta"), &text),
            Piece::Noise(noise) => archive.raw(&noise),
        })
    })
}

/// As it is, or compressed, or damaged before or after compression.
fn slug() -> impl Strategy<Value = Vec<u8>> {
    let damage = || prop_oneof![3 => Just(Vec::new()), 1 => vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)];
    (archive(), damage(), 0..3, damage(), prop::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(
        |(archive, before, form, after, cut)| {
            let tar = damaged(archive.tar(), before);
            let packed = match form {
                0 => tar,
                1 => gzip(&tar),
                _ => zstd(&tar),
            };
            let mut slug = damaged(packed, after);
            if let Some(cut) = cut {
                slug.truncate(cut.index(slug.len()));
            }
            slug
        },
    )
}

fn damaged(mut bytes: Vec<u8>, damage: Vec<(prop::sample::Index, u8)>) -> Vec<u8> {
    for (place, byte) in damage {
        let place = place.index(bytes.len());
        bytes[place] = byte;
    }
    bytes
}

fn options() -> Options {
    Options {
        limits: Limits { unpacked_bytes: 1 << 20, entries: 40, metadata_bytes: 4096, ..Limits::default() },
        ..Options::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_archive(slug in slug()) {
        let taken = both(&slug, &options());
        let inspected = inspect(&slug[..], &options());
        match (&taken, &inspected) {
            (Ok((_, report)), Ok(summary)) => prop_assert_eq!(format!("{:?}", report), format!("{:?}", summary.report)),
            (Err(taken), Err(inspected)) => prop_assert_eq!(taken.to_string(), inspected.to_string()),
            other => prop_assert!(false, "inspect disagrees: {:?}", other),
        }
        let findings = lint(&slug[..], &options()).unwrap();
        let refused = findings.iter().any(|f| f.severity == captain_slug::Severity::Error && !f.code.contains("procfile"));
        prop_assert_eq!(taken.is_err(), refused, "lint disagrees: {:?} {:?}", taken.err(), findings);
    }

    /// One on top of the other, the layers are what the one archive is, however small they are.
    #[test]
    fn layers_are_the_same_slug(archive in archive(), room in 0_u64..6000) {
        let slug = archive.tar();
        let (mut whole, mut layers) = (Vec::new(), Vec::new());
        let in_one = normalise_to_tar(&slug[..], &mut whole, "app/", &options());
        let divided = normalise_to_layers(&slug[..], "app/", &options(), |_| room, |layer| {
            layers.push(layer);
            Ok(())
        });
        match (in_one, divided) {
            (Ok(in_one), Ok((report, last))) => {
                layers.push(last);
                let mut tree = std::collections::BTreeMap::new();
                for mut layer in layers {
                    let mut bytes = Vec::new();
                    layer.file.read_to_end(&mut bytes).unwrap();
                    prop_assert_eq!(layer.bytes, bytes.len() as u64);
                    tree.extend(tree_of_tar(&bytes, b""));
                }
                prop_assert_eq!(tree, tree_of_tar(&whole, b""));
                prop_assert_eq!(format!("{:?}", report), format!("{:?}", in_one));
            }
            (Err(whole), Err(LayersError::Slug(divided))) => prop_assert_eq!(whole.to_string(), divided.to_string()),
            // Its link may be the only fault that the slug has, or come before another.
            (_, Err(LayersError::Indivisible(_))) => {}
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// Normalising is done once: its own output is taken as it is.
    #[test]
    fn a_normalised_slug_is_normal(archive in archive()) {
        let mut once = Vec::new();
        if normalise_to_tar(&archive.tar()[..], &mut once, "app/", &options()).is_ok() {
            let limits = Limits { entries: 100, ..options().limits };
            let mut twice = Vec::new();
            let report = normalise_to_tar(&once[..], &mut twice, "app/", &Options { limits, ..options() }).unwrap();
            prop_assert_eq!(report.layout, Layout::App);
            prop_assert_eq!(tree_of_tar(&once, b""), tree_of_tar(&twice, b""));
        }
    }

    /// Names that lead to the witnesses, in each role that a name can have.
    #[test]
    fn the_witnesses_stay(ups in 0_usize..5, absolute: bool, through_link: bool, flag in prop::sample::select(b"0125".to_vec()), as_target: bool) {
        let outside = Outside::new();
        let prize = if absolute { outside.prize().to_str().unwrap().to_owned() } else { "../".repeat(ups) + "witness" };
        let mut archive = Archive::new().file("a/b/f", "x");
        if through_link {
            archive = archive.symlink("up", "../..");
        }
        let header = if as_target {
            Header { target: prize.into_bytes(), ..Header::new(flag, "a/b/l") }
        } else {
            Header::new(flag, if through_link { "up/witness".to_owned() } else { prize })
        };
        let archive = archive.header(&header).file("a/b/l", "evil");
        let _ = both_within(&outside, &archive.gz(), &Options::default());
    }
}
