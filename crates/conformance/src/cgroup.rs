//! Limits of a process, as the kernel has them: what an engine says of itself is no evidence.

use std::fs;
use std::path::{Path, PathBuf};

use captain_domain::InstanceId;

/// What binds a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most memory, in bytes.
    pub(crate) memory: u64,
    /// The most swap beside it, in bytes; none where the kernel does not count swap.
    pub(crate) swap: Option<u64>,
    /// Its weight among others that want the processors; the scale is the kernel's.
    pub(crate) cpu_weight: u64,
}

/// The limits of a running instance, from version 1, version 2 or both beside each other. All engines on trial run on this machine,
/// and name an instance's control groups by its id.
pub(crate) fn limits(id: InstanceId) -> Limits {
    let groups = groups(&id.to_string());
    let version_1 = |controller: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mounted = Path::new("/sys/fs/cgroup").join(controllers);
            controllers.split(',').any(|name| name == controller).then(|| below(&mounted, path))
        })
    };
    if let (Some(memory), Some(cpu)) = (version_1("memory"), version_1("cpu")) {
        let most = number(&memory.join("memory.limit_in_bytes")).unwrap();
        let both = number(&memory.join("memory.memsw.limit_in_bytes"));
        return Limits {
            memory: most,
            swap: both.map(|both| both - most),
            cpu_weight: number(&cpu.join("cpu.shares")).unwrap(),
        };
    }
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let group = below(Path::new("/sys/fs/cgroup"), path);
    Limits {
        memory: number(&group.join("memory.max")).unwrap(),
        swap: number(&group.join("memory.swap.max")),
        cpu_weight: number(&group.join("cpu.weight")).unwrap(),
    }
}

/// The control groups of one of its processes.
fn groups(id: &str) -> String {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let groups = processes.filter_map(|process| fs::read_to_string(process.path().join("cgroup")).ok());
    groups
        .into_iter()
        .find(|groups| groups.contains(id))
        .unwrap_or_else(|| panic!("no process is in control groups of {id}"))
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
