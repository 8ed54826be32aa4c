//! What a person sees: colours, the progress line, Ctrl-C; and what happens when nobody reads any more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

mod scripted;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use scripted::{Asked, PATIENCE, Scripted, ago, command, error, instance, json_answer, node};
use serde_json::json;
use tokio::process::Command;

/// The two ends of a terminal of this many columns that changes no byte.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    tcsetwinsize(&theirs, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut modes = tcgetattr(&theirs).unwrap();
    modes.output_modes -= OutputModes::OPOST;
    tcsetattr(&theirs, OptionalActions::Now, &modes).unwrap();
    (File::from(ours), theirs)
}

/// Runs the command with stdout and stderr on one terminal. Returns its code and all that the terminal got.
async fn on_terminal(mut command: Command, columns: u16) -> (Option<i32>, String) {
    let (mut ours, theirs) = terminal(columns);
    command.stdout(Stdio::from(theirs.try_clone().unwrap())).stderr(Stdio::from(theirs));
    let mut child = command.spawn().unwrap();
    // The command holds the child's ends; while it lives, the terminal has no end.
    drop(command);
    let seen = tokio::task::spawn_blocking(move || {
        let mut seen = Vec::new();
        // Linux answers EIO where the other end is closed: that is the end.
        let _ = ours.read_to_end(&mut seen);
        String::from_utf8(seen).unwrap()
    });
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    (status.code(), tokio::time::timeout(PATIENCE, seen).await.expect("the terminal is closed").unwrap())
}

#[tokio::test]
async fn a_terminal_gets_colours_unless_no_color_is_set() {
    let server = Scripted::always(200, json!([node("app-1", 32, 110, json!({}))])).await;
    let (code, seen) = on_terminal(command(&server.url(), &["nodes"]), 80).await;
    assert_eq!(code, Some(0));
    let dim = |title: &str| format!("\x1b[2m{title}\x1b[0m");
    let titles = [dim("NODE"), dim("STATE"), dim("FREE"), dim("USED"), dim("TOTAL"), dim("ENGINE")];
    let [name, state, free, used, total, engine] = titles;
    let table = format!(
        "{name}   {state}    {free}  {used}  {total}  {engine}\napp-1  \x1b[32mhealthy\x1b[0m    32    78    110  docker 20.10.24\n"
    );
    assert_eq!(seen, table);
    let plain = "NODE   STATE    FREE  USED  TOTAL  ENGINE\napp-1  healthy    32    78    110  docker 20.10.24\n";
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = command(&server.url(), &["nodes"]);
        command.env(name, value);
        assert_eq!(on_terminal(command, 80).await, (Some(0), plain.to_owned()), "{name}={value}");
    }
}

#[tokio::test]
async fn a_narrow_terminal_cuts_the_slug_and_a_pipe_does_not() {
    let slug = format!("http://slugs/{}.tgz", "x".repeat(100));
    let server = Scripted::always(200, json!([instance('1', "shop", "app-1", json!({"slug_uri": slug}))])).await;
    let (_, seen) = on_terminal(command(&server.url(), &["ps"]), 80).await;
    assert!(seen.contains("http://slugs/xxx") && seen.contains("…\n") && !seen.contains(".tgz"), "{seen}");
    assert!(scripted::captain(&server.url(), &["ps"]).await.stdout.ends_with(&format!("  {slug}\n")));
}

/// A captain whose start ends once it was asked so many times how far it is.
async fn slow_start(questions: usize) -> Scripted {
    let asked_so_far = Arc::new(AtomicUsize::new(0));
    Scripted::answering(move |asked: Asked| {
        let asked_so_far = Arc::clone(&asked_so_far);
        async move {
            let Some(operation) = asked.target.strip_prefix("/claims/") else {
                while asked_so_far.load(Ordering::SeqCst) < questions {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                return json_answer(201, &instance('8', "shop", "app-1", json!({})));
            };
            let (phase, detail) = match asked_so_far.fetch_add(1, Ordering::SeqCst) {
                0 => return json_answer(404, &error(404, "no_such_claim", "m")),
                1 | 2 => ("preparing", json!("pulling flynn/slugrunner:0.0.0: 12 MB of 80 MB")),
                _ => ("starting", json!(null)),
            };
            let claim = json!({"operation": operation, "app": "shop", "node": "app-1", "slots": 2, "phase": phase,
                "detail": detail, "since": ago(1)});
            json_answer(200, &claim)
        }
    })
    .await
}

const START: [&str; 6] = ["start", "shop", "--node", "app-1", "--version", "47"];

#[tokio::test]
async fn a_start_shows_one_line_of_progress_and_wipes_it_away() {
    let server = slow_start(5).await;
    let (code, seen) = on_terminal(command(&server.url(), &START), 120).await;
    assert_eq!(code, Some(0));
    let (progress, result) = seen.rsplit_once("\r\x1b[2K").unwrap();
    assert!(!progress.contains('\n'), "{seen:?}");
    let shown: Vec<&str> = progress.split("\r\x1b[2K").skip(1).collect();
    assert_eq!(shown[0], "starting shop on app-1");
    let pulling = "starting shop on app-1: preparing, pulling flynn/slugrunner:0.0.0: 12 MB of 80 MB (";
    assert!(shown.iter().any(|line| line.starts_with(pulling)), "{shown:?}");
    assert!(shown.iter().any(|line| line.starts_with("starting shop on app-1: starting (")), "{shown:?}");
    let id = "8".repeat(64);
    assert_eq!(result, format!("{id}\n\x1b[32mstarted\x1b[0m shop on app-1: http://app-1:49490\n"));
    let posted = server
        .asked()
        .iter()
        .find(|asked| asked.method == "POST")
        .unwrap()
        .header("captain-operation")
        .unwrap()
        .to_owned();
    assert!(server.lines().contains(&format!("GET /claims/{posted}")));
}

#[tokio::test]
async fn progress_never_wraps() {
    let server = slow_start(3).await;
    let (_, seen) = on_terminal(command(&server.url(), &START), 40).await;
    let longest = seen.split("\r\x1b[2K").skip(1).map(|line| line.lines().next().unwrap_or("").chars().count());
    let drawn: Vec<usize> = longest.collect();
    let (_, progress) = drawn.split_last().unwrap();
    assert_eq!(progress.iter().max(), Some(&39), "{seen:?}");
}

#[tokio::test]
async fn a_pipe_gets_no_progress_unless_asked_for() {
    let quiet = scripted::captain(&slow_start(5).await.url(), &START).await;
    assert_eq!((quiet.code, quiet.stderr.as_str()), (Some(0), ""));
    let verbose = scripted::captain(&slow_start(5).await.url(), &[&START[..], &["-v"]].concat()).await;
    let stages = "starting shop on app-1\nstarting shop on app-1: preparing\nstarting shop on app-1: starting\n";
    assert_eq!((verbose.code, verbose.stderr.as_str()), (Some(0), stages));
}

#[tokio::test]
async fn ctrl_c_leaves_the_start_to_the_server_and_says_so() {
    let server = slow_start(usize::MAX).await;
    let child = command(&server.url(), &START).spawn().unwrap();
    let process = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    // The claim is asked for only once the process waits for both the answer and the interrupt.
    let waited = tokio::time::timeout(PATIENCE, async {
        while !server.lines().iter().any(|line| line.starts_with("GET /claims/")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("the start is under way");
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    let asked = server.asked();
    let operation = asked.iter().find(|asked| asked.method == "POST").unwrap().header("captain-operation").unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(output.stdout, b"");
    let said = format!("interrupted; the start of shop on app-1 goes on at the server as operation {operation}\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), said);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure() {
    let many: Vec<_> = (0..2000).map(|_| instance('1', "shop", "app-1", json!({}))).collect();
    let server = Scripted::always(200, json!(many)).await;
    for arguments in [&["ps"][..], &["ps", "--json"], &["completions", "bash"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = command(&server.url(), arguments).stdout(Stdio::from(writer)).spawn().unwrap();
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn an_output_that_cannot_be_written_is_a_failure() {
    let server = Scripted::always(200, json!([node("app-1", 1, 2, json!({}))])).await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let child = command(&server.url(), &["nodes"]).stdout(Stdio::from(full)).spawn().unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = "error: cannot write the output: No space left on device (os error 28)\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), said);
}
