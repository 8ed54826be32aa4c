//! How a command ends: the exit codes, and what is said about a failure.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use captain_api::Code;
use captain_api::client::Error;
use thiserror::Error;

use crate::environment::EnvironmentError;
use crate::printer::{Printer, Tint};
use crate::slug::SlugFailure;

/// The exit codes, as the help of each command shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the server refused, or failed; the slug is faulty
  2    the command line or a file that it names is wrong
  3    no captain can be reached, or what answers is none
  4    there is no such instance, node or claim
  5    there are not enough free slots
  130  interrupted";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// The server refused, or failed; or the slug is faulty.
    Refused = 1,
    /// The command line, or a file that it names, is wrong.
    Usage = 2,
    /// No captain can be reached.
    Unreachable = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// There are not enough free slots.
    OverCapacity = 5,
    /// Ctrl-C; as shells have it, 128 + SIGINT.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Error)]
pub enum Failure {
    /// A request failed.
    #[error(transparent)]
    Request(#[from] Error),
    /// The output cannot be written. A pipe that nobody reads any more is one of these, and no failure to talk about.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// What was asked for is not clear.
    #[error("{message}")]
    Usage {
        /// What is not clear.
        message: String,
        /// What to type.
        help: Option<String>,
    },
    /// A variable or a file of variables is wrong.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// A slug cannot be made or read.
    #[error(transparent)]
    Slug(#[from] SlugFailure),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file, or its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This machine gives the process not even an event loop.
    #[error("cannot wait for the network")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// Its exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Request(error) => of_request(error),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Slug(failure) => failure.exit(),
            Self::Output(_) | Self::Runtime { .. } => Exit::Refused,
            Self::Usage { .. } | Self::Environment(_) | Self::File { .. } => Exit::Usage,
        }
    }

    /// What would help, where it is known.
    fn help(&self) -> Option<&str> {
        match self {
            Self::Request(Error::Server(body)) => body.help.as_deref(),
            Self::Request(Error::Unreachable { .. }) => {
                Some("`captain serve` starts one; --url or CAPTAIN_URL says where it is")
            }
            Self::Request(Error::Unexpected { .. }) => Some("is the URL (--url, CAPTAIN_URL) that of a captain?"),
            Self::Request(Error::Setup { .. }) => {
                Some("install the ca-certificates package, or name a file of certificates in SSL_CERT_FILE")
            }
            Self::Usage { help, .. } => help.as_deref(),
            _ => None,
        }
    }

    /// The failure in one sentence with its first cause, and a second line where something would help.
    pub fn tell(&self, printer: &mut Printer) {
        let mut sentence = self.to_string();
        // The links between are the layers of the HTTP client; the last one is what happened.
        let causes = std::iter::successors(self.source(), |cause| (*cause).source());
        if let Some(cause) = causes.last().map(ToString::to_string).filter(|cause| !sentence.contains(cause)) {
            sentence = format!("{sentence}: {cause}");
        }
        let label = printer.talk_tint("error:", Tint::Bad);
        printer.say(&format!("{label} {}", crate::table::printable(&sentence)));
        if let Some(help) = self.help() {
            let label = printer.talk_tint("help:", Tint::Good);
            printer.say(&format!("{label} {}", crate::table::printable(help)));
        }
    }
}

fn of_request(error: &Error) -> Exit {
    match error {
        Error::Server(body) => match body.code {
            Code::NoSuchInstance | Code::NoSuchNode | Code::NoSuchClaim | Code::NoSuchSlug => Exit::NotFound,
            Code::OverCapacity => Exit::OverCapacity,
            _ => Exit::Refused,
        },
        Error::BadUrl { .. } | Error::BadName { .. } => Exit::Usage,
        Error::HandedAround { .. } => Exit::Refused,
        _ => Exit::Unreachable,
    }
}

/// Says what is to be said about the end of a command, and makes sure that the output has been written.
pub(crate) fn report(ended: Result<Exit, Failure>, printer: &mut Printer) -> Exit {
    let ended = ended.and_then(|exit| Ok(printer.flush().map(|()| exit)?));
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            let exit = failure.exit();
            if exit != Exit::Done {
                failure.tell(printer);
            }
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use captain_api::ErrorBody;

    use super::*;

    #[test]
    fn every_code_of_the_server_has_its_exit_code() {
        let cases = [
            (Code::NoSuchInstance, 404, Exit::NotFound),
            (Code::NoSuchNode, 404, Exit::NotFound),
            (Code::NoSuchClaim, 404, Exit::NotFound),
            (Code::NoSuchPath, 404, Exit::Refused),
            (Code::OverCapacity, 503, Exit::OverCapacity),
            (Code::Busy, 503, Exit::Refused),
            (Code::EngineTimeout, 504, Exit::Refused),
            (Code::Other, 500, Exit::Refused),
        ];
        for (code, status, exit) in cases {
            let failure = Failure::from(Error::Server(Box::new(ErrorBody::new(code, status, "m"))));
            assert_eq!(failure.exit(), exit, "{code:?}");
        }
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let listed: Vec<u8> =
            EXIT_CODES.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        let all = [
            Exit::Done,
            Exit::Refused,
            Exit::Usage,
            Exit::Unreachable,
            Exit::NotFound,
            Exit::OverCapacity,
            Exit::Interrupted,
        ];
        assert_eq!(listed, all.map(|exit| exit as u8));
    }
}
