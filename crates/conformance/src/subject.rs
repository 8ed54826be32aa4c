//! An engine on trial, and what it is asked to run.

use std::net::SocketAddr;
use std::sync::Arc;

use captain_server::engine::{Engine, Preparation};

/// A program with one trait, which a subject makes real in its own way: a shell script in an image, a slug with a Procfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum App {
    /// Writes `ready` and a line feed, waits, and ends with code 0 at SIGTERM, after it wrote `ended` and a line feed.
    Idle,
    /// Ignores SIGTERM, and then writes `deaf` and a line feed.
    Deaf,
    /// Ends at once with this code.
    ExitsWith(u8),
    /// Writes these to standard output and to standard error, and ends.
    Says {
        /// To standard output.
        out: &'static str,
        /// To standard error.
        err: &'static str,
    },
    /// Writes the whole numbers from 1 to this one to standard output, each on a line, and ends.
    Counts(u32),
    /// Writes the value of this variable to standard output, as it is, and ends.
    Shows(&'static str),
    /// Takes memory until the kernel ends it.
    HogsMemory,
    /// Answers `hello` over HTTP on `PORT` to any request; ends at SIGTERM.
    Serves,
}

/// How an engine runs an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What must be on the node.
    pub preparation: Preparation,
    /// What the runner is told.
    pub command: Vec<String>,
}

/// A check that an engine is not asked to pass, and why not.
#[derive(Debug, Clone, Copy)]
pub struct Exception {
    /// The check.
    pub check: &'static str,
    /// Why: what the engine does instead, and why Captain can live with it.
    pub reason: &'static str,
}

/// An engine on trial. It is the suite's alone while it runs.
pub trait Subject: Send + Sync + 'static {
    /// What it is called where outcomes are told.
    fn name(&self) -> &str;

    /// The engine, by a connection of its own each time: what several captains have.
    fn engine(&self) -> Arc<dyn Engine>;

    /// What runs this app.
    fn recipe(&self, app: &App) -> Recipe;

    /// Something that could run and was not prepared.
    fn unprepared(&self) -> Recipe;

    /// Something that cannot be prepared, and the name of it that the error must say.
    fn unavailable(&self) -> (Preparation, String);

    /// Where a port of the node is reached from here.
    fn reach(&self, port: u16) -> SocketAddr;

    /// Checks that it is not asked to pass.
    fn exceptions(&self) -> &[Exception] {
        &[]
    }
}
