//! What the unpacked slug says. Read as the instance's user, after all privileges are gone: a link that points out of the slug opens
//! nothing that the app could not open itself.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use captain_domain::procfile::{PROCFILE_BYTES_MAX, Procfile, RELEASE_BYTES_MAX, Release};

use crate::Failure;

/// Buildpacks write a handful; the bound keeps the list of names within one argument.
const SCRIPTS_MAX: usize = 256;

pub(crate) struct Slug {
    dir: PathBuf,
}

impl Slug {
    /// Makes the app directory the working directory.
    pub(crate) fn enter(dir: &Path) -> Result<Self, Failure> {
        match env::set_current_dir(dir) {
            Ok(()) => Ok(Self { dir: dir.to_owned() }),
            Err(source) => Err(Failure::AppDir { dir: dir.to_owned(), source }),
        }
    }

    /// What `.release` says; nothing if there is none.
    pub(crate) fn release(&self) -> Result<Release, Failure> {
        match self.read(".release", RELEASE_BYTES_MAX)? {
            Some(bytes) => Release::parse(&bytes).map_err(Failure::Release),
            None => Ok(Release::default()),
        }
    }

    /// The command of a process type: the Procfile's, else the default one.
    pub(crate) fn command(&self, process_type: &str, release: &Release) -> Result<String, Failure> {
        let procfile = match self.read("Procfile", PROCFILE_BYTES_MAX)? {
            Some(bytes) => Some(Procfile::parse(&bytes).map_err(Failure::Procfile)?),
            None => None,
        };
        let listed = procfile.as_ref().and_then(|procfile| procfile.command(process_type));
        match listed.or_else(|| release.command(process_type)) {
            Some(command) => Ok(command.to_owned()),
            None => {
                Err(Failure::NoSuchType { wanted: process_type.to_owned(), known: known(procfile.as_ref(), release) })
            }
        }
    }

    /// The scripts to source, in their order, by absolute path.
    pub(crate) fn profile(&self) -> Result<Vec<PathBuf>, Failure> {
        let dir = self.dir.join(".profile.d");
        let (mut scripts, mut others) = (Vec::new(), Vec::new());
        for name in names(&dir).map_err(|source| Failure::Unreadable { file: ".profile.d", source })? {
            let path = dir.join(&name);
            if name.as_encoded_bytes().starts_with(b".") || !path.is_file() {
                continue;
            }
            if name.as_encoded_bytes().ends_with(b".sh") {
                scripts.push(path)
            } else {
                others.push(path)
            }
            if scripts.len() + others.len() > SCRIPTS_MAX {
                return Err(Failure::TooManyScripts { limit: SCRIPTS_MAX });
            }
        }
        // Paths compare by bytes here: all have one parent, and no locale is asked.
        scripts.sort_unstable();
        others.sort_unstable();
        scripts.append(&mut others);
        let last = self.dir.join(".profile");
        if last.is_file() {
            scripts.push(last);
        }
        Ok(scripts)
    }

    /// The bytes of a file, at most one more than `limit`, so that the parser can say that it is too long.
    fn read(&self, name: &'static str, limit: usize) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.dir.join(name);
        let read = || -> io::Result<Vec<u8>> {
            // Asked before opening: opening a fifo would wait for ever.
            if !fs::metadata(&path)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            let mut bytes = Vec::new();
            File::open(&path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Failure::Unreadable { file: name, source }),
        }
    }
}

/// Names in a directory; none if it is no directory.
fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn known(procfile: Option<&Procfile>, release: &Release) -> String {
    const SHOWN_MAX: usize = 20;
    let listed = procfile.map(Procfile::processes).unwrap_or_default();
    let mut types: Vec<&str> = listed.iter().chain(release.processes()).map(|process| &*process.name).collect();
    types.sort_unstable();
    types.dedup();
    match (types.len(), procfile) {
        (0, None) => "it has no Procfile and no default process types".to_owned(),
        (0, Some(_)) => "its Procfile is empty".to_owned(),
        (1..=SHOWN_MAX, _) => format!("it has {}", types.join(", ")),
        (count, _) => format!("it has {count} others"),
    }
}
