//! What a slug says about its processes: `Procfile` and `.release`.
//!
//! **Procfile.** Read by line, as Heroku does: `type: command`, where a type is 1 to 128 of `A-Z a-z 0-9 _ -`. Blanks around the colon
//! are optional. Blank lines and lines whose first characters are `#` or `//` say nothing. A carriage return at the end of a line and a
//! byte order mark are dropped. The last of several lines for one type wins, as it does for YAML readers. The command is kept as it
//! stands, comments included: it belongs to the shell.
//!
//! **Fallback to YAML.** The classic runners read the file as YAML, so there are slugs which are valid only as such (folded scalars,
//! quoted keys, a leading `---`). The whole file is read as YAML if, and only if, at least one line is not of the line form *and* the
//! YAML is a map of types to text. A file that is right by line is never YAML, whatever a YAML reader would make of it: `web: [a, b]`
//! or `web: run #fff` mean what is written. A list of texts stands for that many lines of shell. Scalars keep their spelling: `yes` is
//! the command `yes`, not `true`.
//!
//! **`.release`** is YAML: `config_vars` and `default_process_types` are used, all else is ignored.
//!
//! Invariants: pure; no input makes it panic, recurse or use more than a small multiple of its bytes, which are bounded; aliases and
//! foreign tags are refused, so that nothing is expanded or constructed.

mod findings;
mod release;
#[cfg(test)]
mod tests;
mod yaml;

pub use findings::{ClassicReading, Concern, Finding, lint};
pub use release::{Release, ReleaseError};
pub use yaml::YamlError;

use std::fmt;

use thiserror::Error;
use yaml::Node;

/// Longest Procfile in bytes. A command goes into one argument of the kernel (128 KiB at most) with quoting around it.
pub const PROCFILE_BYTES_MAX: usize = 32 * 1024;

/// Longest `.release` in bytes: its variables go into an environment, which has to fit beside the arguments.
pub const RELEASE_BYTES_MAX: usize = 128 * 1024;

/// Most process types of one slug. Real ones have fewer than twenty.
pub const PROCESS_TYPES_MAX: usize = 256;

/// Longest name of a process type, as in Heroku's API.
pub const TYPE_LEN_MAX: usize = 128;

/// One process type and the command that it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// The type, as `web`.
    pub name: Box<str>,
    /// The command, never blank.
    pub command: Box<str>,
    /// The line it stands on, counted from 1.
    pub line: usize,
}

/// How a Procfile was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// By line.
    Lines,
    /// As YAML, since it is not of the line form.
    Yaml,
}

/// A Procfile that could be read. Types are distinct.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Procfile {
    form: Form,
    processes: Vec<Process>,
}

impl Procfile {
    /// Reads the bytes of a Procfile.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProcfileError> {
        let text = text(bytes, PROCFILE_BYTES_MAX)?;
        match by_line(text) {
            Ok(lines) => {
                Ok(Self { form: Form::Lines, processes: last_wins(lines.into_iter().map(|line| line.process))? })
            }
            Err(ProcfileError::NotALine { line, text: excerpt, .. }) => match yaml::read(text) {
                Ok(Node::Map(entries)) => {
                    let processes = processes_of(entries).map_err(ProcfileError::Value)?;
                    Ok(Self { form: Form::Yaml, processes: last_wins(processes)? })
                }
                Ok(_) => Err(ProcfileError::NotALine { line, text: excerpt, yaml: None }),
                Err(error) => Err(ProcfileError::NotALine { line, text: excerpt, yaml: Some(error) }),
            },
            Err(error) => Err(error),
        }
    }

    /// How it was read.
    pub const fn form(&self) -> Form {
        self.form
    }

    /// The command of a process type.
    pub fn command(&self, process_type: &str) -> Option<&str> {
        command_of(&self.processes, process_type)
    }

    /// All process types, in the order of the file.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }
}

/// Whether a name can be a process type.
pub fn is_process_type(name: &str) -> bool {
    (1..=TYPE_LEN_MAX).contains(&name.len()) && name.bytes().all(is_type_byte)
}

/// Why a Procfile could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ProcfileError {
    /// The bytes are not text of a bearable size.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A line is not `type: command`, and the file is no YAML map either.
    #[error("line {line} ({text}) is not `type: command`, and the file is not a YAML map either")]
    NotALine {
        /// The first line that is not of the form.
        line: usize,
        /// Its beginning.
        text: Excerpt,
        /// What the YAML reader said, if the file is not YAML at all.
        #[source]
        yaml: Option<YamlError>,
    },
    /// A type is too long.
    #[error("line {line}: the process type has more than {TYPE_LEN_MAX} characters")]
    TypeTooLong {
        /// Where.
        line: usize,
    },
    /// A value of the YAML form is not a command.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// More process types than [`PROCESS_TYPES_MAX`].
    #[error("there are more than {PROCESS_TYPES_MAX} process types")]
    TooManyTypes,
}

/// Why bytes are not text that can be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TextError {
    /// Longer than allowed.
    #[error("the file is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8.
    #[error("line {line} is not UTF-8")]
    NotUtf8 {
        /// Where.
        line: usize,
    },
    /// A NUL, which no command and no variable can hold.
    #[error("line {line} has a NUL byte")]
    Nul {
        /// Where.
        line: usize,
    },
}

/// Why an entry of a YAML map is not a process type with its command.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ValueError {
    /// The key is not a process type.
    #[error("line {line}: the key is not a process type (1 to {TYPE_LEN_MAX} of A-Z a-z 0-9 _ -)")]
    NotAType {
        /// Where.
        line: usize,
    },
    /// The value is neither text nor a list of texts.
    #[error("line {line}: the value of {name} is not a command")]
    NotACommand {
        /// The type.
        name: Box<str>,
        /// Where.
        line: usize,
    },
    /// The value is empty.
    #[error("line {line}: {name} has no command")]
    Empty {
        /// The type.
        name: Box<str>,
        /// Where.
        line: usize,
    },
}

/// The beginning of a line, short and printable, for a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    fn of(line: &str) -> Self {
        const SHOWN_MAX: usize = 40;
        let mut shown: String = line.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '?' } else { c }).collect();
        if line.chars().nth(SHOWN_MAX).is_some() {
            shown.push('…');
        }
        Self(shown.into())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// A line of the line form, with what the findings need to know.
struct ProcessLine {
    process: Process,
    blank_after_colon: bool,
}

enum Line<'a> {
    Silent,
    Process { name: &'a str, command: &'a str, blank_after_colon: bool },
    Other,
}

fn by_line(text: &str) -> Result<Vec<ProcessLine>, ProcfileError> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        match classify(line) {
            Line::Silent => {}
            Line::Process { name, .. } if name.len() > TYPE_LEN_MAX => {
                return Err(ProcfileError::TypeTooLong { line: number });
            }
            Line::Process { name, command, blank_after_colon } => {
                let process = Process { name: name.into(), command: command.into(), line: number };
                found.push(ProcessLine { process, blank_after_colon });
            }
            Line::Other => return Err(ProcfileError::NotALine { line: number, text: Excerpt::of(line), yaml: None }),
        }
    }
    Ok(found)
}

fn classify(line: &str) -> Line<'_> {
    let start = line.trim_start_matches(is_blank);
    if start.is_empty() || start.starts_with('#') || start.starts_with("//") {
        return Line::Silent;
    }
    // The type begins at the margin: an indented line is the continuation of something, which only YAML knows.
    let Some((name, rest)) = line.split_once(':') else { return Line::Other };
    let (name, command) = (name.trim_end_matches(is_blank), rest.trim_matches(is_blank));
    if name.is_empty() || !name.bytes().all(is_type_byte) || command.trim().is_empty() {
        return Line::Other;
    }
    Line::Process { name, command, blank_after_colon: rest.starts_with(is_blank) }
}

fn processes_of(entries: Vec<yaml::Entry>) -> Result<Vec<Process>, ValueError> {
    entries.into_iter().map(process_of).collect()
}

fn process_of(entry: yaml::Entry) -> Result<Process, ValueError> {
    let line = entry.line;
    let name = match entry.key {
        Node::Scalar(key) if is_process_type(&key.text) => key.text,
        _ => return Err(ValueError::NotAType { line }),
    };
    let command = match entry.value {
        Node::Scalar(value) => {
            if value.is_null() {
                Box::default()
            } else {
                value.text
            }
        }
        Node::List(items) => match items.into_iter().map(Node::into_text).collect::<Option<Vec<_>>>() {
            Some(lines) => lines.join("\n").into(),
            None => return Err(ValueError::NotACommand { name, line }),
        },
        Node::Map(_) => return Err(ValueError::NotACommand { name, line }),
    };
    let command = command.trim();
    if command.is_empty() {
        return Err(ValueError::Empty { name, line });
    }
    Ok(Process { name, command: command.into(), line })
}

fn last_wins(processes: impl IntoIterator<Item = Process>) -> Result<Vec<Process>, ProcfileError> {
    let mut distinct: Vec<Process> = Vec::new();
    for process in processes {
        if let Some(known) = distinct.iter_mut().find(|known| known.name == process.name) {
            *known = process;
        } else if distinct.len() == PROCESS_TYPES_MAX {
            return Err(ProcfileError::TooManyTypes);
        } else {
            distinct.push(process);
        }
    }
    Ok(distinct)
}

fn command_of<'a>(processes: &'a [Process], process_type: &str) -> Option<&'a str> {
    processes.iter().find(|process| &*process.name == process_type).map(|process| &*process.command)
}

/// The text of a file without its byte order mark.
fn text(bytes: &[u8], limit: usize) -> Result<&str, TextError> {
    if bytes.len() > limit {
        return Err(TextError::TooLong { limit });
    }
    let line_at = |offset: usize| 1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
    if let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        return Err(TextError::Nul { line: line_at(nul) });
    }
    let text = str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 { line: line_at(error.valid_up_to()) })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Lines with their numbers, without line ends of either kind.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split('\n').enumerate().map(|(index, line)| (index + 1, line.strip_suffix('\r').unwrap_or(line)))
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

const fn is_type_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
