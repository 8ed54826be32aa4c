//! What happened, in order: always as a hash, and as lines where somebody wants to read them.

use std::fmt::{self, Write};
use std::time::Duration;

/// FNV-1a: no run is long enough for anything better to matter, and it is the same on every machine.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    steps: u64,
    lines: Option<Vec<String>>,
}

struct Hashing<'a>(&'a mut u64);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        *self.0 = text.bytes().fold(*self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        Ok(())
    }
}

impl Trace {
    pub(crate) fn new(readable: bool) -> Self {
        Self { hash: BASIS, steps: 0, lines: readable.then(Vec::new) }
    }

    /// Records a step.
    pub(crate) fn say(&mut self, at: Duration, step: fmt::Arguments<'_>) {
        self.steps += 1;
        // Hashing cannot fail; a step that could not be shown would show up as a missing line.
        let _ = writeln!(Hashing(&mut self.hash), "{} {step}", at.as_micros());
        self.remark(at, step);
    }

    /// Adds a line for the reader that is no step of the run: what a captain logged.
    pub(crate) fn remark(&mut self, at: Duration, remark: fmt::Arguments<'_>) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>10.3} {remark}", at.as_secs_f64()));
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
