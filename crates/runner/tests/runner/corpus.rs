//! Slugs made from a seed, each with what a reader of YAML makes of its Procfile.
//!
//! The YAML readings are written down per shape; they were taken from PyYAML 6 (`yaml.safe_load`) and agree with what RUNNER.md records
//! of the classic runners. No YAML reader is asked while testing: a shared mistake could not be seen.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use crate::differential::Intended;

/// What the classic runner gets to start.
#[derive(Clone, Debug)]
pub(crate) enum Classic {
    Command(String),
    /// A null: the empty command.
    Nothing,
    /// The reader fails.
    Fails,
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) files: Vec<(String, String)>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// `config_vars` of `.release`.
    pub(crate) defaults: Vec<(&'static str, &'static str)>,
    /// What follows the runner's name.
    pub(crate) order: Vec<&'static str>,
    pub(crate) classic: Classic,
    pub(crate) intended: BTreeSet<Intended>,
}

/// One way to write (or not to write) a process type.
struct Shape {
    procfile: &'static str,
    classic: fn() -> Classic,
    intended: Option<Intended>,
}

fn command(text: &str) -> Classic {
    Classic::Command(text.to_owned())
}

const SHAPES: &[Shape] = &[
    Shape { procfile: "web: ./probe one two\n", classic: || command("./probe one two"), intended: None },
    Shape {
        procfile: "worker: x\nweb: ./probe 'a  b' \"$GIVEN\"",
        classic: || command("./probe 'a  b' \"$GIVEN\""),
        intended: None,
    },
    Shape { procfile: "web: ./probe a && ./probe b\n", classic: || command("./probe a && ./probe b"), intended: None },
    Shape {
        procfile: "web: cd . ; ./probe *.txt ${GIVEN}x; exit 7\n",
        classic: || command("cd . ; ./probe *.txt ${GIVEN}x; exit 7"),
        intended: None,
    },
    Shape {
        procfile: "web: exec ./probe $((1+2)) `echo hi`\n",
        classic: || command("exec ./probe $((1+2)) `echo hi`"),
        intended: None,
    },
    Shape { procfile: "web: GIVEN=over ./probe\n", classic: || command("GIVEN=over ./probe"), intended: None },
    Shape { procfile: "web: no-such-program\n", classic: || command("no-such-program"), intended: None },
    Shape { procfile: "web: ./Procfile\n", classic: || command("./Procfile"), intended: None },
    Shape { procfile: "web: kill -9 $$\n", classic: || command("kill -9 $$"), intended: None },
    Shape { procfile: "web: (\n", classic: || command("("), intended: None },
    Shape { procfile: "# said\r\nweb: ./probe crlf\r\n", classic: || command("./probe crlf"), intended: None },
    Shape { procfile: "web: ./probe first\nweb: ./probe last\n", classic: || command("./probe last"), intended: None },
    Shape { procfile: "web: ./probe a #b\n", classic: || command("./probe a"), intended: None },
    Shape { procfile: "web: >-\n  ./probe\n  folded\n", classic: || command("./probe folded"), intended: None },
    Shape {
        procfile: "web: |\n  ./probe a\n  ./probe b\n",
        classic: || command("./probe a\n./probe b\n"),
        intended: None,
    },
    Shape { procfile: "web:\n- ./probe a\n- ./probe b\n", classic: || command("./probe a\n./probe b"), intended: None },
    Shape { procfile: "---\n\"web\": './probe ''q'''\n", classic: || command("./probe 'q'"), intended: None },
    Shape {
        procfile: "web: ./probe 'a #b'\n",
        classic: || command("./probe 'a"),
        intended: Some(Intended::YamlComment),
    },
    Shape { procfile: "web: ./probe a: b\n", classic: || Classic::Fails, intended: Some(Intended::YamlSyntax) },
    Shape { procfile: "web: \"./probe\" a\n", classic: || Classic::Fails, intended: Some(Intended::YamlSyntax) },
    Shape { procfile: "web: `echo ./probe` a\n", classic: || Classic::Fails, intended: Some(Intended::YamlSyntax) },
    Shape { procfile: "// said\nweb: ./probe a\n", classic: || Classic::Fails, intended: Some(Intended::YamlSyntax) },
    Shape { procfile: "web:./probe a\n", classic: || command("web"), intended: Some(Intended::NoBlank) },
    Shape { procfile: "web: [./probe, a]\n", classic: || command("./probe\na"), intended: Some(Intended::YamlList) },
    Shape { procfile: "web: {\n", classic: || Classic::Fails, intended: Some(Intended::YamlSyntaxCode) },
    Shape { procfile: "worker: ./probe\n", classic: || Classic::Nothing, intended: Some(Intended::MissingType) },
    Shape {
        procfile: "not a procfile\nat: all: this\n",
        classic: || Classic::Fails,
        intended: Some(Intended::BadProcfile),
    },
];

pub(crate) fn cases(seed: u64, count: usize) -> Vec<Case> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|index| case(index, &mut random)).collect()
}

fn case(index: usize, random: &mut StdRng) -> Case {
    let mut case = Case {
        files: vec![("one.txt".into(), String::new()), ("two.txt".into(), String::new())],
        environment: vec![("PORT", "8080"), ("GIVEN", "given")],
        defaults: Vec::new(),
        order: vec!["start", "web"],
        classic: Classic::Nothing,
        intended: BTreeSet::new(),
    };
    // Every shape comes equally often; what is around it is left to chance.
    match index % (SHAPES.len() + 3) {
        shape if shape < SHAPES.len() => procfile(&SHAPES[shape], &mut case),
        from_release if from_release == SHAPES.len() => {
            case.files.push((".release".into(), "default_process_types:\n  web: ./probe default\n".into()));
            case.classic = command("./probe default");
        }
        neither if neither == SHAPES.len() + 1 => {
            case.classic = Classic::Fails;
            case.intended.insert(Intended::NoProcfile);
        }
        _ => {
            case.order = vec!["./probe", "a b", "$GIVEN", "it's", ";", ""];
            case.classic = Classic::Nothing;
        }
    }
    case.environment.push((
        "END",
        ["exit 0", "exit 1", "exit 3", "exit 78", "exit 255", "kill -9 $$", "kill -15 $$", "kill -6 $$"]
            .choose(random)
            .unwrap(),
    ));
    defaults(&mut case, random);
    scripts(&mut case, random);
    case
}

fn procfile(shape: &Shape, case: &mut Case) {
    case.files.push(("Procfile".into(), shape.procfile.into()));
    case.classic = (shape.classic)();
    case.intended.extend(shape.intended);
}

fn defaults(case: &mut Case, random: &mut StdRng) {
    if random.random_bool(0.5) || case.files.iter().any(|(name, _)| name == ".release") {
        return;
    }
    let mut text = "config_vars:\n".to_owned();
    for (name, value, intended) in [
        ("GIVEN", "default", None),
        ("UNSET", "a value", Some(Intended::DefaultsAreExported)),
        ("EMPTY", "filled", Some(Intended::EmptyIsSet)),
    ] {
        if random.random_bool(0.5) {
            text.push_str(&format!("  {name}: {value}\n"));
            case.defaults.push((name, value));
            case.intended.extend(intended);
        }
    }
    if !case.defaults.is_empty() {
        case.environment.push(("EMPTY", ""));
        case.files.push((".release".into(), text));
    }
    if random.random_bool(0.3) {
        case.environment.push(("SLUG_URL", "http://127.0.0.1:1/slug"));
        case.intended.insert(Intended::SlugUrlIsWithheld);
    }
}

fn scripts(case: &mut Case, random: &mut StdRng) {
    if random.random_bool(0.4) {
        return;
    }
    let mut names = vec!["10-a.sh", "B.sh", "a.sh", "with blank.sh", "z"];
    names.shuffle(random);
    names.truncate(random.random_range(1..=names.len()));
    for name in &names {
        let body = format!("export ORDER=\"$ORDER:{name}\"\nunexported=1\ncommand=broken\nset -- broken\n");
        case.files.push((format!(".profile.d/{name}"), body));
    }
    if random.random_bool(0.3) {
        // Sorts before the .sh files for the classic runner, after them for ours.
        case.files.push((".profile.d/00-plain".into(), "export ORDER=\"$ORDER:plain\"\n".into()));
        case.intended.insert(Intended::ScriptsFirst);
    }
    match random.random_range(0..6) {
        0 => {
            case.files.push((".profile.d/a-fails.sh".into(), "export BEFORE=1\nfalse\n".into()));
            case.intended.insert(Intended::ProfileGoesOn);
        }
        1 => {
            case.files.push((".profile".into(), "exit 9\n".into()));
            case.intended.insert(Intended::ProfileEnds);
        }
        2 | 3 => case.files.push((".profile".into(), "export ORDER=\"$ORDER:profile\"\numask 027\n".into())),
        _ => {}
    }
}
