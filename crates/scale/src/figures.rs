//! Figures and their bounds: a row each, as `SPEC.md` has them, and a count of the bounds that were missed.

use std::process::ExitCode;
use std::time::Duration;

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    missed: Vec<String>,
}

impl Report {
    /// Begins a section. Every figure below is of simulated engines.
    pub fn section(&self, title: &str) {
        println!("\n## {title} (simulated engines)\n\n| promise | bound | result | |\n| --- | --- | --- | --- |");
    }

    /// A figure that nothing is promised of.
    pub fn note(&self, name: &str, figure: impl std::fmt::Display) {
        println!("| {name} | – | {figure} | |");
    }

    /// A figure that must not be above `bound`.
    pub fn at_most(&mut self, name: &str, value: f64, bound: f64, shown: impl std::fmt::Display) {
        self.judge(name, value <= bound, &format!("≤ {bound}"), &shown.to_string());
    }

    /// A figure that must not be below `bound`.
    pub fn at_least(&mut self, name: &str, value: f64, bound: f64, shown: impl std::fmt::Display) {
        self.judge(name, value >= bound, &format!("≥ {bound}"), &shown.to_string());
    }

    /// Something that is so or is not.
    pub fn holds(&mut self, name: &str, held: bool, shown: impl std::fmt::Display) {
        self.judge(name, held, "so", &shown.to_string());
    }

    fn judge(&mut self, name: &str, held: bool, bound: &str, shown: &str) {
        println!("| {name} | {bound} | {shown} | {} |", if held { "ok" } else { "**missed**" });
        if !held {
            self.missed.push(format!("{name}: {shown}, promised {bound}"));
        }
    }

    /// Says which bounds were missed.
    #[must_use]
    pub fn end(&self) -> ExitCode {
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

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
