//! Runs a slug through both sinks, inside a folder with witnesses around it, and compares what came out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use captain_slug::{Durability, Options, Report, SlugError, normalise_to_tar, unpack_into};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Folder { mode: u32 },
    File { mode: u32, mtime: u64, content: Vec<u8> },
    Link { target: Vec<u8> },
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// `outer/witness` and `outer/store/witness` must stay as they are; slugs go to `outer/store/slug`.
pub(crate) struct Outside {
    folder: tempfile::TempDir,
}

impl Outside {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("store")).unwrap();
        fs::write(folder.path().join("witness"), "untouched").unwrap();
        fs::write(folder.path().join("store/witness"), "untouched").unwrap();
        Self { folder }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// An absolute path that a hostile archive would like to change.
    pub(crate) fn prize(&self) -> PathBuf {
        self.folder.path().join("witness")
    }

    pub(crate) fn assert_untouched(&self, in_store: &[&str]) {
        assert_eq!(list(self.folder.path()), ["store", "witness"]);
        let mut expected: Vec<_> = in_store.iter().chain(&["witness"]).map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(list(&self.store()), expected);
        for witness in [self.prize(), self.store().join("witness")] {
            assert_eq!(fs::read(&witness).unwrap(), b"untouched");
            let metadata = fs::metadata(&witness).unwrap();
            assert_eq!((metadata.nlink(), metadata.mode() & 0o7000), (1, 0), "{}", witness.display());
        }
    }
}

fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Both sinks must agree: the same tree and report, or the same error.
pub(crate) fn both(slug: &[u8], options: &Options) -> Result<(Tree, Report), SlugError> {
    both_within(&Outside::new(), slug, options)
}

pub(crate) fn both_within(outside: &Outside, slug: &[u8], options: &Options) -> Result<(Tree, Report), SlugError> {
    let mut tar = Vec::new();
    let streamed = normalise_to_tar(slug, &mut tar, "./", options);
    let unpacked = unpack_into(slug, &outside.store(), OsStr::new("slug"), Durability::Cache, options);
    match (streamed, unpacked) {
        (Ok(report), Ok(on_disk)) => {
            outside.assert_untouched(&["slug"]);
            assert_eq!(format!("{report:?}"), format!("{on_disk:?}"));
            let root = outside.store().join("slug");
            let tree = tree_of_folder(&root);
            assert_eq!(tree_of_tar(&tar, b""), tree, "the sinks disagree");
            assert_links_stay_inside(&root, &tree);
            Ok((tree, report))
        }
        (Err(streamed), Err(on_disk)) => {
            outside.assert_untouched(&[]);
            assert_eq!(streamed.to_string(), on_disk.to_string());
            assert!(
                tar.len() < 1024 || tar[tar.len() - 1024..].iter().any(|&b| b != 0),
                "a refused slug got its end mark"
            );
            Err(streamed)
        }
        (streamed, unpacked) => panic!("the sinks disagree: {streamed:?}, {unpacked:?}"),
    }
}

pub(crate) fn tree_of_folder(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let node = if metadata.is_dir() {
                open.push(path.clone());
                Node::Folder { mode }
            } else if metadata.is_symlink() {
                Node::Link { target: path.read_link().unwrap().as_os_str().as_bytes().to_vec() }
            } else {
                assert!(metadata.is_file());
                Node::File { mode, mtime: metadata.mtime().cast_unsigned(), content: fs::read(&path).unwrap() }
            };
            tree.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), node);
        }
    }
    tree
}

/// Reads with the tar crate, so that our writer is not judged by our reader. Every folder must come before what is in it.
pub(crate) fn tree_of_tar(bytes: &[u8], prefix: &[u8]) -> Tree {
    let mut tree = Tree::new();
    let strip = |path: &[u8]| path.strip_suffix(b"/").unwrap_or(path).strip_prefix(prefix).map(<[u8]>::to_vec);
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let Some(path) = strip(&entry.path_bytes()) else { continue };
        if let Some(slash) = path.iter().rposition(|&b| b == b'/') {
            assert!(
                matches!(tree.get(&path[..slash]), Some(Node::Folder { .. })),
                "{} has no folder",
                path.escape_ascii()
            );
        }
        let mode = entry.header().mode().unwrap();
        let target = entry.link_name_bytes().map(|target| target.to_vec()).unwrap_or_default();
        let node = match entry.header().entry_type() {
            tar::EntryType::Directory => Node::Folder { mode },
            tar::EntryType::Symlink => Node::Link { target },
            tar::EntryType::Link => tree[&strip(&target).unwrap()].clone(),
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                Node::File { mode, mtime: entry.header().mtime().unwrap(), content }
            }
            other => panic!("{other:?} in a normalised slug"),
        };
        tree.insert(path, node);
    }
    tree
}

/// By the kernel's own resolution, with `/app` read as the root. (Only where the target exists is there anything to follow.)
fn assert_links_stay_inside(root: &Path, tree: &Tree) {
    let real_root = root.canonicalize().unwrap();
    for (path, node) in tree {
        let Node::Link { target } = node else { continue };
        if target.starts_with(b"/") {
            // Of the instance's own root, and not even there to be reckoned with.
            assert!(!target.split(|&b| b == b'/').any(|component| component == b".."), "{}", target.escape_ascii());
            continue;
        }
        let link = root.join(OsStr::from_bytes(path));
        // A chain of links that goes on through `/app` leaves this folder for a root that is not there.
        if let Ok(end) = link.canonicalize() {
            assert!(
                end.starts_with(&real_root) || end.starts_with("/app"),
                "{} leads to {}",
                link.display(),
                end.display()
            );
        }
    }
}

pub(crate) fn paths(tree: &Tree) -> Vec<String> {
    tree.keys().map(|path| path.escape_ascii().to_string()).collect()
}
