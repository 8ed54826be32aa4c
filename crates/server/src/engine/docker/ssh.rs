//! Engines behind ssh: each connection is a child `ssh … docker system dial-stdio`, whose input and output are the connection.
//!
//! This machine's `ssh` does it all (keys, agents, jump hosts, host keys, `~/.ssh/config`), and is told never to ask anybody
//! anything. The child dies with its connection.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use super::connect::ConnectError;

/// `sshd` begins to refuse at 10 connections that have not authenticated yet (its `MaxStartups`).
const HANDSHAKES: usize = 5;
/// The most that is kept of a line of ssh's talk.
const LINE_LIMIT: usize = 300;
/// An answer's head is smaller than this; a login banner that is not is no engine.
const HEAD_LIMIT: usize = 16 * 1024;

pub(super) struct Ssh {
    host: String,
    arguments: Vec<String>,
    handshakes: Semaphore,
}

impl Ssh {
    pub(super) fn new(
        user: Option<&str>,
        host: &str,
        port: Option<u16>,
        socket: Option<&str>,
        limit: Duration,
    ) -> Self {
        let mut arguments: Vec<String> = ["-T", "-o", "BatchMode=yes"].map(String::from).into();
        arguments.extend(["-o".to_owned(), format!("ConnectTimeout={}", limit.as_secs().max(1))]);
        // Without these a far machine that is switched off would leave the event stream silent for ever.
        arguments.extend(["-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=3"].map(String::from));
        arguments.extend(port.iter().flat_map(|port| ["-p".to_owned(), port.to_string()]));
        arguments.extend(user.iter().flat_map(|user| ["-l".to_owned(), (*user).to_owned()]));
        arguments.extend(["--".to_owned(), host.to_owned()]);
        // One argument: ssh joins them with blanks and gives them to the far shell anyway.
        arguments.push(match socket {
            None => "docker system dial-stdio".to_owned(),
            Some(path) => format!("docker --host {} system dial-stdio", shell_quoted(&format!("unix://{path}"))),
        });
        Self { host: host.to_owned(), arguments, handshakes: Semaphore::new(HANDSHAKES) }
    }

    pub(super) fn place(&self) -> String {
        format!("{} by ssh", self.host)
    }

    /// Connects, and asks the far engine for a sign of life: only then is it known that ssh, the far `docker` command and the
    /// engine behind it all work, and that a later failure may have come after a request.
    pub(super) async fn connect(&self) -> Result<SshStream, ConnectError> {
        let _permit = self.handshakes.acquire().await.map_err(|error| ConnectError(error.to_string()))?;
        let mut stream = self.spawn().map_err(|error| ConnectError(format!("ssh cannot be run: {error}")))?;
        match stream.greet().await {
            Ok(()) => Ok(stream),
            Err(error) => {
                let said = stream.talk.last_after_end().await;
                let reason = if said.is_empty() { error.to_string() } else { said };
                Err(ConnectError(format!("no engine reached at {} by ssh: {reason}", self.host)))
            }
        }
    }

    fn spawn(&self) -> io::Result<SshStream> {
        let mut child = Command::new("ssh")
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0) // a Ctrl-C at the terminal is for Captain, which finishes what is in flight
            .kill_on_drop(true)
            .spawn()?;
        let pipe = || io::Error::other("a pipe is missing");
        let input = child.stdin.take().ok_or_else(pipe)?;
        let output = child.stdout.take().ok_or_else(pipe)?;
        let talk = Talk::listen(child.stderr.take().ok_or_else(pipe)?);
        Ok(SshStream { _child: child, input, output, talk })
    }
}

fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The last line that ssh wrote to its standard error.
#[derive(Clone)]
struct Talk {
    last: Arc<Mutex<String>>,
    ended: Arc<Semaphore>,
}

impl Talk {
    fn listen(mut stderr: ChildStderr) -> Self {
        let talk = Self { last: Arc::default(), ended: Arc::new(Semaphore::new(0)) };
        let heard = talk.clone();
        tokio::spawn(async move {
            let (mut line, mut piece) = (Vec::new(), [0; 512]);
            while let Ok(count @ 1..) = stderr.read(&mut piece).await {
                for byte in &piece[..count] {
                    match byte {
                        b'\n' | b'\r' => heard.keep(&mut line),
                        _ if line.len() < LINE_LIMIT => line.push(*byte),
                        _ => {}
                    }
                }
            }
            heard.keep(&mut line);
            heard.ended.close();
        });
        talk
    }

    fn keep(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).trim().to_owned();
        if !text.is_empty() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
        line.clear();
    }

    fn last(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was said last, once ssh has said all. It closes its output before it gives its reason, hence the short wait; a
    /// child of ssh that keeps the pipe open must not hold us up.
    async fn last_after_end(&self) -> String {
        drop(tokio::time::timeout(Duration::from_millis(500), self.ended.acquire()).await);
        self.last()
    }
}

/// A connection through ssh.
pub(super) struct SshStream {
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
    talk: Talk,
}

impl SshStream {
    /// A `HEAD` has an answer without a body, whatever its status: its end is the end of its head.
    async fn greet(&mut self) -> io::Result<()> {
        self.input.write_all(b"HEAD /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        let (mut head, mut byte) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            // Byte by byte: nothing behind the head may be swallowed. It is once a connection.
            if self.output.read(&mut byte).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            head.push(byte[0]);
            if head.len() > HEAD_LIMIT || !head.starts_with(&b"HTTP/"[..head.len().min(5)]) {
                return Err(io::Error::other("what answers there is no engine"));
            }
        }
        Ok(())
    }
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.output).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) && buf.filled().len() == before && buf.remaining() > 0 {
            let said = self.talk.last();
            if !said.is_empty() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("ssh: {said}"))));
            }
        }
        polled
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_far_shell_reads_a_path_as_one_word() {
        let ssh = Ssh::new(Some("deploy"), "far", Some(2222), Some("/run/o'clock; reboot"), Duration::from_secs(5));
        let shown = ssh.arguments.join(" ");
        assert!(shown.contains("BatchMode=yes") && shown.contains("-p 2222 -l deploy -- far"), "{shown}");
        assert_eq!(
            ssh.arguments.last().map(String::as_str),
            Some(r"docker --host 'unix:///run/o'\''clock; reboot' system dial-stdio")
        );
    }
}
