//! What makes a demo that is killed leave nothing behind: two hidden roles of this binary, each tied to the demo's life.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::server;

/// Executes the server, which dies with its parent; the parent's process id follows.
pub(crate) const SERVE: &str = "__demo-serve";
/// Waits for the end of the demo and tidies up, if that did not; the demo's folder follows.
pub(crate) const GUARD: &str = "__demo-guard";

/// The server is killed by the same stroke as the demo; a start that it had under way may still be writing for a moment.
const TIDYING: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Plays [`SERVE`]. Returns only when it fails.
pub(crate) fn serve(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok()).and_then(Pid::from_raw);
    // Asked after the tie: a parent that died before it is another one by now.
    let tied = set_parent_process_death_signal(Some(Signal::KILL)).is_ok() && getppid() == parent;
    if tied {
        let _ = Command::new("/proc/self/exe").arg("serve").exec();
    }
    ExitCode::FAILURE
}

/// Plays [`GUARD`].
pub(crate) fn guard(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(folder) = arguments.next().map(PathBuf::from) else { return ExitCode::FAILURE };
    // Ends when the demo does, however it does; nothing is ever written.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    let deadline = Instant::now() + TIDYING;
    while folder.exists() {
        let tidied = server::sweep(&folder.join("data")).is_ok() && fs::remove_dir_all(&folder).is_ok();
        if !tidied && Instant::now() >= deadline {
            return ExitCode::FAILURE;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    ExitCode::SUCCESS
}

/// Starts the guard of this folder. Its standard input must be kept as long as the demo lives.
pub(super) fn set_guard(folder: &Path) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg(GUARD)
        .arg(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C is for the demo.
        .process_group(0)
        .spawn()
}
