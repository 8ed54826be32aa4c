//! Tells the author of a slug what is wrong with it, and how the classic runners (Flynn, Deis, herokuish) would take what Captain takes otherwise.
//!
//! Reading stops only where the archive cannot be read on; a refused entry is a finding like any other, and the search goes on behind it.

mod verdict;

use std::fmt;
use std::io::{BufRead, Read};

use crate::archive::{Kind, RawEntry, Reader};
use crate::error::{EntryFault, SlugError};
use crate::guard::{Admitted, Form, Guard};
use crate::layout::{Evidence, Layout};
use crate::name::{EntryName, EntryPath};
use crate::normalise::{Options, marker};
use crate::sniff::Compression;
use crate::stream::{Given, with_stream};

/// How bad a finding is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Captain takes the slug; it will probably not behave as its author expects.
    Warning,
    /// Captain refuses the slug, or nothing in it can be started.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Something that a slug's author may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable name for programs, such as `procfile-crlf`.
    pub code: &'static str,
    /// The entry, when it is about one.
    pub entry: Option<EntryName>,
    /// One sentence.
    pub sentence: String,
    /// How the classic runners behave, where that differs.
    pub classic: Option<&'static str>,
}

/// The most findings of one code: the hundredth world-writable file says nothing that the twentieth did not.
const MOST_OF_A_CODE: usize = 20;

/// A file from which on its size is worth a look.
const LARGE_FILE_BYTES: u64 = 100 << 20;

/// Heroku warns from 300 MB on that starts get slow, and refuses more than 500 MB.
const SOFT_BYTES: u64 = 300_000_000;
const HARD_BYTES: u64 = 500_000_000;

/// Reads the slug as far as it can be read and says what is wrong with it, the worst first. Only a failure to read the given bytes is
/// an error.
pub fn lint<R: Read + Send>(input: R, options: &Options) -> Result<Vec<Finding>, SlugError> {
    lint_with(input, options, |_| Vec::new())
}

/// The same, with what somebody who knows what a Procfile means has to say of its bytes.
pub fn lint_with<R: Read + Send>(
    input: R,
    options: &Options,
    of_procfile: impl FnOnce(&[u8]) -> Vec<Finding>,
) -> Result<Vec<Finding>, SlugError> {
    let mut linter = Linter::default();
    let read = with_stream(input, &options.limits, options.sha256, |stream| linter.read(stream, options));
    match read {
        Ok(((), given)) => {
            linter.judge_whole(&given);
            let more = linter.procfile().map(of_procfile).unwrap_or_default();
            linter.findings.extend(more.into_iter().map(|finding| (Scope::Any, finding)));
        }
        Err(fault) if fault.is_slugs_fault() => linter.fatal(&fault),
        Err(fault) => return Err(fault),
    }
    Ok(linter.finish())
}

#[derive(Default)]
struct Linter {
    findings: Vec<(Scope, Finding)>,
    evidence: Evidence,
    /// By the places of [`marker`].
    markers: [Marker; 4],
    strangers: Option<(EntryName, u64)>,
    complete: bool,
}

/// What is known of one of the places where a Procfile or `.release` may be.
#[derive(Clone, Default)]
enum Marker {
    #[default]
    Absent,
    Linked,
    Content(Vec<u8>),
}

/// Findings about a path count only in the layout in which that path means something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Any,
    Only(Layout),
}

impl Linter {
    fn read(&mut self, stream: impl BufRead, options: &Options) -> Result<(), SlugError> {
        let mut reader = Reader::new(stream, &options.limits);
        let mut guard = Guard::new(&options.limits, options.outward_links);
        while let Some(raw) = reader.next_entry()? {
            self.look_at_header(&raw);
            match guard.admit(&raw) {
                Ok(admitted) => self.look_at(&raw, &admitted, &mut reader.body(), options)?,
                Err(SlugError::Entry { entry, fault }) => self.refused(entry, &fault),
                Err(fault) => return Err(fault),
            }
        }
        self.complete = true;
        if guard.entries() == 0 {
            return Err(SlugError::Empty);
        }
        match guard.conclude(self.evidence.conclude()) {
            Err(SlugError::Entry { entry, fault }) => self.refused(entry, &fault),
            concluded => return concluded,
        }
        Ok(())
    }

    fn say(
        &mut self,
        scope: Scope,
        severity: Severity,
        code: &'static str,
        entry: Option<EntryName>,
        sentence: String,
    ) -> &mut Finding {
        self.findings.push((scope, Finding { severity, code, entry, sentence, classic: None }));
        let last = self.findings.len() - 1;
        &mut self.findings[last].1
    }

    fn has_room_for(&self, code: &'static str) -> bool {
        self.findings.iter().filter(|(_, finding)| finding.code == code).count() < MOST_OF_A_CODE
    }

    /// What the normaliser repairs without a word.
    fn look_at_header(&mut self, raw: &RawEntry) {
        let name = EntryName::from(raw.name.as_slice());
        let entry = || Some(name.clone());
        if raw.mode & 0o6000 != 0 && self.has_room_for("set-id") {
            self.say(
                Scope::Any,
                Severity::Warning,
                "set-id",
                entry(),
                format!("`{name}` has a set-id bit, which Captain takes away"),
            )
            .classic = Some("tar keeps the bit when it is run by root");
        }
        let is_odd = raw.mode & 0o400 == 0 || (raw.kind == Kind::Directory && raw.mode & 0o500 != 0o500);
        if matches!(raw.kind, Kind::File | Kind::Directory) && is_odd && self.has_room_for("odd-mode") {
            let sentence = format!(
                "`{name}` has the mode {:04o}, with which not even its owner can use it; Captain repairs that",
                raw.mode & 0o7777
            );
            self.say(Scope::Any, Severity::Warning, "odd-mode", entry(), sentence).classic =
                Some("they keep the mode, and an app that is not root cannot use it");
        }
        if matches!(raw.kind, Kind::File | Kind::Directory)
            && raw.mode & 0o002 != 0
            && self.has_room_for("world-writable")
        {
            let sentence = format!("`{name}` may be written by everybody; Captain takes that away");
            self.say(Scope::Any, Severity::Note, "world-writable", entry(), sentence).classic =
                Some("they keep the mode");
        }
        if std::str::from_utf8(&raw.name).is_err() && self.has_room_for("name-not-utf8") {
            let sentence =
                format!("the name `{name}` is not UTF-8; it is kept, but many programs will not find the file");
            self.say(Scope::Any, Severity::Warning, "name-not-utf8", entry(), sentence);
        }
        if raw.uid != 0 && self.strangers.is_none() {
            self.strangers = Some((name, raw.uid));
        }
    }

    fn look_at(
        &mut self,
        raw: &RawEntry,
        admitted: &Admitted,
        body: &mut dyn BufRead,
        options: &Options,
    ) -> Result<(), SlugError> {
        let path = &admitted.path;
        self.evidence.note(path, admitted.form == Form::Directory);
        for layout in [Layout::Top, Layout::App] {
            if let Some(inner) = layout.path_in_app(path) {
                self.look_at_place(Scope::Only(layout), &inner, raw);
            }
        }
        if admitted.again && admitted.form != Form::Directory && self.has_room_for("repeated") {
            let sentence = format!("`{}` is in the archive more than once; the last one counts", path.name());
            self.say(Scope::Any, Severity::Note, "repeated", Some(path.name()), sentence);
        }
        if raw.size > LARGE_FILE_BYTES && self.has_room_for("large-file") {
            let sentence =
                format!("`{}` has {} MiB; every node that runs the app keeps a copy", path.name(), raw.size >> 20);
            self.say(Scope::Any, Severity::Warning, "large-file", Some(path.name()), sentence);
        }
        let leads_to_stack = raw.target.starts_with(b"/") && raw.target != b"/app" && !raw.target.starts_with(b"/app/");
        if admitted.form == Form::Symlink && leads_to_stack && self.has_room_for("link-to-stack") {
            let target = EntryName::from(raw.target.as_slice());
            let sentence = format!("`{}` is a link to `{target}`, which only some stacks may have", path.name());
            self.say(Scope::Any, Severity::Note, "link-to-stack", Some(path.name()), sentence);
        }
        if let Some(marker) = marker(path) {
            self.markers[marker] = match admitted.form {
                Form::File => Marker::Content(read_start(body, options.limits.procfile_bytes, path)?),
                Form::Directory => Marker::Absent,
                Form::Symlink | Form::HardLink(_) => Marker::Linked,
            };
        } else if admitted.form == Form::File && raw.mode & 0o111 == 0 && is_program_place(path) {
            self.look_for_program(raw, path, body)?;
        }
        Ok(())
    }

    /// What depends on where in the app an entry is.
    fn look_at_place(&mut self, scope: Scope, path: &EntryPath, raw: &RawEntry) {
        let (folder, name) = path.split();
        let shown = path.name();
        if path.is_root() && raw.mode & 0o777 != 0o755 && self.has_room_for("root-mode") {
            let sentence = format!(
                "the root of the app has the mode {:04o} and the uid {}; Captain sets its own",
                raw.mode & 0o7777,
                raw.uid
            );
            self.say(scope, Severity::Note, "root-mode", None, sentence).classic = Some(
                "they give /app itself this mode and owner, and an app that runs as somebody else may not enter its own folder",
            );
        }
        let in_profile = folder == b".profile.d" && raw.kind == Kind::File;
        if in_profile && name.iter().any(u8::is_ascii_whitespace) && self.has_room_for("profile-blank") {
            let sentence = format!("the name of `{shown}` holds a blank");
            self.say(scope, Severity::Warning, "profile-blank", Some(shown.clone()), sentence).classic =
                Some("the runner of flynn-archive does not quote the name and ends with 1 before the app starts");
        }
        if in_profile && !name.ends_with(b".sh") && self.has_room_for("profile-suffix") {
            let sentence = format!("`{shown}` does not end with `.sh`; it is sourced after those that do");
            self.say(scope, Severity::Note, "profile-suffix", Some(shown.clone()), sentence).classic =
                Some("Flynn and Deis source every file in plain name order; herokuish takes only `*.sh`");
        }
        if folder.is_empty() && name == b".git" {
            let sentence = "the history in `.git` is part of the slug: it costs space and may hold secrets".to_owned();
            self.say(scope, Severity::Warning, "git-inside", Some(shown), sentence);
        }
    }

    /// A script without the right to be executed, in a place for programs.
    fn look_for_program(&mut self, raw: &RawEntry, path: &EntryPath, body: &mut dyn BufRead) -> Result<(), SlugError> {
        let start = read_start(body, 4, path)?;
        if (start.starts_with(b"#!") || start == b"\x7fELF") && self.has_room_for("not-executable") {
            let sentence = format!(
                "`{}` is a program but has the mode {:04o}: to start it ends with 126",
                path.name(),
                raw.mode & 0o7777
            );
            self.say(Scope::Any, Severity::Warning, "not-executable", Some(path.name()), sentence).classic =
                Some("herokuish ends with 111 instead (setuidgid)");
        }
        Ok(())
    }

    fn refused(&mut self, entry: EntryName, fault: &EntryFault) {
        let (code, classic) = verdict::refusal(fault);
        if self.has_room_for(code) {
            let sentence = format!("the entry `{entry}` {fault}; Captain refuses the slug");
            self.say(Scope::Any, Severity::Error, code, Some(entry), sentence).classic = classic;
        }
    }

    /// The archive could not be read to its end.
    fn fatal(&mut self, fault: &SlugError) {
        if let SlugError::Entry { entry, fault } = fault {
            return self.refused(entry.clone(), fault);
        }
        let (code, classic) = verdict::unreadable(fault);
        self.say(Scope::Any, Severity::Error, code, None, fault.to_string()).classic = classic;
    }

    /// What can be said only of the whole.
    fn judge_whole(&mut self, given: &Given) {
        let layout = self.evidence.conclude();
        self.judge_markers(layout);
        match given.compression {
            Compression::Gzip => {}
            other => {
                let sentence = format!("the slug is {other}, not gzip");
                self.say(Scope::Any, Severity::Note, "not-gzip", None, sentence).classic =
                    Some("they call `tar -xz`, which fails with 2");
            }
        }
        if layout == Layout::App {
            let sentence = "the app is below `app/`, as Heroku makes it".to_owned();
            self.say(Scope::Any, Severity::Note, "layout-app", None, sentence).classic =
                Some("Flynn, Deis and herokuish unpack it to /app/app, find no Procfile and end with 1");
        }
        if let Some((entry, uid)) = self.strangers.take() {
            let sentence = format!("entries belong to uid {uid}, the first is `{entry}`; Captain sets one owner");
            self.say(Scope::Any, Severity::Note, "owner", Some(entry), sentence).classic = Some(
                "unpacked as root the owner is kept; herokuish starts the app as that uid, and ends with 111 if it has no account",
            );
        }
        if given.bytes > SOFT_BYTES {
            let (severity, than) = if given.bytes > HARD_BYTES {
                (Severity::Warning, "500 MB, which Heroku refuses")
            } else {
                (Severity::Note, "300 MB, from where on Heroku warns of slow starts")
            };
            self.say(
                Scope::Any,
                severity,
                "large-slug",
                None,
                format!("the slug has {} MB, more than {than}", given.bytes / 1_000_000),
            );
        }
    }

    fn judge_markers(&mut self, layout: Layout) {
        let first = if layout == Layout::Top { 0 } else { 2 };
        let (procfile, release) = (self.markers[first].clone(), self.markers[first + 1].clone());
        let entry = || Some(EntryName::from(&b"Procfile"[..]));
        match (procfile, release) {
            (Marker::Absent, Marker::Absent) => {
                let sentence =
                    "there is neither a Procfile nor a `.release`, so no process type can be started".to_owned();
                self.say(Scope::Any, Severity::Error, "no-procfile", None, sentence).classic = Some("they end with 1");
            }
            (Marker::Absent, _) => {
                let sentence = "there is no Procfile; the process types come from the `.release`".to_owned();
                self.say(Scope::Any, Severity::Note, "release-only", None, sentence).classic =
                    Some("Flynn and Deis do the same; herokuish ends with 1");
            }
            (Marker::Linked, _) => {
                let sentence =
                    "the Procfile is a link, so its process types cannot be shown before the start".to_owned();
                self.say(Scope::Any, Severity::Note, "procfile-link", entry(), sentence);
            }
            (Marker::Content(content), _) => self.judge_procfile(&content, entry()),
        }
    }

    /// The Procfile that counts, unless it is none or a link.
    fn procfile(&self) -> Option<&[u8]> {
        let first = if self.evidence.conclude() == Layout::Top { 0 } else { 2 };
        match &self.markers[first] {
            Marker::Content(content) => Some(content),
            Marker::Absent | Marker::Linked => None,
        }
    }

    fn judge_procfile(&mut self, content: &[u8], entry: Option<EntryName>) {
        if content.trim_ascii().is_empty() {
            let sentence = "the Procfile is empty, so no process type can be started".to_owned();
            self.say(Scope::Any, Severity::Error, "procfile-empty", entry.clone(), sentence).classic =
                Some("Flynn and Deis end with 0 and no output, as if the app had run; herokuish ends with 1");
        }
        if content.contains(&b'\r') {
            let sentence = "the Procfile has CRLF line ends; Captain takes the CR away".to_owned();
            self.say(Scope::Any, Severity::Warning, "procfile-crlf", entry.clone(), sentence).classic =
                Some("herokuish keeps the CR as a part of the command's last word");
        }
        if content.starts_with(b"\xef\xbb\xbf") {
            let sentence = "the Procfile begins with a byte order mark, which is no part of it".to_owned();
            self.say(Scope::Any, Severity::Warning, "procfile-bom", entry.clone(), sentence).classic =
                Some("herokuish takes the mark as a part of the first process type's name");
        }
        if std::str::from_utf8(content).is_err() || content.contains(&0) {
            let sentence = "the Procfile is not a UTF-8 text".to_owned();
            self.say(Scope::Any, Severity::Error, "procfile-not-text", entry, sentence).classic =
                Some("Flynn and Deis end with 1");
        }
    }

    fn finish(self) -> Vec<Finding> {
        let layout = self.evidence.conclude();
        // A cut-off archive has no layout yet: what holds in either is worth saying.
        let counts = |scope: &Scope| !self.complete || [Scope::Any, Scope::Only(layout)].contains(scope);
        let mut findings: Vec<_> =
            self.findings.into_iter().filter(|(scope, _)| counts(scope)).map(|(_, finding)| finding).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }
}

/// Where programs are: `bin/` and `sbin/` at any depth, `node_modules/.bin` with them.
fn is_program_place(path: &EntryPath) -> bool {
    let folder = path.split().0.rsplit(|&b| b == b'/').next().unwrap_or_default();
    matches!(folder, b"bin" | b".bin" | b"sbin")
}

fn read_start(body: &mut dyn BufRead, most: u64, path: &EntryPath) -> Result<Vec<u8>, SlugError> {
    let mut start = Vec::new();
    body.take(most).read_to_end(&mut start).map_err(|error| SlugError::reading(error, Some(path.name())))?;
    Ok(start)
}
