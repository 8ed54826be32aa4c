//! From what is to be started to the words that are executed. Pure, but for the look for a shell.
//!
//! Where scripts are to be sourced, one shell sources them and then *becomes* the command, so that whatever they set (variables, limits,
//! umask, directory) holds. Their names and the command are written into that shell's script as quoted literals: a script that says
//! `set --` or uses the same variable names cannot change what comes after it.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::environment::Variables;
use crate::{Failure, words};

/// The kernel takes 128 KiB for one argument, its closing NUL included.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024 - 1;

/// What a profile shell reports after each script, and when all are done.
pub(crate) const SOURCED: u8 = b'.';
pub(crate) const ALL_SOURCED: u8 = b'!';

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A line of shell.
    Command(String),
    /// Words as they stand.
    Words(Vec<OsString>),
}

/// A shell of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    path: PathBuf,
    is_bash: bool,
}

impl Shell {
    /// The stack's bash, else its sh. Looked for at fixed places and not in `PATH`, which the slug may set.
    pub fn find() -> Option<Self> {
        const PLACES: [(&str, bool); 5] = [
            ("/bin/bash", true),
            ("/usr/bin/bash", true),
            ("/usr/local/bin/bash", true),
            ("/bin/sh", false),
            ("/usr/bin/sh", false),
        ];
        PLACES
            .into_iter()
            .find(|(path, _)| is_executable(Path::new(path)))
            .map(|(path, is_bash)| Self::new(path, is_bash))
    }

    /// A shell that is known to be there.
    pub fn new(path: impl Into<PathBuf>, is_bash: bool) -> Self {
        Self { path: path.into(), is_bash }
    }

    /// The descriptor to report on. Scripts use the small ones, bash itself 10 and up, 63 and down, and 255. POSIX has but one digit.
    pub(crate) const fn quiet_descriptor(&self) -> RawFd {
        if self.is_bash { 99 } else { 9 }
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The words to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The program, as the kernel or `PATH` finds it.
    pub program: OsString,
    /// What follows it.
    pub arguments: Vec<OsString>,
}

impl Plan {
    /// Plans a start. `report_to` is where a profile shell says how far it is.
    pub fn new(
        task: &Task,
        profile: &[PathBuf],
        shell: Option<&Shell>,
        environment: &Variables,
        report_to: Option<RawFd>,
    ) -> Result<Self, Failure> {
        match (shell, profile.first()) {
            (None, Some(script)) => Err(Failure::ProfileNeedsShell { script: script.display().to_string() }),
            (None, None) => Self::without_shell(task, environment),
            (Some(shell), Some(_)) => Self::run(shell, script(task, profile, shell, report_to)),
            (Some(shell), None) => match task {
                Task::Command(command) => Self::run(shell, line(command, shell).into()),
                Task::Words(words) => Self::of_words(words.clone()),
            },
        }
    }

    fn without_shell(task: &Task, environment: &Variables) -> Result<Self, Failure> {
        let value = |name: &str| environment.get(OsStr::new(name)).map(OsString::as_os_str);
        Self::of_words(match task {
            Task::Command(command) => words::split(command, value).map_err(Failure::CommandNeedsShell)?,
            Task::Words(words) => words.clone(),
        })
    }

    fn of_words(words: Vec<OsString>) -> Result<Self, Failure> {
        let mut words = words.into_iter();
        let program = words.next().ok_or(Failure::CommandNeedsShell(words::NeedsShell::Empty))?;
        Ok(Self { program, arguments: words.collect() })
    }

    fn run(shell: &Shell, script: OsString) -> Result<Self, Failure> {
        if script.len() > ARGUMENT_BYTES_MAX {
            return Err(Failure::TooLong { limit: ARGUMENT_BYTES_MAX });
        }
        Ok(Self { program: shell.path.clone().into(), arguments: vec!["-c".into(), script] })
    }
}

fn script(task: &Task, profile: &[PathBuf], shell: &Shell, report_to: Option<RawFd>) -> OsString {
    let mut script = Vec::new();
    for path in profile {
        // `command` keeps a POSIX shell alive when a file cannot be read; bash stays alive by itself.
        script.extend_from_slice(if shell.is_bash { b". " } else { b"command . " });
        quote(path.as_os_str(), &mut script);
        script.push(b'\n');
        report(SOURCED, report_to, &mut script);
    }
    report(ALL_SOURCED, report_to, &mut script);
    if let Some(number) = report_to {
        script.extend_from_slice(format!("exec {number}>&-\n").as_bytes());
    }
    script.extend_from_slice(b"exec");
    let command: Vec<OsString> = match task {
        Task::Command(command) => vec![shell.path.clone().into(), "-c".into(), line(command, shell).into()],
        Task::Words(words) => words.clone(),
    };
    for word in &command {
        script.push(b' ');
        quote(word, &mut script);
    }
    OsString::from_vec(script)
}

fn report(mark: u8, to: Option<RawFd>, script: &mut Vec<u8>) {
    if let Some(number) = to {
        script.extend_from_slice(format!("printf {} >&{number}\n", char::from(mark)).as_bytes());
    }
}

fn quote(word: &OsStr, script: &mut Vec<u8>) {
    script.push(b'\'');
    for byte in word.as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(b"'\\''"),
            _ => script.push(*byte),
        }
    }
    script.push(b'\'');
}

/// The command as it is given to the shell. A simple one must replace the shell, so that the app is what is waited for. bash does that by
/// itself, and knows what is simple; of the shells called sh not all do.
fn line(command: &str, shell: &Shell) -> String {
    if !shell.is_bash && is_simple(command) { format!("exec {command}") } else { command.to_owned() }
}

/// Whether `exec` can stand before a command without changing its meaning. A "no" costs a sleeping shell, a wrong "yes" would break the
/// command: whatever looks like more than a program with arguments is none.
fn is_simple(command: &str) -> bool {
    const BUILTINS: [&str; 46] = [
        ".", ":", "alias", "bg", "break", "cd", "chdir", "command", "continue", "echo", "eval", "exec", "exit",
        "export", "false", "fc", "fg", "getopts", "hash", "jobs", "kill", "local", "printf", "pwd", "read", "readonly",
        "return", "set", "shift", "source", "test", "times", "trap", "true", "type", "ulimit", "umask", "unalias",
        "unset", "wait", "if", "for", "while", "until", "case", "time",
    ];
    let program = command.split([' ', '\t']).next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./+-".contains(c);
    !program.is_empty()
        && program.chars().all(is_plain)
        && !program.starts_with('-')
        && !BUILTINS.contains(&program)
        && !command.contains([';', '&', '|', '<', '>', '(', ')', '`', '\n', '\\'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(task: &Task, profile: &[&str], shell: Option<&Shell>) -> Result<Vec<String>, String> {
        let profile: Vec<PathBuf> = profile.iter().map(PathBuf::from).collect();
        let plan = Plan::new(task, &profile, shell, &Variables::new(), (!profile.is_empty()).then_some(5));
        let plan = plan.map_err(|failure| failure.to_string())?;
        Ok(std::iter::once(plan.program)
            .chain(plan.arguments)
            .map(|word| word.to_string_lossy().into_owned())
            .collect())
    }

    #[test]
    fn a_command_goes_to_the_shell_as_it_stands() {
        let (bash, sh) = (Shell::new("/bin/bash", true), Shell::new("/bin/sh", false));
        let command = |text: &str| Task::Command(text.into());
        assert_eq!(planned(&command("npm start"), &[], Some(&bash)).unwrap(), ["/bin/bash", "-c", "npm start"]);
        assert_eq!(planned(&command("npm start"), &[], Some(&sh)).unwrap(), ["/bin/sh", "-c", "exec npm start"]);
        for compound in ["a; b", "a && b", "A=b c", "cd x", "(a)", "{ a", "exec a", "if x", "\"a\" b", "$A", "a > b"] {
            assert_eq!(planned(&command(compound), &[], Some(&sh)).unwrap()[2], compound);
        }
    }

    #[test]
    fn profile_scripts_come_first_and_cannot_change_what_follows() {
        let words = Task::Words(vec!["it's".into(), "$x".into()]);
        let plan = planned(&words, &["/app/.profile.d/a b.sh", "/app/.profile"], Some(&Shell::new("/bin/bash", true)))
            .unwrap();
        let script = ". '/app/.profile.d/a b.sh'\nprintf . >&5\n. '/app/.profile'\nprintf . >&5\nprintf ! >&5\nexec 5>&-\nexec 'it'\\''s' '$x'";
        assert_eq!(plan, ["/bin/bash", "-c", script]);
    }

    #[test]
    fn without_a_shell_profile_scripts_are_refused_and_commands_split() {
        let command = Task::Command("./hello 'a b'".into());
        assert_eq!(planned(&command, &[], None).unwrap(), ["./hello", "a b"]);
        assert!(
            planned(&command, &["/app/.profile"], None)
                .unwrap_err()
                .contains("/app/.profile of the slug needs a shell")
        );
        assert!(planned(&Task::Command("a; b".into()), &[], None).unwrap_err().contains("needs a shell"));
    }

    #[test]
    fn what_fits_no_argument_is_refused() {
        let command = Task::Command("'".repeat(40_000));
        assert!(planned(&command, &["/app/.profile"], Some(&Shell::new("/bin/bash", true))).is_err());
    }
}
