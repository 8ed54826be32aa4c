//! How fast a slug is normalised, as a ratio to what anybody would write in a shell: `gzip -dc | tar -t`, or `tar -xzf` where files
//! are written, on the same slug in the same run.
//! Absolute times mean nothing on a shared machine; the ratio is what SPEC.md promises (at least 0.8 of the yardstick's rate).
//!
//! Run: `cargo bench -p captain-slug --bench normalise`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may fail, and its output is its purpose")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use captain_slug::{Durability, Layout, Options, PackOptions, normalise_to_tar, pack, unpack_into};

/// Runs of each kind, in turn, so that a slow moment of the machine hits all alike; the median counts.
const RUNS: usize = 7;

const SLUG_BYTES: u64 = 50_000_000;

/// A name, and a run into an empty folder.
type Kind<'a> = (&'static str, &'a dyn Fn(&Path));

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let files = generate(&tree);
    let slug = folder.path().join("slug.tgz");
    let packing = Instant::now();
    let packed = pack(&tree, File::create(&slug).unwrap(), &PackOptions::default(), &mut |_| {}).unwrap();
    println!(
        "slug: {:.1} MB, {:.1} MB unpacked, {files} files; packed in {:.1} s",
        packed.bytes as f64 / 1e6,
        packed.content_bytes as f64 / 1e6,
        packing.elapsed().as_secs_f64()
    );
    let unknown = Options::default();
    let known = Options { layout: Some(Layout::Top), ..Options::default() };
    let kinds: [Kind<'_>; 5] = [
        ("gzip -dc | tar -t", &|_| list(&slug)),
        ("tar stream, layout known", &|_| {
            normalise_to_tar(File::open(&slug).unwrap(), io::sink(), "app/", &known).unwrap();
        }),
        ("tar stream, layout open", &|_| {
            normalise_to_tar(File::open(&slug).unwrap(), io::sink(), "app/", &unknown).unwrap();
        }),
        ("tar -xzf", &|store| extract(&slug, store)),
        ("folder", &|store| {
            unpack_into(File::open(&slug).unwrap(), store, OsStr::new("slug"), Durability::Cache, &unknown).unwrap();
        }),
    ];
    let store = folder.path().join("store");
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..RUNS {
        for ((_, run), times) in kinds.iter().zip(&mut times) {
            fs::create_dir(&store).unwrap();
            let start = Instant::now();
            run(&store);
            times.push(start.elapsed());
            fs::remove_dir_all(&store).unwrap();
        }
    }
    let medians = times.map(|times| median(times).as_secs_f64());
    // Streams are held against listing, the folder against extracting.
    for ((name, _), (yardstick, time)) in
        kinds.iter().zip([0, 0, 0, 3, 3].map(|at| medians[at]).into_iter().zip(medians))
    {
        println!("{name:26} {:7.1} ms, {:.2} of its yardstick's rate", time * 1e3, yardstick / time);
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn extract(slug: &Path, to: &Path) {
    assert!(Command::new("tar").arg("-xzf").arg(slug).arg("-C").arg(to).status().unwrap().success());
}

fn list(slug: &Path) {
    let mut gzip = Command::new("gzip").arg("-dc").arg(slug).stdout(Stdio::piped()).spawn().unwrap();
    let tar = Command::new("tar").arg("-t").stdin(gzip.stdout.take().unwrap()).stdout(Stdio::null()).status().unwrap();
    assert!(tar.success() && gzip.wait().unwrap().success());
}

/// A tree like that of a Node app: thousands of small texts that compress well, some binaries that do not. Always the same.
fn generate(root: &Path) -> usize {
    let mut random = Xorshift(0x5eed_cafe_f00d_0001);
    let (mut files, mut estimate) = (0, 0);
    for package in 0.. {
        let folder = root.join(format!("node_modules/package-{package}/lib/internal"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..18 {
            let content = text(&mut random);
            estimate += content.len() as u64 * 30 / 100;
            fs::write(folder.join(format!("module-{file}.js")), content).unwrap();
            files += 1;
        }
        if package % 8 == 0 {
            let binary: Vec<u8> = (0..25_000).flat_map(|_| random.next().to_le_bytes()).collect();
            estimate += binary.len() as u64;
            fs::write(folder.join("addon.node"), binary).unwrap();
            files += 1;
        }
        if estimate > SLUG_BYTES {
            break;
        }
    }
    fs::write(root.join("Procfile"), "web: node server.js\n").unwrap();
    files + 1
}

/// Between 1 and 20 KB of something like source text.
fn text(random: &mut Xorshift) -> String {
    const WORDS: [&str; 24] = [
        "function",
        "return",
        "const",
        "exports",
        "require",
        "module",
        "if",
        "else",
        "throw",
        "new",
        "Error",
        "options",
        "callback",
        "result",
        "value",
        "this",
        "prototype",
        "length",
        "undefined",
        "=== null",
        "=> {",
        "};",
        "(err)",
        "//",
    ];
    let length = 1_000 + (random.next() % 19_000) as usize;
    let mut text = String::with_capacity(length + 32);
    while text.len() < length {
        let pick = random.next();
        text.push_str(WORDS[(pick % 24) as usize]);
        match pick >> 32 & 7 {
            0 => text.push_str(&format!("_{:x}", pick >> 40)),
            1 => text.push_str("\n    "),
            _ => text.push(' '),
        }
    }
    text
}

struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
