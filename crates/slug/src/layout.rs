//! Where in the archive the app is.
//!
//! Heroku's slugs have it below `./app` and other members beside that, which are ignored; those of the slugbuilder family have it at the
//! top. An `app` folder proves nothing: every Rails app has one, and tar may write it first. So the rule looks at the whole archive:
//!
//! 1. a `Procfile` or `.release` at the top: the app is at the top;
//! 2. else, without an `app` folder at the top: the app is at the top;
//! 3. else, if `app` is the only member at the top, or has a `Procfile` or `.release` in it: the app is below `app`;
//! 4. else the app is at the top, so that nothing is thrown away on a guess.
//!
//! Only rule 1 can be applied before the end. A folder on disk need not care: it is unpacked as it comes and the right subfolder is renamed into
//! place. A tar stream is held back (memory first, then an unnamed file) until rule 1 or the end decides, unless the caller, who may
//! have inspected the slug when it was stored, gives the layout; that is checked against the rule at the end.

use std::fmt;

use crate::name::EntryPath;

/// Where in the archive the app is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// At the top, as slugbuilder makes it.
    Top,
    /// Below `app/`, as Heroku makes it.
    App,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Top => "./",
            Self::App => "./app/",
        })
    }
}

/// The folder of [`Layout::App`].
pub(crate) const APP: &[u8] = b"app";

/// Files that tell how to start an app.
pub(crate) const MARKERS: [&[u8]; 2] = [b"Procfile", b".release"];

impl Layout {
    /// The folder of the archive that becomes the root of the app.
    pub(crate) fn folder(self) -> &'static [u8] {
        match self {
            Self::Top => b"",
            Self::App => APP,
        }
    }

    /// A path of the archive as a path of the app; `None` when it is not part of it.
    pub(crate) fn path_in_app(self, path: &EntryPath) -> Option<EntryPath> {
        match self {
            Self::Top => Some(path.clone()),
            Self::App => path.below(APP),
        }
    }
}

/// What has been seen that bears on the layout.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evidence {
    marker_at_top: bool,
    marker_in_app: bool,
    app_folder: bool,
    others_at_top: bool,
}

impl Evidence {
    pub(crate) fn note(&mut self, path: &EntryPath, is_directory: bool) {
        let bytes = path.as_bytes();
        let top = bytes.split(|&b| b == b'/').next().unwrap_or_default();
        match path.split() {
            _ if path.is_root() => {}
            (b"", name) if !is_directory && MARKERS.contains(&name) => self.marker_at_top = true,
            (APP, name) if !is_directory && MARKERS.contains(&name) => self.marker_in_app = true,
            _ => {}
        }
        let below_app = top == APP && (is_directory || bytes != APP);
        self.app_folder |= below_app;
        self.others_at_top |= !below_app && !path.is_root();
    }

    /// The layout, as soon as nothing that may follow can change it.
    pub(crate) fn certain(self) -> Option<Layout> {
        self.marker_at_top.then_some(Layout::Top)
    }

    /// The layout of an archive that has been seen to its end.
    pub(crate) fn conclude(self) -> Layout {
        if self.marker_at_top || !self.app_folder || (self.others_at_top && !self.marker_in_app) {
            Layout::Top
        } else {
            Layout::App
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Layout};
    use crate::Limits;
    use crate::name::EntryPath;

    #[test]
    fn the_rule_over_whole_archives() {
        use Layout::{App, Top};
        let cases: &[(&[&str], Layout)] = &[
            (&["./", "./Procfile", "./web.py"], Top),
            (&["./", "./web.py"], Top),
            (&["./app/", "./app/Procfile", "./app/web.py"], App),
            (&["app/server.js"], App),
            (&["./", "./app/", "./app/web.py"], App),
            (&["./app/Procfile", "./etc/", "./etc/passwd"], App),
            (&["./etc/passwd", "./app/.release"], App),
            // A Rails app whose `app` folder comes first, with and without process types.
            (&["./", "./app/", "./app/models/user.rb", "./Gemfile", "./Procfile"], Top),
            (&["./", "./app/", "./app/models/user.rb", "./Gemfile", "./.release"], Top),
            (&["./app/models/user.rb", "./Gemfile"], Top),
            // A marker at the top wins over one below.
            (&["./app/Procfile", "./Procfile"], Top),
            // A file called app, a folder called Procfile, markers elsewhere.
            (&["./app"], Top),
            (&["./app/x", "./Procfile/"], Top),
            (&["./app/x", "./other/Procfile"], Top),
            (&["./application/Procfile"], Top),
        ];
        for (names, want) in cases {
            let mut evidence = Evidence::default();
            for name in *names {
                let path = EntryPath::parse(name.as_bytes(), &Limits::default()).unwrap();
                evidence.note(&path, name.ends_with('/'));
                if let Some(certain) = evidence.certain() {
                    assert_eq!(certain, *want, "{names:?}: certain too early");
                }
            }
            assert_eq!(evidence.conclude(), *want, "{names:?}");
        }
    }
}
