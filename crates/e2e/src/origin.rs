//! A slug server which counts, and which can misbehave.

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
    fetches: HashMap<String, usize>,
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
            let name = head.target.trim_start_matches('/').to_owned();
            *shelf.fetches.entry(name.clone()).or_default() += 1;
            match shelf.slugs.get(&name) {
                Some((slug, manner)) => reply(slug, *manner),
                None => reply(b"no such slug", Manner::Status(404)),
            }
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
        self.shelf.lock().unwrap().slugs.insert(name.to_owned(), (slug.pack(), manner));
        self.uri(name)
    }

    /// The URI of a slug, offered or not.
    #[must_use]
    pub fn uri(&self, name: &str) -> String {
        format!("http://{}/{name}", self.server.address)
    }

    /// How often a slug was asked for.
    #[must_use]
    pub fn fetches(&self, name: &str) -> usize {
        self.shelf.lock().unwrap().fetches.get(name).copied().unwrap_or(0)
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
