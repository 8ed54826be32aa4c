//! The house's rules that a machine can hold (ARCHITECTURE.md, "Invariants"): what may stand where, and who may link what.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the repository has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Shipped sources: path from the root, and text. Tests beside the code may do what they need.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["target", "fuzz", "tests", "benches", "examples"].contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let short = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((short, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() > 50, "the sources are not where this test looks");
    found
}

/// The code without its unit tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn only_in(word: &str, allowed: &[&str]) {
    let strays: Vec<String> = sources()
        .into_iter()
        .filter(|(path, text)| !allowed.iter().any(|place| path.starts_with(place)) && code(text).contains(word))
        .map(|(path, _)| path)
        .collect();
    assert!(strays.is_empty(), "`{word}` belongs into {allowed:?}, and stands in {strays:#?}");
}

const NEVER_SHIPPED: [&str; 4] = ["crates/sim/", "crates/scale/", "crates/e2e/", "crates/conformance/"];

fn with_unshipped<'a>(places: &[&'a str]) -> Vec<&'a str> {
    places.iter().copied().chain(NEVER_SHIPPED).collect()
}

#[test]
fn axum_is_named_in_http_only() {
    only_in("axum::", &with_unshipped(&["crates/server/src/http/"]));
}

#[test]
fn unsafe_code_is_allowed_in_the_jail_only() {
    only_in("allow(unsafe_code)", &["crates/jail/"]);
    only_in("expect(unsafe_code", &["crates/jail/"]);
}

#[test]
fn the_environment_is_read_through_few_doors() {
    let doors = [
        "crates/server/src/config/",
        "crates/captain/build.rs",
        // Programs of their own, inside an instance.
        "crates/runner/src/main.rs",
        "crates/hello/src/main.rs",
    ];
    only_in("env::var", &with_unshipped(&doors));
}

#[test]
fn engines_json_stays_with_their_client() {
    only_in("/containers/create", &with_unshipped(&["crates/server/src/engine/docker/"]));
}

#[test]
fn nothing_is_left_open() {
    for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("] {
        let strays: Vec<String> =
            sources().into_iter().filter(|(_, text)| text.contains(word)).map(|(path, _)| path).collect();
        assert!(strays.is_empty(), "{word} stands in {strays:#?}");
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    assert!(long.is_empty(), "longer than 600 lines: {long:#?}");
}

/// Names of the packages that each package links, from the lock file.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned();
        let listed = package.split("dependencies = [").nth(1).map(|list| list.split(']').next().unwrap()).unwrap_or("");
        let names = listed.lines().filter_map(|line| line.trim().trim_matches([',', '"']).split(' ').next());
        packages.entry(name).or_default().extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    packages
}

/// Everything that a crate links when it is shipped, from its manifest's `[dependencies]` on.
fn linked(krate: &str) -> BTreeSet<String> {
    let packages = locked();
    let manifest = std::fs::read_to_string(root().join("crates").join(krate).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or("").split("\n[").next().unwrap();
    let direct = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        (!name.is_empty()).then(|| name.to_owned())
    });
    let mut open: Vec<String> = direct.collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if seen.insert(name.clone()) {
            // The lock file does not tell dev-dependencies of ours from others; ours are followed by their manifests instead.
            match name.strip_prefix("captain-") {
                Some(ours) => open.extend(linked(ours)),
                None => open.extend(packages.get(&name).cloned().unwrap_or_default()),
            }
        }
    }
    seen
}

#[test]
fn small_programs_stay_small() {
    for krate in ["domain", "runner", "hello", "jail", "slug"] {
        let strays: Vec<String> = linked(krate)
            .into_iter()
            .filter(|name| ["tokio", "hyper", "reqwest", "axum"].contains(&name.as_str()))
            .collect();
        assert!(strays.is_empty(), "captain-{krate} links {strays:?}");
    }
}

#[test]
fn arrows_run_one_way() {
    let forbidden: [(&str, &[&str]); 6] = [
        ("domain", &["captain-api", "captain-slug", "captain-jail", "captain-runner", "captain-server", "captain-cli"]),
        ("api", &["captain-server", "captain-slug", "captain-jail"]),
        ("slug", &["captain-server", "captain-api", "captain-jail"]),
        ("jail", &["captain-server", "captain-api", "captain-slug", "captain-domain"]),
        ("runner", &["captain-server", "captain-api", "captain-jail"]),
        ("cli", &["captain-server", "captain-jail"]),
    ];
    for (krate, never) in forbidden {
        let links = linked(krate);
        let strays: Vec<&&str> = never.iter().filter(|name| links.contains(**name)).collect();
        assert!(strays.is_empty(), "captain-{krate} may not see {strays:?}");
    }
}
