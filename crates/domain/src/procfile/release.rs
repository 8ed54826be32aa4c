//! `.release`: what the buildpack adds to a slug.

use thiserror::Error;

use super::yaml::{self, Entry, Node, YamlError};
use super::{
    Process, ProcfileError, RELEASE_BYTES_MAX, TextError, ValueError, command_of, last_wins, processes_of, text,
};
use crate::Environment;

/// Most variables of one slug.
const CONFIG_VARS_MAX: usize = 1024;

/// What `.release` says. An empty file says nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Release {
    /// Variables with the value that they have unless the instance's environment says otherwise.
    pub config_vars: Environment,
    processes: Vec<Process>,
}

impl Release {
    /// Reads the bytes of a `.release`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let mut release = Self::default();
        for section in map(yaml::read(text(bytes, RELEASE_BYTES_MAX)?)?, "the file", 1)? {
            let name = section.key.into_text().unwrap_or_default();
            match &*name {
                "config_vars" => release.config_vars = variables(map(section.value, "config_vars", section.line)?)?,
                "default_process_types" => {
                    let processes = processes_of(map(section.value, "default_process_types", section.line)?)?;
                    release.processes = last_wins(processes)?;
                }
                _ => {}
            }
        }
        Ok(release)
    }

    /// The command that a process type has unless the Procfile says otherwise.
    pub fn command(&self, process_type: &str) -> Option<&str> {
        command_of(&self.processes, process_type)
    }

    /// All default process types, in the order of the file.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }
}

/// Why a `.release` could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ReleaseError {
    /// The bytes are not text of a bearable size.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Not YAML that we read.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// A part which has to be a map is something else.
    #[error("line {line}: {part} is not a map")]
    NotAMap {
        /// Which part.
        part: &'static str,
        /// Where.
        line: usize,
    },
    /// The name of a variable is not one that a shell knows.
    #[error("line {line}: not the name of a variable (A-Z a-z 0-9 _, no digit first)")]
    VariableName {
        /// Where.
        line: usize,
    },
    /// The value of a variable is not text.
    #[error("line {line}: the value of {name} is not text")]
    VariableValue {
        /// The variable.
        name: Box<str>,
        /// Where.
        line: usize,
    },
    /// More than 1024 variables.
    #[error("there are more than {CONFIG_VARS_MAX} variables in config_vars")]
    TooManyVariables,
    /// A default process type is not one.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The default process types are too many.
    #[error("in default_process_types")]
    Processes(#[from] ProcfileError),
}

fn map(node: Node, part: &'static str, line: usize) -> Result<Vec<Entry>, ReleaseError> {
    match node {
        Node::Map(entries) => Ok(entries),
        Node::Scalar(scalar) if scalar.is_null() => Ok(Vec::new()),
        Node::Scalar(_) | Node::List(_) => Err(ReleaseError::NotAMap { part, line }),
    }
}

fn variables(entries: Vec<Entry>) -> Result<Environment, ReleaseError> {
    if entries.len() > CONFIG_VARS_MAX {
        return Err(ReleaseError::TooManyVariables);
    }
    let mut variables = Environment::new();
    for Entry { key, value, line } in entries {
        let name = key.into_text().filter(|name| is_variable(name)).ok_or(ReleaseError::VariableName { line })?;
        match value {
            Node::Scalar(scalar) if scalar.is_null() => variables.set(&name, ""),
            Node::Scalar(scalar) => variables.set(&name, &scalar.text),
            Node::List(_) | Node::Map(_) => return Err(ReleaseError::VariableValue { name, line }),
        }
    }
    Ok(variables)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
