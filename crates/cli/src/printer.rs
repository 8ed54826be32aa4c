//! The one way to stdout and stderr.
//!
//! What each of the two is, a terminal or not, coloured or not, how wide, is decided here once, when the process begins. stdout
//! carries data, and a failure to write it ends the command; stderr carries talk, and nobody could be told that it failed.

use std::io::{self, IsTerminal, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};

/// Where the words go, and how they may look there.
pub struct Printer {
    data: Side,
    talk: Side,
}

struct Side {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
    /// Columns of the terminal; `None` where it is none, or does not tell.
    width: Option<usize>,
}

/// What a piece of text is, for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tint {
    /// As it is.
    Plain,
    /// All is well.
    Good,
    /// Look at this.
    Odd,
    /// This is wrong.
    Bad,
    /// Less important than what is around it.
    Faint,
}

impl Tint {
    /// The text in its colour.
    pub fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Odd => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }
}

impl Printer {
    /// The printer of this process's stdout and stderr.
    pub fn of_this_process() -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_choice, err_choice) = (anstream::AutoStream::choice(&out), anstream::AutoStream::choice(&err));
        Self {
            data: Side::new(
                out.is_terminal(),
                out_choice,
                terminal_size::terminal_size_of(io::stdout()),
                Box::new(out),
            ),
            talk: Side::new(
                err.is_terminal(),
                err_choice,
                terminal_size::terminal_size_of(io::stderr()),
                Box::new(err),
            ),
        }
    }

    /// Writes data as it is.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        self.data.writer.write_all(text.as_bytes())
    }

    /// Makes sure that the data has arrived.
    pub fn flush(&mut self) -> io::Result<()> {
        self.data.writer.flush()
    }

    /// Says a line to the person, if one listens.
    pub fn say(&mut self, line: &str) {
        let _ = writeln!(self.talk.writer, "{line}");
    }

    /// Text for [`Printer::say`], coloured where that may be.
    pub fn talk_tint(&self, text: &str, tint: Tint) -> String {
        if self.talk.colour { tint.paint(text) } else { text.to_owned() }
    }

    /// Text for [`Printer::data`], likewise.
    pub fn data_tint(&self, text: &str, tint: Tint) -> String {
        if self.data.colour { tint.paint(text) } else { text.to_owned() }
    }

    /// Whether a person looks at stdout.
    pub fn data_is_seen(&self) -> bool {
        self.data.terminal
    }

    /// Whether a person looks at stderr.
    pub fn talk_is_seen(&self) -> bool {
        self.talk.terminal
    }

    pub(crate) fn data_colour(&self) -> bool {
        self.data.colour
    }

    pub(crate) fn data_width(&self) -> Option<usize> {
        self.data.width
    }

    /// Replaces the line at the bottom of the terminal; an empty one wipes it away.
    pub(crate) fn status(&mut self, line: &str) {
        if !self.talk.terminal {
            return;
        }
        // A line that fills the last column would wrap, and "\r" would come back to its second half.
        let room = self.talk.width.unwrap_or(80).saturating_sub(1);
        let line = crate::table::cut(line, room);
        let _ = write!(self.talk.writer, "\r\x1b[2K{line}").and_then(|()| self.talk.writer.flush());
    }
}

impl Side {
    fn new(
        terminal: bool,
        choice: ColorChoice,
        size: Option<(terminal_size::Width, terminal_size::Height)>,
        writer: Box<dyn Write + Send>,
    ) -> Self {
        let width = size.filter(|_| terminal).map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0);
        Self { writer, terminal, colour: choice != ColorChoice::Never, width }
    }
}
