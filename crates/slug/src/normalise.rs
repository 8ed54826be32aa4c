//! The one pass over a slug that everything else is made of: read an entry, let the guard admit it, give it to the sink.

use std::io::{BufRead, Cursor, Read};
use std::ops::AddAssign;
use std::path::PathBuf;

use crate::archive::{RawEntry, Reader};
use crate::error::SlugError;
use crate::guard::{Admitted, Form, Guard, OutwardLinks};
use crate::layout::{APP, Evidence, Layout, MARKERS};
use crate::limits::{Limit, Limits};
use crate::name::EntryPath;
use crate::sink::{Attributes, Item, Sink};
use crate::sniff::Compression;
use crate::stream::{Given, with_stream};
use crate::{Digest, EntryName};

/// The one owner of everything in a normalised slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How a slug is read and what becomes of it.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What it may cost.
    pub limits: Limits,
    /// Who owns the result. `None`: root in a tar stream, the calling process on disk. For a named user other than root, files that only
    /// their owner could read stay so (`ssh` insists on that for keys); otherwise the app is a stranger to its files, so everybody may read.
    pub owner: Option<Owner>,
    /// The layout, if it is known from an earlier look at the same bytes. Spares [`normalise_to_tar`](crate::normalise_to_tar) from
    /// holding entries back.
    pub layout: Option<Layout>,
    /// The sha256 that the given bytes must have.
    pub sha256: Option<Digest>,
    /// What to do with absolute symbolic links.
    pub outward_links: OutwardLinks,
    /// Where [`normalise_to_tar`](crate::normalise_to_tar) holds entries back in an unnamed file, as long as the layout is open.
    /// `None`: the system's folder for temporary files.
    pub spool_folder: Option<PathBuf>,
}

/// How many entries of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders with an entry of their own, the root left out.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Bytes of all files.
    pub content_bytes: u64,
    /// Entries whose set-user-id, set-group-id or sticky bit was taken away.
    pub privileged: u64,
    /// Entries that replaced an earlier one of the same name.
    pub repeated: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.files += more.files;
        self.directories += more.directories;
        self.symlinks += more.symlinks;
        self.hard_links += more.hard_links;
        self.content_bytes += more.content_bytes;
        self.privileged += more.privileged;
        self.repeated += more.repeated;
    }
}

impl Counts {
    /// All entries.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.hard_links
    }
}

/// What a slug was found to be.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the given bytes.
    pub sha256: Digest,
    /// How many bytes were given.
    pub given_bytes: u64,
    /// How they are compressed.
    pub compression: Compression,
    /// Where in the archive the app is.
    pub layout: Layout,
    /// What the app consists of.
    pub counts: Counts,
    /// Entries beside `app/`, which are no part of the app.
    pub ignored: u64,
    /// The bytes of the Procfile, unless there is none or it is a link.
    pub procfile: Option<Vec<u8>>,
    /// The bytes of `.release`, likewise.
    pub release: Option<Vec<u8>>,
}

/// Reads the slug to its end. When this returns well, the digest, the layout and every entry have been checked; a sink makes its result
/// visible only then.
pub(crate) fn run<R: Read + Send>(input: R, sink: &mut impl Sink, options: &Options) -> Result<Report, SlugError> {
    let (seen, given) =
        with_stream(input, &options.limits, options.sha256, |stream| Pass::new(options).run(stream, sink))?;
    Ok(seen.report(given))
}

struct Seen {
    layout: Layout,
    in_app: Counts,
    beside: Counts,
    markers: [Option<Vec<u8>>; 4],
}

impl Seen {
    fn report(self, given: Given) -> Report {
        let [top_procfile, top_release, app_procfile, app_release] = self.markers;
        let (mut counts, mut ignored) = (self.in_app, self.beside.entries());
        if self.layout == Layout::Top {
            counts += self.beside;
            ignored = 0;
        }
        let (procfile, release) = match self.layout {
            Layout::Top => (top_procfile, top_release),
            Layout::App => (app_procfile, app_release),
        };
        let Given { sha256, bytes: given_bytes, compression } = given;
        Report { sha256, given_bytes, compression, layout: self.layout, counts, ignored, procfile, release }
    }
}

struct Pass<'a> {
    options: &'a Options,
    guard: Guard<'a>,
    evidence: Evidence,
    settled: bool,
    in_app: Counts,
    beside: Counts,
    /// Contents of the files in [`marker`]'s order.
    markers: [Option<Vec<u8>>; 4],
}

impl<'a> Pass<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            guard: Guard::new(&options.limits, options.outward_links),
            evidence: Evidence::default(),
            settled: false,
            in_app: Counts::default(),
            beside: Counts::default(),
            markers: [const { None }; 4],
        }
    }

    fn run(mut self, stream: impl BufRead, sink: &mut impl Sink) -> Result<Seen, SlugError> {
        let mut reader = Reader::new(stream, &self.options.limits);
        self.settle(self.options.layout, sink)?;
        while let Some(raw) = reader.next_entry()? {
            let admitted = self.guard.admit(&raw)?;
            self.evidence.note(&admitted.path, admitted.form == Form::Directory);
            self.settle(self.evidence.certain(), sink)?;
            for folder in &admitted.implied {
                sink.put(folder, Attributes::FOLDER, Item::Directory)?;
            }
            self.count(&raw, &admitted);
            self.pass_on(&raw, &admitted, &mut reader.body(), sink)?;
        }
        if self.guard.entries() == 0 {
            return Err(SlugError::Empty);
        }
        let layout = self.evidence.conclude();
        self.guard.conclude(layout)?;
        if let Some(expected) = self.options.layout.filter(|&expected| expected != layout) {
            return Err(SlugError::LayoutDiffers { expected, found: layout });
        }
        self.settle(Some(layout), sink)?;
        Ok(Seen { layout, in_app: self.in_app, beside: self.beside, markers: self.markers })
    }

    fn settle(&mut self, layout: Option<Layout>, sink: &mut impl Sink) -> Result<(), SlugError> {
        match layout {
            Some(layout) if !self.settled => {
                self.settled = true;
                sink.settle(layout)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, raw: &RawEntry, admitted: &Admitted) {
        let mut one = Counts {
            repeated: u64::from(admitted.again),
            privileged: u64::from(raw.mode & 0o7000 != 0),
            ..Counts::default()
        };
        match admitted.form {
            Form::File => (one.files, one.content_bytes) = (1, raw.size),
            Form::Directory => one.directories = u64::from(!admitted.path.is_root() && admitted.path.as_bytes() != APP),
            Form::Symlink => one.symlinks = 1,
            Form::HardLink(_) => one.hard_links = 1,
        }
        if admitted.path.below(APP).is_some() { self.in_app += one } else { self.beside += one }
    }

    fn pass_on(
        &mut self,
        raw: &RawEntry,
        admitted: &Admitted,
        body: &mut dyn BufRead,
        sink: &mut impl Sink,
    ) -> Result<(), SlugError> {
        let attributes =
            Attributes { mode: mode(raw.mode, &admitted.form, self.options.owner), mtime: raw.mtime.min(LATEST) };
        let path = &admitted.path;
        let marker = marker(path);
        if let Some(marker) = marker {
            self.markers[marker] = None;
        }
        match (&admitted.form, marker) {
            (Form::File, Some(marker)) => {
                let content = self.read_marker(raw.size, path.name(), body)?;
                sink.put(path, attributes, Item::File { size: raw.size, body: &mut Cursor::new(&content) })?;
                self.markers[marker] = Some(content);
                Ok(())
            }
            (Form::File, None) => sink.put(path, attributes, Item::File { size: raw.size, body }),
            (Form::Directory, _) => sink.put(path, attributes, Item::Directory),
            (Form::Symlink, _) => sink.put(path, attributes, Item::Symlink { target: &raw.target }),
            (Form::HardLink(target), _) => sink.put(path, attributes, Item::HardLink { target }),
        }
    }

    fn read_marker(&self, size: u64, entry: EntryName, body: &mut dyn BufRead) -> Result<Vec<u8>, SlugError> {
        let allowed = self.options.limits.procfile_bytes;
        if size > allowed {
            return Err(SlugError::Limit { limit: Limit::ProcfileBytes, allowed, entry: Some(entry) });
        }
        let mut content = Vec::new();
        body.read_to_end(&mut content).map_err(|error| SlugError::reading(error, Some(entry)))?;
        Ok(content)
    }
}

/// The year 2242: the last second that eleven octal digits hold, so that every tar reader agrees on it.
const LATEST: u64 = 0o77_777_777_777;

/// Which of the four places of a Procfile or `.release` this path is.
pub(crate) fn marker(path: &EntryPath) -> Option<usize> {
    let (folder, name) = path.split();
    let marker = MARKERS.iter().position(|&marker| marker == name)?;
    match folder {
        b"" => Some(marker),
        APP => Some(marker + MARKERS.len()),
        _ => None,
    }
}

/// The permissions that an entry gets: its owner may read (and enter and write), group and others never write, nobody gains privileges.
fn mode(given: u32, form: &Form, owner: Option<Owner>) -> u32 {
    let owned_by_app = owner.is_some_and(|owner| owner.uid != 0);
    let (own, all) = match form {
        Form::Directory => (0o700, 0o755),
        Form::Symlink => return 0o777,
        Form::File | Form::HardLink(_) if given & 0o111 != 0 => (0o700, 0o755),
        Form::File | Form::HardLink(_) => (0o600, 0o644),
    };
    if owned_by_app { (given & 0o755) | own } else { all }
}

#[cfg(test)]
mod tests {
    use super::{Owner, mode};
    use crate::guard::Form;

    #[test]
    fn modes() {
        let app = Some(Owner { uid: 2000, gid: 2000 });
        let root = Some(Owner { uid: 0, gid: 0 });
        let cases = [
            (0o644, Form::File, None, 0o644),
            (0o600, Form::File, None, 0o644),
            (0o600, Form::File, root, 0o644),
            (0o600, Form::File, app, 0o600),
            (0o000, Form::File, app, 0o600),
            (0o666, Form::File, app, 0o644),
            (0o4755, Form::File, app, 0o755),
            (0o6777, Form::File, root, 0o755),
            (0o711, Form::File, root, 0o755),
            (0o700, Form::File, app, 0o700),
            (0o001, Form::File, app, 0o701),
            (0o1777, Form::Directory, app, 0o755),
            (0o700, Form::Directory, app, 0o700),
            (0o700, Form::Directory, None, 0o755),
            (0o000, Form::Directory, app, 0o700),
        ];
        for (given, form, owner, want) in cases {
            assert_eq!(mode(given, &form, owner), want, "{given:o} {form:?} {owner:?}");
        }
    }
}
