//! Where control groups can be made: the mounted hierarchies, and this process's place in each. Version 1, version 2, or both at once.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::report::Layout;

/// Our folder in each hierarchy. Everything below it is ours, nothing outside of it is ever touched.
pub(super) const OURS: &str = "captain";

/// Where the server moves itself when its own group must hold groups: on version 2 a group with children limits them only while it
/// has no processes of its own.
pub(super) const SERVER_LEAF: &str = "captain-server";

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The group of this process, relative to the mount.
    pub(crate) own: PathBuf,
    /// Its controllers: of version 1 as mounted, of version 2 as available at the mount.
    pub(crate) controllers: Vec<String>,
    pub(crate) unified: bool,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// The groups in which a folder of ours may be, best first: from the top, which is outside of whatever service started us, so that
    /// ending that service spares the instances, down to our own, which is where delegation puts an ordinary user.
    pub(super) fn parents(&self) -> Vec<PathBuf> {
        let mut parents: Vec<PathBuf> = self.home().ancestors().map(|group| self.mount.join(group)).collect();
        parents.reverse();
        parents
    }

    /// Those folders.
    pub(super) fn bases(&self) -> Vec<PathBuf> {
        self.parents().iter().map(|parent| parent.join(OURS)).collect()
    }

    /// The group in which we were started.
    fn home(&self) -> &Path {
        if self.own.ends_with(SERVER_LEAF) { self.own.parent().unwrap_or(&self.own) } else { &self.own }
    }

    /// The group of the service that we are part of: systemd's names tell, where there are any. A service may have put us below its own.
    pub(super) fn service(&self) -> PathBuf {
        let is_unit = |group: &&Path| group.extension().is_some_and(|kind| kind == "service" || kind == "scope");
        self.mount.join(self.own.ancestors().find(is_unit).unwrap_or(self.home()))
    }

    /// Where an instance sees its own group of this hierarchy, relative to its root: `/sys/fs/cgroup/memory`, or `/sys/fs/cgroup` itself
    /// where that is the mount.
    pub(crate) fn seat(&self) -> PathBuf {
        let top = Path::new("sys/fs/cgroup");
        let mount = self.mount.strip_prefix("/").unwrap_or(&self.mount);
        mount.strip_prefix(top).ok().and_then(|rest| rest.components().next()).map_or(top.into(), |name| top.join(name))
    }

    /// Whether our own group is the top, so that there is nothing to move out of.
    pub(crate) fn at_top(&self) -> bool {
        self.own.as_os_str().is_empty()
    }
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hierarchies(pub(crate) Vec<Hierarchy>);

impl Hierarchies {
    pub(crate) fn discover() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &own, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()))
    }

    fn parse(mountinfo: &str, own_groups: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let own = parse_own(own_groups);
        let mut found: Vec<Hierarchy> = Vec::new();
        for mount in mountinfo.lines().filter_map(parse_mount) {
            let (key, controllers) = if mount.unified {
                (String::new(), words(&controllers_of(&mount.at)))
            } else {
                let Some((key, _)) = own.iter().find(|(key, _)| names_hierarchy(key, &mount.options)) else { continue };
                (key.clone(), key.split(',').map(str::to_owned).collect())
            };
            let Some(path) = own.get(&key) else { continue };
            // A mount may show a part of the hierarchy only (a container without its own cgroup namespace).
            let Ok(relative) = Path::new(path).strip_prefix(&mount.root) else { continue };
            let hierarchy =
                Hierarchy { own: relative.to_owned(), mount: mount.at, controllers, unified: mount.unified };
            if !found.iter().any(|h| h.unified == hierarchy.unified && h.controllers == hierarchy.controllers) {
                found.push(hierarchy);
            }
        }
        Self(found)
    }

    pub(crate) fn layout(&self) -> Layout {
        let old = self.0.iter().any(|h| !h.unified && h.controllers.iter().any(|c| !c.starts_with("name=")));
        match (old, self.0.iter().any(|h| h.unified)) {
            (false, false) => Layout::None,
            (true, false) => Layout::V1,
            (false, true) => Layout::V2,
            (true, true) => Layout::Hybrid,
        }
    }

    pub(crate) fn with(&self, controller: &str) -> Option<&Hierarchy> {
        self.0.iter().find(|h| h.has(controller))
    }
}

/// `/proc/self/cgroup`: `4:cpu,cpuacct:/path`, and `0::/path` for version 2.
fn parse_own(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Whether the super options of a version 1 mount (`rw,cpu,cpuacct`) are those of the hierarchy called `cpu,cpuacct`.
fn names_hierarchy(key: &str, options: &str) -> bool {
    !key.is_empty() && key.split(',').all(|controller| options.split(',').any(|option| option == controller))
}

struct Mount {
    at: PathBuf,
    root: PathBuf,
    options: String,
    unified: bool,
}

/// `36 35 98:0 /root /at rw,noatime master:1 - cgroup source rw,memory`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, at) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let unified = match kind.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = kind.nth(1)?.to_owned();
    Some(Mount { at: at.into(), root: root.into(), options, unified })
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, own: &str, v2: &str) -> Hierarchies {
        Hierarchies::parse(mounts, own, |_| v2.to_owned())
    }

    #[test]
    fn hybrid_with_joined_controllers_and_a_systemd_name() {
        let found = check(
            "30 20 0:1 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n\
             31 20 0:2 / /sys/fs/cgroup/systemd rw - cgroup c rw,xattr,name=systemd\n\
             32 20 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup c rw,cpu,cpuacct\n\
             33 20 0:4 / /sys/fs/cgroup/memory rw - cgroup c rw,memory\n\
             34 20 0:5 / /tmp rw - tmpfs c rw",
            "9:memory:/user.slice\n3:cpu,cpuacct:/\n1:name=systemd:/user.slice/s\n0::/user.slice/s\n",
            "hugetlb\n",
        );
        assert_eq!(found.layout(), Layout::Hybrid);
        assert_eq!(found.with("cpu"), found.with("cpuacct"));
        let memory = found.with("memory").unwrap();
        assert!(!memory.unified && !memory.at_top());
        let bases = ["/sys/fs/cgroup/memory/captain", "/sys/fs/cgroup/memory/user.slice/captain"].map(Path::new);
        assert_eq!(memory.bases(), bases);
        assert!(found.with("cpu").unwrap().at_top());
        assert_eq!(memory.seat(), Path::new("sys/fs/cgroup/memory"));
        assert_eq!(found.with("pids"), None);
        assert_eq!(found.0.len(), 4);
    }

    #[test]
    fn version_two_below_a_delegated_group() {
        let found = check(
            "30 20 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate",
            "0::/user.slice/user@1.service/app/captain-server\n",
            "cpu memory pids",
        );
        assert_eq!(found.layout(), Layout::V2);
        assert_eq!(found.with("memory").unwrap().seat(), Path::new("sys/fs/cgroup"));
        let bases = ["", "user.slice/", "user.slice/user@1.service/", "user.slice/user@1.service/app/"]
            .map(|parent| Path::new("/sys/fs/cgroup").join(parent).join("captain"));
        assert_eq!(found.with("memory").unwrap().bases(), bases);
        let service = found.with("memory").unwrap().service();
        assert_eq!(service, Path::new("/sys/fs/cgroup/user.slice/user@1.service"));
    }

    #[test]
    fn a_mount_that_shows_only_a_part() {
        let found = check(
            "30 20 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
            "5:memory:/docker/abc/x\n",
            "",
        );
        assert_eq!(found.with("memory").unwrap().own, Path::new("x"));
        assert_eq!(found.layout(), Layout::V1);
        assert_eq!(check("", "", "").layout(), Layout::None);
    }
}
