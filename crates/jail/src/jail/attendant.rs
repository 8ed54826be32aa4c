//! Processes in the hidden role: executed, told what to do, heard to the end. And the one that is kept in waiting.
//!
//! To execute a monitor, load it and detach it is a good part of what a start costs. So a server may have one done with all that before
//! there is anything to start ([`Jail::stand_by`]). It holds nothing, is nobody's, and is written down nowhere; it ends by itself when the
//! pipe to it does, hence with the server, however that ends.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::Jail;
use super::template::Template;
use crate::monitor::Line;

/// What the hidden role said, at most: an error fits, and nothing else is ever said.
const SPOKEN_MOST: u64 = 64 << 10;

/// Shown by one in waiting, to whoever lists processes, where others show the folder of their instance; behind it is the tag of the state
/// directory, by which the names of control groups begin too.
const WAITING: &str = "waiting for ";

/// A process in the hidden role.
#[derive(Debug)]
pub(super) struct Attendant {
    /// What was executed; `None` when it has ended and left the work to a process of its own.
    child: Option<Child>,
    orders: ChildStdin,
    answer: ChildStdout,
    /// The template that it was given.
    pub(super) template: Option<Arc<Template>>,
}

impl Jail {
    /// Executes a role; `shown` is for those who list processes.
    pub(super) fn execute(&self, role: &str, shown: &OsStr, template: Option<Arc<Template>>) -> io::Result<Attendant> {
        // The streams are the only descriptors that can be handed on safely while other threads execute programs too; this one is free.
        let given = template.as_ref().map(|template| template.namespace());
        let mut child = Command::new(&self.helper.program)
            .args(&self.helper.arguments)
            .arg(role)
            .arg(shown)
            .arg0("captain-monitor") // a carried program has no name of its own
            .env_clear() // the server's environment holds secrets, and the monitor needs nothing of it
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(given.transpose()?.map_or_else(Stdio::null, Stdio::from))
            .spawn()?;
        let (Some(orders), Some(answer)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut executed = Attendant { child: Some(child), orders, answer, template };
        executed.tell(&*self.ground)?;
        Ok(executed)
    }

    /// Has a monitor in waiting, so that the next [`Jail::launch`] need not execute one. `false` if there was one already.
    ///
    /// Blocks for a few milliseconds. One is kept, whatever the number of instances: a second start at the same moment executes its own.
    pub fn stand_by(&self) -> io::Result<bool> {
        let waits = || self.spare.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if waits() {
            return Ok(false);
        }
        // As long as the longest folder of an instance, which will be shown in its place.
        let most = self.instances().as_os_str().len() + 1 + crate::spec::ID_BYTES_MOST;
        let shown = format!("{:most$}", format!("{WAITING}{}", self.tag));
        let mut executed = self.execute("monitor", shown.as_ref(), self.have_template()?)?;
        // It ends as soon as it has left the waiting to its fork.
        if let Some(mut child) = executed.child.take() {
            child.wait()?;
        }
        // Where two were made at the same time, the one that is dropped ends.
        Ok(self.spare.lock().unwrap_or_else(PoisonError::into_inner).replace(executed).is_none())
    }

    /// A monitor that knows whose it is: the one in waiting, or one that is executed now.
    pub(super) fn monitor_of(&self, dir: &std::path::Path) -> io::Result<Attendant> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut spare) = spare
            && spare.tell(&Line::Place(dir.to_owned()))?
        {
            return Ok(spare);
        }
        let mut executed = self.execute("monitor", dir.as_os_str(), self.template())?;
        executed.tell(&Line::Place(dir.to_owned()))?;
        Ok(executed)
    }
}

impl Attendant {
    /// `false` if it is dead: that it says nothing tells the rest.
    pub(super) fn tell(&mut self, order: &impl Serialize) -> io::Result<bool> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        match self.orders.write_all(&line) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same to its end: when patience ends first it is killed, if it has not detached itself.
    pub(super) fn hear(mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let heard = self.listen(patience);
        // By itself it ends when it has spoken to the end.
        self.end(!matches!(heard, Ok(Some(_))))?;
        heard
    }

    /// Waits until what was executed has ended, and if need be kills it first.
    pub(super) fn end(mut self, kill: bool) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if kill {
            child.kill()?;
        }
        child.wait().map(drop)
    }

    /// What was executed and has not been waited for: its number is no other process's.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything that it says; `None` when patience ends first. It goes on.
    pub(super) fn listen(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        read_until(&mut self.answer, Instant::now() + patience)
    }
}

fn read_until(answer: &mut ChildStdout, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut spoken = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::from_borrowed_fd(answer.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut chunk = [0; 4096];
        match answer.read(&mut chunk)? {
            0 => return Ok(Some(spoken)),
            read => spoken.extend_from_slice(&chunk[..read]),
        }
        if spoken.len() as u64 > SPOKEN_MOST {
            return Ok(Some(spoken));
        }
    }
}
