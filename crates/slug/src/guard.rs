//! Decides whether an entry may be part of a slug. Past [`Guard::admit`] every path is relative and clean, its folders are real folders of this
//! archive, every link stays inside, and no type is anything but file, folder, symbolic link or hard link.
//!
//! It remembers the path and type of all that it admitted, bounded by [`Limits::entries`] and [`Limits::names_bytes`].

use std::collections::HashMap;

use crate::archive::{Kind, RawEntry};
use crate::error::{EntryFault, SlugError};
use crate::layout::{APP, Layout};
use crate::limits::{Limit, Limits};
use crate::name::{EntryName, EntryPath, Reach, reach};

/// What to do with symbolic links to absolute paths other than below `/app`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutwardLinks {
    /// Refuse the slug.
    Refuse,
    /// Keep those with an absolute target as they are; they mean a file of the stack. (Heroku's Java slugs point to
    /// `/etc/ssl/certs/java/cacerts`, Python's virtual environments to `/usr/bin/python3`.) That is safe: nothing that reads or unpacks a
    /// slug follows or writes through a link, nothing may lie below one, and in an instance it ends in the instance's own root. Targets
    /// with `..` are refused even so, as are relative links that climb out.
    #[default]
    KeepAbsolute,
}

/// What an admitted entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    File,
    Directory,
    Symlink,
    HardLink(EntryPath),
}

#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) path: EntryPath,
    pub(crate) form: Form,
    /// Folders above it that no entry has named yet, the topmost first.
    pub(crate) implied: Vec<EntryPath>,
    /// An earlier entry had the same path.
    pub(crate) again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    File,
    Directory,
    Symlink,
}

pub(crate) struct Guard<'a> {
    limits: &'a Limits,
    outward: OutwardLinks,
    known: HashMap<Box<[u8]>, Known>,
    names_bytes: u64,
    entries: u64,
    /// The folder of the entry before, known to be real: most entries follow a sibling.
    last_folder: EntryPath,
    /// The first link that stays in the archive but would leave the app if the app proves to be below `app/`.
    leaves_app: Option<(EntryName, EntryFault)>,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(limits: &'a Limits, outward: OutwardLinks) -> Self {
        Self {
            limits,
            outward,
            known: HashMap::new(),
            names_bytes: 0,
            entries: 0,
            last_folder: EntryPath::root(),
            leaves_app: None,
        }
    }

    /// Admits or refuses an entry. A refused one leaves no trace, so that a caller who only reports may go on.
    pub(crate) fn admit(&mut self, raw: &RawEntry) -> Result<Admitted, SlugError> {
        let name = EntryName::from(raw.name.as_slice());
        self.count(1, &name)?;
        let (path, form, implied) = self.judge(raw).map_err(|fault| SlugError::Entry { entry: name.clone(), fault })?;
        self.count(implied.len() as u64, &name)?;
        for folder in &implied {
            self.remember(folder, Known::Directory, &name)?;
        }
        let known = match form {
            Form::Directory => Known::Directory,
            Form::Symlink => Known::Symlink,
            Form::File | Form::HardLink(_) => Known::File,
        };
        let again = self.remember(&path, known, &name)?;
        let (folder, _) = path.split();
        if folder != self.last_folder.as_bytes() {
            self.last_folder = EntryPath::part(folder);
        }
        Ok(Admitted { path, form, implied, again })
    }

    /// What can only be said once it is known where the app is.
    pub(crate) fn conclude(&mut self, layout: Layout) -> Result<(), SlugError> {
        match (layout, self.leaves_app.take()) {
            (Layout::App, Some((entry, fault))) => Err(SlugError::Entry { entry, fault }),
            _ => Ok(()),
        }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    fn judge(&mut self, raw: &RawEntry) -> Result<(EntryPath, Form, Vec<EntryPath>), EntryFault> {
        let path = EntryPath::parse(&raw.name, self.limits)?;
        if path.has_whiteout() {
            return Err(EntryFault::Whiteout);
        }
        let (form, what) = match raw.kind {
            Kind::File => (Form::File, ""),
            Kind::Directory => (Form::Directory, "a directory"),
            Kind::Symlink => (Form::Symlink, "a symbolic link"),
            Kind::HardLink => (Form::HardLink(self.hard_link_target(raw, &path)?), "a hard link"),
            Kind::Other(what) => return Err(EntryFault::Unsupported(what)),
        };
        if raw.size > 0 && form != Form::File {
            return Err(EntryFault::CarriesData(what));
        }
        if path.is_root() && form != Form::Directory {
            return Err(EntryFault::RootNotDirectory);
        }
        let implied = self.implied_folders(&path)?;
        match (self.known.get(path.as_bytes()), &form) {
            (None | Some(Known::Directory), Form::Directory) | (None, _) => {}
            (Some(_), Form::Directory) => return Err(EntryFault::BecomesDirectory),
            (Some(Known::Directory), _) => return Err(EntryFault::ReplacesDirectory),
            // Of two files or links with one name the later counts, as `tar -r` means it.
            (Some(Known::File | Known::Symlink), _) => {}
        }
        if form == Form::Symlink {
            self.judge_symlink(raw, &path)?;
        }
        Ok((path, form, implied))
    }

    /// The folders above `path` that have not been named yet; refuses what lies below anything but folders.
    fn implied_folders(&self, path: &EntryPath) -> Result<Vec<EntryPath>, EntryFault> {
        let mut implied = Vec::new();
        if path.split().0 == self.last_folder.as_bytes() {
            return Ok(implied);
        }
        for folder in path.ancestors() {
            match self.known.get(folder) {
                Some(Known::Directory) => {}
                Some(Known::Symlink) => return Err(EntryFault::BelowSymlink(EntryName::from(folder))),
                Some(Known::File) => return Err(EntryFault::BelowFile(EntryName::from(folder))),
                None => implied.push(EntryPath::part(folder)),
            }
        }
        Ok(implied)
    }

    fn judge_symlink(&mut self, raw: &RawEntry, path: &EntryPath) -> Result<(), EntryFault> {
        let outside = || EntryFault::TargetOutside { target: EntryName::from(raw.target.as_slice()) };
        match reach(&raw.target, path, self.limits)? {
            Reach::Absolute { in_app: true } => {}
            Reach::Absolute { in_app: false } if self.outward == OutwardLinks::KeepAbsolute => {}
            Reach::Absolute { in_app: false } => return Err(outside()),
            Reach::Relative { turns_at_depth: 0 } if path.below(APP).is_some_and(|path| !path.is_root()) => {
                self.leaves_app.get_or_insert_with(|| (path.name(), outside()));
            }
            Reach::Relative { .. } => {}
        }
        Ok(())
    }

    /// A hard link must name a file that this archive brought, by its real path, so that it can never lead to a file from elsewhere.
    fn hard_link_target(&mut self, raw: &RawEntry, path: &EntryPath) -> Result<EntryPath, EntryFault> {
        let shown = || EntryName::from(raw.target.as_slice());
        let target = EntryPath::parse(&raw.target, self.limits).map_err(|fault| match fault {
            EntryFault::NoName => EntryFault::NoTarget,
            EntryFault::NulInName => EntryFault::NulInTarget,
            EntryFault::NameTooLong { bytes, allowed } => EntryFault::TargetTooLong { bytes, allowed },
            _ => EntryFault::TargetOutside { target: shown() },
        })?;
        if target == *path || self.known.get(target.as_bytes()) != Some(&Known::File) {
            return Err(EntryFault::UnknownTarget { target: shown() });
        }
        if path.below(APP).is_some() && target.below(APP).is_none() {
            self.leaves_app.get_or_insert_with(|| (path.name(), EntryFault::TargetOutside { target: shown() }));
        }
        Ok(target)
    }

    fn count(&mut self, more: u64, at: &EntryName) -> Result<(), SlugError> {
        self.entries += more;
        if self.entries > self.limits.entries {
            return Err(SlugError::Limit {
                limit: Limit::Entries,
                allowed: self.limits.entries,
                entry: Some(at.clone()),
            });
        }
        Ok(())
    }

    /// Says whether the path was known before.
    fn remember(&mut self, path: &EntryPath, known: Known, at: &EntryName) -> Result<bool, SlugError> {
        if let Some(before) = self.known.get_mut(path.as_bytes()) {
            *before = known;
            return Ok(true);
        }
        self.names_bytes += path.as_bytes().len() as u64;
        if self.names_bytes > self.limits.names_bytes {
            return Err(SlugError::Limit {
                limit: Limit::NamesBytes,
                allowed: self.limits.names_bytes,
                entry: Some(at.clone()),
            });
        }
        self.known.insert(path.as_bytes().into(), known);
        Ok(false)
    }
}
