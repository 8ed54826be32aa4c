//! Figures and their bounds: a row each, as `SPEC.md` has them, and a count of the bounds that were missed.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use crate::process::Stolen;

/// All that was measured.
#[derive(Debug)]
pub struct Report {
    engines: &'static str,
    section: Option<Stolen>,
    missed: Vec<String>,
}

impl Report {
    /// Of figures that were measured on such engines.
    #[must_use]
    pub const fn on(engines: &'static str) -> Self {
        Self { engines, section: None, missed: Vec::new() }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.end_section();
        let engines = self.engines;
        println!("\n## {title} ({engines})\n\n| promise | bound | result | |\n| --- | --- | --- | --- |");
        self.section = Some(Stolen::since_now());
    }

    fn end_section(&mut self) {
        if let Some(stolen) = self.section.take() {
            self.note("of the processors, what the host took meanwhile", stolen.until_now());
        }
    }

    /// A figure that nothing is promised of.
    pub fn note(&self, name: &str, figure: impl fmt::Display) {
        println!("| {name} | – | {figure} | |");
    }

    /// A figure that must not be above `bound`.
    pub fn at_most(&mut self, name: &str, value: f64, bound: f64, shown: impl fmt::Display) {
        self.judge(name, value <= bound, &format!("≤ {bound}"), &shown.to_string());
    }

    /// A figure that must not be below `bound`.
    pub fn at_least(&mut self, name: &str, value: f64, bound: f64, shown: impl fmt::Display) {
        self.judge(name, value >= bound, &format!("≥ {bound}"), &shown.to_string());
    }

    /// Something that is so or is not.
    pub fn holds(&mut self, name: &str, held: bool, shown: impl fmt::Display) {
        self.judge(name, held, "so", &shown.to_string());
    }

    fn judge(&mut self, name: &str, held: bool, bound: &str, shown: &str) {
        println!("| {name} | {bound} | {shown} | {} |", if held { "ok" } else { "**missed**" });
        if !held {
            self.missed.push(format!("{}: {shown}, promised {bound}", name.trim_start()));
        }
    }

    /// Says which bounds were missed.
    #[must_use]
    pub fn end(mut self) -> ExitCode {
        self.end_section();
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
pub struct Series(Vec<f64>);

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Series {
    /// One more.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Each of these beside what was measured next to it.
    #[must_use]
    pub fn over(&self, yardstick: &Self) -> Self {
        assert_eq!(self.0.len(), yardstick.0.len(), "measured in pairs");
        Self(self.0.iter().zip(&yardstick.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// Half way between each of these and what was measured next to it.
    #[must_use]
    pub fn midpoint(&self, other: &Self) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "measured in pairs");
        Self(self.0.iter().zip(&other.0).map(|(one, two)| f64::midpoint(*one, *two)).collect())
    }

    /// The one in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    /// `median (min to max)`, with so many decimals.
    #[must_use]
    pub fn shown(&self, decimals: usize) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{:.decimals$} ({least:.decimals$} to {most:.decimals$})", self.median())
    }
}

/// What Captain took and what its yardstick took, in turns.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Captain's times, in milliseconds.
    pub captain: Series,
    /// The yardstick's.
    pub raw: Series,
}

impl Pairs {
    /// One more pair.
    pub fn push(&mut self, captain: Duration, raw: Duration) {
        self.captain.push(captain.as_secs_f64() * 1e3);
        self.raw.push(raw.as_secs_f64() * 1e3);
    }

    /// Reports the ratio, and both times.
    pub fn report(&self, report: &mut Report, name: &str, bound: f64) {
        let ratio = self.captain.over(&self.raw);
        report.at_most(name, ratio.median(), bound, format!("{}, {} pairs", ratio.shown(3), self.raw.0.len()));
        report.note("  Captain, ms", self.captain.shown(1));
        report.note("  yardstick, ms", self.raw.shown(1));
        report.note("  ratio of the medians", format!("{:.3}", self.captain.median() / self.raw.median()));
    }
}

/// How long the same thing took, many times.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// One more.
    pub fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Those of another.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time, in milliseconds, within which this part of them was done.
    #[must_use]
    pub fn part(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let at = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1).min(last);
        sorted.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    /// The bound is that of the 99th percentile, in milliseconds.
    pub fn report(&self, report: &mut Report, name: &str, bound: f64) {
        report.at_most(&format!("{name}, ms"), self.part(0.99), bound, self);
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p99, median, p90, greatest] = [0.99, 0.5, 0.9, 1.0].map(|part| self.part(part));
        let times = self.len();
        write!(f, "p99 {p99:.2} ms (median {median:.2}, p90 {p90:.2}, greatest {greatest:.2}; {times} times)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut latencies = Latencies::default();
        (1..=200).rev().for_each(|ms| latencies.push(Duration::from_millis(ms)));
        assert!((latencies.part(0.99) - 198.0).abs() < 1e-9);
        assert!((latencies.part(1.0) - 200.0).abs() < 1e-9);
        assert!((latencies.part(0.5) - 100.0).abs() < 1e-9);
    }
}
