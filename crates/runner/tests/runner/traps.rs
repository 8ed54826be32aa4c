//! The twelve traps of the classic runners, one test each: what ours does instead.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{App, Running, app_uid, eventually, finish, needs_root};

#[test]
fn trap_01_a_missing_process_type_is_no_silent_success() {
    let app =
        App::new(&[("Procfile", "worker: true\nclock: true\n"), (".release", "default_process_types: {rake: x}")]);
    app.run(&["run", "web"]).refused(64, "no process type \"web\"; it has clock, rake, worker");
    App::new(&[]).run(&["run", "web"]).refused(64, "it has no Procfile and no default process types");
    let phase = app.path("phase");
    app.run(&["--phase-file", phase.to_str().unwrap(), "run", "web"]).refused(64, "web");
    assert_eq!(app.read("phase"), "exited code=64 by=runner\n");
}

#[test]
fn trap_02_default_variables_reach_the_app_unless_set() {
    let app = App::new(&[
        (".release", "config_vars:\n  UNSET: from slug\n  EMPTY: from slug\n  GIVEN: from slug\n"),
        (".profile.d/a.sh", "NOT_EXPORTED=1\nexport EXPORTED=1\n"),
        ("Procfile", "web: printf '%s|' \"$UNSET\" \"$EMPTY\" \"$GIVEN\" \"$NOT_EXPORTED\" \"$EXPORTED\"\n"),
    ]);
    let mut command = app.runner(&["run", "web"]);
    command.env("EMPTY", "").env("GIVEN", "by caller");
    finish(command).printed("from slug||by caller||1|");
}

#[test]
fn trap_03_yaml_does_not_change_what_is_written_by_line() {
    for (procfile, printed) in [
        ("web: printf '%s' 'run --color #fff'\n", "run --color #fff"),
        ("web: printf '%s' 'a: b'\n", "a: b"),
        ("web: \"printf\" ok\n", "ok"),
        ("web: `echo printf ok`\n", "ok"),
        ("web:printf ok\n", "ok"),
        ("web: true\n", ""),
        ("web: >-\n  printf '%s-'\n  one two\n", "one-two-"),
        ("web:\n- printf one\n- printf two\n", "onetwo"),
        ("---\n\"web\": 'printf ok'\n", "ok"),
    ] {
        App::new(&[("Procfile", procfile)]).run(&["run", "web"]).printed(printed);
    }
}

#[test]
fn trap_04_lines_are_read_as_heroku_reads_them() {
    let app = App::new(&[(
        "Procfile",
        "# comment\r\n\r\n// comment\r\nweb: printf first\r\nweb : printf '%s' last\r\nw-1_A: true\r\n",
    )]);
    app.run(&["run", "web"]).printed("last");
    App::new(&[("Procfile", "web: a\nworker\n")])
        .run(&["run", "web"])
        .refused(78, "line 2 (`worker`) is not `type: command`");
    App::new(&[("Procfile", "web: a\n\nx\0")]).run(&["run", "web"]).refused(78, "line 3 has a NUL byte");
    App::new(&[(".release", "config_vars: 3")]).run(&["run", "web"]).refused(78, "config_vars is not a map");
}

#[test]
fn trap_05_the_command_goes_through_a_shell_as_the_apps_user() {
    let app = App::new(&[
        ("one.txt", ""),
        ("two.txt", ""),
        ("Procfile", "web: printf '<%s>' \"a b\" *.txt && id -u > who\n"),
    ]);
    app.run(&["run", "web"]).printed("<a b><one.txt><two.txt>");
    assert_eq!(app.read("who").trim(), app_uid().to_string());
    // A command given word by word keeps its words.
    app.run(&["exec", "printf", "<%s>", "a b", "$HOME;id"]).printed("<a b><$HOME;id>");
}

#[test]
fn trap_06_sigterm_ends_an_app_without_handlers_at_once() {
    for command in ["touch up; sleep 1000", "touch up; exec sleep 1000", "touch up && sleep 1000; echo never"] {
        let app = App::new(&[("Procfile", &format!("web: {command}\n"))]);
        let running = Running::start(app.init(&["run", "web"]));
        app.wait_for("up");
        let asked = Instant::now();
        running.signal_inner(Signal::SIGTERM);
        let outcome = running.finish();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (143, ""), "{command}: {outcome:?}");
        assert!(asked.elapsed() < Duration::from_secs(8), "{command}: docker stop would have killed it");
    }
}

#[test]
fn trap_06_what_runs_behind_a_shell_that_dies_of_sigterm_still_ends_in_its_own_time() {
    let app = App::new(&[
        (
            "server",
            "#!/bin/sh\ntrap 'echo once >> asked; sleep 0.5; touch done; exit 0' TERM\ntouch up\nwhile :; do sleep 0.05; done\n",
        ),
        ("Procfile", "web: true && ./server; true\n"),
    ]);
    let running = Running::start(app.init(&["run", "web"]));
    app.wait_for("up");
    running.signal_inner(Signal::SIGTERM);
    assert_eq!(running.finish().code, 143);
    assert!(app.path("done").exists(), "the server was not given its grace");
    assert_eq!(app.read("asked"), "once\n", "the server was asked twice");
}

#[test]
fn trap_07_shell_options_neither_end_the_profile_nor_leak_into_the_app() {
    let app = App::new(&[
        (".profile.d/a.sh", "false\nno-such-command 2>&-\n"),
        (".profile.d/b.sh", "export B=sourced\nset -eu -o pipefail\n"),
        ("Procfile", "web: false | true; false; printf %s \"$B\" \"$UNSET\"\n"),
    ]);
    app.run(&["run", "web"]).printed("sourced");
}

#[test]
fn trap_08_an_app_directory_of_somebody_else_is_named() {
    needs_root();
    let app = App::new(&[("Procfile", "web: printf ok\n")]);
    fs::set_permissions(app.dir(), Permissions::from_mode(0o700)).unwrap();
    chown(app.dir(), Some(12345), Some(12345)).unwrap();
    app.run(&["run", "web"])
        .refused(72, &format!("cannot enter the app directory {}: Permission denied", app.dir().display()));
    app.run(&["--uid", "12345", "--gid", "12345", "run", "web"]).printed("ok");
}

#[test]
fn trap_09_stdin_is_the_apps_and_never_a_slug() {
    let app = App::new(&[("Procfile", "web: cat\n")]);
    let mut command = app.runner(&["run", "web"]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    running.stdin("said to the app");
    running.finish().printed("said to the app");

    let empty = App::new(&[]);
    let mut command = empty.runner(&["run", "web"]);
    command.stdin(Stdio::piped());
    let mut running = Running::start(command);
    // stdin stays open meanwhile: whoever read it would hang.
    eventually("an empty app directory is refused", || running.is_over());
    running.finish().refused(64, "it has no Procfile");
}

#[test]
fn trap_10_slug_url_is_not_looked_at_and_stays_out_of_the_app() {
    let app = App::new(&[("Procfile", "web: env\n")]);
    let mut command = app.runner(&["run", "web"]);
    command.env("SLUG_URL", "http://127.0.0.1:1/secret").env("PORT", "8080");
    let outcome = finish(command);
    assert_eq!(outcome.code, 0);
    assert!(
        outcome.stdout.contains("PORT=8080\n") && outcome.stdout.contains(&format!("HOME={}\n", app.dir().display()))
    );
    assert!(!outcome.stdout.contains("secret") && !outcome.stdout.contains("SLUG_URL"), "{}", outcome.stdout);
}

// Trap 11 (programs that the stack must have) is `empty_root::trap_11_…`: there, the stack has nothing at all.

#[test]
fn trap_12_profile_scripts_are_sourced_in_byte_order_whatever_the_locale() {
    let note = |name: &str| format!("export ORDER=\"$ORDER {name}\"\n");
    let names = ["a.sh", "B.sh", "_.sh", "10.sh", "9.sh", "é.sh", "with blank.sh", "it's.sh", "A", "zz"];
    let mut app = App::new(&[("Procfile", "web: printf '%s' \"$ORDER\"\n"), (".profile", &note("profile"))]);
    for name in names {
        app.write(&format!(".profile.d/{name}"), &note(name));
    }
    app.write(".profile.d/.hidden.sh", &note("hidden"));
    let mut command = app.runner(&["run", "web"]);
    command.env("LC_ALL", "en_US.UTF-8");
    finish(command).printed(" 10.sh 9.sh B.sh _.sh a.sh it's.sh with blank.sh é.sh A zz profile");
    app = App::new(&[("Procfile", "web: printf ok\n"), (".profile.d", "a file, not a folder")]);
    app.run(&["run", "web"]).printed("ok");
}
