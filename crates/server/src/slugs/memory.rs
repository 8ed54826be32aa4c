//! What a URI gave last: its digest, and what its origin calls that version. One small file for each, so that a captain that comes back
//! asks "has it changed?" and not for the whole slug.
//!
//! Only a hint: a captain without it fetches again. The file's name is a digest of the URI, which may hold a signature or a password.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use captain_slug::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// URIs remembered: a few megabytes of files. Signed URLs differ each time, so without a bound the folder would grow for ever.
const MOST: usize = 10_000;

/// Looked at once in so many additions, since looking reads the whole folder.
const LOOK_EVERY: u32 = 256;

/// A file holds two headers and a digest. What is larger is none of ours.
const LARGEST: u64 = 64 * 1024;

/// What an origin calls a version of what is behind a URI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_modified: Option<String>,
}

impl Validators {
    pub(super) const fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// What a URI gave last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) digest: Digest,
    pub(super) validators: Validators,
}

#[derive(Serialize, Deserialize)]
struct Record {
    sha256: String,
    #[serde(flatten)]
    validators: Validators,
}

/// The folder. Everything here blocks.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    folder: PathBuf,
    most: usize,
}

impl Memory {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, most: MOST }
    }

    fn path(&self, uri: &str) -> PathBuf {
        self.folder.join(Digest(Sha256::digest(uri.as_bytes()).into()).to_string())
    }

    /// What the URI gave last. A file that cannot be read is none.
    pub(super) fn recall(&self, uri: &str) -> Option<Remembered> {
        let path = self.path(uri);
        if fs::metadata(&path).ok()?.len() > LARGEST {
            return None;
        }
        let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(Remembered { digest: record.sha256.parse().ok()?, validators: record.validators })
    }

    /// Notes what the URI gave. `turn` is any number that goes up.
    pub(super) fn remember(&self, uri: &str, remembered: &Remembered, turn: u32) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let record = Record { sha256: remembered.digest.to_string(), validators: remembered.validators.clone() };
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.persist(self.path(uri)).map_err(|error| error.error)?;
        if turn.is_multiple_of(LOOK_EVERY) { self.trim() } else { Ok(()) }
    }

    /// Forgets what was noted longest ago, a tenth more than must be, so that this is not needed again at once.
    fn trim(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = fs::read_dir(&self.folder)?
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        if files.len() <= self.most {
            return Ok(());
        }
        files.sort();
        for (_, path) in files.iter().take(files.len() - self.most + self.most / 10) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(n: u8) -> Remembered {
        let validators = Validators { etag: Some(format!("\"{n}\"")), last_modified: None };
        Remembered { digest: Digest([n; 32]), validators }
    }

    #[test]
    fn what_is_remembered_is_recalled_and_names_no_uri() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().join("uris"));
        assert_eq!(memory.recall("http://u:hunter2@s/a"), None);
        memory.remember("http://u:hunter2@s/a", &remembered(1), 1).unwrap();
        memory.remember("http://u:hunter2@s/a", &remembered(2), 2).unwrap();
        assert_eq!(Memory::new(folder.path().join("uris")).recall("http://u:hunter2@s/a"), Some(remembered(2)));
        for entry in fs::read_dir(folder.path().join("uris")).unwrap() {
            let path = entry.unwrap().path();
            let all = format!("{}{}", path.display(), fs::read_to_string(&path).unwrap());
            assert!(!all.contains("hunter2"), "{all}");
        }
    }

    #[test]
    fn a_damaged_note_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path().to_owned());
        for text in ["", "{", r#"{"sha256":"x"}"#, &" ".repeat(70_000)] {
            fs::write(memory.path("u"), text).unwrap();
            assert_eq!(memory.recall("u"), None, "{text:.20}");
        }
    }

    #[test]
    fn it_has_a_bound() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory { folder: folder.path().to_owned(), most: 20 };
        for n in 0..=255u8 {
            memory.remember(&format!("u{n}"), &remembered(n), u32::from(n) + 1).unwrap();
            if let Ok(file) = fs::File::open(memory.path(&format!("u{n}"))) {
                file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(n))).unwrap();
            }
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 18);
        assert_eq!(memory.recall("u255"), Some(remembered(255)));
    }
}
