//! Ours against the steps of the classic shell runner, over the slugs of [`crate::corpus`]: argv, environment, working directory, user
//! and exit code of what runs. Every difference must be one of [`Intended`], and every one that is expected must show.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::corpus::{Case, Classic, cases};
use crate::support::{App, Outcome, PATH, app_uid, finish, needs_root};

/// Where ours is meant to differ, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Intended {
    /// ` #` within a line: YAML cuts the command off. Ours: the command as written.
    YamlComment,
    /// What is no YAML (`a: b`, a leading quote or backtick, `//`): the classic runner ends with 1. Ours: the command as written.
    YamlSyntax,
    /// The same where the command as written is no shell either, so that only the code tells.
    YamlSyntaxCode,
    /// No blank after the colon: the classic runner starts a program called `web`. Ours: the command.
    NoBlank,
    /// `[a, b]` is a list for YAML, so two commands. Ours: the command as written.
    YamlList,
    /// The type is not there: the classic runner ends with 0. Ours: 64.
    MissingType,
    /// Neither lines nor YAML: 1. Ours: 78.
    BadProcfile,
    /// Neither Procfile nor default type: 1. Ours: 64.
    NoProcfile,
    /// `config_vars` are assigned but not exported. Ours: exported.
    DefaultsAreExported,
    /// An empty variable of the caller is filled by `config_vars`. Ours: it is set, to nothing.
    EmptyIsSet,
    /// `SLUG_URL` is in the app's environment when `/app` is not empty. Ours: never.
    SlugUrlIsWithheld,
    /// All of `.profile.d` in one order. Ours: `*.sh` first.
    ScriptsFirst,
    /// A failing command in a profile script ends the start. Ours: goes on, as Heroku does.
    ProfileGoesOn,
    /// A profile script that exits gives the runner its code. Ours: 78, which tells it from an app.
    ProfileEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Started,
    Argv,
    Environment,
    Directory,
    User,
    Code,
}

impl Intended {
    /// The parts in which it shows, if the app starts at all.
    fn parts(self) -> &'static [Part] {
        match self {
            Self::YamlComment | Self::YamlSyntax | Self::NoBlank | Self::ProfileGoesOn => &[Part::Started],
            // The list starts the probe once more, and ends with the code of what is not there in both.
            Self::YamlList => &[Part::Started],
            Self::MissingType | Self::BadProcfile | Self::NoProcfile | Self::YamlSyntaxCode | Self::ProfileEnds => {
                &[Part::Code]
            }
            Self::DefaultsAreExported | Self::EmptyIsSet | Self::SlugUrlIsWithheld | Self::ScriptsFirst => {
                &[Part::Environment]
            }
        }
    }
}

/// Says all that is compared, NUL-separated, and ends as `$END` says.
const PROBE: &str = "#!/bin/sh\n\
    printf 'argv=%s' \"$#\"; for word; do printf '<%s>' \"$word\"; done\n\
    printf '\\0cwd=%s\\0uid=%s:%s\\0' \"$(pwd -P)\" \"$(id -u)\" \"$(id -g)\"\n\
    env -0 | sed -z 's/^/env=/' | LC_ALL=C sort -z\n\
    eval \"$END\"\n";

/// Kept by the shells for themselves; ours starts one shell less. The directory is compared by itself.
const OF_SHELLS: [&str; 4] = ["_", "SHLVL", "PWD", "OLDPWD"];

/// The steps of the classic runner after the slug is in place, by RUNNER.md 2.1 (the form of 2015: variables of `.release` as defaults,
/// then the profile, then the command as an unprivileged user). Two things are given instead of computed: the command that its YAML
/// reader found (`found`, `nothing` or `fails`), and the variables.
const CLASSIC: &str = r#"
set -eo pipefail
export HOME="$1" LC_ALL=C
uid="$2" reading="$3" found="$4" defaults="$5"
shift 5
cd "$HOME"
shopt -s nullglob
if [[ -n "$defaults" ]]; then eval "$defaults"; fi
for script in .profile.d/*; do source "$script"; done
if [[ -f .profile ]]; then source .profile; fi
case "$reading" in
  words) line="$found" ;;
  found) line="$found" ;;
  nothing) line="" ;;
  fails) exit 1 ;;
esac
unset LC_ALL
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups bash -c "$line"
"#;

fn classic(case: &Case, app: &App) -> Outcome {
    let (reading, found) = match (&case.classic, case.order.first()) {
        (_, Some(&program)) if program != "start" => {
            let quoted: Vec<_> = case.order.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
            ("words", quoted.join(" "))
        }
        (Classic::Command(command), _) => ("found", command.clone()),
        (Classic::Nothing, _) => ("nothing", String::new()),
        (Classic::Fails, _) => ("fails", String::new()),
    };
    let defaults: String =
        case.defaults.iter().map(|(name, value)| format!("{name}=${{{name}:-'{value}'}}\n")).collect();
    let mut command = Command::new("bash");
    command.args([
        "-c",
        CLASSIC,
        "classic",
        app.dir().to_str().unwrap(),
        &app_uid().to_string(),
        reading,
        &found,
        &defaults,
    ]);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(case.environment.iter().copied());
    finish(command)
}

fn ours(case: &Case, app: &App) -> Outcome {
    let mut arguments = case.order.clone();
    if arguments[0] == "start" {
        arguments[0] = "run";
    } else {
        arguments.insert(0, "exec");
    }
    let mut command = app.runner(&arguments);
    command.envs(case.environment.iter().copied());
    finish(command)
}

/// The values of one field of the probe's report.
fn field(outcome: &Outcome, name: &str) -> Vec<String> {
    let prefix = format!("{name}=");
    let values = outcome.stdout.split('\0').filter_map(|item| item.strip_prefix(&prefix));
    values.filter(|value| !OF_SHELLS.iter().any(|of| value.split('=').next() == Some(of))).map(str::to_owned).collect()
}

fn differences(classic: &Outcome, ours: &Outcome) -> BTreeSet<Part> {
    let mut parts = BTreeSet::new();
    if classic.code != ours.code {
        parts.insert(Part::Code);
    }
    let (there, here) = (field(classic, "argv"), field(ours, "argv"));
    if there.is_empty() != here.is_empty() {
        parts.insert(Part::Started);
    } else {
        for (part, name) in
            [(Part::Argv, "argv"), (Part::Directory, "cwd"), (Part::User, "uid"), (Part::Environment, "env")]
        {
            if field(classic, name) != field(ours, name) {
                parts.insert(part);
            }
        }
    }
    parts
}

/// What must differ, and what may besides: where only one of both starts the app, its parts cannot be compared, and codes may agree.
fn expected(case: &Case, classic: &Outcome, ours: &Outcome) -> (BTreeSet<Part>, BTreeSet<Part>) {
    let mut must: BTreeSet<Part> = case.intended.iter().flat_map(|intended| intended.parts()).copied().collect();
    let started = |outcome: &Outcome| !field(outcome, "argv").is_empty();
    let mut may = must.clone();
    if !(started(classic) && started(ours)) {
        must.remove(&Part::Environment);
        may.insert(Part::Code);
        // A profile that ends the one, or the other, before anything else could differ.
        if case.intended.iter().any(|intended| matches!(intended, Intended::ProfileEnds | Intended::ProfileGoesOn)) {
            must.clear();
            may.insert(Part::Started);
        }
    }
    (must, may)
}

#[test]
fn ours_differs_from_the_classic_runner_where_it_is_meant_to_and_nowhere_else() {
    needs_root();
    let mut seen = BTreeSet::new();
    for (index, case) in cases(0xCA97A1, 210).into_iter().enumerate() {
        let app = App::new(&[("probe", PROBE)]);
        for (name, content) in &case.files {
            app.write(name, content);
        }
        let (classic, ours) = (classic(&case, &app), ours(&case, &app));
        let found = differences(&classic, &ours);
        let (must, may) = expected(&case, &classic, &ours);
        assert!(
            must.is_subset(&found) && found.is_subset(&may),
            "case {index}: {found:?} differ, expected {must:?} to {may:?}\n{case:#?}\nclassic: {classic:#?}\nours: {ours:#?}"
        );
        if !found.is_empty() {
            seen.extend(case.intended.iter().copied());
        }
    }
    assert_eq!(seen.len(), 14, "some intended difference never showed: {seen:?}");
}
