//! `.slugignore`: what `pack` leaves out. The patterns are those of gitignore without `!`.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The file's name, at the top of the folder that is packed.
pub(crate) const FILE: &str = ".slugignore";

/// The most that a `.slugignore` may hold; it is read whole.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct SlugIgnore(Gitignore);

/// Why a `.slugignore` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlugIgnoreFault {
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// It is not UTF-8 or too large.
    #[error("it is not a text of at most 1 MiB")]
    NotText,
    /// A pattern that brings files back. Heroku does not know them either, and to ignore one would leave out what its author wants in.
    #[error("line {line}: patterns with `!` are not supported")]
    Negated {
        /// From 1.
        line: usize,
    },
    /// A malformed pattern.
    #[error("line {line}: {reason}")]
    Pattern {
        /// From 1.
        line: usize,
        /// What the matcher says.
        reason: String,
    },
}

impl SlugIgnore {
    /// Reads the file of the folder `root`; without one, nothing is ignored.
    pub(crate) fn read(root: &Path) -> Result<Self, SlugIgnoreFault> {
        use io::Read as _;
        let mut text = Vec::new();
        match std::fs::File::open(root.join(FILE)) {
            Ok(file) => file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(SlugIgnoreFault::Read)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(SlugIgnoreFault::Read(error)),
        };
        if text.len() as u64 > MOST_BYTES {
            return Err(SlugIgnoreFault::NotText);
        }
        Self::parse(&String::from_utf8(text).map_err(|_| SlugIgnoreFault::NotText)?)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, SlugIgnoreFault> {
        // Matched against paths relative to the packed folder, so the matcher's own root is empty.
        let mut builder = GitignoreBuilder::new("");
        for (line, pattern) in (1..).zip(text.lines()) {
            if pattern.starts_with('!') {
                return Err(SlugIgnoreFault::Negated { line });
            }
            builder
                .add_line(None, pattern)
                .map_err(|error| SlugIgnoreFault::Pattern { line, reason: error.to_string() })?;
        }
        let built = builder.build().map_err(|error| SlugIgnoreFault::Pattern { line: 0, reason: error.to_string() })?;
        Ok(Self(built))
    }

    /// Whether an entry is left out. A folder that is takes all that is in it along, so the caller need not descend.
    pub(crate) fn leaves_out(&self, path: &Path, is_directory: bool) -> bool {
        path.file_name() == Some(OsStr::new(".git")) || self.0.matched(path, is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::{SlugIgnore, SlugIgnoreFault};
    use std::path::Path;

    #[test]
    fn patterns() {
        let text = "# comment\n\n*.log\n/docs\nbuild/\nspec/**/*.yml\n\\#odd\nkeep.txt \r\na/b\n";
        let ignore = SlugIgnore::parse(text).unwrap();
        let cases = [
            ("x.log", false, true),
            ("deep/er/x.log", false, true),
            ("docs", true, true),
            ("deep/docs", true, false),
            ("build", true, true),
            ("build", false, false),
            ("deep/build", true, true),
            ("spec/a/b/c.yml", false, true),
            ("spec/a.yml", false, true),
            ("other/a.yml", false, false),
            ("#odd", false, true),
            ("# comment", false, false),
            ("keep.txt", false, true),
            ("a/b", false, true),
            ("c/a/b", false, false),
            (".git", true, true),
            ("sub/.git", false, true),
            (".github", true, false),
            (".slugignore", false, false),
            ("Procfile", false, false),
        ];
        for (path, is_directory, want) in cases {
            assert_eq!(ignore.leaves_out(Path::new(path), is_directory), want, "{path}");
        }
    }

    #[test]
    fn negation_is_refused_by_its_line() {
        assert!(matches!(SlugIgnore::parse("*\n!keep"), Err(SlugIgnoreFault::Negated { line: 2 })));
        assert!(SlugIgnore::parse("\\!important").unwrap().leaves_out(Path::new("!important"), false));
    }
}
