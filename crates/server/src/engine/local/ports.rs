//! Ports of the host, one for each instance, each given out once.
//!
//! A reservation is a file that can be created only once, so two captains on one state directory never give out the same port. Ports
//! of anybody else are found by binding: a captain on another state directory (another user's) is somebody else, and between its
//! reservation and its instance's own bind the same port could be given out twice. That such a pair meets is one in thousands, since
//! each instance's search begins at a place that its random id decides; the later one then fails to bind, and says so in its log.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use captain_domain::InstanceId;
use socket2::{Domain, Socket, Type};

/// Below the ports that kernels hand out for outgoing connections (32768 and up), above those of well-known services.
pub const PORTS: Range<u16> = 20_000..30_000;

/// The reservations of a state directory.
#[derive(Debug)]
pub(super) struct Ports {
    dir: PathBuf,
    range: Range<u16>,
}

impl Ports {
    pub(super) fn open(dir: PathBuf, range: Range<u16>) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, range })
    }

    /// Reserves a port that nobody listens on.
    pub(super) fn reserve(&self, id: InstanceId) -> io::Result<u16> {
        let count = self.range.len();
        let [high, low, ..] = *id.as_bytes();
        let first = usize::from(u16::from_be_bytes([high, low]));
        for port in self.range.clone().cycle().skip(first % count.max(1)).take(count) {
            let path = self.dir.join(port.to_string());
            let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            if is_free(port)? {
                file.write_all(&id.to_hex())?;
                return Ok(port);
            }
            fs::remove_file(&path)?;
        }
        let Range { start, end } = self.range;
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("all ports from {start} to {} are taken", end - 1)))
    }

    /// Gives a port back, if it is that instance's.
    pub(super) fn release(&self, port: u16, id: InstanceId) -> io::Result<()> {
        let path = self.dir.join(port.to_string());
        match fs::read(&path) {
            Ok(holder) if holder == id.to_hex() => remove(&path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives back the ports of instances that are no more. A young reservation may belong to an instance that is being created.
    pub(super) fn sweep(&self, young: Duration, is_there: impl Fn(InstanceId) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let path = entry.path();
            let holder = fs::read_to_string(&path).ok().and_then(|text| text.parse().ok());
            if !holder.is_some_and(&is_there) && is_older(&path, young) {
                remove(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn is_older(path: &Path, age: Duration) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed >= age))
}

/// Whether nobody listens there, on any address of either family.
fn is_free(port: u16) -> io::Result<bool> {
    let addresses = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
    for address in addresses {
        // Without IPv6 there is nobody on it.
        let Ok(socket) = Socket::new(Domain::for_address(address), Type::STREAM, None) else { continue };
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Bound, not listening, and ready to share: so the look itself takes the port from nobody.
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            outcome => outcome?,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn id(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 32])
    }

    #[test]
    fn a_port_is_given_once_and_never_one_that_somebody_listens_on() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let range = port.saturating_sub(1)..port.saturating_add(2);
        let ports = Ports::open(dir.path().to_owned(), range.clone()).unwrap();
        let mut given = Vec::new();
        let refusal = loop {
            match ports.reserve(id(1)) {
                Ok(port) => given.push(port),
                Err(error) => break error,
            }
        };
        assert!(!given.contains(&port) && given.len() <= 2, "{given:?}");
        assert_eq!(refusal.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), given.len());
    }

    #[test]
    fn only_its_holder_gives_a_port_back() {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::open(dir.path().to_owned(), PORTS).unwrap();
        let port = ports.reserve(id(1)).unwrap();
        ports.release(port, id(2)).unwrap();
        assert!(dir.path().join(port.to_string()).exists());
        ports.release(port, id(1)).unwrap();
        ports.release(port, id(1)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_spares_what_is_young_and_what_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let ports = Ports::open(dir.path().to_owned(), PORTS).unwrap();
        let wanted = ports.reserve(id(1)).unwrap();
        ports.reserve(id(2)).unwrap();
        fs::write(dir.path().join("29999"), "").unwrap();
        let is_there = |holder| holder == id(1);
        assert_eq!(ports.sweep(Duration::from_secs(60), is_there).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(ports.sweep(Duration::ZERO, is_there).unwrap().len(), 2);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, [std::ffi::OsString::from(wanted.to_string())]);
    }
}
