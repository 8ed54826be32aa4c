//! Splitting a command where there is no shell.
//!
//! A small part of the shell's language, in which every command either means exactly what a POSIX shell would make of it or is refused:
//!
//! * blanks separate words; `'…'` is literal; `"…"` is literal except `\"`, `\\`, `\$`, `` \` `` and variables; `\x` outside quotes is `x`;
//! * `$NAME` and `${NAME}` stand for a variable's value, an unset one for nothing. Unlike a shell's, an unquoted value is not split again:
//!   it stays one word, and no word if it is empty;
//! * a leading `exec` is dropped, since that is what happens anyway;
//! * everything else that a shell would act on (lists, pipes, redirections, substitutions, globs, `~`, comments, assignments) is refused.

use std::ffi::{OsStr, OsString};
use std::iter::Peekable;
use std::os::unix::ffi::OsStringExt as _;

use thiserror::Error;

/// What only a shell can do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NeedsShell {
    /// A character that a shell acts on.
    #[error("it uses `{0}`")]
    Syntax(char),
    /// A quote without its end, which a shell would refuse as well.
    #[error("a quote is not closed")]
    OpenQuote,
    /// `NAME=value` before the program.
    #[error("it begins with an assignment")]
    Assignment,
    /// No word at all.
    #[error("nothing is left of it")]
    Empty,
}

/// The words of a command; never empty.
pub fn split<'a>(command: &str, value: impl Fn(&str) -> Option<&'a OsStr>) -> Result<Vec<OsString>, NeedsShell> {
    let mut splitter = Splitter { rest: command.chars().peekable(), value, words: Vec::new() };
    splitter.run()?;
    let mut words = splitter.words;
    if words.first().is_some_and(|word| word == "exec") {
        words.remove(0);
    }
    if words.is_empty() { Err(NeedsShell::Empty) } else { Ok(words) }
}

struct Splitter<I: Iterator<Item = char>, F> {
    rest: Peekable<I>,
    value: F,
    words: Vec<OsString>,
}

/// A word in the making; `quoted` makes an empty one count.
#[derive(Default)]
struct Word {
    bytes: Vec<u8>,
    quoted: bool,
    /// Something other than plain characters was in it, so `=` is no assignment.
    opaque: bool,
}

impl Word {
    fn push(&mut self, c: char) {
        self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn is_untouched(&self) -> bool {
        self.bytes.is_empty() && !self.quoted && !self.opaque
    }
}

impl<'a, I: Iterator<Item = char>, F: Fn(&str) -> Option<&'a OsStr>> Splitter<I, F> {
    fn run(&mut self) -> Result<(), NeedsShell> {
        let mut word = Word::default();
        while let Some(c) = self.rest.next() {
            match c {
                ' ' | '\t' => self.finish(std::mem::take(&mut word)),
                '\'' => self.single(&mut word)?,
                '"' => self.double(&mut word)?,
                '\\' => self.escape(&mut word)?,
                '$' => self.variable(&mut word)?,
                ';' | '&' | '|' | '<' | '>' | '(' | ')' | '`' | '\n' | '*' | '?' | '[' => {
                    return Err(NeedsShell::Syntax(c));
                }
                '#' | '~' if word.is_untouched() => return Err(NeedsShell::Syntax(c)),
                '=' if self.words.is_empty() && is_name(&word) => return Err(NeedsShell::Assignment),
                _ => word.push(c),
            }
        }
        self.finish(word);
        Ok(())
    }

    fn finish(&mut self, word: Word) {
        if word.quoted || !word.bytes.is_empty() {
            self.words.push(OsString::from_vec(word.bytes));
        }
    }

    fn single(&mut self, word: &mut Word) -> Result<(), NeedsShell> {
        word.quoted = true;
        for c in self.rest.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            word.push(c);
        }
        Err(NeedsShell::OpenQuote)
    }

    fn double(&mut self, word: &mut Word) -> Result<(), NeedsShell> {
        word.quoted = true;
        while let Some(c) = self.rest.next() {
            match c {
                '"' => return Ok(()),
                '`' => return Err(NeedsShell::Syntax('`')),
                '$' => self.variable(word)?,
                '\\' => match self.rest.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                    Some(c) => {
                        word.push('\\');
                        word.push(c);
                    }
                    None => return Err(NeedsShell::OpenQuote),
                },
                _ => word.push(c),
            }
        }
        Err(NeedsShell::OpenQuote)
    }

    fn escape(&mut self, word: &mut Word) -> Result<(), NeedsShell> {
        match self.rest.next() {
            Some('\n') => {}
            Some(c) => {
                word.quoted = true;
                word.push(c);
            }
            None => word.push('\\'),
        }
        Ok(())
    }

    fn variable(&mut self, word: &mut Word) -> Result<(), NeedsShell> {
        let braced = self.rest.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) =
            self.rest.next_if(|c| c.is_ascii_alphabetic() || *c == '_' || (!name.is_empty() && c.is_ascii_digit()))
        {
            name.push(c);
        }
        let next = self.rest.peek().copied();
        match (braced, next) {
            (true, Some('}')) if !name.is_empty() => drop(self.rest.next()),
            (true, _) => return Err(NeedsShell::Syntax('$')),
            (false, _) if !name.is_empty() => {}
            // Positional and special parameters, substitutions, and `$'…'` of some shells.
            (false, Some(c)) if c.is_ascii_digit() || "@*#?-$!('\"[".contains(c) => {
                return Err(NeedsShell::Syntax('$'));
            }
            (false, _) => {
                word.push('$');
                return Ok(());
            }
        }
        word.opaque = true;
        if let Some(value) = (self.value)(&name) {
            word.bytes.extend_from_slice(value.as_encoded_bytes());
        }
        Ok(())
    }
}

fn is_name(word: &Word) -> bool {
    !word.quoted
        && !word.opaque
        && word.bytes.first().is_some_and(|byte| !byte.is_ascii_digit())
        && word.bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn value(name: &str) -> Option<&'static OsStr> {
        match name {
            "PORT" => Some(OsStr::new("8080")),
            "TWO" => Some(OsStr::new("a b")),
            _ => None,
        }
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for (command, expected) in [
            ("./hello", &["./hello"][..]),
            ("  ./hello\t-p $PORT ", &["./hello", "-p", "8080"]),
            ("x \"a b\" 'c  d' e\\ f", &["x", "a b", "c  d", "e f"]),
            ("x \"\" '' $UNSET \"$UNSET\"", &["x", "", "", ""]),
            ("x ${PORT}0 '$PORT' \"$PORT\" \\$PORT \"\\$PORT\"", &["x", "80800", "$PORT", "8080", "$PORT", "$PORT"]),
            ("exec ./hello a=b c#d e~f 5$ \"\\n\"", &["./hello", "a=b", "c#d", "e~f", "5$", "\\n"]),
            ("x $TWO", &["x", "a b"]),
        ] {
            assert_eq!(split(command, value).unwrap(), expected, "{command}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for command in [
            "a; b", "a && b", "a | b", "a > b", "(a)", "`a`", "\"`a`\"", "$(a)", "\"$(a)\"", "${A:-b}", "$1", "$$",
            "a *", "a ?", "a [b]", "~/a", "a #b", "A=b c", "a\nb", "'a", "\"a", "", "exec", "$UNSET",
        ] {
            assert!(split(command, value).is_err(), "{command}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// The promise of this module: what is not refused is what sh makes of it (variables of one word only, see above).
        #[test]
        fn accepted_commands_mean_what_sh_takes_them_for(parts in proptest::collection::vec(prop::sample::select(vec![
            "a", "bc", " ", "  ", "'", "\"", "\\", "$PORT", "${PORT}", "$UNSET", "$", "=", "#", "~", "{", "}", "!", "%", ",", "é", "\t", ";", "*", "/", ":", "-",
        ]), 1..14)) {
            // The word in front stands for the program.
            let command = format!("echo {}", parts.concat());
            if let Ok(words) = split(&command, value) {
                let script = format!("printf '%s\\0' {}", parts.concat());
                let output = Command::new("sh").args(["-c", &script]).env_clear().env("PORT", "8080").output().unwrap();
                let expected: Vec<u8> = words.iter().skip(1).flat_map(|word| [word.as_encoded_bytes(), b"\0"].concat()).collect();
                let expected = if words.len() == 1 { b"\0".to_vec() } else { expected };
                prop_assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&expected), "{}", command);
            }
        }
    }
}
