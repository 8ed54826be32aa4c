//! Variables for an instance: `--env NAME=value`, and files of such lines.
//!
//! A value may be a secret. No error shows one: they name the file, the line and the variable.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Several times what a kernel takes as the environment of a process. A larger file is not what was meant.
const MAX_FILE: u64 = 4 << 20;

/// Why variables cannot be had.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{} is larger than {MAX_FILE} bytes: it is no file of variables", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is no variable.
    #[error("{}:{line}: {fault}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        fault: Fault,
    },
}

/// Why a text is no variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// There is no `=`.
    #[error("a variable is NAME=value; there is no `=` here")]
    NoEquals,
    /// The name is empty.
    #[error("a variable is NAME=value; there is no name here")]
    NoName,
    /// The name has a blank in it, as after `export`.
    #[error("a variable is NAME=value; the name must have no blanks (and no `export` before it)")]
    Blank,
    /// Not UTF-8, or a NUL.
    #[error("it is not UTF-8 text")]
    NotText,
}

/// A variable of the command line.
pub(crate) fn variable(text: &str) -> Result<(String, String), Fault> {
    let (name, value) = text.split_once('=').ok_or(Fault::NoEquals)?;
    match name {
        "" => Err(Fault::NoName),
        _ if name.contains(char::is_whitespace) => Err(Fault::Blank),
        _ if text.contains('\0') => Err(Fault::NotText),
        _ => Ok((name.to_owned(), value.to_owned())),
    }
}

/// The variables of the files, in their order, and then those of the command line; whichever is named later wins.
pub(crate) fn gather(
    files: &[PathBuf],
    given: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, EnvironmentError> {
    let mut variables = BTreeMap::new();
    for path in files {
        variables.extend(parse(path, &read(path)?)?);
    }
    variables.extend(given);
    Ok(variables)
}

fn read(path: &Path) -> Result<Vec<u8>, EnvironmentError> {
    let unreadable = |source| EnvironmentError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(EnvironmentError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Lines of `NAME=value`. Blank lines and those that begin with `#` say nothing. The value is all that follows the first `=`, quotes
/// and blanks included, as Docker reads such files.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(String, String)>, EnvironmentError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut variables = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if matches!(line.trim_ascii_start(), [] | [b'#', ..]) {
            continue;
        }
        let parsed = std::str::from_utf8(line).map_err(|_| Fault::NotText).and_then(|text| variable(text.trim_start()));
        variables.push(parsed.map_err(|fault| EnvironmentError::Line {
            path: path.to_owned(),
            line: at + 1,
            fault,
        })?);
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
        parse(Path::new("app.env"), bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let file = b"\xef\xbb\xbf# comment\n\nA=1\r\n  B=\"x y\" \nC=a=b#c\n\t# D=4\nE=";
        let expected = [("A", "1"), ("B", "\"x y\" "), ("C", "a=b#c"), ("E", "")];
        assert_eq!(parsed(file).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_fault_names_file_and_line_and_shows_no_value() {
        let cases: [(&[u8], &str); 5] = [
            (b"A=1\nhunter2\n", "app.env:2: a variable is NAME=value; there is no `=` here"),
            (b"=hunter2", "app.env:1: a variable is NAME=value; there is no name here"),
            (
                b"\n\nexport A=hunter2",
                "app.env:3: a variable is NAME=value; the name must have no blanks (and no `export` before it)",
            ),
            (b"A=\xff", "app.env:1: it is not UTF-8 text"),
            (b"A=\0", "app.env:1: it is not UTF-8 text"),
        ];
        for (file, message) in cases {
            assert_eq!(parsed(file), Err(message.to_owned()));
        }
    }

    #[test]
    fn the_command_line_wins_over_files_and_the_later_over_the_earlier() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["A=file 1\nB=file 1\nC=file 1", "B=file 2\nC=file 2"].map(|text| {
            let path = folder.path().join(format!("{}.env", text.len()));
            std::fs::write(&path, text).unwrap();
            path
        });
        let given = [("C", "first"), ("C", "second")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let variables = gather(&files, given.to_vec()).unwrap();
        let expected = [("A", "file 1"), ("B", "file 2"), ("C", "second")];
        assert_eq!(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_it() {
        let error = gather(&["/dev/zero".into()], Vec::new()).unwrap_err();
        assert!(matches!(error, EnvironmentError::TooLarge { .. }), "{error}");
    }
}
