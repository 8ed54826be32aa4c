//! `DOCKER_NODES`: which engines there are.

use captain_domain::{NodeId, Slots};

use super::{ConfigError, wrong};
use crate::engine::docker::Endpoint;

const VARIABLE: &str = "DOCKER_NODES";

/// One entry of the list: `[name=]URI[?slots=N]`.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// Where its engine is.
    pub endpoint: Endpoint,
    /// Its own number of slots.
    pub slots: Option<Slots>,
}

/// Without configuration: the Docker of this machine.
pub(super) fn this_machine(hostname: &str) -> Result<NodeSpec, ConfigError> {
    parse_node("unix:///var/run/docker.sock", hostname).map_err(|problem| wrong(VARIABLE, problem))
}

/// Reads the list. Entries that cannot be read are told apart, unless there is no other.
pub(super) fn parse_list(list: &str, hostname: &str) -> Result<(Vec<NodeSpec>, Vec<String>), ConfigError> {
    let mut specs: Vec<NodeSpec> = Vec::new();
    let mut problems = Vec::new();
    for (at, entry) in list.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty()) {
        match parse_node(entry, hostname) {
            Ok(spec) => {
                if specs.iter().any(|other| other.id == spec.id) {
                    let problem = format!("two nodes have the id {0}; give one a name of its own: NAME=URI", spec.id);
                    return Err(wrong(VARIABLE, problem));
                }
                specs.push(spec);
            }
            // By its place and not by its text, which may hold a password.
            Err(problem) => problems.push(format!("entry {}: {problem}", at + 1)),
        }
    }
    if specs.is_empty() {
        return Err(wrong(VARIABLE, if problems.is_empty() { "no node".to_owned() } else { problems.join("; ") }));
    }
    Ok((specs, problems))
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
    let endpoint = Endpoint::parse(uri).map_err(|error| error.to_string())?;
    let id = name.or_else(|| endpoint.default_node_name()).unwrap_or(hostname);
    let id = NodeId::parse(id).map_err(|error| error.to_string())?;
    Ok(NodeSpec { id, endpoint, slots })
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
    fn no_good_entry_is_an_error() {
        for list in ["ftp://x", " , "] {
            let error = parse_list(list, "here").unwrap_err().to_string();
            assert!(error.starts_with("DOCKER_NODES: "), "{error}");
        }
    }
}
