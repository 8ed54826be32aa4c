//! Writes tar streams: the normalised form of a slug for an engine's archive call, and the one that [`crate::pack`] makes.

use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use tempfile::SpooledTempFile;

use crate::archive::{BLOCK, Kind, Reader, padding};
use crate::error::SlugError;
use crate::layout::Layout;
use crate::limits::Limits;
use crate::name::EntryPath;
use crate::normalise::{self, Options, Owner, Report};
use crate::sink::{self, Attributes, CopyFault, Item, Sink};

/// Writes the slug that `input` gives as a plain tar to `out`, with the app below `prefix` (such as `app/`; `./` for none). The folders
/// of the prefix come first, then every folder before what is in it.
///
/// `out` gets its end-of-archive mark only when the whole slug has been checked, its digest included; on an error the stream is cut
/// off, and whoever reads it must not use it.
pub fn normalise_to_tar<R: Read + Send, W: Write>(
    input: R,
    out: W,
    prefix: &str,
    options: &Options,
) -> Result<Report, SlugError> {
    let (report, out) = normalise_into(input, TarWriter::new(out, options.owner.unwrap_or(ROOT)), prefix, options)?;
    out.finish().map_err(|source| SlugError::Output { action: "end the archive", source })?;
    Ok(report)
}

/// The same for any taker of entries.
pub(crate) fn normalise_into<R: Read + Send, T: Taker>(
    input: R,
    taker: T,
    prefix: &str,
    options: &Options,
) -> Result<(Report, T), SlugError> {
    let prefix = EntryPath::parse(prefix.as_bytes(), &options.limits)
        .map_err(|fault| SlugError::Destination { name: prefix.as_bytes().into(), fault })?;
    let mut sink = TarSink::new(taker, prefix, options);
    let report = normalise::run(input, &mut sink, options)?;
    Ok((report, sink.out))
}

/// Takes the entries of the normalised form, in order and by their final paths.
pub(crate) trait Taker {
    fn put(&mut self, path: &[u8], attributes: Attributes, item: Item<'_>) -> Result<(), CopyFault>;
}

impl<W: Write> Taker for TarWriter<W> {
    fn put(&mut self, path: &[u8], attributes: Attributes, item: Item<'_>) -> Result<(), CopyFault> {
        TarWriter::put(self, path, attributes, item)
    }
}

/// What is held back in memory before it goes to a file: most slugs show their Procfile within that.
const HELD_IN_MEMORY_BYTES: usize = 4 << 20;

struct TarSink<'a, T: Taker> {
    out: T,
    prefix: EntryPath,
    limits: &'a Limits,
    layout: Option<Layout>,
    /// What came before the layout was known.
    held: Option<TarWriter<SpooledTempFile>>,
}

impl<'a, T: Taker> TarSink<'a, T> {
    fn new(out: T, prefix: EntryPath, options: &'a Options) -> Self {
        let folder = options.spool_folder.clone().unwrap_or_else(std::env::temp_dir);
        let held = TarWriter::new(tempfile::spooled_tempfile_in(HELD_IN_MEMORY_BYTES, folder), ROOT);
        Self { out, prefix, limits: &options.limits, layout: None, held: Some(held) }
    }

    fn prefixed(&self, path: &EntryPath) -> EntryPath {
        match (self.prefix.is_root(), path.is_root()) {
            (true, _) => path.clone(),
            (_, true) => self.prefix.clone(),
            _ => EntryPath::part(&[self.prefix.as_bytes(), b"/", path.as_bytes()].concat()),
        }
    }

    fn emit(
        &mut self,
        layout: Layout,
        path: &EntryPath,
        attributes: Attributes,
        item: Item<'_>,
    ) -> Result<(), SlugError> {
        // The root's own entry brings nothing but its permissions, which are not the slug's to say.
        let Some(inner) = layout.path_in_app(path).filter(|inner| !inner.is_root()) else {
            return Ok(());
        };
        let to = self.prefixed(&inner);
        let linked;
        let item = match item {
            Item::HardLink { target } => {
                // A target beside the app: the guard refuses the slug in the end.
                let Some(target) = layout.path_in_app(target) else { return Ok(()) };
                linked = self.prefixed(&target);
                Item::HardLink { target: &linked }
            }
            Item::Directory => Item::Directory,
            Item::File { size, body } => Item::File { size, body },
            Item::Symlink { target } => Item::Symlink { target },
        };
        self.out.put(to.as_bytes(), attributes, item).map_err(|fault| fault.at(path, "write"))
    }

    /// Sends on what was held back.
    fn replay(&mut self, layout: Layout, held: TarWriter<SpooledTempFile>) -> Result<(), SlugError> {
        let spool = |source| SlugError::Output { action: "use the temporary file for what is held back", source };
        let mut held = held.finish().map_err(spool)?;
        held.rewind().map_err(spool)?;
        let mut reader = Reader::new(BufReader::with_capacity(64 << 10, held), self.limits);
        while let Some(raw) = reader.next_entry()? {
            let path = EntryPath::part(raw.name.strip_suffix(b"/").unwrap_or(&raw.name));
            let attributes = Attributes { mode: raw.mode, mtime: raw.mtime };
            let target = EntryPath::part(&raw.target);
            let mut body = reader.body();
            let item = match raw.kind {
                Kind::Directory => Item::Directory,
                Kind::Symlink => Item::Symlink { target: &raw.target },
                Kind::HardLink => Item::HardLink { target: &target },
                Kind::File | Kind::Other(_) => Item::File { size: raw.size, body: &mut body },
            };
            self.emit(layout, &path, attributes, item)?;
        }
        Ok(())
    }
}

impl<T: Taker> Sink for TarSink<'_, T> {
    fn settle(&mut self, layout: Layout) -> Result<(), SlugError> {
        self.layout = Some(layout);
        let prefix = self.prefix.clone();
        let folders = prefix.ancestors().chain((!prefix.is_root()).then_some(prefix.as_bytes()));
        for folder in folders {
            let written = self.out.put(folder, Attributes::FOLDER, Item::Directory);
            written.map_err(|fault| fault.at(&EntryPath::part(folder), "write"))?;
        }
        match self.held.take() {
            Some(held) if held.used => self.replay(layout, held),
            _ => Ok(()),
        }
    }

    fn put(&mut self, path: &EntryPath, attributes: Attributes, item: Item<'_>) -> Result<(), SlugError> {
        match (self.layout, &mut self.held) {
            (Some(layout), _) => self.emit(layout, path, attributes, item),
            (None, Some(held)) if !path.is_root() => held
                .put(path.as_bytes(), attributes, item)
                .map_err(|fault| fault.at(path, "hold back in a temporary file")),
            _ => Ok(()),
        }
    }
}

pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Writes entries in the GNU form, which every reader of slugs understands, and whose long names take any bytes.
pub(crate) struct TarWriter<W: Write> {
    out: BufWriter<W>,
    owner: Owner,
    used: bool,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W, owner: Owner) -> Self {
        // Headers are small; contents come in large slices and pass the buffer by.
        Self { out: BufWriter::with_capacity(32 << 10, out), owner, used: false }
    }

    pub(crate) fn put(&mut self, path: &[u8], attributes: Attributes, item: Item<'_>) -> Result<(), CopyFault> {
        self.used = true;
        let (flag, size, target) = match &item {
            Item::Directory => (b'5', 0, None),
            Item::File { size, .. } => (b'0', *size, None),
            Item::Symlink { target } => (b'2', 0, Some(*target)),
            Item::HardLink { target } => (b'1', 0, Some(target.as_bytes())),
        };
        let mut header = tar::Header::new_gnu();
        let slashed;
        let path = match item {
            Item::Directory => {
                slashed = [path, b"/"].concat();
                &slashed
            }
            _ => path,
        };
        self.name(path, b'L', &mut header.as_old_mut().name).map_err(CopyFault::Write)?;
        if let Some(target) = target {
            self.name(target, b'K', &mut header.as_old_mut().linkname).map_err(CopyFault::Write)?;
        }
        header.as_old_mut().linkflag = [flag];
        header.set_mode(attributes.mode);
        header.set_mtime(attributes.mtime);
        self.header(header, size).map_err(CopyFault::Write)?;
        if let Item::File { size, body } = item {
            let out = &mut self.out;
            sink::copy(body, size, |slice| out.write_all(slice))?;
            self.pad(size).map_err(CopyFault::Write)?;
        }
        Ok(())
    }

    /// What was written to, and how many bytes still wait in the buffer.
    pub(crate) fn written(&self) -> (&W, u64) {
        (self.out.get_ref(), self.out.buffer().len() as u64)
    }

    /// Sets the end mark and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    /// Puts a name into its field, and one that does not fit also into an entry of its own before it.
    fn name(&mut self, name: &[u8], flag: u8, field: &mut [u8; 100]) -> io::Result<()> {
        let fits = name.len().min(field.len());
        field[..fits].copy_from_slice(&name[..fits]);
        if fits == name.len() {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
        header.as_old_mut().linkflag = [flag];
        header.set_mode(0o644);
        header.set_mtime(0);
        let size = name.len() as u64 + 1;
        self.header(header, size)?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.pad(size)
    }

    fn header(&mut self, mut header: tar::Header, size: u64) -> io::Result<()> {
        header.set_uid(self.owner.uid.into());
        header.set_gid(self.owner.gid.into());
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = padding(size) as usize;
        self.out.write_all(&[0; BLOCK][..padding])
    }
}
