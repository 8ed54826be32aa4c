//! Hints, by inotify on the folders of the instances: own doings, those of other captains on the machine, and ends.
//!
//! What is watched, and what it tells:
//! - `instances/`: a folder moved in is a creation, one moved out a removal;
//! - in each instance's folder: `state.json` moved in (started, ended), and `lock` closed by one who could write, which is the death
//!   of a monitor, however it died.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use captain_domain::InstanceId;
use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

/// Room for a hundred events at a time; what does not fit waits in the kernel's own queue, which has a bound.
const BUFFER_BYTES: usize = 8 << 10;

/// The kernel tells that a file is closed a moment before it lets go of its lock. Whoever looks in between sees a monitor that lives,
/// so a closed lock is hinted at once more when the moment is surely over.
const LET_GO: Duration = Duration::from_millis(100);

/// A subscription that has begun.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    instances: PathBuf,
    top: i32,
    folders: HashMap<i32, InstanceId>,
    waiting: VecDeque<InstanceId>,
    /// To be hinted at again, and when.
    again: VecDeque<(Instant, InstanceId)>,
}

impl Watch {
    /// Begins: whatever happens from now on is told.
    pub(super) fn begin(instances: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let moves = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::ONLYDIR;
        let top = add_watch(&inotify, instances, moves)?;
        let mut watch = Self {
            inotify,
            instances: instances.to_owned(),
            top,
            folders: HashMap::new(),
            waiting: VecDeque::new(),
            again: VecDeque::new(),
        };
        for entry in std::fs::read_dir(instances)?.flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                watch.look_into(id)?;
            }
        }
        Ok(watch)
    }

    fn look_into(&mut self, id: InstanceId) -> io::Result<()> {
        let flags = WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        match add_watch(&self.inotify, self.instances.join(id.to_string()), flags) {
            Ok(folder) => {
                self.folders.insert(folder, id);
                Ok(())
            }
            // Removed meanwhile, which is in the queue as well.
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what there is. `WouldBlock` when there is nothing.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = Vec::new();
        let mut reader = Reader::new(self.inotify.as_fd(), &mut buffer);
        loop {
            let event = reader.next()?;
            events.push((event.wd(), event.events(), event.file_name().map(CStr::to_owned)));
            if reader.is_buffer_empty() {
                break;
            }
        }
        events.into_iter().try_for_each(|(folder, what, name)| self.take(folder, what, name.as_deref()))
    }

    fn take(&mut self, folder: i32, what: ReadFlags, name: Option<&CStr>) -> io::Result<()> {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(io::Error::other("events came faster than they were read"));
        }
        if what.contains(ReadFlags::IGNORED) {
            self.folders.remove(&folder);
            return if folder == self.top { Err(io::Error::other("its folder is gone")) } else { Ok(()) };
        }
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        if folder == self.top {
            let Ok(id) = InstanceId::from_str(name) else { return Ok(()) };
            if what.contains(ReadFlags::MOVED_TO) {
                // Before the hint: whoever looks after it sees everything up to here, and what comes later is told.
                self.look_into(id)?;
            }
            self.waiting.push_back(id);
        } else if let Some(id) = self.folders.get(&folder) {
            let closed = what.contains(ReadFlags::CLOSE_WRITE) && name == "lock";
            if closed {
                self.again.push_back((Instant::now() + LET_GO, *id));
            }
            if closed || (what.contains(ReadFlags::MOVED_TO) && name == "state.json") {
                self.waiting.push_back(*id);
            }
        }
        Ok(())
    }

    /// What has changed until now; never waits.
    pub(super) fn changed(&mut self) -> io::Result<VecDeque<InstanceId>> {
        loop {
            match self.read() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.again.clear();
        Ok(std::mem::take(&mut self.waiting))
    }

    /// The instances about which there is something to see, until the first error.
    pub(super) fn into_stream(self) -> io::Result<BoxStream<'static, io::Result<InstanceId>>> {
        let ready = super::awaitable(self.inotify.try_clone()?)?;
        Ok(stream::unfold(Some((self, ready)), |open| async move {
            let (mut watch, ready) = open?;
            match watch.next(&ready).await {
                Ok(id) => Some((Ok(id), Some((watch, ready)))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }

    async fn next(&mut self, ready: &AsyncFd<OwnedFd>) -> io::Result<InstanceId> {
        loop {
            if let Some(id) = self.waiting.pop_front() {
                return Ok(id);
            }
            let Some(readable) = self.readable(ready).await else { continue };
            let mut readable = readable?;
            match self.read() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable.clear_ready(),
                read => read?,
            }
        }
    }

    /// `None` when it is time to hint at something again: then it waits with the others.
    async fn readable<'a>(
        &mut self,
        ready: &'a AsyncFd<OwnedFd>,
    ) -> Option<io::Result<tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>>> {
        let Some((at, _)) = self.again.front() else { return Some(ready.readable().await) };
        if let Ok(readable) = timeout_at(*at, ready.readable()).await {
            return Some(readable);
        }
        // One that is gone by now has been hinted at as such.
        let due = self.again.pop_front().map(|(_, id)| id);
        self.waiting.extend(due.filter(|id| self.instances.join(id.to_string()).exists()));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn id(byte: u8) -> InstanceId {
        InstanceId::from_bytes([byte; 32])
    }

    async fn next(hints: &mut BoxStream<'static, io::Result<InstanceId>>) -> InstanceId {
        tokio::time::timeout(Duration::from_secs(10), hints.next()).await.expect("a hint").unwrap().unwrap()
    }

    #[tokio::test]
    async fn every_change_of_an_instance_is_hinted_at() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |id: InstanceId| dir.path().join(id.to_string());
        fs::create_dir(folder(id(1))).unwrap();
        let mut hints = Watch::begin(dir.path()).unwrap().into_stream().unwrap();
        // One that was there, one that comes, and what happens in each.
        fs::create_dir(dir.path().join(".new")).unwrap();
        fs::rename(dir.path().join(".new"), folder(id(2))).unwrap();
        assert_eq!(next(&mut hints).await, id(2));
        for it in [id(1), id(2)] {
            fs::write(folder(it).join("spec.json"), "").unwrap();
            fs::write(folder(it).join("state.new"), "").unwrap();
            fs::rename(folder(it).join("state.new"), folder(it).join("state.json")).unwrap();
            assert_eq!(next(&mut hints).await, it);
        }
        let lock = fs::File::create(folder(id(1)).join("lock")).unwrap();
        drop(lock);
        assert_eq!([next(&mut hints).await, next(&mut hints).await], [id(1), id(1)], "and once more");
        fs::rename(folder(id(2)), dir.path().join(".old")).unwrap();
        assert_eq!(next(&mut hints).await, id(2));
    }

    #[tokio::test]
    async fn a_folder_that_goes_away_ends_the_stream_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut hints = Watch::begin(dir.path()).unwrap().into_stream().unwrap();
        dir.close().unwrap();
        let last = tokio::time::timeout(Duration::from_secs(10), hints.next()).await.unwrap();
        assert!(last.unwrap().is_err());
        assert!(hints.next().await.is_none());
    }
}
