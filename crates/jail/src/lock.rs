//! The lock by which a living monitor is known. The kernel drops it when the last process holding it is gone, however it died.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::sys;

/// Held until dropped, or until this process is gone.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open descriptor is the lock")] File);

/// `None` if somebody else holds it.
pub(crate) fn take(path: &Path) -> io::Result<Option<Lock>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(sys::try_lock(file.as_fd())?.then_some(Lock(file)))
}

/// Whether somebody holds it. A file that does not exist is held by nobody.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => sys::is_locked(file.as_fd()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_seen_by_others_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let first = take(&path).unwrap().expect("free");
        assert!(take(&path).unwrap().is_none());
        assert!(is_held(&path).unwrap());
        drop(first);
        assert!(!is_held(&path).unwrap());
        assert!(take(&path).unwrap().is_some());
    }
}
