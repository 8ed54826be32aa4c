//! What the tests stand on: a data folder, slugs of some size, and what is left on the disk.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use captain_domain::SlugUri;
use captain_server::captain::Chance;
use captain_server::slugs::{FetchError, Patience, Resolved, Settings, Slugs};
use captain_slug::{Digest, Options, PackOptions};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

/// A data folder, and slugs in it.
pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    pub(crate) slugs: Slugs,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let slugs = slugs(settings(folder.path(), change));
        Self { folder, slugs }
    }

    /// The captain ends and another one begins with the same folder.
    pub(crate) fn restart(&mut self) {
        self.slugs = slugs(settings(self.folder.path(), |_| {}));
    }

    pub(crate) async fn resolve(&self, uri: &str) -> Result<Arc<Resolved>, Arc<FetchError>> {
        self.resolve_pinned(uri, None).await
    }

    pub(crate) async fn resolve_pinned(
        &self,
        uri: &str,
        pin: Option<Digest>,
    ) -> Result<Arc<Resolved>, Arc<FetchError>> {
        self.slugs.resolve(&SlugUri::parse(uri).unwrap(), pin, &|_| {}).await
    }

    /// Every file below the data folder that is a slug or a part of one.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        collect(self.folder.path(), &mut files);
        files.retain(|file| !file.contains("/uris/"));
        files
    }
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path.display().to_string()) }
    }
}

pub(crate) fn settings(folder: &Path, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::below(folder.join("data"));
    settings.patience = Patience {
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(5),
        revalidate: Duration::from_secs(5),
        whole: Duration::from_secs(60),
    };
    change(&mut settings);
    settings
}

fn slugs(settings: Settings) -> Slugs {
    Slugs::new(settings, Arc::new(Chance::new(SmallRng::seed_from_u64(7))), TaskTracker::new())
}

/// A slug with so many bytes in it that do not compress.
pub(crate) fn slug(seed: u64, bytes: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut noise = vec![0; bytes];
    rand::RngCore::fill_bytes(&mut SmallRng::seed_from_u64(seed), &mut noise);
    std::fs::write(folder.path().join("Procfile"), "web: ./serve\n").unwrap();
    std::fs::write(folder.path().join("noise"), noise).unwrap();
    let mut packed = Vec::new();
    captain_slug::pack(folder.path(), &mut packed, &PackOptions::default(), &mut |_| {}).unwrap();
    packed
}

/// A tar as GNU tar makes it of what a shell has made of an empty folder.
pub(crate) fn tar_of(script: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("sh").args(["-c", script]).current_dir(folder.path()).status().unwrap();
    assert!(status.success(), "{script}");
    let tar =
        Command::new("tar").args(["-cPf", "-", "."]).current_dir(folder.path()).stderr(Stdio::null()).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

pub(crate) fn digest_of(slug: &[u8]) -> Digest {
    captain_slug::inspect(slug, &Options::default()).unwrap().report.sha256
}
