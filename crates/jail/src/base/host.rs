//! The allow-list: what of the host an instance sees, all of it read-only. What is not named here does not exist inside.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The system folders. On merged-usr systems all but the first are links, and stay links.
const SYSTEM: [&str; 9] = ["usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32", "libo32", "nix/store"];

/// Of `/etc`: name resolution, certificates, the dynamic linker, locales and times, alternatives, and the parts of language run-times that
/// distributions keep there. Nothing with accounts, keys, passwords or addresses of the host's services.
const ETC: [&str; 49] = [
    "alternatives",
    "bash.bashrc",
    "bindresvport.blacklist",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "dotnet",
    "fedora-release",
    "fonts",
    "gai.conf",
    "host.conf",
    "hosts",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "ld-musl-aarch64.path",
    "ld-musl-x86_64.path",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "lsb-release",
    "magic",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "openssl",
    "os-release",
    "perl",
    "php",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "python3",
    "redhat-release",
    "resolv.conf",
    "rpc",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// A file of `/etc` is copied up to this size (larger than any linker cache seen): cheaper than a mount, and a host that replaces its
/// `resolv.conf` by rename would leave a mount on the old one just the same.
const COPY_MOST: u64 = 1 << 20;

/// How a part of the host appears inside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A link, the same as the host's.
    Link { at: PathBuf, to: PathBuf },
    /// A folder or large file, mounted read-only.
    Mount { at: PathBuf },
    /// A small file, copied.
    Copy { at: PathBuf, content: Vec<u8> },
}

/// All names that may be seen, relative to the root.
fn names() -> impl Iterator<Item = PathBuf> {
    SYSTEM.iter().map(PathBuf::from).chain(ETC.iter().map(|name| Path::new("etc").join(name)))
}

/// What there is of the system folders and of `/etc`, as paths relative to the root.
pub(super) fn entries(host: &Path) -> io::Result<Vec<Entry>> {
    names().filter_map(|at| entry(host, at).transpose()).collect()
}

/// Identity, size and times of all that [`entries`] would read: as long as this is the same, so are they.
pub(super) fn fingerprint(host: &Path) -> Vec<[u64; 5]> {
    let of = |found: io::Result<fs::Metadata>| {
        let Ok(found) = found else { return [0; 5] };
        // A folder is mounted, not copied: what is in it does not matter.
        let (changed, nanoseconds) = if found.is_dir() { (0, 0) } else { (found.ctime(), found.ctime_nsec()) };
        [found.dev(), found.ino(), found.size(), changed.cast_unsigned(), nanoseconds.cast_unsigned()]
    };
    let mut all = Vec::with_capacity(2 * (SYSTEM.len() + ETC.len()));
    for path in names().map(|at| host.join(at)) {
        let link = fs::symlink_metadata(&path);
        // The end of a link can change without the link.
        let end = link.as_ref().is_ok_and(fs::Metadata::is_symlink).then(|| of(fs::metadata(&path)));
        all.push(of(link));
        all.extend(end);
    }
    all
}

fn entry(host: &Path, at: PathBuf) -> io::Result<Option<Entry>> {
    let path = host.join(&at);
    let Some(kind) = present(fs::symlink_metadata(&path))? else { return Ok(None) };
    if kind.is_symlink() {
        let to = fs::read_link(&path)?;
        if leads_to_system(host, &path) {
            return Ok(Some(Entry::Link { at, to }));
        }
    }
    // What a link leads to outside of the system folders (resolv.conf into /run, as a rule) is taken as it is now.
    let Some(kind) = present(fs::metadata(&path))? else { return Ok(None) };
    if kind.is_dir() || kind.len() > COPY_MOST {
        return Ok(Some(Entry::Mount { at }));
    }
    if !kind.is_file() {
        return Ok(None);
    }
    Ok(present(fs::read(&path))?.map(|content| Entry::Copy { at, content }))
}

/// Absent and unreadable parts of the host are left out; the instance could not have read them either.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the end of the link will exist inside under the same name.
fn leads_to_system(host: &Path, link: &Path) -> bool {
    let Ok(end) = fs::canonicalize(link) else { return false };
    let Ok(host) = fs::canonicalize(host) else { return false };
    end.strip_prefix(host).is_ok_and(|end| SYSTEM.iter().any(|folder| end.starts_with(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_links_and_only_the_list_is_seen() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        for dir in ["usr/bin", "usr/share", "etc/ssl/certs", "etc/ssl/private", "run", "root", "home/me"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink("usr/bin", at("bin")).unwrap();
        fs::write(at("usr/share/UTC"), "utc").unwrap();
        symlink("../usr/share/UTC", at("etc/localtime")).unwrap();
        fs::write(at("run/stub.conf"), "nameserver").unwrap();
        symlink("../run/stub.conf", at("etc/resolv.conf")).unwrap();
        symlink("nowhere", at("etc/hosts")).unwrap();
        fs::write(at("etc/shadow"), "secret").unwrap();
        let found = entries(host.path()).unwrap();
        assert_eq!(
            found,
            [
                Entry::Mount { at: "usr".into() },
                Entry::Link { at: "bin".into(), to: "usr/bin".into() },
                Entry::Link { at: "etc/localtime".into(), to: "../usr/share/UTC".into() },
                Entry::Copy { at: "etc/resolv.conf".into(), content: b"nameserver".to_vec() },
                Entry::Mount { at: "etc/ssl/certs".into() },
            ]
        );
        let before = fingerprint(host.path());
        fs::write(at("etc/ssl/certs/new"), "").unwrap();
        fs::write(at("etc/shadow"), "other").unwrap();
        assert_eq!(fingerprint(host.path()), before, "nothing of it is copied");
        fs::write(at("run/stub.conf"), "nameserver 2").unwrap();
        assert_ne!(fingerprint(host.path()), before);
    }
}
