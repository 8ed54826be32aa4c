use proptest::prelude::*;

use super::*;

fn commands(text: &str) -> Vec<(String, String)> {
    let procfile = Procfile::parse(text.as_bytes()).unwrap();
    procfile.processes().iter().map(|process| (process.name.to_string(), process.command.to_string())).collect()
}

fn check(text: &str, form: Form, expected: &[(&str, &str)]) {
    assert_eq!(Procfile::parse(text.as_bytes()).unwrap().form(), form, "{text:?}");
    let expected: Vec<_> = expected.iter().map(|(name, command)| (name.to_string(), command.to_string())).collect();
    assert_eq!(commands(text), expected, "{text:?}");
}

fn refused(text: &[u8]) -> String {
    let error = Procfile::parse(text).unwrap_err();
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn found(text: &str) -> Vec<String> {
    lint(text.as_bytes()).iter().map(ToString::to_string).collect()
}

#[test]
fn lines_are_read_as_heroku_reads_them() {
    check("web: npm start\n", Form::Lines, &[("web", "npm start")]);
    check("web:npm start", Form::Lines, &[("web", "npm start")]);
    check("web  :\tnpm start  \r\n\r\n", Form::Lines, &[("web", "npm start")]);
    check("\u{feff}web: a\n# no\n  # no\n// no\nworker-2: b\n", Form::Lines, &[("web", "a"), ("worker-2", "b")]);
    check("web: a\nweb: b\n", Form::Lines, &[("web", "b")]);
    check("", Form::Lines, &[]);
}

#[test]
fn what_only_yaml_would_change_means_what_is_written() {
    for command in
        ["run --color #fff", "a: b", "\"quoted\" x", "* @ % `date`", "yes", "[a, b]", "{}", "|", "&x", "!x", "'"]
    {
        check(&format!("web: {command}\n"), Form::Lines, &[("web", command)]);
    }
}

#[test]
fn yaml_is_read_where_lines_fail() {
    check("---\nweb: npm start\n", Form::Yaml, &[("web", "npm start")]);
    check("web: >-\n  bundle exec\n  puma\n", Form::Yaml, &[("web", "bundle exec puma")]);
    check("web: |\n  a\n  b: c\n", Form::Yaml, &[("web", "a\nb: c")]);
    check("\"web\": 'a  b'\n", Form::Yaml, &[("web", "a  b")]);
    check("web:\n  - a\n  - b\nworker: yes # why\n", Form::Yaml, &[("web", "a\nb"), ("worker", "yes")]);
    check("{web: a, worker: b}", Form::Yaml, &[("web", "a"), ("worker", "b")]);
    check("---\nweb: a\n---\nweb: b\n", Form::Yaml, &[("web", "a")]);
    check("---\nweb: !!str yes\n", Form::Yaml, &[("web", "yes")]);
}

#[test]
fn refusals_name_the_line() {
    let long = format!("x: y\n{}: z\n", "a".repeat(129));
    for (text, expected) in [
        ("web: a\nnothing here\n", "line 2 (`nothing here`) is not `type: command`"),
        ("web: a\n\n worker: b\n", "line 3 (` worker: b`) is not `type: command`"),
        ("web:\n", "line 1: web has no command"),
        ("web: a\nw:\u{b}\u{b}\n", "line 2 (`w:??`) is not `type: command`"),
        ("---\nweb: {a: b}\n", "line 2: the value of web is not a command"),
        ("---\nw.b: a\n", "line 2: the key is not a process type"),
        ("---\nweb: &x a\nworker: *x\n", "line 3: YAML aliases are not accepted"),
        ("---\nweb: !ruby/object a\n", "line 2: YAML tags"),
        ("- web\n", "line 1 (`- web`) is not `type: command`"),
        (&long, "line 2: the process type has more than 128"),
        ("web: a\nx\0y", "line 2 has a NUL byte"),
    ] {
        assert!(refused(text.as_bytes()).contains(expected), "{text:?}: {}", refused(text.as_bytes()));
    }
    assert!(refused(b"web: a\n\xff").contains("line 2 is not UTF-8"));
    assert!(refused(&vec![b'#'; PROCFILE_BYTES_MAX + 1]).contains("longer than"));
    let many: String = (0..=PROCESS_TYPES_MAX).map(|number| format!("t{number}: x\n")).collect();
    assert!(refused(many.as_bytes()).contains("more than 256 process types"));
    let deep = format!("---\nweb: {}", "[".repeat(100));
    assert!(refused(deep.as_bytes()).contains("nested deeper"), "{}", refused(deep.as_bytes()));
}

#[test]
fn findings_say_how_others_read_the_file() {
    assert_eq!(found("web: npm start\n"), [""; 0]);
    assert_eq!(
        found("worker: x\n"),
        ["Procfile: has no process type `web`, the one that is started when none is named"]
    );
    for (text, expected) in [
        ("\u{feff}web: a\n", "line 1: begins with a byte order mark"),
        ("web: a\r\n", "line 1: ends in CR LF"),
        ("web: a\nweb: b\n", "line 2: web is on line 1 already"),
        ("web:a\n", "line 1: no blank after `web:`"),
        ("---\nweb: a\n", "line 1: not `type: command`, so the file is read as YAML"),
        ("web: run --color #fff\n", "the command of web for `run --color`"),
        ("web: yes\n", "for true or false"),
        ("web: ~\n", "for nothing"),
        ("web: [a, b]\n", "a list of 2 commands"),
        ("web: {a: b}\n", "for a map"),
        ("web: a: b\n", "not YAML, so runners that read YAML fail"),
        ("web: `date`\n", "not YAML"),
        ("web: \"a\" b\n", "not YAML"),
    ] {
        let findings = found(text).join("\n");
        assert!(findings.contains(expected), "{text:?}: {findings}");
    }
    assert!(lint(b"no procfile at all").is_empty());
}

#[test]
fn release_gives_variables_and_default_types() {
    let release = Release::parse(
        b"---\naddons:\n- heroku-postgresql:dev\nconfig_vars:\n  PATH: bin:/usr/bin\n  DEBUG: yes\n  EMPTY:\n  PORT_BASE: 010\ndefault_process_types:\n  web: rackup -p $PORT\n",
    )
    .unwrap();
    let variables: Vec<_> = release.config_vars.iter().collect();
    assert_eq!(variables, [("DEBUG", "yes"), ("EMPTY", ""), ("PATH", "bin:/usr/bin"), ("PORT_BASE", "010")]);
    assert_eq!(release.command("web"), Some("rackup -p $PORT"));
    assert_eq!(release.command("worker"), None);
    for empty in ["", "---\n", "--- {}\n", "config_vars:\ndefault_process_types:\n", "# nothing\n"] {
        assert_eq!(Release::parse(empty.as_bytes()), Ok(Release::default()), "{empty:?}");
    }
}

#[test]
fn release_refusals_name_the_line() {
    for (text, expected) in [
        ("- a\n", "the file is not a map"),
        ("a: b\nconfig_vars: x\n", "line 2: config_vars is not a map"),
        ("config_vars:\n  my-var: x\n", "line 2: not the name of a variable"),
        ("config_vars:\n  A: x\n  B: [1]\n", "line 3: the value of B is not text"),
        ("default_process_types:\n  web: []\n", "line 2: web has no command"),
        ("a: *b\n", "line 1: not YAML"),
        ("a: &b c\nd: *b\n", "line 2: YAML aliases"),
        ("a: [\n", "not YAML"),
    ] {
        let error = Release::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn variables_are_not_shown_by_debug() {
    let release = Release::parse(b"config_vars: {TOKEN: hunter2}").unwrap();
    assert!(!format!("{release:?}").contains("hunter2"));
}

fn command() -> impl Strategy<Value = String> {
    "[!-~]([ -~]{0,30}[!-~])?"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the bytes: no panic, and everything that comes out obeys the bounds.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(procfile) = Procfile::parse(&bytes) {
            for process in procfile.processes() {
                prop_assert!(is_process_type(&process.name) && !process.command.trim().is_empty());
                prop_assert!(!process.command.contains('\0') && process.line >= 1);
            }
        }
        let _ = (lint(&bytes), Release::parse(&bytes));
    }

    /// The same over texts made of what YAML and Procfiles are made of, which random bytes hardly ever hit.
    #[test]
    fn any_structure_is_read_or_refused(parts in proptest::collection::vec(
        prop::sample::select(vec!["web", ": ", ":", "\n", "  ", "- ", "[", "]", "{", "}", ", ", "\"", "'", "|", ">-", "#", "&a ", "*a", "!x ",
            "---\n", "...\n", "%YAML 1.1\n", "? ", "\r\n", "\t", "\u{feff}", "é", "config_vars:\n", "default_process_types:\n", "~", "//"]), 0..60)) {
        let text = parts.concat();
        if let Ok(procfile) = Procfile::parse(text.as_bytes()) {
            prop_assert!(procfile.processes().iter().all(|process| is_process_type(&process.name) && !process.command.trim().is_empty()));
        } else {
            prop_assert!(lint(text.as_bytes()).is_empty());
        }
        let _ = Release::parse(text.as_bytes());
    }

    /// A file of the line form gives back exactly what was written, whatever the commands look like to YAML.
    #[test]
    fn lines_round_trip(types in proptest::collection::btree_map("[A-Za-z0-9_-]{1,20}", command(), 1..20), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let text: String = types.iter().map(|(name, command)| format!("{name}: {command}{end}")).collect();
        prop_assert_eq!(commands(&text), types.into_iter().collect::<Vec<_>>());
    }

    /// What every YAML reader agrees on, double-quoted, is read from the YAML form unchanged.
    #[test]
    fn quoted_yaml_round_trips(types in proptest::collection::btree_map("[A-Za-z0-9_-]{1,20}", command(), 1..10)) {
        let text: String = types.iter()
            .map(|(name, command)| format!("\"{name}\": \"{}\"\n", command.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        prop_assert_eq!(commands(&text), types.into_iter().collect::<Vec<_>>());
    }
}
