//! Each app as a shell script, and the image that such scripts run in.

use std::process::Command;

use captain_conformance::App;

/// A script that does what the app does.
pub(crate) fn script(app: &App) -> String {
    match app {
        App::Idle => "trap 'echo ended; exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done".to_owned(),
        App::Deaf => "trap '' TERM; echo deaf; while :; do sleep 1; done".to_owned(),
        App::ExitsWith(code) => format!("exit {code}"),
        App::Says { out, err } => format!("printf %s '{out}'; printf %s '{err}' >&2"),
        App::Counts(to) => format!("seq {to}"),
        App::Shows(name) => format!("printf %s \"${name}\""),
        App::HogsMemory => "x=0123456789abcdef; while :; do x=$x$x; done".to_owned(),
        App::Serves => "busybox mkdir -p www; echo hello >www/index.html; \
            busybox httpd -f -p \"$PORT\" -h www & trap 'kill $!; exit 0' TERM; wait"
            .to_owned(),
    }
}

/// The command that makes a shell of [`image`] run a script. The script is given as it is: no shell reads it before.
pub(crate) const ENTRYPOINT: &str = r#"["/bin/sh","-c"]"#;

/// A root file system with a shell and what the scripts use, as a tar: this machine's busybox under its names.
pub(crate) fn image() -> Vec<u8> {
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
    let busybox = std::fs::read(String::from_utf8(found.stdout).unwrap().trim()).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut entry = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        if kind == tar::EntryType::Symlink {
            tar.append_link(&mut header, path, "busybox").unwrap();
        } else {
            tar.append_data(&mut header, path, content).unwrap();
        }
    };
    for folder in ["bin/", "dev/", "etc/", "proc/", "sys/", "tmp/"] {
        entry(folder, tar::EntryType::Directory, &[]);
    }
    entry("bin/busybox", tar::EntryType::Regular, &busybox);
    for name in ["sh", "sleep", "seq", "printf", "kill", "cat"] {
        entry(&format!("bin/{name}"), tar::EntryType::Symlink, &[]);
    }
    tar.into_inner().unwrap()
}
