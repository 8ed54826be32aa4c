//! Memory is bounded whatever the slug: a counting allocator looks on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may fail the test")]

use std::io::{self, Read, Write};

use captain_slug::{Limit, Limits, Options, SlugError, inspect, normalise_to_tar};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// What a run may take at most: the chunks between the threads, the decoders, the table of names, and what is held back of a slug whose
/// layout is open (4 MiB, twice while it moves to its file).
const MOST: usize = 12 * MIB;

fn header(flag: u8, name: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::new(flag));
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn gzip(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    pieces.for_each(|piece| encoder.write_all(&piece).unwrap());
    encoder.finish().unwrap()
}

fn zeros(bytes: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes / MIB).map(|_| vec![0; MIB])
}

/// Runs it and says by how much the heap grew at its highest.
fn growth<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = run();
    (result, MEMORY.peak_usage().saturating_sub(before))
}

fn assert_bounded<T>(what: &str, most: usize, run: impl FnOnce() -> T) -> T {
    let (result, grown) = growth(run);
    assert!(grown < most, "{what} took {} KiB", grown / 1024);
    result
}

/// One test, since the allocator counts for the whole process.
#[test]
fn memory_stays_bounded() {
    let loose = Options { limits: Limits { expansion_ratio: 2000, ..Limits::default() }, ..Options::default() };
    let end = || zeros(MIB);

    let size = 20 * MIB;
    let large = gzip(
        [header(b'0', "Procfile", 0), header(b'0', "zeros", size as u64)].into_iter().chain(zeros(size)).chain(end()),
    );
    let report =
        assert_bounded("a large file", MOST, || normalise_to_tar(&large[..], io::sink(), "app/", &loose)).unwrap();
    assert_eq!(report.counts.content_bytes, size as u64);

    let spool = tempfile::tempdir_in("/var/tmp").unwrap();
    let held = Options { spool_folder: Some(spool.path().to_owned()), ..loose.clone() };
    let open = gzip(std::iter::once(header(b'0', "app/zeros", size as u64)).chain(zeros(size)).chain(end()));
    assert_bounded("a slug whose layout stays open", MOST, || normalise_to_tar(&open[..], io::sink(), "app/", &held))
        .unwrap();

    let refused = assert_bounded("a bomb", MOST, || inspect(&large[..], &Options::default())).unwrap_err();
    assert!(matches!(refused, SlugError::Limit { limit: Limit::ExpansionRatio, .. }), "{refused:?}");

    for flag in *b"xgLK" {
        let slug = gzip(std::iter::once(header(flag, "meta", 1 << 30)).chain(end()));
        let refused = assert_bounded("a long name of a gigabyte", MOST, || inspect(&slug[..], &loose)).unwrap_err();
        assert!(matches!(refused, SlugError::Limit { limit: Limit::MetadataBytes, .. }), "{refused:?}");
    }

    let lying = gzip(std::iter::once(header(b'0', "Procfile", u64::MAX / 4)));
    assert_bounded("a Procfile of exabytes", MOST, || inspect(&lying[..], &loose)).unwrap_err();

    // 200,000 names, made on the way: the table may hold 1 MiB of them.
    let names = Names { next: 0, current: Vec::new() };
    let few = Options { limits: Limits { names_bytes: MIB as u64, ..Limits::default() }, ..Options::default() };
    let refused = assert_bounded("endless names", MOST, || inspect(names, &few)).unwrap_err();
    assert!(matches!(refused, SlugError::Limit { limit: Limit::NamesBytes, .. }), "{refused:?}");

    // A zstd frame that wants a window of 2 GiB.
    let greedy = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let refused = assert_bounded("a zstd window of 2 GiB", MOST, || inspect(&greedy[..], &loose)).unwrap_err();
    assert!(matches!(refused, SlugError::Damaged { .. }), "{refused:?}");
}

/// A plain tar that never ends.
struct Names {
    next: u64,
    current: Vec<u8>,
}

impl Read for Names {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.current = header(b'0', &format!("{:060}", self.next), 0);
            self.next += 1;
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current[..n]);
        self.current.drain(..n);
        Ok(n)
    }
}
