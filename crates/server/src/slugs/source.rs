//! What kinds of slug URIs there are, and the one kind that is this machine's own files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use captain_domain::SlugUri;
use captain_slug::Digest;
use reqwest::Url;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::error::FetchError;
use super::memory::Validators;

/// A file whose inode changed a moment ago may change again within the same tick of the clock, and look the same.
const SETTLED: Duration = Duration::from_secs(2);

/// Where a slug is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Web(Url),
    Bucket { bucket: String, key: String },
    File(PathBuf),
    Stored(Digest),
}

/// Reads a URI.
pub(super) fn parse(uri: &SlugUri) -> Result<Source, FetchError> {
    let text = uri.as_str();
    let refuse = |problem: &str| Err(FetchError::Uri(problem.to_owned()));
    let Some((scheme, rest)) = text.split_once(':') else {
        return refuse("a slug's URI begins with https:, http:, s3:, file: or sha256:");
    };
    match scheme.to_ascii_lowercase().as_str() {
        "sha256" => rest
            .parse()
            .map(Source::Stored)
            .map_err(|error: captain_slug::NotADigest| FetchError::Uri(error.to_string())),
        "http" | "https" => match Url::parse(text) {
            Ok(url) if url.has_host() => Ok(Source::Web(url)),
            _ => refuse("it is no URL"),
        },
        "s3" => bucket(rest).map_or_else(|| refuse("it must be like s3://bucket/path/to/slug.tgz"), Ok),
        "file" => match Url::parse(text).ok().and_then(|url| url.to_file_path().ok()) {
            Some(path) if rest.starts_with('/') => Ok(Source::File(path)),
            _ => refuse("it must be like file:///path/to/slug.tgz"),
        },
        _ => refuse("a slug's URI begins with https:, http:, s3:, file: or sha256:"),
    }
}

/// Bucket and key, as other tools read such a URI: the key is all that follows, and nothing in it is decoded.
fn bucket(rest: &str) -> Option<Source> {
    let (bucket, key) = rest.strip_prefix("//")?.split_once('/')?;
    is_bucket(bucket).then_some(())?;
    is_key(key).then(|| Source::Bucket { bucket: bucket.to_owned(), key: key.to_owned() })
}

/// The names that buckets can have, old ones included.
pub(super) fn is_bucket(name: &str) -> bool {
    (3..=255).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
        && !name.starts_with('.')
}

/// A dot segment would be taken out of the URL that is made of it, and another key be asked for.
fn is_key(key: &str) -> bool {
    !key.is_empty() && !key.split('/').any(|part| matches!(part, "." | ".."))
}

/// A file of a folder that slugs may come from.
pub(super) struct Local {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// Its identity and times; empty where they say nothing yet.
    pub(super) validators: Validators,
}

/// Opens a file below one of the folders. Symbolic links are followed, and must not lead out of it. Blocks.
pub(super) fn open_below(path: &Path, folders: &[PathBuf]) -> Result<Local, String> {
    if folders.is_empty() {
        return Err("this captain takes no slugs from files: CAPTAIN_SLUG_FOLDERS names no folder".to_owned());
    }
    let real = path.canonicalize().map_err(|error| said(&error))?;
    let outside = || "it is not below a folder that CAPTAIN_SLUG_FOLDERS names".to_owned();
    let mut below = folders.iter().filter_map(|folder| {
        let folder = folder.canonicalize().ok()?;
        let rest = real.strip_prefix(&folder).ok()?.to_owned();
        Some((folder, rest))
    });
    let (folder, rest) = below.next_back().ok_or_else(outside)?;
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECTORY.bits().cast_signed())
        .open(folder)
        .map_err(|error| said(&error))?;
    // Nothing on the way may have become a link since: then it would lead wherever its maker likes. A pipe must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = openat2(&folder, &rest, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
        .map_err(|error| said(&io::Error::from(error)))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(|error| said(&error))?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    let changed = u64::try_from(metadata.ctime()).unwrap_or(0);
    let settled = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(changed))
        .is_ok_and(|age| age >= SETTLED);
    let identity = format!(
        "{}-{}-{}-{}.{}-{}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    let validators = Validators { etag: settled.then_some(identity), last_modified: None };
    Ok(Local { file, bytes: metadata.len(), validators })
}

/// What the system says, without its number.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "this captain may not read it".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn source(uri: &str) -> Result<Source, String> {
        parse(&SlugUri::parse(uri).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_uri_is_read() {
        let key = |key: &str| Ok(Source::Bucket { bucket: "slugs".to_owned(), key: key.to_owned() });
        assert_eq!(source("s3://slugs/a/b c.tgz".replace(' ', "%20").as_str()), key("a/b%20c.tgz"));
        assert_eq!(source("file:///srv/a%20b.tgz"), Ok(Source::File("/srv/a b.tgz".into())));
        assert_eq!(source(&format!("sha256:{}", "0a".repeat(32))), Ok(Source::Stored(Digest([10; 32]))));
        assert!(matches!(source("HTTPS://u:p@host/a.tgz?x=y"), Ok(Source::Web(_))));
    }

    #[test]
    fn what_is_no_slugs_uri_is_refused() {
        let refused = [
            "ftp://host/a.tgz",
            "a.tgz",
            "http://",
            "http:/",
            "s3://b/x",
            "s3://slugs",
            "s3://slugs/",
            "s3://slugs/a/../b",
            "s3://a?b/c",
            "file://host/a",
            "file:a",
            "sha256:abc",
            "data:text/plain,x",
            "javascript:1",
        ];
        for uri in refused {
            assert!(source(uri).is_err(), "{uri}: {:?}", source(uri));
        }
    }

    #[test]
    fn a_file_is_read_only_below_the_folders() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["slugs/v1", "other"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["slugs/v1/a", "other/secret", "slugs-secret"] {
            std::fs::write(at(file), file).unwrap();
        }
        symlink(at("slugs/v1"), at("slugs/latest")).unwrap();
        symlink("../other/secret", at("slugs/out")).unwrap();
        symlink(at("other"), at("slugs/outfolder")).unwrap();
        symlink("loop", at("slugs/loop")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("slugs/pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let folders = [at("slugs")];
        let open = |name: &str| {
            open_below(&at(name), &folders).map(|mut local| {
                let mut text = String::new();
                local.file.read_to_string(&mut text).unwrap();
                text
            })
        };
        for name in ["slugs/v1/a", "slugs/latest/a", "other/../slugs/v1/a"] {
            assert_eq!(open(name), Ok("slugs/v1/a".to_owned()), "{name}");
        }
        let outside = Err("it is not below a folder that CAPTAIN_SLUG_FOLDERS names".to_owned());
        for name in ["slugs/out", "slugs/outfolder/secret", "slugs/../other/secret", "slugs-secret", "other/secret"] {
            assert_eq!(open(name), outside, "{name}");
        }
        for name in ["slugs/absent", "slugs/loop", "slugs/pipe", "slugs/v1", "slugs"] {
            assert!(open(name).is_err(), "{name}");
        }
        assert!(open_below(&at("slugs/v1/a"), &[]).err().unwrap().contains("names no folder"));
    }
}
