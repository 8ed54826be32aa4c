//! Slugs for the tests: small apps, each with one trait.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A slug in the making.
pub struct Slug {
    tar: tar::Builder<GzEncoder<Vec<u8>>>,
}

impl std::fmt::Debug for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slug").finish_non_exhaustive()
    }
}

impl Slug {
    /// A slug with this Procfile.
    #[must_use]
    pub fn with_procfile(procfile: &str) -> Self {
        Self { tar: tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast())) }
            .file("Procfile", procfile.as_bytes())
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        self.tar.append_data(&mut header, path, content).unwrap();
        self
    }

    /// Adds a directory of this machine, as `name`.
    #[must_use]
    pub fn directory(mut self, name: &str, path: &Path) -> Self {
        self.tar.append_dir_all(name, path).unwrap();
        self
    }

    /// Adds bytes that do not compress.
    #[must_use]
    pub fn ballast(self, path: &str, bytes: usize) -> Self {
        // xorshift: the same bytes every time, and nothing that gzip finds a pattern in.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut content = Vec::with_capacity(bytes + 8);
        while content.len() < bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.write_all(&state.to_le_bytes()).unwrap();
        }
        self.file(path, &content)
    }

    /// The bytes of the slug.
    #[must_use]
    pub fn pack(self) -> Vec<u8> {
        self.tar.into_inner().unwrap().finish().unwrap()
    }
}

/// Serves `page` at `/`, says `listening` first, and ends at SIGTERM.
/// The web server is no pid 1, because a pid 1 without a handler of its own ignores SIGTERM.
#[must_use]
pub fn web(page: &str) -> Slug {
    let run = "busybox httpd -f -p \"$PORT\" -h www &\ntrap 'kill $!; echo ended by SIGTERM; exit 0' TERM\necho listening\nwait\n";
    Slug::with_procfile("web: exec sh ./run\n").file("run", run.as_bytes()).file("www/index.html", page.as_bytes())
}

/// Runs `script` in a shell.
#[must_use]
pub fn script(script: &str) -> Slug {
    Slug::with_procfile("web: exec sh ./run\n").file("run", script.as_bytes())
}

/// Waits for SIGTERM and ends at it.
pub const IDLE: &str = "trap 'exit 0' TERM\nwhile :; do sleep 1 & wait $!; done\n";

/// Does not end at SIGTERM.
pub const DEAF: &str = "trap '' TERM\necho deaf\nwhile :; do sleep 1; done\n";

/// Writes as fast as it can.
pub const FLOOD: &str =
    "trap 'exit 0' TERM\nyes 'a line of a flood, which goes on and on and on and on and on and on' & wait\n";

/// Takes memory until the kernel ends it.
pub const HOG: &str = "echo hungry\nx=0123456789abcdef\nwhile :; do x=$x$x; done\n";
