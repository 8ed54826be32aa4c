//! Figures and their bounds: one line each, and a count of the bounds that were missed.

use std::process::ExitCode;
use std::time::Duration;

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    missed: Vec<String>,
}

impl Report {
    /// Begins a section.
    pub(crate) fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// A figure that nothing is promised of.
    pub(crate) fn note(&self, name: &str, figure: impl std::fmt::Display) {
        println!("  {name:<46} {figure}");
    }

    /// A figure that must not be above `bound`.
    pub(crate) fn at_most(&mut self, name: &str, value: f64, shown: &str, bound: f64) {
        self.judge(name, shown, &format!("at most {bound}"), value <= bound);
    }

    /// A figure that must not be below `bound`.
    pub(crate) fn at_least(&mut self, name: &str, value: f64, shown: &str, bound: f64) {
        self.judge(name, shown, &format!("at least {bound}"), value >= bound);
    }

    fn judge(&mut self, name: &str, shown: &str, bound: &str, held: bool) {
        println!("  {name:<46} {shown}   [{bound}: {}]", if held { "held" } else { "MISSED" });
        if !held {
            self.missed.push(format!("{name}: {shown}, promised {bound}"));
        }
    }

    /// Says which bounds were missed.
    pub(crate) fn end(&self) -> ExitCode {
        if self.missed.is_empty() {
            println!("\nall bounds held");
            return ExitCode::SUCCESS;
        }
        println!();
        for missed in &self.missed {
            println!("MISSED {missed}");
        }
        ExitCode::FAILURE
    }
}

/// The same thing measured many times.
#[derive(Debug, Default, Clone)]
pub(crate) struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Each of these beside what was measured next to it.
    pub(crate) fn over(&self, yardstick: &Self) -> Self {
        assert_eq!(self.0.len(), yardstick.0.len(), "measured in pairs");
        Self(self.0.iter().zip(&yardstick.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Half way between each of these and what was measured next to it.
    pub(crate) fn midpoint(&self, other: &Self) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "measured in pairs");
        Self(self.0.iter().zip(&other.0).map(|(one, two)| f64::midpoint(*one, *two)).collect())
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    /// `median (min to max)`, with so many decimals.
    pub(crate) fn shown(&self, decimals: usize) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{:.decimals$} ({least:.decimals$} to {most:.decimals$})", self.median())
    }
}

/// What Captain took and what its yardstick took, in turns.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub(crate) captain: Series,
    pub(crate) raw: Series,
}

impl Pairs {
    pub(crate) fn push(&mut self, captain: Duration, raw: Duration) {
        self.captain.push(captain.as_secs_f64() * 1e3);
        self.raw.push(raw.as_secs_f64() * 1e3);
    }

    /// Reports the ratio, and both times.
    pub(crate) fn report(&self, report: &mut Report, name: &str, bound: f64) {
        let ratio = self.captain.over(&self.raw);
        let shown = format!("{}, {} pairs", ratio.shown(3), self.raw.0.len());
        report.at_most(name, ratio.median(), &shown, bound);
        report.note("  Captain, ms", self.captain.shown(1));
        report.note("  yardstick, ms", self.raw.shown(1));
        report.note("  ratio of the medians", format!("{:.3}", self.captain.median() / self.raw.median()));
    }
}
