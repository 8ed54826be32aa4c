//! The allow-list: what of the host an instance sees, all of it read-only. What is not named here does not exist inside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The system folders. On merged-usr systems all but the first are links, and stay links.
pub(super) const SYSTEM: [&str; 9] = ["usr", "bin", "sbin", "lib", "lib64", "lib32", "libx32", "libo32", "nix/store"];

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

/// What there is of the system folders and of `/etc`, as paths relative to the root.
pub(super) fn entries(host: &Path) -> io::Result<Vec<Entry>> {
    let etc = ETC.iter().map(|name| PathBuf::from("etc").join(name));
    let names = SYSTEM.iter().map(PathBuf::from).chain(etc);
    names.filter_map(|at| entry(host, at).transpose()).collect()
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

/// The accounts inside: programs ask for the name of their uid, and fail in odd ways when it has none.
pub(super) fn passwd(uid: u32) -> String {
    format!(
        "root:x:0:0:root:/root:/usr/sbin/nologin\napp:x:{uid}:{uid}:app:/app:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
    )
}

/// The groups inside.
pub(super) fn group(gid: u32) -> String {
    format!("root:x:0:\napp:x:{gid}:\nnogroup:x:65534:\n")
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
    }
}
