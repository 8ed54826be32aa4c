//! What the app may still do: nothing special.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Stdio};

use crate::support::{App, PATH, RUNNER, app_uid, finish, needs_root};

const STATUS: &str = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status";

fn by(setpriv: &[&str], app: &App, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(setpriv).arg(RUNNER).args(["--app-dir", app.dir().to_str().unwrap()]).args(arguments);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn check_powerless(status: &str, uid: u32, gid: u32) {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}")).trim()
    };
    assert_eq!(field("Uid:"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(field("Gid:"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
}

#[test]
fn an_app_started_by_root_has_no_privileges_left() {
    needs_root();
    let app = App::new(&[("Procfile", &format!("web: {STATUS}\n"))]);
    let status = app.run(&["run", "web"]).stdout;
    check_powerless(&status, 5000, 5000);
    assert!(status.contains("Groups:\t5000 \n"), "{status}");
    check_powerless(&app.run(&["--uid", "7001", "--gid", "7002", "run", "web"]).stdout, 7001, 7002);
}

#[test]
fn a_setuid_program_gives_nothing_back() {
    needs_root();
    let app = App::new(&[("Procfile", "web: ./id -u\n")]);
    fs::copy("/usr/bin/id", app.path("id")).unwrap();
    chown(app.path("id"), Some(0), Some(0)).unwrap();
    fs::set_permissions(app.path("id"), Permissions::from_mode(0o4755)).unwrap();
    app.run(&["run", "web"]).printed(&format!("{}\n", app_uid()));
}

#[test]
fn nothing_is_started_if_root_cannot_be_left() {
    needs_root();
    let app = App::new(&[("Procfile", "web: touch started\n")]);
    let outcome = finish(by(&["--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid"], &app, &["run", "web"]));
    outcome.refused(77, "root may not become 5000:5000 here");
    assert!(!app.path("started").exists());
}

#[test]
fn a_runner_that_is_not_root_stays_who_it_is() {
    needs_root();
    let user = &["--reuid=7001", "--regid=7001", "--clear-groups"];
    let app = App::new(&[("Procfile", "web: id -u\n")]);
    finish(by(user, &app, &["run", "web"])).printed("7001\n");
    finish(by(user, &app, &["--uid", "7001", "run", "web"])).printed("7001\n");
    finish(by(user, &app, &["--uid", "5000", "run", "web"]))
        .refused(77, "started as 7001:7001, which is not root and cannot become 5000:7001");
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_else() {
    App::new(&[]).run(&["start", "web"]).refused(70, "\"start\" is neither an option nor `run` nor `exec`");
    App::new(&[]).run(&["--uid", "0", "run", "web"]).refused(70, "no app runs as root");
}
