//! The same as an ordinary user, who has a user namespace and nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::world::PROBE;

pub(crate) const NOBODY: u32 = 65534;

pub(crate) struct User {
    dir: tempfile::TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root, to become somebody else");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // The build directory may be in a home that others cannot enter.
        fs::copy(PROBE, dir.path().join("jail-probe")).unwrap();
        for name in ["state", "slug"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            chown(dir.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn slug(&self) -> PathBuf {
        self.dir.path().join("slug")
    }

    pub(crate) fn probe(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().unwrap();
        Command::new(self.dir.path().join("jail-probe"))
            .args([command, "--state"])
            .arg(self.dir.path().join("state"))
            .args(rest)
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap()
    }

    /// What the probe says, started by a root's shell after these words, which are to make it this user's.
    pub(crate) fn by_shell(&self, before: &str, arguments: &[&str]) -> String {
        let (command, rest) = arguments.split_first().unwrap();
        let output = Command::new("sh")
            .args(["-c", &format!("{before} \"$@\""), "sh"])
            .arg(self.dir.path().join("jail-probe"))
            .args([command, "--state"])
            .arg(self.dir.path().join("state"))
            .args(rest)
            .current_dir("/")
            .output()
            .unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    pub(crate) fn run(&self, script: &str) -> String {
        let slug = self.slug().display().to_string();
        let output = self.probe(&["run", "--slug", &slug, "--", "/bin/sh", "-c", script]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

#[test]
fn the_report_says_what_is_missing() {
    let user = User::new();
    let output = user.probe(&["probe"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("mode User"), "{text}");
    assert!(text.contains("instances share this user's uid"), "{text}");
    assert!(text.contains("memory of instances is not limited"), "{text}");
    assert!(!text.contains("/app is read-only"), "{text}");
}

#[test]
fn an_instance_runs_and_cannot_get_out() {
    let user = User::new();
    let slug = user.slug();
    fs::write(slug.join("file"), "slug\n").unwrap();
    chown(slug.join("file"), Some(NOBODY), Some(NOBODY)).unwrap();
    let secret = user.dir.path().join("secret");
    fs::write(&secret, "treasure").unwrap();
    let seen = user.run(&format!(
        "cat file; echo more >> file && cat file; mkdir d && rm -r d && mkdir d && echo dir; cat {} /etc/shadow; ls -d /root /home /run /var/lib; touch /usr/x /x; mount -t tmpfs x /tmp; unshare -U true; ls /proc | grep -c '^[0-9]'; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; id -un",
        secret.display()
    ));
    assert!(seen.contains("slug\nslug\nmore\ndir\n"), "{seen}");
    assert!(!seen.contains("treasure"), "{seen}");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "\napp\n"] {
        assert!(seen.contains(line), "{line:?} is not in {seen}");
    }
    assert_eq!(fs::read_to_string(slug.join("file")).unwrap(), "slug\n");
    assert!(!PathBuf::from("/usr/x").exists());
    let left = fs::read_dir(user.dir.path().join("state/instances")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn forks_are_bounded_without_a_control_group() {
    let user = User::new();
    // The shell says so and ends when it cannot fork; the default bound is 512.
    let seen = user.run("i=0; while test $i -lt 600; do sleep 1000 & i=$((i+1)); done; echo ALL");
    assert!(!seen.contains("ALL") && seen.to_lowercase().contains("fork"), "{seen}");
}

#[test]
fn exit_codes_pass_through() {
    let user = User::new();
    let slug = user.slug().display().to_string();
    let output = user.probe(&["run", "--slug", &slug, "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 9"]);
    assert_eq!(output.status.code(), Some(9));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
}
