//! Carries the output of the instance into its log, until its first process ends.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::log::{Stream, Writer};
use crate::state::now_ms;

/// Read at a time: half of what a pipe holds is plenty, and these pages are every monitor's own memory.
const CHUNK: usize = 16 << 10;

/// Returns when the first process has ended and its output is in the log.
///
/// Back-pressure is the kernel's: while the log is being written the pipe fills, and the instance waits.
pub(super) fn pump(pidfd: &OwnedFd, stdout: OwnedFd, stderr: OwnedFd, log: &mut Writer) -> io::Result<()> {
    let mut sources = [(Stream::Stdout, Some(stdout)), (Stream::Stderr, Some(stderr))];
    for (_, source) in &sources {
        if let Some(source) = source {
            // Never blocked in a read: a process outside that was handed the other end could hold the monitor for ever.
            fcntl_setfl(source, fcntl_getfl(source)? | OFlags::NONBLOCK)?;
        }
    }
    let mut chunk = vec![0; CHUNK];
    loop {
        let ended = wait(pidfd, &sources)?;
        for (stream, source) in &mut sources {
            drain(*stream, source, &mut chunk, log, ended);
        }
        if ended {
            return Ok(());
        }
    }
}

/// Waits until there is something to read or the first process has ended. Says whether it has.
fn wait(pidfd: &OwnedFd, sources: &[(Stream, Option<OwnedFd>); 2]) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(sources.iter().filter_map(|(_, source)| Some(PollFd::new(source.as_ref()?, PollFlags::IN))));
    match poll(&mut fds, None) {
        Ok(_) => Ok(fds[0].revents().contains(PollFlags::IN)),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads what there is: one chunk while the instance lives (so that both streams get their turn), everything at its end. A pipe holds
/// at most a MiB, and after the end nobody inside can refill it.
fn drain(stream: Stream, source: &mut Option<OwnedFd>, chunk: &mut [u8], log: &mut Writer, to_the_end: bool) {
    let most = if to_the_end { (1 << 20) / CHUNK + 1 } else { 1 };
    for _ in 0..most {
        let Some(open) = source else { return };
        match rustix::io::read(&*open, &mut *chunk) {
            Ok(0) => *source = None,
            Ok(read) => log.append(stream, now_ms(), &chunk[..read]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return,
            // Not an answer that pipes give. Reading on would only give it again.
            Err(_) => *source = None,
        }
    }
}
