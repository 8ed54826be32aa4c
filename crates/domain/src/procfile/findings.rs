//! What is worth knowing about a Procfile although it can be read: where other runners read it differently.

use std::fmt;

use super::yaml::{self, Node};
use super::{Form, PROCFILE_BYTES_MAX, ProcessLine, Procfile, by_line, numbered, text};

/// Something to know about a Procfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The line, counted from 1; none if it concerns the whole file.
    pub line: Option<usize>,
    /// What it is.
    pub concern: Concern,
}

/// What there is to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Concern {
    /// The file begins with a byte order mark.
    ByteOrderMark,
    /// Lines end in CR LF. Some runners keep the CR in the command.
    CarriageReturn,
    /// A type that an earlier line has already: this one wins here and under YAML runners, the first one elsewhere.
    Duplicate {
        /// The type.
        name: Box<str>,
        /// The earlier line.
        first: usize,
    },
    /// No blank after the colon: YAML runners take the whole file for one text, and start nothing.
    NoBlankAfterColon {
        /// The type.
        name: Box<str>,
    },
    /// Not of the line form, so it is read as YAML; Heroku would ignore the line.
    ReadAsYaml,
    /// The classic runners, which read YAML, get something else.
    ClassicDiffers {
        /// The type.
        name: Box<str>,
        /// What they get.
        reading: ClassicReading,
    },
    /// The classic runners cannot read the file at all.
    ClassicFails,
    /// There is no `web`, which is what is started when nothing else is said.
    NoWeb,
}

/// What a YAML reader makes of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClassicReading {
    /// Another text.
    Text(Box<str>),
    /// `true` or `false`.
    Boolean,
    /// Nothing: a start that ends at once with code 0.
    Nothing,
    /// A list: so many commands, one after the other.
    List(usize),
    /// A map.
    Map,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "Procfile line {line}: {}", self.concern),
            None => write!(f, "Procfile: {}", self.concern),
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByteOrderMark => {
                f.write_str("begins with a byte order mark, which other runners take for a part of the first type")
            }
            Self::CarriageReturn => f.write_str("ends in CR LF; herokuish keeps the CR in the command"),
            Self::Duplicate { name, first } => {
                write!(f, "{name} is on line {first} already; this one wins here, the first one under herokuish")
            }
            Self::NoBlankAfterColon { name } => {
                write!(
                    f,
                    "no blank after `{name}:`; runners that read YAML take the whole file for one text and start nothing"
                )
            }
            Self::ReadAsYaml => {
                f.write_str("not `type: command`, so the file is read as YAML; Heroku ignores such a line")
            }
            Self::ClassicDiffers { name, reading } => {
                write!(f, "runners that read YAML take the command of {name} for {reading}")
            }
            Self::ClassicFails => f.write_str("not YAML, so runners that read YAML fail with code 1"),
            Self::NoWeb => f.write_str("has no process type `web`, the one that is started when none is named"),
        }
    }
}

impl fmt::Display for ClassicReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "`{}`", text.escape_debug()),
            Self::Boolean => f.write_str("true or false"),
            Self::Nothing => f.write_str("nothing, and end at once with code 0"),
            Self::List(count) => write!(f, "a list of {count} commands"),
            Self::Map => f.write_str("a map, and fail"),
        }
    }
}

/// All findings, in the order of the file. A file that cannot be read has none: [`Procfile::parse`] says why.
pub fn lint(bytes: &[u8]) -> Vec<Finding> {
    let (Ok(procfile), Ok(text)) = (Procfile::parse(bytes), text(bytes, PROCFILE_BYTES_MAX)) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut find = |line, concern| findings.push(Finding { line, concern });
    if bytes.starts_with("\u{feff}".as_bytes()) {
        find(Some(1), Concern::ByteOrderMark);
    }
    if let Some(index) = text.split('\n').position(|line| line.ends_with('\r')) {
        find(Some(index + 1), Concern::CarriageReturn);
    }
    match (procfile.form(), by_line(text)) {
        (Form::Lines, Ok(lines)) => {
            of_lines(&lines, &mut find);
            of_classic_reading(&procfile, text, &mut find);
        }
        _ => find(first_foreign_line(text), Concern::ReadAsYaml),
    }
    if procfile.command("web").is_none() {
        find(None, Concern::NoWeb);
    }
    findings.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
    findings
}

fn of_lines(lines: &[ProcessLine], find: &mut impl FnMut(Option<usize>, Concern)) {
    for (index, line) in lines.iter().enumerate() {
        let name = &line.process.name;
        if let Some(first) = lines.iter().take(index).find(|earlier| earlier.process.name == *name) {
            find(Some(line.process.line), Concern::Duplicate { name: name.clone(), first: first.process.line });
        }
        if !line.blank_after_colon {
            find(Some(line.process.line), Concern::NoBlankAfterColon { name: name.clone() });
        }
    }
}

fn of_classic_reading(procfile: &Procfile, text: &str, find: &mut impl FnMut(Option<usize>, Concern)) {
    let entries = match yaml::read(text) {
        Ok(Node::Map(entries)) => entries,
        // One text is what comes of a missing blank, which has its own finding.
        Ok(_) => return,
        Err(_) => return find(None, Concern::ClassicFails),
    };
    for process in procfile.processes() {
        let of_type = |key: &Node| matches!(key, Node::Scalar(key) if key.text == process.name);
        let reading = match entries.iter().rfind(|entry| of_type(&entry.key)).map(|entry| &entry.value) {
            Some(Node::Scalar(value)) if value.is_boolean() => ClassicReading::Boolean,
            Some(Node::Scalar(value)) if value.is_null() => ClassicReading::Nothing,
            Some(Node::Scalar(value)) if value.text == process.command => continue,
            Some(Node::Scalar(value)) => ClassicReading::Text(value.text.clone()),
            Some(Node::List(items)) => ClassicReading::List(items.len()),
            Some(Node::Map(_)) => ClassicReading::Map,
            None => ClassicReading::Nothing,
        };
        find(Some(process.line), Concern::ClassicDiffers { name: process.name.clone(), reading });
    }
}

fn first_foreign_line(text: &str) -> Option<usize> {
    numbered(text).find(|(_, line)| matches!(super::classify(line), super::Line::Other)).map(|(number, _)| number)
}
