//! A state directory of its own for each test, instances in it, and the check that nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use captain_jail::log::{Cursor, Stream};
use captain_jail::state::Exited;
use captain_jail::{Helper, Id, Jail, Limits, LogBound, Phase, Spec};
use tempfile::TempDir;

pub(crate) const PROBE: &str = env!("CARGO_BIN_EXE_jail-probe");
/// Far more than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) jail: Jail,
    pub(crate) dir: TempDir,
}

/// An instance that has run to its end.
pub(crate) struct Outcome {
    pub(crate) exited: Exited,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn id(name: &str) -> Id {
    Id::try_from(name.to_owned()).unwrap()
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        assert!(Path::new("/usr/bin/python3").exists(), "these tests need /usr/bin/python3");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("slug")).unwrap();
        let jail = Self::open(&dir.path().join("state"));
        Self { jail, dir }
    }

    /// What a restarted server does.
    pub(crate) fn open(state: &Path) -> Jail {
        Jail::open(state, Helper { program: PROBE.into(), arguments: vec!["__jail".into()] }).unwrap()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn slug(&self) -> PathBuf {
        self.dir.path().join("slug")
    }

    pub(crate) fn spec(&self, script: &str) -> Spec {
        Spec {
            slug: self.slug(),
            runner: None,
            argv: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            hostname: "jailed".into(),
            limits: Limits::default(),
            log: LogBound::default(),
            labels: BTreeMap::new(),
        }
    }

    /// The same in Python, for system calls that no shell makes. `sys(number, ...)` answers the result or minus the error number.
    pub(crate) fn python(&self, program: &str) -> Spec {
        let prelude = "import ctypes, os, errno, socket, signal\n\
                       libc = ctypes.CDLL(None, use_errno=True)\n\
                       def sys(*a):\n    \x20   r = libc.syscall(*a)\n    \x20   return r if r >= 0 else -ctypes.get_errno()\n";
        let prelude = prelude.replace("    \x20   ", "    ");
        let argv = vec!["/usr/bin/python3".to_owned(), "-c".to_owned(), format!("{prelude}{program}")];
        Spec { argv, ..self.spec("") }
    }

    /// As a server does it as a rule, with a monitor in waiting.
    pub(crate) fn start(&self, name: &str, spec: Spec) -> Id {
        self.jail.stand_by().unwrap();
        self.start_alone(name, spec)
    }

    pub(crate) fn start_alone(&self, name: &str, spec: Spec) -> Id {
        let id = id(name);
        self.jail.create(&id, spec).unwrap();
        self.jail
            .launch(&id, PATIENCE)
            .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        id
    }

    pub(crate) fn exited(&self, id: &Id) -> Exited {
        assert!(self.jail.wait(id, PATIENCE).unwrap(), "{id} goes on and on");
        match self.jail.inspect(id).unwrap().unwrap().phase {
            Phase::Exited(exited) => exited,
            other => panic!("{id} is {other:?}"),
        }
    }

    pub(crate) fn output(&self, id: &Id, stream: Stream) -> String {
        let mut log = self.jail.log(id, Cursor::default());
        let mut bytes = Vec::new();
        loop {
            let batch = log.read(1 << 20).unwrap();
            bytes.extend(batch.frames.into_iter().filter(|f| f.stream == stream).flat_map(|f| f.bytes));
            if batch.end {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    }

    /// Runs to the end, and removes it.
    pub(crate) fn run(&self, spec: Spec) -> Outcome {
        let id = self.start("only", spec);
        let exited = self.exited(&id);
        let [stdout, stderr] = [Stream::Stdout, Stream::Stderr].map(|stream| self.output(&id, stream));
        assert!(self.jail.clean(&id).unwrap());
        self.nothing_is_left();
        Outcome { exited, stdout, stderr }
    }

    pub(crate) fn stop_and_clean(&self, id: &Id) {
        self.jail.kill(id).unwrap();
        self.exited(id);
        assert!(self.jail.clean(id).unwrap());
    }

    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        let tag = self.tag();
        let mut found = Vec::new();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            for base in [hierarchy.path(), "/sys/fs/cgroup".into()] {
                let Ok(groups) = fs::read_dir(base.join("captain")) else { continue };
                found.extend(
                    groups
                        .flatten()
                        .map(|g| g.path())
                        .filter(|g| g.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&tag))),
                );
            }
        }
        found
    }

    /// The beginning of our groups' names, as a created instance shows it.
    pub(crate) fn tag(&self) -> String {
        let probe = id("tag-probe");
        let record = self.jail.create(&probe, self.spec("")).unwrap();
        self.jail.clean(&probe).unwrap();
        record.group.strip_suffix("tag-probe").unwrap().to_owned()
    }

    /// Processes that name our state directory: monitors, and helpers on their way.
    pub(crate) fn processes(&self) -> Vec<String> {
        let state = self.state().display().to_string();
        let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&command).replace('\0', " "))
        });
        commands.filter(|command| command.contains(&state)).collect()
    }

    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.jail.list().unwrap(), []);
        assert_eq!(fs::read_dir(self.state().join("instances")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.state().join("uids")).unwrap().count(), 0);
        assert_eq!(self.groups(), Vec::<PathBuf>::new());
        eventually("the monitors end", || self.processes().is_empty());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let state = self.state().display().to_string();
        assert!(!mounts.contains(&state), "{mounts}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for id in self.jail.list().unwrap_or_default() {
            let _ = self.jail.kill(&id);
            let _ = self.jail.wait(&id, PATIENCE);
            let _ = self.jail.clean(&id);
        }
    }
}

/// Living host processes of this uid. A dead one that its parent has not yet reaped is nobody's any more.
pub(crate) fn processes_of(uid: u32) -> Vec<String> {
    let line = format!("Uid:\t{uid}\t");
    let statuses =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|e| fs::read_to_string(e.path().join("status")).ok());
    statuses.filter(|status| status.contains(&line) && !status.contains("(zombie)")).collect()
}
