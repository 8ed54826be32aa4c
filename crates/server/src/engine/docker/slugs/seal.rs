//! Sealing a stack: what in it the user of instances could write is found, and written once more without that permission.
//!
//! Everybody's folders (`/var/tmp`), everybody's files, and whatever belongs by chance to the user or group of instances. The engine's
//! mounts are left out (`/dev`, `/proc`, `/sys`, `/tmp`), and what the image gets from us. Access control lists are not looked at: no tar
//! of an engine shows them, and no stack is known that has any.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, Entry, EntryType, Header};

use super::super::failure::Failure;
use super::{RUNNER_PATH, USER, pipe};
use crate::engine::ErrorKind;

/// Folders and files to be sealed. Common stacks have between none and five.
const FINDINGS_LIMIT: usize = 4096;
/// Contents of files to be sealed, which are held in memory.
const CONTENT_LIMIT: u64 = 8 << 20;
const EVERYBODY_WRITES: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// What is written once more.
#[derive(Debug, Default)]
pub(super) struct Findings {
    items: Vec<Item>,
    content_bytes: u64,
}

#[derive(Debug)]
struct Item {
    path: PathBuf,
    header: Header,
    content: Vec<u8>,
}

/// Looks through a root file system.
pub(super) fn find(root: &mut dyn Read) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    let mut archive = Archive::new(root);
    for entry in archive.entries().map_err(|error| senseless(&error))? {
        findings.take(entry.map_err(|error| senseless(&error))?)?;
    }
    Ok(findings)
}

impl Findings {
    fn take(&mut self, mut entry: Entry<'_, &mut dyn Read>) -> Result<(), Failure> {
        let name = entry.path_bytes().into_owned();
        let path = relative(&name);
        let kind = entry.header().entry_type();
        let header = match kind {
            _ if is_ours_or_the_engines(path) => return Ok(()),
            EntryType::Link => return self.link(path, &entry),
            EntryType::Directory | EntryType::Regular => sealed(entry.header()).map_err(|error| senseless(&error))?,
            _ => None,
        };
        let Some(mut header) = header else { return Ok(()) };
        if path.as_os_str().is_empty() {
            // Engines do not take the root's own entry from an archive.
            return Err(Failure::new(ErrorKind::Invalid, "instances could write into the root folder of the stack"));
        }
        let mut content = Vec::new();
        if kind == EntryType::Regular {
            self.content_bytes = self.content_bytes.saturating_add(entry.size());
            if self.content_bytes <= CONTENT_LIMIT {
                entry.read_to_end(&mut content).map_err(|error| senseless(&error))?;
            }
        }
        header.set_size(content.len() as u64);
        self.add(Item { path: path.to_owned(), header, content })
    }

    /// Another name of a file that is written once more has to be another name of what is written: same owner, same permissions, for
    /// engines set them anew at each name.
    fn link(&mut self, path: &Path, entry: &Entry<'_, &mut dyn Read>) -> Result<(), Failure> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let target = relative(&target);
        let Some(first) = self.items.iter().find(|item| item.path == target) else { return Ok(()) };
        let mut header = first.header.clone();
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        self.add(Item { path: path.to_owned(), header, content: target.as_os_str().as_bytes().to_vec() })
    }

    fn add(&mut self, item: Item) -> Result<(), Failure> {
        let too_much = match () {
            () if self.content_bytes > CONTENT_LIMIT => "too large a file",
            () if self.items.len() == FINDINGS_LIMIT => "too many files and folders",
            () => {
                self.items.push(item);
                return Ok(());
            }
        };
        let path = item.path.display();
        Err(Failure::new(ErrorKind::Invalid, format!("the stack has {too_much} that anybody may write: at /{path}")))
    }
}

/// The entry as it should be; none where it is so already.
fn sealed(header: &Header) -> io::Result<Option<Header>> {
    let mode = header.mode()?;
    let owned = header.uid()? == u64::from(USER); // who owns a thing may give himself any permission
    let grouped = header.gid()? == u64::from(USER) && mode & GROUP_WRITES != 0;
    if mode & EVERYBODY_WRITES == 0 && !owned && !grouped {
        return Ok(None);
    }
    let mut header = header.clone();
    header.set_mode(mode & !EVERYBODY_WRITES);
    if owned {
        header.set_uid(0);
    }
    if grouped {
        header.set_gid(0);
    }
    Ok(Some(header))
}

/// Engines write `/bin`, `./bin` or `bin`, and a slash behind a folder.
fn relative(name: &[u8]) -> &Path {
    let mut name = name;
    while let Some(rest) = name.strip_suffix(b"/") {
        name = rest;
    }
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    Path::new(OsStr::from_bytes(if name == b"." { b"" } else { name }))
}

fn is_ours_or_the_engines(path: &Path) -> bool {
    let top = path.components().next().map(|top| top.as_os_str().as_bytes());
    matches!(top, Some(b"app" | b".captain" | b"dev" | b"proc" | b"sys" | b"tmp"))
}

fn senseless(error: &io::Error) -> Failure {
    Failure::garbled(format!("it gave the stack's files as an archive that cannot be read: {error}"))
}

/// Writes the archive that makes a base of a stack.
pub(super) fn write(findings: &Findings, runner: &[u8], out: &mut pipe::Writer) -> Result<(), Failure> {
    archive(findings, runner, out).map_err(|error| Failure::new(ErrorKind::Failed, format!("no archive: {error}")))
}

/// Writes the archive of the stack that is none.
pub(super) fn write_nothing(out: &mut pipe::Writer) -> Result<(), Failure> {
    let write = || {
        let mut archive = Builder::new(out);
        put(&mut archive, Path::new("app"), &header(EntryType::Directory, 0o755), &[])?;
        archive.finish()
    };
    write().map_err(|error| Failure::new(ErrorKind::Failed, format!("no archive: {error}")))
}

fn archive(findings: &Findings, runner: &[u8], out: impl Write) -> io::Result<()> {
    let (folder, file) = (EntryType::Directory, EntryType::Regular);
    let mut archive = Builder::new(out);
    for item in &findings.items {
        put(&mut archive, &item.path, &item.header, &item.content)?;
    }
    // The slug is all that shall be in /app, and a link would lead it elsewhere: a file takes the place of whatever is there.
    put(&mut archive, Path::new("app"), &header(file, 0o644), &[])?;
    put(&mut archive, Path::new("app"), &header(folder, 0o755), &[])?;
    // What is mounted there takes its permissions from it, whatever was asked of the engine.
    put(&mut archive, Path::new("tmp"), &header(folder, 0o1777), &[])?;
    put(&mut archive, Path::new(".captain"), &header(folder, 0o755), &[])?;
    put(&mut archive, Path::new(RUNNER_PATH.trim_start_matches('/')), &header(file, 0o755), runner)?;
    archive.finish()
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0); // the same stack and runner give the same layer
    header
}

fn put<W: Write>(archive: &mut Builder<W>, path: &Path, header: &Header, content: &[u8]) -> io::Result<()> {
    let mut header = header.clone();
    if header.entry_type() == EntryType::Link {
        return archive.append_link(&mut header, path, Path::new(OsStr::from_bytes(content)));
    }
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entered {
        name: &'static str,
        kind: EntryType,
        mode: u32,
        owner: (u64, u64),
        content: Vec<u8>,
    }

    fn entry(name: &'static str, kind: EntryType, mode: u32, owner: (u64, u64)) -> Entered {
        Entered { name, kind, mode, owner, content: Vec::new() }
    }

    /// A root file system as Docker gives it: every name with a slash before it.
    fn root(entries: &[Entered]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entered in entries {
            let mut header = header(entered.kind, entered.mode);
            header.set_uid(entered.owner.0);
            header.set_gid(entered.owner.1);
            header.as_old_mut().name[..entered.name.len()].copy_from_slice(entered.name.as_bytes());
            let is_link = entered.kind == EntryType::Link;
            if is_link {
                header.as_old_mut().linkname[..entered.content.len()].copy_from_slice(&entered.content);
            }
            let content: &[u8] = if is_link { &[] } else { &entered.content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn found(entries: &[Entered]) -> Result<Vec<(String, u32, u64, u64)>, Failure> {
        let findings = find(&mut root(entries).as_slice())?;
        let mut sealed = Vec::new();
        archive(&findings, b"runner", &mut sealed).unwrap();
        let mut archive = Archive::new(sealed.as_slice());
        let read = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let name = entry.path().unwrap().display().to_string();
            (name, header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap())
        });
        Ok(read.collect())
    }

    fn ours() -> Vec<(String, u32, u64, u64)> {
        [("app", 0o644), ("app", 0o755), ("tmp", 0o1777), (".captain", 0o755), (".captain/runner", 0o755)]
            .map(|(name, mode)| (name.to_owned(), mode, 0, 0))
            .to_vec()
    }

    #[test]
    fn what_an_instance_could_write_is_sealed_and_nothing_else() {
        use EntryType::{Block, Directory, Link, Regular, Symlink};
        let entries = [
            entry("/", Directory, 0o755, (0, 0)),
            entry("/var/tmp/", Directory, 0o1777, (0, 0)),
            entry("/var/mail/", Directory, 0o2775, (0, 8)),
            entry("./srv", Directory, 0o555, (5000, 5000)),
            entry("/opt/", Directory, 0o775, (0, 5000)),
            entry("/etc/open", Regular, 0o666, (7, 7)),
            Entered { content: b"/etc/open".to_vec(), ..entry("/etc/other", Link, 0o666, (7, 7)) },
            Entered { content: b"/etc/passwd".to_vec(), ..entry("/etc/passwd-", Link, 0o644, (0, 0)) },
            entry("/etc/passwd", Regular, 0o644, (0, 0)),
            entry("/var/lock", Symlink, 0o777, (0, 0)),
            entry("/disk", Block, 0o666, (0, 0)),
            entry("/tmp/", Directory, 0o1777, (0, 0)),
            entry("/dev/shm/", Directory, 0o1777, (0, 0)),
            entry("/app/", Directory, 0o777, (5000, 5000)),
        ];
        let mut expected = vec![
            ("var/tmp".to_owned(), 0o1775, 0, 0),
            ("srv".to_owned(), 0o555, 0, 5000),
            ("opt".to_owned(), 0o775, 0, 0),
            ("etc/open".to_owned(), 0o664, 7, 7),
            ("etc/other".to_owned(), 0o664, 7, 7),
        ];
        expected.extend(ours());
        assert_eq!(found(&entries).unwrap(), expected);
    }

    #[test]
    fn an_open_root_cannot_be_sealed() {
        let failure = found(&[entry("/", EntryType::Directory, 0o777, (0, 0))]).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Invalid);
    }

    #[test]
    fn contents_are_kept_within_bounds() {
        let open =
            |bytes: usize| Entered { content: vec![b'x'; bytes], ..entry("/big", EntryType::Regular, 0o666, (0, 0)) };
        let findings = find(&mut root(&[open(1000)]).as_slice()).unwrap();
        assert_eq!(findings.items[0].content, vec![b'x'; 1000]);
        let failure = find(&mut root(&[open(9 << 20)]).as_slice()).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Invalid);
        assert!(failure.message.ends_with("at /big"), "{}", failure.message);
    }

    #[test]
    fn half_an_archive_is_no_stack() {
        let whole = root(&[Entered { content: vec![0; 4000], ..entry("/a", EntryType::Regular, 0o666, (0, 0)) }]);
        assert_eq!(find(&mut &whole[..2000]).unwrap_err().kind, ErrorKind::Garbled);
    }
}
