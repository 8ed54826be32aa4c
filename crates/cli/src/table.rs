//! Plain columns: no borders, two blanks between, nothing wrapped.
//!
//! A table library was weighed and left out: what is needed is below a screen of code, and the usual ones count escape sequences as
//! text unless a terminal library comes with them.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::printer::{Printer, Tint};

const GAP: &str = "  ";

/// The last column keeps at least this much when a terminal is too narrow.
const NARROWEST: usize = 12;

/// A column's title, and whether its cells stand at its right edge, as numbers do.
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// One cell.
pub(crate) struct Cell {
    text: String,
    tint: Tint,
}

/// Rows below a line of titles.
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl Cell {
    pub(crate) fn tinted(text: &str, tint: Tint) -> Self {
        Self { text: printable(text), tint }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::tinted(&text.to_string(), Tint::Plain)
    }
}

impl Column {
    fn title(&self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Prints the table: in colour and as wide as the terminal where there is one, else in full.
    pub(crate) fn print(self, printer: &mut Printer) -> std::io::Result<()> {
        let text = self.render(printer.data_colour(), printer.data_width());
        printer.data(&text)
    }

    fn render(mut self, colour: bool, room: Option<usize>) -> String {
        let titles = std::array::from_fn(|at| Cell::tinted(self.columns[at].title(), Tint::Faint));
        self.rows.insert(0, titles);
        let mut widths: [usize; N] =
            std::array::from_fn(|at| self.rows.iter().map(|row| row[at].text.width()).max().unwrap_or(0));
        if let (Some(room), Some((last, others))) = (room, widths.split_last_mut()) {
            let taken: usize = others.iter().map(|width| width + GAP.len()).sum();
            *last = (*last).min(room.saturating_sub(taken).max(NARROWEST));
        }
        self.rows.iter().map(|row| self.line(row, &widths, colour)).collect()
    }

    fn line(&self, row: &[Cell; N], widths: &[usize; N], colour: bool) -> String {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let text = cut(&cell.text, widths[at]);
            let blanks = " ".repeat(widths[at] - text.width());
            let painted = if colour { cell.tint.paint(&text) } else { text };
            let (before, after) = match self.columns[at] {
                Column::Left(_) if at + 1 == N => ("", ""),
                Column::Left(_) => ("", blanks.as_str()),
                Column::Right(_) => (blanks.as_str(), ""),
            };
            let gap = if at == 0 { "" } else { GAP };
            line.extend([gap, before, &painted, after]);
        }
        line.push('\n');
        line
    }
}

/// The text with each control character replaced: names and messages come from elsewhere, and must not move the cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// As much of the text as fits, with `…` for the rest.
pub(crate) fn cut(text: &str, room: usize) -> String {
    if text.width() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut kept: String = text
        .chars()
        .take_while(|c| {
            let width = c.width().unwrap_or(0);
            let fits = width <= left;
            left = left.saturating_sub(width);
            fits
        })
        .collect();
    if room > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new([Column::Left("NAME"), Column::Right("SLOTS"), Column::Left("SLUG")]);
        table.row(["店".into(), 2.into(), "http://slugs/shop.tgz".into()]);
        table.row(["random-frontend".into(), 110.into(), "-".into()]);
        table
    }

    #[test]
    fn columns_line_up_whatever_the_script() {
        let lines = [
            "NAME             SLOTS  SLUG",
            "店                   2  http://slugs/shop.tgz",
            "random-frontend    110  -",
            "",
        ];
        assert_eq!(table().render(false, None), lines.join("\n"));
    }

    #[test]
    fn a_narrow_terminal_cuts_the_last_column() {
        let lines =
            ["NAME             SLOTS  SLUG", "店                   2  http://slug…", "random-frontend    110  -", ""];
        assert_eq!(table().render(false, Some(36)), lines.join("\n"));
        assert_eq!(table().render(false, Some(5)), lines.join("\n"), "but never to nothing");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let mut coloured = Table::new([Column::Left("STATE"), Column::Left("X")]);
        coloured.row([Cell::tinted("ok", Tint::Good), "x".into()]);
        assert_eq!(coloured.render(true, None), "\x1b[2mSTATE\x1b[0m  \x1b[2mX\x1b[0m\n\x1b[32mok\x1b[0m     x\n");
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_move_the_cursor() {
        assert_eq!(Cell::from("a\x1b[2J\n\u{9b}b").text, "a\u{fffd}[2J\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_cut_fits_its_room() {
        for (text, room, kept) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("店店", 3, "店…"), ("店店", 2, "…"), ("ab", 0, "")]
        {
            assert_eq!(cut(text, room), kept);
        }
    }
}
