//! Makes archives, down to the bytes that no tar program would write.

use std::io::Write as _;

/// A tar under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive(Vec<u8>);

/// The fields of a header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) flag: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) mtime: u64,
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mode = if flag == b'5' { 0o755 } else { 0o644 };
        Self { flag, name: name.as_ref().to_vec(), target: Vec::new(), mode, uid: 0, mtime: 1_700_000_000, size: 0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        let fit =
            |from: &[u8], to: &mut [u8; 100]| to[..from.len().min(100)].copy_from_slice(&from[..from.len().min(100)]);
        fit(&self.name, &mut old.name);
        fit(&self.target, &mut old.linkname);
        old.linkflag = [self.flag];
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.uid);
        header.set_mtime(self.mtime);
        header.set_size(self.size);
        header.set_cksum();
        header.as_bytes().to_vec()
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn header(mut self, header: &Header) -> Self {
        self.0.extend(header.encode());
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A header and its contents, padded.
    pub(crate) fn entry(self, header: &Header, content: &[u8]) -> Self {
        let header = Header { size: content.len() as u64, ..header.clone() };
        self.header(&header).raw(content).raw(&vec![0; (512 - content.len() % 512) % 512])
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Header::new(b'0', name), content.as_ref())
    }

    pub(crate) fn file_with_mode(self, name: &str, mode: u32) -> Self {
        self.entry(&Header { mode, ..Header::new(b'0', name) }, b"x")
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.header(&Header::new(b'5', name))
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header { target: target.as_ref().to_vec(), ..Header::new(b'2', name) })
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.header(&Header { target: target.as_ref().to_vec(), ..Header::new(b'1', name) })
    }

    /// GNU long name (`L`) or link target (`K`) for the next entry.
    pub(crate) fn long(self, flag: u8, name: impl AsRef<[u8]>) -> Self {
        let text = [name.as_ref(), b"\0"].concat();
        self.entry(&Header::new(flag, "././@LongLink"), &text)
    }

    /// A PAX header of kind `x` or `g`.
    pub(crate) fn pax(self, flag: u8, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while length != body + length.to_string().len() {
                length += 1;
            }
            text.extend(format!("{length} {key}=").bytes().chain(value.iter().copied()).chain(*b"\n"));
        }
        self.entry(&Header::new(flag, "PaxHeaders/x"), &text)
    }

    /// Without the end mark.
    pub(crate) fn open_end(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn tar(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    pub(crate) fn gz(self) -> Vec<u8> {
        gzip(&self.tar())
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
