//! What the runner was told on its command line.
//!
//! Options stand before the verb or right after it; from the first other word on, everything belongs to the command. The environment is
//! not asked: it is the app's.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// The user of an instance unless `--uid` says otherwise; the number that Flynn used, with no account behind it on common stacks.
pub const DEFAULT_UID: u32 = 5000;

/// The group of an instance unless `--gid` says otherwise.
pub const DEFAULT_GID: u32 = 5000;

/// Long enough not to interfere: the engine's own grace (ten seconds on Docker) ends earlier. This one is for engines that never kill.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// An hour: above it the instance looks stuck rather than slow.
const GRACE_SECONDS_MAX: u64 = 3600;

pub(crate) const HELP: &str = "\
Runs a slug as pid 1 of its instance.

usage: captain-runner [option...] run TYPE
       captain-runner [option...] exec COMMAND ARG...

  --app-dir DIR      where the unpacked slug is (/app)
  --uid N, --gid N   whom to become when started as root (5000, 5000)
  --grace SECONDS    from SIGTERM to SIGKILL (30)
  --phase-file FILE  where to report the phase
";

/// A request that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Show the help.
    Help,
    /// Run something.
    Run(Invocation),
}

/// What to run and how.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What to start.
    pub order: Order,
    /// Where the slug is; absolute.
    pub app_dir: PathBuf,
    /// The user asked for.
    pub uid: Option<u32>,
    /// The group asked for.
    pub gid: Option<u32>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Where to report the phase.
    pub phase_file: Option<PathBuf>,
}

/// What to start.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// A process type.
    Run(String),
    /// A command, word by word; never empty.
    Exec(Vec<OsString>),
}

/// Why a command line makes no sense.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum UsageError {
    /// Neither `run` nor `exec`.
    #[error("neither `run TYPE` nor `exec COMMAND` was asked for")]
    NoVerb,
    /// A verb or option that does not exist.
    #[error("{0:?} is neither an option nor `run` nor `exec`")]
    Unknown(OsString),
    /// An option or verb without its value.
    #[error("{0} needs a value")]
    Missing(&'static str),
    /// More after the process type.
    #[error("{0:?} after the process type: `run` takes one type, `exec` takes a command")]
    Surplus(OsString),
    /// A value out of range.
    #[error("{option} does not take {value:?}: {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: OsString,
        /// What it takes.
        expected: &'static str,
    },
}

/// Reads a command line, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, UsageError> {
    let mut words = arguments.into_iter();
    let mut options = Options::default();
    let Some(verb) = options.take(&mut words)? else { return Ok(Request::Help) };
    let order = match verb.to_str() {
        Some("run") => {
            let process_type = options.take_operand(&mut words)?.ok_or(UsageError::Missing("run"))?;
            if let Some(surplus) = words.next() {
                return Err(UsageError::Surplus(surplus));
            }
            // A name that is no text is in no Procfile: it will not be found there, which is the message to give.
            Order::Run(process_type.to_string_lossy().into_owned())
        }
        Some("exec") => {
            let program = options.take_operand(&mut words)?.ok_or(UsageError::Missing("exec"))?;
            Order::Exec(std::iter::once(program).chain(words).collect())
        }
        _ => return Err(UsageError::Unknown(verb)),
    };
    Ok(Request::Run(Invocation {
        order,
        app_dir: options.app_dir.unwrap_or_else(|| PathBuf::from("/app")),
        uid: options.uid,
        gid: options.gid,
        grace: options.grace.unwrap_or(DEFAULT_GRACE),
        phase_file: options.phase_file,
    }))
}

#[derive(Default)]
struct Options {
    app_dir: Option<PathBuf>,
    uid: Option<u32>,
    gid: Option<u32>,
    grace: Option<Duration>,
    phase_file: Option<PathBuf>,
}

impl Options {
    /// The verb after the options; nothing if help is asked for.
    fn take(&mut self, words: &mut impl Iterator<Item = OsString>) -> Result<Option<OsString>, UsageError> {
        while let Some(word) = words.next() {
            if word == "--help" {
                return Ok(None);
            }
            if !self.accept(&word, words)? {
                return if word.as_encoded_bytes().starts_with(b"-") {
                    Err(UsageError::Unknown(word))
                } else {
                    Ok(Some(word))
                };
            }
        }
        Err(UsageError::NoVerb)
    }

    /// The first word after the verb that is no option of ours; `--` ends the options.
    fn take_operand(&mut self, words: &mut impl Iterator<Item = OsString>) -> Result<Option<OsString>, UsageError> {
        while let Some(word) = words.next() {
            if word == "--" {
                return Ok(words.next());
            }
            if !self.accept(&word, words)? {
                return Ok(Some(word));
            }
        }
        Ok(None)
    }

    fn accept(&mut self, word: &OsString, words: &mut impl Iterator<Item = OsString>) -> Result<bool, UsageError> {
        let mut value = |option| words.next().ok_or(UsageError::Missing(option));
        match word.to_str() {
            Some("--app-dir") => self.app_dir = Some(absolute("--app-dir", value("--app-dir")?)?),
            Some("--phase-file") => self.phase_file = Some(absolute("--phase-file", value("--phase-file")?)?),
            Some("--uid") => self.uid = Some(identity("--uid", value("--uid")?)?),
            Some("--gid") => self.gid = Some(identity("--gid", value("--gid")?)?),
            Some("--grace") => {
                let seconds = number("--grace", value("--grace")?, "seconds, 1 to 3600", |n| {
                    (1..=GRACE_SECONDS_MAX).contains(n)
                })?;
                self.grace = Some(Duration::from_secs(seconds));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn absolute(option: &'static str, value: OsString) -> Result<PathBuf, UsageError> {
    let path = PathBuf::from(value);
    // The working directory changes on the way, so a relative path would mean two things.
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(UsageError::Value { option, value: path.into(), expected: "an absolute path" })
    }
}

fn identity(option: &'static str, value: OsString) -> Result<u32, UsageError> {
    // 0 is root, the largest number means "unchanged" to the kernel.
    number(option, value, "a number above 0, since no app runs as root", |n| *n != 0 && *n != u32::MAX)
}

fn number<N: FromStr>(
    option: &'static str,
    value: OsString,
    expected: &'static str,
    holds: impl Fn(&N) -> bool,
) -> Result<N, UsageError> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(holds);
    number.ok_or(UsageError::Value { option, value, expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn invocation(line: &str) -> Invocation {
        match parsed(line) {
            Ok(Request::Run(invocation)) => invocation,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_stand_on_either_side_of_the_verb() {
        for line in ["--uid 7 --grace 2 run web", "run --uid 7 --grace 2 web", "--uid 7 run --grace 2 -- web"] {
            let invocation = invocation(line);
            assert_eq!(invocation.order, Order::Run("web".into()));
            assert_eq!((invocation.uid, invocation.gid, invocation.grace), (Some(7), None, Duration::from_secs(2)));
        }
        assert_eq!(invocation("run web").app_dir, PathBuf::from("/app"));
    }

    #[test]
    fn what_follows_the_command_belongs_to_it() {
        let words = |line| invocation(line).order;
        assert_eq!(words("exec ls --uid 7"), Order::Exec(vec!["ls".into(), "--uid".into(), "7".into()]));
        assert_eq!(words("exec -- --uid 7"), Order::Exec(vec!["--uid".into(), "7".into()]));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "run",
            "exec",
            "start web",
            "--colour run web",
            "run web worker",
            "--uid 0 run web",
            "--uid x run web",
            "--gid 4294967295 run web",
            "--grace 0 run web",
            "--grace 3601 run web",
            "--app-dir app run web",
            "--uid",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
        assert_eq!(parsed("--help"), Ok(Request::Help));
    }
}
