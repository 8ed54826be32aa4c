//! Apps in temporary folders, and the runner around them.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

pub(crate) const RUNNER: &str = env!("CARGO_BIN_EXE_captain-runner");
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Far above what anything here takes, so that only a hang fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn needs_root() {
    assert!(Uid::effective().is_root(), "this test changes users or makes namespaces: run it as root");
}

/// The uid that an app gets in these tests.
pub(crate) fn app_uid() -> u32 {
    if Uid::effective().is_root() { 5000 } else { Uid::effective().as_raw() }
}

/// An unpacked slug.
pub(crate) struct App(TempDir);

impl App {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(app.dir(), Permissions::from_mode(0o755)).unwrap();
        own(app.dir());
        for (name, content) in files {
            app.write(name, content);
        }
        app
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        let parent = path.parent().unwrap();
        if !parent.exists() {
            fs::create_dir_all(parent).unwrap();
            own(parent);
        }
        fs::write(&path, content).unwrap();
        let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        own(&path);
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The runner for this app, with an environment that is the same on every machine.
    pub(crate) fn runner(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(RUNNER);
        command.args(["--app-dir", self.dir().to_str().unwrap()]).args(arguments);
        plain(command)
    }

    /// The same as pid 1 of a namespace with its own `/proc`.
    pub(crate) fn init(&self, arguments: &[&str]) -> Command {
        needs_root();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", RUNNER]);
        command.args(["--app-dir", self.dir().to_str().unwrap()]).args(arguments);
        plain(command)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        finish(self.runner(arguments))
    }

    pub(crate) fn wait_for(&self, name: &str) {
        eventually(&format!("{name} is written"), || self.path(name).exists());
    }
}

fn own(path: &Path) {
    if Uid::effective().is_root() {
        chown(path, Some(app_uid()), Some(app_uid())).unwrap();
    }
}

fn plain(mut command: Command) -> Command {
    command.env_clear().env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// One sentence of the runner, and nothing else.
    pub(crate) fn refused(&self, code: i32, about: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.starts_with("captain-runner: ") && self.stderr.contains(about), "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:?}");
        assert_eq!(self.stdout, "");
    }

    pub(crate) fn printed(&self, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (0, stdout), "{self:?}");
    }
}

pub(crate) fn finish(command: Command) -> Outcome {
    Running::start(command).finish()
}

pub(crate) fn shown(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
}

/// A started command; killed if the test fails.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// The runner inside `unshare`, by its pid out here.
    pub(crate) fn inner(&self) -> Pid {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let mut inner = None;
        eventually("unshare has a child", || {
            inner = fs::read_to_string(&children).unwrap().split_whitespace().next().and_then(|pid| pid.parse().ok());
            inner.is_some()
        });
        Pid::from_raw(inner.unwrap())
    }

    pub(crate) fn signal_inner(&self, signal: Signal) {
        kill(self.inner(), signal).unwrap();
    }

    pub(crate) fn stdin(&mut self, text: &str) {
        self.0.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// For a command whose output went elsewhere.
    pub(crate) fn finish_code(mut self) -> i32 {
        eventually("the runner ends", || self.is_over());
        shown(self.0.wait().unwrap())
    }

    pub(crate) fn finish(mut self) -> Outcome {
        eventually("the runner ends", || self.is_over());
        let read = |stream: Option<&mut dyn std::io::Read>| {
            let mut bytes = Vec::new();
            stream.unwrap().read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = read(self.0.stdout.as_mut().map(|stream| stream as _));
        let stderr = read(self.0.stderr.as_mut().map(|stream| stream as _));
        Outcome { code: shown(self.0.wait().unwrap()), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Over already, unless an assertion failed on the way.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
