//! A stack with nothing in it: no shell, no libraries, no `/etc`, `/dev`, `/proc`. Only the static runner and the example app.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::{Outcome, Running, eventually, finish, needs_root};

/// The folder with the static programs, built once per run (and by cargo's own cache not even that).
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let version = Command::new("rustc").arg("-vV").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--locked",
                "--package",
                "captain-runner",
                "--package",
                "captain-hello",
                "--bins",
                "--target",
                &host,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join(host).join("debug")
    })
}

struct Root(TempDir);

impl Root {
    fn new(procfile: &str, files: &[(&str, &str)]) -> Self {
        needs_root();
        let root = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(root.0.path(), Permissions::from_mode(0o755)).unwrap();
        root.write("app/Procfile", procfile);
        for (name, content) in files {
            root.write(name, content);
        }
        fs::copy(programs().join("captain-runner"), root.0.path().join("captain-runner")).unwrap();
        fs::copy(programs().join("captain-hello"), root.0.path().join("app/hello")).unwrap();
        root
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        let root = format!("--root={}", self.0.path().display());
        command.args(["--pid", "--fork", "--kill-child", &root, "/captain-runner"]).args(arguments);
        command
            .env_clear()
            .env("PORT", "0")
            .env("HELLO", "Ahoy")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments))
    }
}

fn get(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn trap_11_the_stack_needs_no_program_at_all() {
    let root = Root::new("web: ./hello --port '$PORT is' \"$PORT\"\n", &[]);
    let log = root.0.path().join("log");
    let mut command = root.command(&["run", "web"]);
    command.stdout(fs::File::create(&log).unwrap());
    let running = Running::start(command);
    let mut port = None;
    eventually("the example app listens", || {
        let text = fs::read_to_string(&log).unwrap();
        port = text.strip_prefix("hello: listening on port ").and_then(|rest| rest.split(',').next()?.parse().ok());
        port.is_some()
    });
    let port = port.unwrap();
    let greeting = get(port, "/");
    assert!(greeting.starts_with("HTTP/1.1 200 OK\r\n") && greeting.contains("Ahoy! I am process 2 on "), "{greeting}");
    let names = get(port, "/env");
    assert!(names.ends_with("HELLO\nHOME\nPATH\nPORT\n"), "{names}");
    assert!(get(port, "/nothing").starts_with("HTTP/1.1 404 "));
    // Written after the answer, by the thread that gave it.
    eventually("the request is logged", || fs::read_to_string(&log).unwrap().contains(" GET / 200 OK\n"));
    running.signal_inner(Signal::SIGTERM);
    let code = running.finish_code();
    assert_eq!(code, 143);
}

#[test]
fn without_a_shell_what_needs_one_is_refused_and_never_misread() {
    for command in ["./hello && ./hello", "PORT=1 ./hello", "./hello > log", "./hello $(id)"] {
        Root::new(&format!("web: {command}\n"), &[])
            .run(&["run", "web"])
            .refused(78, "needs a shell, and this stack has neither bash nor sh");
    }
    let scripted = Root::new("web: ./hello\n", &[("app/.profile.d/a.sh", "export A=1\n")]);
    scripted.run(&["run", "web"]).refused(78, "/app/.profile.d/a.sh of the slug needs a shell");
}

#[test]
fn without_a_shell_codes_are_those_that_a_shell_would_give() {
    let root = Root::new("web: ./missing\nfile: ./Procfile\n", &[]);
    root.run(&["run", "web"]).refused(127, "cannot execute \"./missing\"");
    root.run(&["run", "file"]).refused(126, "cannot execute \"./Procfile\": Permission denied");
    root.run(&["exec", "no-such-program"]).refused(127, "cannot execute \"no-such-program\"");
    root.run(&["run", "worker"]).refused(64, "it has file, web");
}
