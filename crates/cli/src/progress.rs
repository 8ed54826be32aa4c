//! Progress of long work: one line at the bottom of a terminal, gone when the work is.
//!
//! Where stderr is no terminal nothing is drawn; with `--verbose` each new stage is a line of its own there.

use std::time::{Duration, Instant};

use crate::printer::Printer;

/// Ten times a second is smooth to the eye, and nothing to the work.
const REDRAW: Duration = Duration::from_millis(100);

/// A line that tells how far something is. It wipes itself away when dropped.
pub struct Progress<'a> {
    printer: &'a mut Printer,
    verbose: bool,
    stage: String,
}

impl<'a> Progress<'a> {
    /// Nothing is shown yet. With `verbose`, stages are told as lines where nothing can be drawn.
    pub fn new(printer: &'a mut Printer, verbose: bool) -> Self {
        Self { printer, verbose, stage: String::new() }
    }

    /// Shows a stage and more about it. `moving` is what changes from call to call: it is drawn, and never told as a line.
    pub fn show(&mut self, stage: &str, moving: &str) {
        let stage = crate::table::printable(stage);
        if self.printer.talk_is_seen() {
            self.printer.status(&format!("{stage}{}", crate::table::printable(moving)));
        } else if self.verbose && stage != self.stage {
            self.printer.say(&stage);
        }
        self.stage = stage;
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if !self.stage.is_empty() {
            self.printer.status("");
        }
    }
}

/// A transfer of bytes, drawn as `pushing shop.tgz: 12.3 MB of 80.0 MB, 15%, 4.1 MB/s`.
pub struct Transfer<'a> {
    progress: Progress<'a>,
    what: String,
    began: Instant,
    drawn: Option<Instant>,
}

impl<'a> Transfer<'a> {
    /// A transfer that begins now.
    pub fn new(progress: Progress<'a>, what: impl Into<String>) -> Self {
        Self { progress, what: what.into(), began: Instant::now(), drawn: None }
    }

    /// So many bytes have gone, of so many where that is known. Cheap enough to be told of every write.
    pub fn at(&mut self, done: u64, total: Option<u64>) {
        let now = Instant::now();
        if self.drawn.is_none_or(|drawn| now.duration_since(drawn) >= REDRAW) {
            self.drawn = Some(now);
            self.progress.show(&self.what, &figures(done, total, now.duration_since(self.began)));
        }
    }
}

fn figures(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let mut text = format!(": {}", size(done));
    if let Some(total) = total {
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        text += &format!(" of {}, {}%", size(total), percent.min(100));
    }
    // A rate over less than this is noise.
    if elapsed >= Duration::from_millis(200) {
        let rate = u128::from(done) * 1000 / elapsed.as_millis();
        text += &format!(", {}/s", size(u64::try_from(rate).unwrap_or(u64::MAX)));
    }
    text
}

/// A number of bytes for people: decimal units, one digit behind the point.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut tenths = bytes / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (999_999, "999.9 kB"),
            (1_000_000, "1.0 MB"),
            (80_000_000_000, "80.0 GB"),
            (u64::MAX, "18446.7 PB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_transfer_tells_size_share_and_rate() {
        let cases = [
            (0, Some(0), 0, ": 0 B of 0 B, 0%"),
            (12_300_000, Some(80_000_000), 3000, ": 12.3 MB of 80.0 MB, 15%, 4.1 MB/s"),
            (90, Some(80), 100, ": 90 B of 80 B, 100%"),
            (5_000, None, 1000, ": 5.0 kB, 5.0 kB/s"),
        ];
        for (done, total, millis, text) in cases {
            assert_eq!(figures(done, total, Duration::from_millis(millis)), text);
        }
    }
}
