//! Logs: for people on a terminal, a JSON object a line otherwise. On stderr, so that stdout stays free.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text.
    Text,
    /// A JSON object a line.
    Json,
}

/// Begins to log.
pub fn init(filter: EnvFilter, format: LogFormat) -> Result<(), TryInitError> {
    let terminal = std::io::stderr().is_terminal();
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match (format, terminal) {
        (LogFormat::Json, _) | (LogFormat::Auto, false) => registry.with(layer.json().flatten_event(true)).try_init(),
        _ => registry.with(layer.with_target(false).with_ansi(terminal)).try_init(),
    }
}
