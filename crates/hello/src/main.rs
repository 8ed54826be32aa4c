//! The example app: a web server that says hello.
//!
//! It runs where nothing is installed: one program, the standard library, static if built so. It listens on `0.0.0.0:$PORT` (8080 if
//! unset) and answers `/` with a greeting (`$HELLO`) and whom it comes from, `/env` with the *names* of its variables. It logs a line
//! per request and ends at SIGTERM like any program.
//!
//! Invariants: at most [`WORKERS`] requests at once, at most [`REQUEST_BYTES_MAX`] of each are read, none takes longer than two [`PATIENCE`]s.

#![expect(clippy::disallowed_methods, reason = "an app of its own, configured by its environment as apps are")]

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

/// Plenty for a person with a browser; their stacks are most of the memory.
const WORKERS: usize = 4;

/// The request line is all that is looked at.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// For the whole of a request, and for the whole of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "hello: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let started = Instant::now();
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}, which is no port"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    let port = listener.local_addr().map_or(port, |address| address.port());
    log(&format!("listening on port {port}, pid {}", process::id()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            let worker = thread::Builder::new().stack_size(128 * 1024);
            worker
                .spawn_scoped(scope, || work(&listener, started))
                .map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        Ok(())
    })
}

/// Answers one request after the other, for ever. A client that misbehaves costs its own request only.
fn work(listener: &TcpListener, started: Instant) {
    loop {
        match listener.accept() {
            Ok((stream, client)) => match answer(stream, started) {
                Ok((request, status)) => log(&format!("{client} {request} {status}")),
                Err(error) => log(&format!("{client} {error}")),
            },
            Err(error) => {
                log(&format!("cannot accept: {error}"));
                // Out of descriptors, say: trying again at once would only fill the log.
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn answer(mut stream: TcpStream, started: Instant) -> io::Result<(String, &'static str)> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let line: String = head.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = match (method, target.split('?').next().unwrap_or_default()) {
        ("GET" | "HEAD", "/") => ("200 OK", greeting(started)),
        ("GET" | "HEAD", "/env") => ("200 OK", names()),
        ("GET" | "HEAD", _) => ("404 Not Found", "Nothing here. Try / or /env.\n".to_owned()),
        _ => ("405 Method Not Allowed", "Only GET is answered here.\n".to_owned()),
    };
    let length = body.len();
    let shown = if method == "HEAD" { "" } else { body.as_str() };
    let head = "Content-Type: text/plain; charset=utf-8\r\nConnection: close";
    let answer = format!("HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {length}\r\n\r\n{shown}");
    stream.write_all(answer.as_bytes())?;
    Ok((format!("{method} {target}"), status))
}

/// Reads up to the empty line. The deadline is for all of it, so that a byte now and then does not hold a worker.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while head.len() < REQUEST_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(rest))?;
        match stream.read(&mut buffer)? {
            0 => break,
            count => head.extend(buffer.iter().take(count)),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn greeting(started: Instant) -> String {
    let hello = env::var("HELLO").unwrap_or_else(|_| "Hello from Captain".to_owned());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
    let host = host.as_deref().map_or("an unnamed machine", str::trim);
    format!("{hello}! I am process {} on {host}, up for {} s.\n", process::id(), started.elapsed().as_secs())
}

/// Names only: values may be secrets.
fn names() -> String {
    let mut names: Vec<String> = env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// A log that nobody reads any more is no reason to end.
fn log(line: &str) {
    let _ = writeln!(io::stdout(), "hello: {line}");
}
