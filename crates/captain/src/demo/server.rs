//! The real server of the demo: `captain serve`, a process of its own in a folder of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use captain_jail::Jail;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::DemoError;

/// It listens at once; the rest is for a machine that is busy compiling.
const LISTENING: Duration = Duration::from_secs(20);
/// The server gives what is under way a minute.
const CLOSING: Duration = Duration::from_secs(75);
/// How long a killed instance may take to be over.
const DEATH: Duration = Duration::from_secs(10);
/// Lines of its log that are kept, to be shown if it fails.
const LINES: usize = 20;

/// A server that runs.
pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Starts it on a free port of loopback, and waits until it listens.
    pub(super) async fn start(data: &Path) -> Result<Self, DemoError> {
        let mut child = Command::new("/proc/self/exe")
            .args([super::lifeline::SERVE, &std::process::id().to_string()])
            // Nothing of what is configured for other captains on this machine.
            .env_clear()
            .env("CAPTAIN_DATA", data)
            .env("CAPTAIN_LISTEN", "127.0.0.1:0")
            .env("CAPTAIN_LOG_FORMAT", "json")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which still needs the server to clean up.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(DemoError::Spawn)?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (listening, address) = oneshot::channel();
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(listen(BufReader::new(stderr), Arc::clone(&said), listening));
        }
        match timeout(LISTENING, address).await {
            Ok(Ok(address)) => Ok(Self { child, port: address.port(), said }),
            _ => Err(DemoError::Server(last_words(&said))),
        }
    }

    /// What it logged last.
    pub(super) fn last_words(&self) -> String {
        last_words(&self.said)
    }

    /// Ends it; whatever it takes.
    pub(super) async fn end(mut self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // Not reaped yet, hence still it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if timeout(CLOSING, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Removes what is left of instances once the server is gone, if it could not do it itself.
pub(super) fn sweep(data: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let engine = data.join("engine");
    if !engine.exists() {
        return Ok(());
    }
    let jail = Jail::open(&engine, crate::monitor::helper())?;
    for id in jail.list()? {
        jail.abandon(&id);
        jail.kill(&id)?;
        jail.wait(&id, DEATH)?;
        jail.clean(&id)?;
    }
    Ok(())
}

/// Reads its log to the end, so that it never waits for us.
async fn listen(
    log: impl AsyncBufRead + Unpin,
    said: Arc<Mutex<VecDeque<String>>>,
    found: oneshot::Sender<SocketAddr>,
) {
    let mut found = Some(found);
    let mut lines = log.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = address_in(&line)
            && let Some(found) = found.take()
        {
            // Nobody waits any more if it came too late.
            let _ = found.send(address);
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == LINES {
            said.pop_front();
        }
        said.push_back(line);
    }
}

fn last_words(said: &Mutex<VecDeque<String>>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    said.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// Where it listens, if this line of its log says so.
fn address_in(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then(|| line["address"].as_str()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_where_it_listens() {
        let line = r#"{"timestamp":"x","level":"INFO","message":"listening","address":"127.0.0.1:4321","version":"1"}"#;
        assert_eq!(address_in(line), Some(SocketAddr::from(([127, 0, 0, 1], 4321))));
        assert_eq!(address_in(r#"{"message":"other","address":"127.0.0.1:1"}"#), None);
        assert_eq!(address_in("captain: no"), None);
    }
}
