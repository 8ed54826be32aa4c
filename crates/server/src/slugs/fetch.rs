//! One fetch, for all who wait for it: asks the origin, keeps what is good, and stands in for an origin that cannot be asked.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use captain_domain::SlugUri;
use captain_slug::Digest;
use reqwest::{Method, Request};
use tokio::io::AsyncReadExt;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use super::download::{Download, Fetched, size};
use super::draft::Draft;
use super::error::FetchError;
use super::flight::Say;
use super::memory::{Remembered, Validators};
use super::s3::Payload;
use super::shelf::Held;
use super::source::{self, Local, Source};
use super::{Resolution, Resolved, SlugCopy, Slugs, Store, blocking, content};

/// The fetch.
pub(super) struct Fetch {
    pub(super) slugs: Slugs,
    pub(super) uri: SlugUri,
    /// The URI as it may be shown.
    pub(super) shown: String,
    pub(super) pin: Option<Digest>,
    pub(super) say: Arc<Say<Resolution>>,
}

/// What was known of the URI before.
struct Before {
    remembered: Remembered,
    held: Option<Held>,
}

impl Fetch {
    /// Carries it out.
    pub(super) async fn run(self, source: Source) -> Result<Resolved, FetchError> {
        self.say.say(format!("waiting to fetch {}", self.shown));
        let inner = &self.slugs.0;
        let Ok(_place) = inner.fetches.acquire().await else { return Err(FetchError::Lost(self.shown)) };
        if let Source::Stored(digest) = source {
            return self.stored(digest).await;
        }
        let before = self.before().await?;
        let fetched = match &source {
            Source::File(path) => self.file(path, before.as_ref()).await,
            Source::Web(_) | Source::Bucket { .. } | Source::Stored(_) => self.download(&source, before.as_ref()).await,
        };
        match (fetched, before) {
            (Ok(Fetched::New(draft, validators)), _) => self.keep(draft, validators).await,
            (Ok(Fetched::Unchanged), Some(Before { remembered, held: Some(held) })) => {
                Ok(Resolved { digest: remembered.digest, copy: SlugCopy::Here(held), note: None })
            }
            (Ok(Fetched::Unchanged), _) => Err(FetchError::Lost(self.shown)),
            (Err(error), before) if error.is_origins() => self.stand_in(error, before),
            (Err(error), _) => Err(error),
        }
    }

    async fn before(&self) -> Result<Option<Before>, FetchError> {
        let (memory, uri) = (self.slugs.0.memory.clone(), self.uri.as_str().to_owned());
        let recalled = blocking(move || Ok(memory.recall(&uri))).await.ok().flatten();
        let Some(remembered) = recalled.filter(|remembered| self.pin.is_none_or(|pin| pin == remembered.digest)) else {
            return Ok(None);
        };
        let held = self.slugs.hold(self.slugs.0.cache.clone(), remembered.digest).await;
        Ok(Some(Before { held: held.map_err(content(&self.uri))?, remembered }))
    }

    /// The origin cannot be asked: what it gave last, or what was pinned, is as good as can be known.
    fn stand_in(&self, error: FetchError, before: Option<Before>) -> Result<Resolved, FetchError> {
        let (digest, held) = match (before, self.pin) {
            (Some(Before { remembered, held }), _) => (remembered.digest, held),
            (None, Some(pin)) => (pin, None),
            (None, None) => return Err(error),
        };
        let note = format!("{error}; using sha256:{digest}, which it gave last");
        warn!(slug = self.shown, %error, %digest, "the origin cannot be asked; what it gave last is used");
        let copy = match held {
            Some(held) => SlugCopy::Here(held),
            None => SlugCopy::Gone { path: self.slugs.0.cache.path(digest).into(), why: Arc::new(error) },
        };
        Ok(Resolved { digest, copy, note: Some(note) })
    }

    async fn download(&self, source: &Source, before: Option<&Before>) -> Result<Fetched, FetchError> {
        let inner = &self.slugs.0;
        let unavailable = |problem| FetchError::Unavailable { uri: self.shown.clone(), problem, status: None };
        let request = || match source {
            Source::Web(url) => Ok(Request::new(Method::GET, url.clone())),
            Source::Bucket { bucket, key } => {
                inner.settings.s3.request(Method::GET, bucket, key, &[], Payload::Nothing)
            }
            Source::File(_) | Source::Stored(_) => Err("it is not fetched over HTTP".to_owned()),
        };
        let client = match source {
            Source::Web(_) => inner.web_client(),
            _ => inner.s3_client(),
        };
        let download = Download {
            client: &client.map_err(unavailable)?,
            request: &request,
            shown: &self.shown,
            shelf: &inner.cache,
            options: &inner.options(),
            pin: self.pin,
            known: before.filter(|before| before.held.is_some()).map(|before| &before.remembered.validators),
            patience: &inner.settings.patience,
            chance: &inner.chance,
            say: &|detail| self.say.say(detail),
        };
        download.run().await
    }

    /// From the bucket that is the store: by its digest, which never changes.
    async fn stored(&self, digest: Digest) -> Result<Resolved, FetchError> {
        let Store::Bucket { bucket, prefix } = &self.slugs.0.settings.store else {
            return Err(FetchError::NotStored(digest));
        };
        let source = Source::Bucket { bucket: bucket.clone(), key: format!("{prefix}{digest}") };
        match self.download(&source, None).await {
            Ok(Fetched::New(draft, _)) => self.keep(draft, Validators::default()).await,
            Ok(Fetched::Unchanged) => Err(FetchError::Lost(self.shown.clone())),
            Err(FetchError::Unavailable { status: Some(404), .. }) => Err(FetchError::NotStored(digest)),
            Err(error) => Err(error),
        }
    }

    async fn file(&self, path: &Path, before: Option<&Before>) -> Result<Fetched, FetchError> {
        let whole = self.slugs.0.settings.patience.whole;
        // A file may be on another machine's disk.
        timeout(whole, self.read_file(path, before)).await.unwrap_or_else(|_| {
            let problem = format!("it could not be read within {} s", whole.as_secs());
            Err(FetchError::Origin { uri: self.shown.clone(), problem })
        })
    }

    async fn read_file(&self, path: &Path, before: Option<&Before>) -> Result<Fetched, FetchError> {
        let unavailable = |problem: String| FetchError::Unavailable { uri: self.shown.clone(), problem, status: None };
        let (path, folders) = (path.to_owned(), self.slugs.0.settings.folders.clone());
        let opened = spawn_blocking(move || source::open_below(&path, &folders)).await;
        let opened = opened.map_err(|_| FetchError::Lost(self.shown.clone()))?;
        let Local { file, bytes, validators } = opened.map_err(unavailable)?;
        let known = before.filter(|before| before.held.is_some()).map(|before| &before.remembered.validators);
        if !validators.is_empty() && known == Some(&validators) {
            return Ok(Fetched::Unchanged);
        }
        let content = content(&self.uri);
        let draft = Draft::begin(&self.slugs.0.cache, self.slugs.0.options(), self.pin).await;
        let mut draft = draft.map_err(&content)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer).await.map_err(|error| unavailable(error.to_string()))?;
            if count == 0 {
                return Ok(Fetched::New(Box::new(draft), validators));
            }
            draft.write(&buffer[..count]).await.map_err(&content)?;
            self.say.say(format!("reading {}: {} of {}", self.shown, size(draft.bytes()), size(bytes)));
        }
    }

    async fn keep(&self, draft: Box<Draft>, validators: Validators) -> Result<Resolved, FetchError> {
        self.say.say(format!("checking {}", self.shown));
        let bytes = draft.bytes();
        let (held, _) = draft.finish().await.map_err(content(&self.uri))?;
        info!(slug = self.shown, digest = %held.digest, bytes, "fetched");
        let (memory, uri, digest) = (self.slugs.0.memory.clone(), self.uri.as_str().to_owned(), held.digest);
        let turn = self.slugs.0.turn.fetch_add(1, Ordering::Relaxed);
        let remembered = Remembered { digest, validators };
        // Forgotten, it is fetched again: no reason to refuse a start.
        if let Err(error) = blocking(move || memory.remember(&uri, &remembered, turn)).await {
            warn!(slug = self.shown, %error, "what its origin calls this slug cannot be noted");
        }
        self.slugs.evict().await;
        Ok(Resolved { digest, copy: SlugCopy::Here(held), note: None })
    }
}
