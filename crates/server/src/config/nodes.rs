//! `DOCKER_NODES`: which engines there are.

use std::collections::HashSet;
use std::fmt;
use std::io::Read as _;

use captain_domain::{NodeId, Slots};

use super::{ConfigError, wrong};
use crate::captain::Mode;
use crate::engine::docker::Endpoint;

const VARIABLE: &str = "DOCKER_NODES";

/// Entries of which an error says what is wrong with them: where none of thousands can be read, they are wrong alike.
const TOLD: usize = 5;

/// Begins the name of a file with further entries. Linux takes no variable and no argument of more than 128 KiB, which is a few thousand
/// nodes; and a password in a file is not in the environment.
const FILE: char = '@';

/// Of such a file: a hundred times what 6,000 nodes take.
const FILE_LIMIT: u64 = 32 << 20;

/// The scheme of the embedded engine.
const LOCAL: &str = "local://";

/// One entry of the list: `[name=]URI[?slots=N]`.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// Its engine.
    pub engine: EngineSpec,
    /// Its own number of slots.
    pub slots: Option<Slots>,
}

/// What runs the instances of a node.
#[derive(Debug, Clone)]
pub enum EngineSpec {
    /// An engine that speaks Docker's API there.
    Docker(Endpoint),
    /// This machine, by itself.
    Local,
}

/// Without configuration: this machine. On the embedded engine, unless it is told to run images.
pub(super) fn this_machine(hostname: &str, mode: &Mode) -> Result<NodeSpec, ConfigError> {
    let uri = match mode {
        Mode::Stack { .. } => LOCAL,
        Mode::RunnerImage { .. } => "unix:///var/run/docker.sock",
    };
    parse_node(uri, hostname).map_err(|problem| wrong(VARIABLE, problem))
}

/// Where an entry stands. It is told by that and not by its text, which may hold a password.
enum Place<'a> {
    InList(usize),
    InFile { file: &'a str, line: usize },
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InList(number) => write!(f, "entry {number}"),
            Self::InFile { file, line } => write!(f, "line {line} of {file}"),
        }
    }
}

/// The entries of the list with those of its files: one or, by commas, several on a line; a `#` after a blank begins a remark.
fn entries(list: &str) -> Result<Vec<(Place<'_>, String)>, ConfigError> {
    let mut all = Vec::new();
    for (at, entry) in parts(list) {
        let Some(file) = entry.strip_prefix(FILE) else {
            all.push((Place::InList(at), entry.to_owned()));
            continue;
        };
        let text = read_file(file).map_err(|problem| wrong(VARIABLE, problem))?;
        for (at, line) in text.lines().enumerate() {
            all.extend(
                parts(without_remark(line)).map(|(_, entry)| (Place::InFile { file, line: at + 1 }, entry.to_owned())),
            );
        }
    }
    Ok(all)
}

/// In a URI it may stand anywhere.
fn without_remark(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').find(begins).map_or(line, |(at, _)| &line[..at])
}

fn parts(list: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = list.split(',').map(str::trim).enumerate().map(|(at, entry)| (at + 1, entry));
    numbered.filter(|(_, entry)| !entry.is_empty())
}

fn read_file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_LIMIT + 1).read_to_string(&mut text));
    match read {
        Ok(read) if read as u64 > FILE_LIMIT => Err(format!("{path} has more than {FILE_LIMIT} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("cannot read {path}: {error}")),
    }
}

/// Reads the list. Entries that cannot be read are told apart, unless there is no other.
pub(super) fn parse_list(list: &str, hostname: &str) -> Result<(Vec<NodeSpec>, Vec<String>), ConfigError> {
    let mut specs: Vec<NodeSpec> = Vec::new();
    let mut problems = Vec::new();
    let (mut ids, mut has_local) = (HashSet::new(), false);
    for (place, entry) in entries(list)? {
        match parse_node(&entry, hostname) {
            Ok(spec) => {
                if !ids.insert(spec.id.clone()) {
                    let problem = format!("two nodes have the id {0}; give one a name of its own: NAME=URI", spec.id);
                    return Err(wrong(VARIABLE, problem));
                }
                let is_local = matches!(spec.engine, EngineSpec::Local);
                if is_local && std::mem::replace(&mut has_local, true) {
                    return Err(wrong(VARIABLE, "this machine is there twice: one local:// is all of it"));
                }
                specs.push(spec);
            }
            Err(problem) => problems.push(format!("{place}: {problem}")),
        }
    }
    if specs.is_empty() {
        return Err(wrong(VARIABLE, none(&problems)));
    }
    Ok((specs, problems))
}

/// Why there is no node.
fn none(problems: &[String]) -> String {
    let told = problems[..problems.len().min(TOLD)].join("; ");
    match problems.len().saturating_sub(TOLD) {
        _ if problems.is_empty() => "no node".to_owned(),
        0 => told,
        more => format!("{told}; and {more} more entries"),
    }
}

/// Reads one entry. The problem it answers with never holds the entry's password.
pub fn parse_node(entry: &str, hostname: &str) -> Result<NodeSpec, String> {
    let (name, rest) = match entry.split_once('=') {
        Some((name, rest)) if !name.contains(['/', ':', '?']) => (Some(name), rest),
        _ => (None, entry),
    };
    let (uri, slots) = match rest.split_once('?') {
        Some((uri, query)) => (uri, Some(parse_slots(query)?)),
        None => (rest, None),
    };
    let engine = match uri.strip_prefix(LOCAL) {
        Some("") => EngineSpec::Local,
        Some(_) => return Err("local:// is this machine: nothing follows it but ?slots=N".to_owned()),
        None => EngineSpec::Docker(Endpoint::parse(uri).map_err(|error| error.to_string())?),
    };
    let own_name = match &engine {
        EngineSpec::Docker(endpoint) => endpoint.default_node_name(),
        EngineSpec::Local => None,
    };
    let id = NodeId::parse(name.or(own_name).unwrap_or(hostname)).map_err(|error| error.to_string())?;
    Ok(NodeSpec { id, engine, slots })
}

fn parse_slots(query: &str) -> Result<Slots, String> {
    let Some(("slots", number)) = query.split_once('=') else {
        return Err("after the ? only slots=N is known".to_owned());
    };
    match number.parse() {
        Ok(slots @ 1..) => Ok(Slots(slots)),
        _ => Err("slots must be a whole number of 1 or more".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &str) -> Vec<(String, Option<u32>)> {
        let (specs, problems) = parse_list(list, "here").unwrap();
        assert_eq!(problems, Vec::<String>::new());
        specs.into_iter().map(|spec| (spec.id.to_string(), spec.slots.map(|slots| slots.0))).collect()
    }

    #[test]
    fn a_node_is_called_by_its_name_its_host_or_this_machine() {
        let list = "http://user:p=w@app-1:2375, app-2=unix:///run/a.sock?slots=7 ,unix:///var/run/docker.sock,https://10.0.0.1";
        let expected = [("app-1", None), ("app-2", Some(7)), ("here", None), ("10.0.0.1", None)];
        assert_eq!(ids(list), expected.map(|(id, slots)| (id.to_owned(), slots)));
        assert_eq!(ids("http://app-1,local://?slots=3"), [("app-1".to_owned(), None), ("here".to_owned(), Some(3))]);
        assert_eq!(ids("app-3=local://"), [("app-3".to_owned(), None)]);
    }

    #[test]
    fn this_machine_is_one_node() {
        let error = parse_list("a=local://,b=local://", "here").unwrap_err().to_string();
        assert!(error.starts_with("DOCKER_NODES: this machine is there twice"), "{error}");
        assert!(parse_node("local://there", "here").unwrap_err().contains("nothing follows"));
    }

    #[test]
    fn without_a_list_it_is_this_machine_on_what_can_run_what_is_asked_for() {
        let stack = Mode::Stack { stack: "scratch".into() };
        let node = this_machine("here", &stack).unwrap();
        assert!(node.id.as_str() == "here" && matches!(node.engine, EngineSpec::Local));
        let image = Mode::RunnerImage { image: "x".into(), version: "1".into(), command: Vec::new() };
        assert!(matches!(this_machine("here", &image).unwrap().engine, EngineSpec::Docker(_)));
    }

    #[test]
    fn one_bad_entry_is_told_and_the_others_work() {
        let (specs, problems) =
            parse_list("http://app-1:2375,ftp://u:hunter2@x,http://app-2:2375?slots=0", "here").unwrap();
        assert_eq!(specs.len(), 1);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].starts_with("entry 2: "), "{problems:?}");
        assert!(!problems.concat().contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn the_same_id_twice_is_an_error() {
        let error = parse_list("http://app-1:2375,https://app-1:2376", "here").unwrap_err().to_string();
        assert!(error.starts_with("DOCKER_NODES: two nodes have the id app-1"), "{error}");
    }

    #[test]
    fn a_remark_begins_after_a_blank() {
        assert_eq!(
            ["# all", "a # b", "a\t#b", "unix:///a#b # c"].map(without_remark),
            ["", "a ", "a\t", "unix:///a#b "]
        );
    }

    #[test]
    fn entries_stand_in_files_too() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let many: Vec<String> = (1..=6_100).map(|number| format!("https://app-{number}.example.com:2376")).collect();
        std::fs::write(&path, format!("# ours\n\nx=local:// # here\n{}\n", many.join("\n"))).unwrap();
        let list = format!("http://first, @{path}");
        assert!(ids(&list).len() == 6_102 && std::fs::metadata(&path).unwrap().len() > 128 << 10);

        std::fs::write(&path, "http://a, http://b\nftp://u:hunter2@x\n").unwrap();
        let (specs, problems) = parse_list(&list, "here").unwrap();
        assert_eq!(specs.len(), 3);
        assert!(problems[0].starts_with(&format!("line 2 of {path}: ")), "{problems:?}");
        assert!(!problems.concat().contains("hunter2"), "{problems:?}");

        std::fs::write(&path, [0xff, b'\n']).unwrap();
        for (list, problem) in
            [(list.as_str(), "UTF-8"), ("http://a,@/no/such", "cannot read /no/such: "), ("@", "cannot read ")]
        {
            let error = parse_list(list, "here").unwrap_err().to_string();
            assert!(error.starts_with("DOCKER_NODES: ") && error.contains(problem), "{error}");
        }
    }

    #[test]
    fn no_good_entry_is_an_error() {
        for list in ["ftp://x", " , "] {
            let error = parse_list(list, "here").unwrap_err().to_string();
            assert!(error.starts_with("DOCKER_NODES: "), "{error}");
        }
    }

    #[test]
    fn of_thousands_of_bad_entries_a_few_are_told() {
        let error = parse_list(&["ftp://x"; 4_000].join(","), "here").unwrap_err().to_string();
        assert!(error.contains("entry 5: ") && error.ends_with("; and 3995 more entries"), "{error}");
        assert!(error.len() < 1_000, "{error}");
    }
}
