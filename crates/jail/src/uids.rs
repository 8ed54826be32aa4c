//! A uid of its own for each instance: reserved as a file whose creation can succeed only once, so that two servers never give out the same.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::spec::Id;

/// Above everything that distributions, systemd and subordinate uids give out (systemd ends at 1 879 048 191).
const FAR: Range<u32> = 1_900_000_000..1_900_065_536;
/// For a root that has only the 65 536 uids of a container: between people and the dynamic users of systemd.
const NEAR: Range<u32> = 20_000..60_000;

/// Which uids instances get, in a user namespace with this `uid_map`. For an ordinary user, who has only one, the number is merely what
/// the instance sees.
pub(crate) fn range(map: &str) -> Range<u32> {
    if !is_mapped(map, FAR.start) && is_mapped(map, NEAR.end) { NEAR } else { FAR }
}

/// Whether `uid` exists in a user namespace with this `uid_map` (lines of inside, outside, count).
pub(crate) fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
        matches!(numbers[..], [inside, _, count] if (inside..inside + count).contains(&u64::from(uid)))
    })
}

/// Reserves a uid, beginning at a place that depends on the id: reservations seldom collide, and a uid is not reused at once.
pub(crate) fn reserve(dir: &Path, range: Range<u32>, id: &Id) -> io::Result<u32> {
    let count = range.end - range.start;
    let first = (super::jail::hash(id.as_str().as_bytes()) % u64::from(count)) as u32;
    for n in 0..count {
        let uid = range.start + (first + n) % count;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path(dir, uid));
        match file {
            Ok(mut file) => {
                file.write_all(id.as_str().as_bytes())?;
                return Ok(uid);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("all {count} uids are taken")))
}

/// Gives it back.
pub(crate) fn release(dir: &Path, uid: u32) -> io::Result<()> {
    match fs::remove_file(path(dir, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The reservations: file, and the id in it.
pub(crate) fn reservations(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let entries = fs::read_dir(dir)?.filter_map(Result::ok);
    Ok(entries.filter_map(|e| Some((e.path(), fs::read_to_string(e.path()).ok()?))).collect())
}

fn path(dir: &Path, uid: u32) -> PathBuf {
    dir.join(uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_of_a_user_namespace() {
        assert!(is_mapped("         0          0 4294967295\n", 200_000));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65_536));
        assert!(!is_mapped("0 1000 1\n1 100000 65536\n", 65_537));
        assert!(!is_mapped("", 0));
        assert_eq!(range("0 0 4294967295"), FAR);
        assert_eq!(range("0 100000 65536"), NEAR);
        assert_eq!(range("1000 1000 1"), FAR);
    }

    #[test]
    fn each_is_given_once_until_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let id = |name: &str| Id::try_from(name.to_owned()).unwrap();
        let mut given: Vec<u32> = ["a", "b", "c"].map(|n| reserve(dir.path(), 10..13, &id(n)).unwrap()).into();
        given.sort_unstable();
        assert_eq!(given, [10, 11, 12]);
        assert!(reserve(dir.path(), 10..13, &id("d")).is_err());
        release(dir.path(), 11).unwrap();
        assert_eq!(reserve(dir.path(), 10..13, &id("d")).unwrap(), 11);
    }
}
