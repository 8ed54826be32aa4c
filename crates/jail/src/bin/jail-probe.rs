//! The embedded engine by hand, and the monitor of its tests. Never shipped: the captain binary plays the same roles.
//!
//! ```text
//! jail-probe probe [--state DIR]                                   what this machine allows
//! jail-probe wait [--state DIR]                                    has a monitor in waiting, until it is killed
//! jail-probe run --slug DIR [--state DIR] [--memory MIB] [--env K=V]... -- /program argument...
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use captain_jail::log::{Cursor, Stream};
use captain_jail::state::Ending;
use captain_jail::{Helper, Id, Jail, Limits, LogBound, Phase, Spec, Step, monitor};

const ROLE: &str = "__jail";
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut arguments: VecDeque<OsString> = std::env::args_os().skip(1).collect();
    if arguments.front().is_some_and(|first| first == ROLE) {
        return monitor::main(arguments.into_iter().skip(1), on_step);
    }
    let command = arguments.pop_front().unwrap_or_default();
    let outcome = match command.to_str() {
        Some("probe") => Options::parse(arguments).and_then(|options| probe(&options)),
        Some("wait") => Options::parse(arguments).and_then(|options| wait(&options)),
        Some("run") => Options::parse(arguments).and_then(|options| run(&options)),
        _ => Err(
            "usage: jail-probe probe | wait | run --slug DIR [--state DIR] [--memory MIB] [--env K=V] -- PROGRAM ..."
                .into(),
        ),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "jail-probe: {}", explain(&*error));
        ExitCode::from(125)
    })
}

fn explain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

struct Options {
    state: PathBuf,
    slug: PathBuf,
    limits: Limits,
    env: BTreeMap<String, String>,
    argv: Vec<String>,
}

impl Options {
    fn parse(mut arguments: VecDeque<OsString>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            state: std::env::temp_dir().join("jail-probe"),
            slug: PathBuf::new(),
            limits: Limits::default(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
            argv: Vec::new(),
        };
        while let Some(option) = arguments.pop_front() {
            let mut value = || arguments.pop_front().ok_or_else(|| format!("{option:?} needs a value"));
            match option.to_str() {
                Some("--state") => options.state = value()?.into(),
                Some("--slug") => options.slug = std::fs::canonicalize(value()?)?,
                Some("--memory") => options.limits.memory_bytes = text(value()?)?.parse::<u64>()? << 20,
                Some("--env") => {
                    let pair = text(value()?)?;
                    let (name, value) = pair.split_once('=').ok_or("--env wants NAME=VALUE")?;
                    options.env.insert(name.to_owned(), value.to_owned());
                }
                Some("--") => {
                    options.argv = arguments.drain(..).map(text).collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("unknown option {option:?}").into()),
            }
        }
        Ok(options)
    }

    fn jail(&self) -> Result<Jail, Box<dyn Error>> {
        Ok(Jail::open(&self.state, Helper::this_binary([ROLE]))?)
    }
}

fn text(argument: OsString) -> Result<String, Box<dyn Error>> {
    argument.into_string().map_err(|argument| format!("{argument:?} is not UTF-8").into())
}

fn probe(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let report = options.jail()?.probe()?;
    let mut out = std::io::stdout();
    writeln!(out, "mode {:?}, control groups {:?}", report.mode, report.layout)?;
    for limitation in &report.limitations {
        writeln!(out, "- {limitation}")?;
    }
    match report.unusable {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => {
            writeln!(out, "no instance can be started: {error}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn wait(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let jail = options.jail()?;
    jail.stand_by()?;
    loop {
        std::thread::park();
    }
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let jail = options.jail()?;
    let id = Id::try_from(format!("run-{}", std::process::id()))?;
    let spec = Spec {
        slug: options.slug.clone(),
        runner: None,
        argv: options.argv.clone(),
        env: options.env.clone(),
        hostname: id.to_string(),
        limits: options.limits.clone(),
        log: LogBound::default(),
        labels: BTreeMap::new(),
    };
    jail.create(&id, spec)?;
    let outcome = follow(&jail, &id);
    jail.kill(&id)?;
    jail.wait(&id, PATIENCE)?;
    jail.clean(&id)?;
    outcome
}

fn follow(jail: &Jail, id: &Id) -> Result<ExitCode, Box<dyn Error>> {
    jail.launch(id, PATIENCE)?;
    let mut log = jail.log(id, Cursor::default());
    loop {
        // Asked before reading: what is in the log of an instance that is over is all there will ever be.
        let over = jail.wait(id, Duration::from_millis(50))?;
        loop {
            let batch = log.read(1 << 20)?;
            for frame in &batch.frames {
                match frame.stream {
                    Stream::Stdout => std::io::stdout().write_all(&frame.bytes)?,
                    Stream::Stderr | Stream::Captain => std::io::stderr().write_all(&frame.bytes)?,
                }
            }
            if batch.end {
                break;
            }
        }
        if over {
            break;
        }
    }
    let Some(Phase::Exited(exited)) = jail.inspect(id)?.map(|observed| observed.phase) else {
        return Err("the instance was lost".into());
    };
    if exited.out_of_memory() {
        writeln!(std::io::stderr(), "jail-probe: killed for want of memory")?;
    }
    Ok(match exited.ending {
        Ending::Code(code) => ExitCode::from(u8::try_from(code).unwrap_or(255)),
        Ending::Signal(signal) => ExitCode::from(128u8.saturating_add(u8::try_from(signal).unwrap_or(0))),
        Ending::NotStarted(_) | Ending::Lost => ExitCode::from(125),
    })
}

/// What tests want done at a step, by a file `at-step` beside the instance's own: `die join` or `hang app`.
static WISH: OnceLock<Option<(String, Step)>> = OnceLock::new();

/// Read once, at the first step: later there may be another root around us. Inherited by the first process, being memory.
fn on_step(dir: &Path, step: Step) {
    let wish = WISH.get_or_init(|| {
        let text = std::fs::read_to_string(dir.join("at-step")).ok()?;
        let (verb, step) = text.trim().split_once(' ')?;
        Some((verb.to_owned(), serde_json::from_str(&format!("{step:?}")).ok()?))
    });
    let Some((verb, wanted)) = wish else { return };
    if *wanted != step {
        return;
    }
    if verb == "hang" {
        loop {
            std::thread::park();
        }
    }
    // Pid 1 of a namespace does not hear its own KILL: then it just ends.
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    std::process::exit(137);
}
