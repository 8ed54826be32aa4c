//! Slugs on their way to nodes: fetched once, checked once, kept under their digest.
//!
//! [`Slugs::resolve`] says which slug a URI means now, and has its bytes on this disk. What it keeps:
//! - A slug is known by its sha256 alone. A URI is asked of its origin at each start (by ETag or time of change, which costs no bytes
//!   where nothing changed), and a changed answer is another slug. Where the origin cannot be asked, what it gave last is used, and said.
//! - However many starts want a slug at once, it is fetched once; they share a failure as well.
//! - Nothing has its name in the cache before every byte of it was hashed and inspected by the rules by which nodes are given it.
//! - Everything is bounded: the cache ([`Settings::cache_bytes`]; what is in use does not count as evictable), a slug
//!   ([`Settings::limits`]), the time of a fetch ([`Patience`]), fetches at once, what is remembered of URIs.
//!
//! Below the data folder: `slugs/<sha256>`, `slugs/drafts/`, `slugs/uris/`; and `store/<sha256>` unless the store is elsewhere.

mod download;
mod draft;
mod error;
mod fetch;
mod flight;
mod memory;
mod s3;
mod shelf;
mod source;
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use captain_domain::SlugUri;
use captain_slug::{Digest, Limits, Options};
use reqwest::Client;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use self::download::Patience;
pub use self::error::{DraftError, FetchError, StoreError};
pub use self::s3::Access;
pub use self::shelf::{Held, Kept};
pub use self::store::{Outgoing, Store};

use self::fetch::Fetch;
use self::flight::{Flights, Say};
use self::memory::Memory;
use self::shelf::Shelf;
use self::source::Source;
use crate::captain::Chance;
use crate::engine::Progress;

/// Fetches at once. Each takes a connection and three threads, and more of them make none of them faster.
const FETCHES: usize = 8;

/// Uploads at once, for the same reasons.
pub const UPLOADS: usize = 8;

/// How slugs are had and kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder for all that is kept.
    pub data: PathBuf,
    /// What the slugs in the cache may take together, in bytes.
    pub cache_bytes: u64,
    /// The folders below which `file:` URIs may point.
    pub folders: Vec<PathBuf>,
    /// Where Captain's own store is.
    pub store: Store,
    /// What one slug may cost.
    pub limits: Limits,
    /// How long fetches and uploads may take.
    pub patience: Patience,
    /// Where buckets are.
    pub s3: Access,
}

impl Settings {
    /// Everything below one folder, and the rest by default.
    ///
    /// The cache's default of 5 GiB holds ten slugs of the largest size that Heroku takes, or some hundred usual ones.
    pub fn below(data: PathBuf) -> Self {
        Self {
            cache_bytes: 5 << 30,
            folders: Vec::new(),
            store: Store::Folder(data.join("store")),
            limits: Limits::default(),
            patience: Patience::default(),
            s3: Access::default(),
            data,
        }
    }
}

/// What a URI means now.
#[derive(Debug)]
pub struct Resolved {
    /// The slug.
    pub digest: Digest,
    /// Its bytes.
    pub copy: SlugCopy,
    /// What should be said about it: that its origin could not be asked.
    pub note: Option<String>,
}

/// Whether this captain has a slug's bytes.
#[derive(Debug)]
pub enum SlugCopy {
    /// Yes; and they stay as long as this is held.
    Here(Held),
    /// No, and they cannot be had now. A node that has the slug needs them no more.
    Gone {
        /// Where they would be.
        path: Arc<Path>,
        /// Why they cannot be had.
        why: Arc<FetchError>,
    },
}

impl Resolved {
    /// Where the bytes are, or would be.
    pub fn path(&self) -> Arc<Path> {
        match &self.copy {
            SlugCopy::Here(held) => Arc::clone(&held.path),
            SlugCopy::Gone { path, .. } => Arc::clone(path),
        }
    }
}

type Resolution = Result<Arc<Resolved>, Arc<FetchError>>;

/// Slugs. A cheap clone.
#[derive(Debug, Clone)]
pub struct Slugs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    cache: Shelf,
    store: Option<Shelf>,
    memory: Memory,
    /// By URI and pin: a start that pins another digest must not get, nor spoil, what the others get.
    flights: Flights<(String, Option<Digest>), Resolution>,
    fetches: Semaphore,
    uploads: Arc<Semaphore>,
    web: OnceLock<Result<Client, String>>,
    s3: OnceLock<Result<Client, String>>,
    chance: Arc<Chance>,
    tasks: TaskTracker,
    turn: AtomicU32,
}

/// Runs what blocks. That the task is lost is an error like the disk's.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
}

fn lazily(client: &OnceLock<Result<Client, String>>, patience: &Patience, redirects: bool) -> Result<Client, String> {
    let made = client.get_or_init(|| {
        let made = download::client(patience, redirects);
        made.map_err(|error| format!("no HTTP client can be made: {}", crate::chain(&error)))
    });
    made.clone()
}

impl Inner {
    fn options(&self) -> Options {
        Options { limits: self.settings.limits.clone(), ..Options::default() }
    }

    fn store_shelf(&self) -> Option<&Shelf> {
        self.store.as_ref()
    }

    fn web_client(&self) -> Result<Client, String> {
        lazily(&self.web, &self.settings.patience, true)
    }

    fn s3_client(&self) -> Result<Client, String> {
        lazily(&self.s3, &self.settings.patience, false)
    }
}

impl Slugs {
    /// Touches no disk and no network yet. What goes on by itself is one of `tasks`.
    pub fn new(settings: Settings, chance: Arc<Chance>, tasks: TaskTracker) -> Self {
        let folder = settings.data.join("slugs");
        let store = match &settings.store {
            Store::Folder(folder) => Some(Shelf::new(folder.clone())),
            Store::Bucket { .. } => None,
        };
        Self(Arc::new(Inner {
            memory: Memory::new(folder.join("uris")),
            cache: Shelf::new(folder),
            store,
            flights: Flights::default(),
            fetches: Semaphore::new(FETCHES),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
            web: OnceLock::new(),
            s3: OnceLock::new(),
            chance,
            tasks,
            turn: AtomicU32::new(1),
            settings,
        }))
    }

    /// How slugs are had and kept.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Places for uploads.
    pub fn uploads(&self) -> &Arc<Semaphore> {
        &self.0.uploads
    }

    /// Whether the URI is one that slugs can be fetched by.
    pub fn check(uri: &SlugUri) -> Result<(), FetchError> {
        source::parse(uri).map(drop)
    }

    /// Removes what a captain that died left half done, and what the cache has too much.
    pub async fn tidy(&self) {
        for shelf in std::iter::once(&self.0.cache).chain(&self.0.store) {
            let sweeping = shelf.clone();
            if let Err(error) = blocking(move || sweeping.sweep()).await {
                warn!(folder = %shelf.folder().display(), %error, "what was left half done cannot be removed");
            }
        }
        self.evict().await;
    }

    /// Says which slug the URI means now, and has its bytes here if they can be had. `pin`: which one it must be.
    pub async fn resolve(&self, uri: &SlugUri, pin: Option<Digest>, hear: Progress<'_>) -> Resolution {
        let source = source::parse(uri).map_err(Arc::new)?;
        if let (Source::Stored(found), Some(expected)) = (&source, pin)
            && *found != expected
        {
            return Err(Arc::new(content(uri)(DraftError::Mismatch { expected, found: *found })));
        }
        if let Some(held) = self.at_hand(&source, pin).await.map_err(|error| Arc::new(content(uri)(error)))? {
            return Ok(Arc::new(Resolved { digest: held.digest, copy: SlugCopy::Here(held), note: None }));
        }
        let key = (uri.as_str().to_owned(), pin);
        let begin = |say: Arc<Say<Resolution>>| {
            let fetch = Fetch { slugs: self.clone(), uri: uri.clone(), shown: uri.redacted(), pin, say };
            async move { fetch.run(source).await.map(Arc::new).map_err(Arc::new) }
        };
        let outcome = self.0.flights.join(&self.0.tasks, key, begin, hear).await;
        outcome.unwrap_or_else(|| Err(Arc::new(FetchError::Lost(uri.redacted()))))
    }

    /// The slug itself, where its digest is known beforehand and its bytes are here: then there is nothing to ask anybody.
    async fn at_hand(&self, source: &Source, pin: Option<Digest>) -> Result<Option<Held>, DraftError> {
        let shelves: Vec<&Shelf> = match (source, &self.0.store) {
            // What was deleted from the store is not to be had by its digest, though the cache has it for another reason.
            (Source::Stored(_), Some(store)) => vec![store],
            (_, store) => std::iter::once(&self.0.cache).chain(store).collect(),
        };
        let digest = match (source, pin) {
            (Source::Stored(digest), _) => *digest,
            (_, Some(digest)) => digest,
            (_, None) => return Ok(None),
        };
        for shelf in shelves {
            if let Some(held) = self.hold(shelf.clone(), digest).await? {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    async fn hold(&self, shelf: Shelf, digest: Digest) -> Result<Option<Held>, DraftError> {
        let path = shelf.path(digest);
        blocking(move || shelf.hold(digest)).await.map_err(|source| DraftError::disk("open", path, source))
    }

    /// Makes the cache as small as it should be.
    async fn evict(&self) {
        let (cache, bound) = (self.0.cache.clone(), self.0.settings.cache_bytes);
        match blocking(move || cache.evict(bound)).await {
            Ok(evicted) if evicted.is_empty() => {}
            Ok(evicted) => {
                info!(slugs = evicted.len(), "the cache of slugs was full: those longest unused were removed")
            }
            Err(error) => warn!(%error, "the cache of slugs cannot be looked through"),
        }
    }
}

fn content(uri: &SlugUri) -> impl Fn(DraftError) -> FetchError + Send + Sync + use<> {
    let uri = uri.redacted();
    move |source| FetchError::Content { uri: uri.clone(), source }
}
