//! Captain's own store: slugs that were given to it, in a folder or a bucket. They stay until they are deleted.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use captain_slug::Digest;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Body, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;

use super::draft::Draft;
use super::error::{DraftError, StoreError};
use super::s3::Payload;
use super::shelf::{Held, Kept, Removal, Shelf};
use super::{Slugs, blocking};

/// A bucket's listing: a thousand slugs a page, of some 400 bytes each.
const PAGE_BYTES: usize = 4 << 20;
/// A hundred thousand slugs. A bucket that goes on and on is broken.
const PAGES: usize = 100;

/// A question to a bucket that carries no slug.
const WORD_WITHIN: Duration = Duration::from_secs(30);

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// In a folder of this machine.
    Folder(PathBuf),
    /// In a bucket, below a prefix, which is empty or ends with a slash.
    Bucket {
        /// The bucket.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
}

impl Store {
    /// Reads a place: a folder, or `s3://bucket/prefix`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return if text.starts_with('/') {
                Ok(Self::Folder(text.into()))
            } else {
                Err("must be an absolute path, or s3://bucket/prefix")
            };
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        if !super::source::is_bucket(bucket) || prefix.split('/').any(|part| matches!(part, "." | "..")) {
            return Err("must be like s3://bucket/prefix");
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A stored slug on its way out.
pub struct Outgoing {
    /// Its size, where it is known beforehand.
    pub bytes: Option<u64>,
    /// Its bytes. A folder's slug is not removed while this is read.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    contents: Vec<Object>,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    last_modified: String,
    size: u64,
}

impl Slugs {
    /// Takes a slug in. Answers it, and whether it is new. Nothing of it stays unless all of it came and is a slug.
    pub async fn keep<E>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        pin: Option<Digest>,
    ) -> Result<(Kept, bool), StoreError> {
        let shelf = self.0.store_shelf().unwrap_or(&self.0.cache);
        let patience = &self.0.settings.patience;
        let too_slow = StoreError::TooSlow { seconds: patience.whole.as_secs(), idle: patience.idle.as_secs() };
        let receiving = self.receive(shelf, body, pin);
        let (held, new) = timeout(patience.whole, receiving).await.map_err(|_| too_slow)??;
        let new = match &self.0.settings.store {
            Store::Folder(_) => new,
            Store::Bucket { bucket, prefix } => {
                let new = self.put(bucket, prefix, &held).await?;
                self.evict().await;
                new
            }
        };
        let created = SystemTime::now();
        Ok((Kept { digest: held.digest, bytes: held.bytes, created, last_used: None }, new))
    }

    async fn receive<E>(
        &self,
        shelf: &Shelf,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        pin: Option<Digest>,
    ) -> Result<(Held, bool), StoreError> {
        let patience = &self.0.settings.patience;
        let mut draft = Draft::begin(shelf, self.0.options(), pin).await?;
        loop {
            match timeout(patience.idle, body.next()).await {
                Ok(None) => return Ok(draft.finish().await?),
                Ok(Some(Ok(chunk))) => draft.write(&chunk).await?,
                Ok(Some(Err(_))) => return Err(StoreError::BrokenOff { bytes: draft.bytes() }),
                Err(_) => {
                    let (seconds, idle) = (patience.whole.as_secs(), patience.idle.as_secs());
                    return Err(StoreError::TooSlow { seconds, idle });
                }
            }
        }
    }

    /// The stored slugs, by digest.
    pub async fn stored(&self) -> Result<Vec<Kept>, StoreError> {
        match &self.0.settings.store {
            Store::Folder(folder) => {
                let shelf = Shelf::new(folder.clone());
                let listed = blocking(move || shelf.list()).await;
                listed.map_err(|source| DraftError::disk("list", folder, source).into())
            }
            Store::Bucket { bucket, prefix } => self.list(bucket, prefix).await,
        }
    }

    /// The bytes of a stored slug.
    pub async fn read_stored(&self, digest: Digest) -> Result<Outgoing, StoreError> {
        let no_such = || StoreError::NoSuchSlug(digest);
        match &self.0.settings.store {
            Store::Folder(folder) => {
                let held = self.hold(Shelf::new(folder.clone()), digest).await?.ok_or_else(no_such)?;
                let file = held.reopen().map_err(|source| DraftError::disk("open", &*held.path, source))?;
                let bytes = Some(held.bytes);
                let body = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 * 1024);
                let body = body.inspect(move |_| {
                    // The lock lives as long as the stream.
                    let _ = &held;
                });
                Ok(Outgoing { bytes, body: body.boxed() })
            }
            Store::Bucket { bucket, prefix } => {
                let answer = self.ask(Method::GET, bucket, &format!("{prefix}{digest}"), &[]).await?;
                match answer.status() {
                    StatusCode::OK => Ok(Outgoing {
                        bytes: answer.content_length(),
                        body: answer.bytes_stream().map_err(io::Error::other).boxed(),
                    }),
                    StatusCode::NOT_FOUND => Err(no_such()),
                    status => Err(self.bucket_failed(format!("answered {status}"))),
                }
            }
        }
    }

    /// Deletes a stored slug.
    pub async fn discard(&self, digest: Digest) -> Result<(), StoreError> {
        match &self.0.settings.store {
            Store::Folder(folder) => {
                let shelf = Shelf::new(folder.clone());
                match blocking(move || shelf.remove(digest)).await {
                    Ok(Removal::Removed) => Ok(()),
                    Ok(Removal::Absent) => Err(StoreError::NoSuchSlug(digest)),
                    Ok(Removal::InUse) => Err(StoreError::InUse(digest)),
                    Err(source) => Err(DraftError::disk("delete a slug from", folder, source).into()),
                }
            }
            Store::Bucket { bucket, prefix } => {
                let key = format!("{prefix}{digest}");
                // A bucket says 204 whether or not there was one.
                if self.ask(Method::HEAD, bucket, &key, &[]).await?.status() == StatusCode::NOT_FOUND {
                    return Err(StoreError::NoSuchSlug(digest));
                }
                let answer = self.ask(Method::DELETE, bucket, &key, &[]).await?;
                if !answer.status().is_success() {
                    return Err(self.bucket_failed(format!("answered {}", answer.status())));
                }
                let cache = self.0.cache.clone();
                // A copy that is in use goes when the cache is full.
                let _ = blocking(move || cache.remove(digest)).await;
                Ok(())
            }
        }
    }

    /// Puts a slug into the bucket; answers whether it is new there.
    async fn put(&self, bucket: &str, prefix: &str, held: &Held) -> Result<bool, StoreError> {
        let key = format!("{prefix}{}", held.digest);
        if self.ask(Method::HEAD, bucket, &key, &[]).await?.status() == StatusCode::OK {
            return Ok(false);
        }
        let access = &self.0.settings.s3;
        let mut request = access
            .request(Method::PUT, bucket, &key, &[], Payload::Of(held.digest))
            .map_err(|problem| self.bucket_failed(format!("cannot be asked: {problem}")))?;
        let file = held.reopen().map_err(|source| DraftError::disk("open", &*held.path, source))?;
        // S3 wants to know the length beforehand.
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(held.bytes));
        let file = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 * 1024);
        *request.body_mut() = Some(Body::wrap_stream(file));
        match timeout(self.0.settings.patience.whole, self.send(request)).await {
            Ok(answer) => match answer?.status() {
                status if status.is_success() => Ok(true),
                status => Err(self.bucket_failed(format!("answered {status}"))),
            },
            Err(_) => Err(self.bucket_failed("did not take the slug in time".to_owned())),
        }
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Kept>, StoreError> {
        let (mut kept, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            query.extend(next.as_deref().map(|token| ("continuation-token", token)));
            let answer = self.ask(Method::GET, bucket, "", &query).await?;
            if answer.status() != StatusCode::OK {
                return Err(self.bucket_failed(format!("answered {}", answer.status())));
            }
            let page: Page = quick_xml::de::from_reader(self.word(answer).await?.as_slice())
                .map_err(|error| self.bucket_failed(format!("gave a listing that cannot be read: {error}")))?;
            kept.extend(page.contents.iter().filter_map(|object| object.kept(prefix)));
            next = page.next_continuation_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(kept);
            }
        }
        Err(self.bucket_failed(format!("lists more than {PAGES} pages")))
    }

    /// A short answer, whole.
    async fn word(&self, mut answer: Response) -> Result<Vec<u8>, StoreError> {
        let broken = || self.bucket_failed("broke its answer off".to_owned());
        let reading = async {
            let mut word = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|_| broken())? {
                if word.len() + chunk.len() > PAGE_BYTES {
                    return Err(self.bucket_failed(format!("answered more than {PAGE_BYTES} bytes")));
                }
                word.extend_from_slice(&chunk);
            }
            Ok(word)
        };
        timeout(WORD_WITHIN, reading).await.map_err(|_| broken())?
    }

    async fn ask(
        &self,
        method: Method,
        bucket: &str,
        key: &str,
        query: &[(&str, &str)],
    ) -> Result<Response, StoreError> {
        let request = self.0.settings.s3.request(method, bucket, key, query, Payload::Nothing);
        let request = request.map_err(|problem| self.bucket_failed(format!("cannot be asked: {problem}")))?;
        let answer = timeout(WORD_WITHIN, self.send(request)).await;
        answer.map_err(|_| self.bucket_failed(format!("did not answer within {} s", WORD_WITHIN.as_secs())))?
    }

    async fn send(&self, request: reqwest::Request) -> Result<Response, StoreError> {
        let client = self.0.s3_client().map_err(|problem| self.bucket_failed(problem))?;
        let answer = client.execute(request).await;
        answer.map_err(|error| self.bucket_failed(format!("cannot be asked: {}", crate::chain(&error.without_url()))))
    }

    fn bucket_failed(&self, problem: String) -> StoreError {
        StoreError::Bucket { store: self.0.settings.store.clone(), problem }
    }
}

impl Object {
    fn kept(&self, prefix: &str) -> Option<Kept> {
        let digest = self.key.strip_prefix(prefix)?.parse().ok()?;
        let created: jiff::Timestamp = self.last_modified.parse().ok()?;
        Some(Kept { digest, bytes: self.size, created: created.into(), last_used: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_the_store() {
        let bucket = |prefix: &str| Ok(Store::Bucket { bucket: "slugs".to_owned(), prefix: prefix.to_owned() });
        assert_eq!(Store::parse("/var/slugs"), Ok(Store::Folder("/var/slugs".into())));
        assert_eq!(Store::parse("s3://slugs"), bucket(""));
        assert_eq!(Store::parse("s3://slugs/"), bucket(""));
        assert_eq!(Store::parse("s3://slugs/a/b"), bucket("a/b/"));
        for bad in ["slugs", "s3://", "s3:///a", "s3://slugs/../x", ""] {
            assert!(Store::parse(bad).is_err(), "{bad}");
        }
    }
}
