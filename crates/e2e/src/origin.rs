//! A slug server which counts, and which can misbehave. Its slugs have an `ETag`, as those of any usual server do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cluster::Lease;
use crate::slugs::Slug;
use crate::wire::{Reply, Server, serve};

/// How a slug is served.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// As it should be.
    Properly,
    /// With an error.
    Status(u16),
    /// Only half of it.
    Truncated,
    /// A kilobyte at a time, with this pause between two.
    Slowly(Duration),
}

#[derive(Debug, Default)]
struct Shelf {
    slugs: HashMap<String, (Vec<u8>, Manner)>,
    counts: HashMap<String, Counts>,
    off: bool,
}

/// What was asked of the server, for one slug.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: usize,
    /// Those of them that were answered with a body.
    pub bodies: usize,
    /// The bytes of these bodies.
    pub bytes: usize,
}

/// The server. It listens where containers reach it, and ends when dropped.
#[derive(Debug)]
pub struct Origin {
    server: Server,
    shelf: Arc<Mutex<Shelf>>,
}

impl Origin {
    /// Starts it on the address that the nodes of `lease` reach.
    pub async fn start(lease: &Lease) -> Self {
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let shared = Arc::clone(&shelf);
        let server = serve(SocketAddr::from((lease.gateway(), 0)), move |head| {
            let mut shelf = shared.lock().unwrap();
            if shelf.off {
                return Reply::Raw(Vec::new()); // a connection from before: it ends without a word
            }
            let name = head.target.trim_start_matches('/').to_owned();
            let (answer, bytes) = match shelf.slugs.get(&name) {
                Some((slug, Manner::Properly)) => properly(slug, head.header("if-none-match")),
                Some((slug, manner)) => (reply(slug, *manner), slug.len()),
                None => (reply(b"no such slug", Manner::Status(404)), 0),
            };
            let counts = shelf.counts.entry(name).or_default();
            counts.requests += 1;
            counts.bodies += usize::from(bytes > 0);
            counts.bytes += bytes;
            answer
        })
        .await;
        Self { server, shelf }
    }

    /// Offers a slug and returns its URI.
    pub fn offer(&self, name: &str, slug: Slug) -> String {
        self.offer_badly(name, slug, Manner::Properly)
    }

    /// Offers a slug in some other manner, and returns its URI.
    pub fn offer_badly(&self, name: &str, slug: Slug, manner: Manner) -> String {
        self.offer_bytes(name, slug.pack(), manner)
    }

    /// Offers bytes, whether they are a slug or not, and returns their URI.
    pub fn offer_bytes(&self, name: &str, bytes: Vec<u8>, manner: Manner) -> String {
        self.shelf.lock().unwrap().slugs.insert(name.to_owned(), (bytes, manner));
        self.uri(name)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Switches it off: nobody listens any more, and connections from before bring nothing.
    pub fn switch_off(&self) {
        self.shelf.lock().unwrap().off = true;
        self.server.close();
    }

    /// The URI of a slug, offered or not.
    #[must_use]
    pub fn uri(&self, name: &str) -> String {
        format!("http://{}/{name}", self.server.address)
    }

    /// How often a slug was asked for.
    #[must_use]
    pub fn fetches(&self, name: &str) -> usize {
        self.counts(name).requests
    }

    /// What was asked of it, for a slug.
    #[must_use]
    pub fn counts(&self, name: &str) -> Counts {
        self.shelf.lock().unwrap().counts.get(name).copied().unwrap_or_default()
    }
}

/// The whole slug, or none of it where the client has it already.
fn properly(body: &[u8], known: Option<&str>) -> (Reply, usize) {
    // FNV-1a: other bytes have another tag, and the same bytes the same in every process.
    let hash = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let tag = format!("\"{hash:016x}\"");
    let headers = vec![("etag".to_owned(), tag.clone())];
    match known == Some(tag.as_str()) {
        true => (Reply::Whole { status: 304, headers, body: Vec::new() }, 0),
        false => (Reply::Whole { status: 200, headers, body: body.to_vec() }, body.len()),
    }
}

fn reply(body: &[u8], manner: Manner) -> Reply {
    let body = body.to_vec();
    match manner {
        Manner::Properly => Reply::Whole { status: 200, headers: Vec::new(), body },
        Manner::Status(status) => Reply::Whole { status, headers: Vec::new(), body },
        Manner::Truncated => Reply::Truncated { body },
        Manner::Slowly(pause) => Reply::Slow { body, piece: 1024, pause },
    }
}
