//! Slugs in the captain's own store.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, StatusCode};
use serde::de::DeserializeOwned;

use super::{Client, Error, Get, READ_PATIENCE, StoredSlug};

/// The largest slug that a server takes by default, over a line of ten megabits.
const PUSH_PATIENCE: Duration = Duration::from_secs(15 * 60);

impl Client {
    /// The slugs in the captain's own store.
    pub async fn slugs(&self) -> Result<Vec<StoredSlug>, Error> {
        self.get(&Get::slugs()).await
    }

    /// Whether the captain's own store has the slug with this sha256 (64 hexadecimal digits).
    pub async fn has_slug(&self, sha256: &str) -> Result<bool, Error> {
        let url = self.endpoint(&["slugs", sha256])?;
        let response = self.send(self.http.head(url.clone()).timeout(READ_PATIENCE), &url).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(super::error::nonsense(&url, status, b"", None)),
        }
    }

    /// Puts a slug of so many bytes into the captain's own store. It is refused unless it has this sha256.
    pub async fn push_slug<S>(&self, sha256: &str, bytes: u64, slug: S) -> Result<StoredSlug, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        self.push_slug_as(sha256, bytes, slug).await
    }

    /// [`Client::push_slug`], with the answer read as another type.
    pub async fn push_slug_as<U, S>(&self, sha256: &str, bytes: u64, slug: S) -> Result<U, Error>
    where
        U: DeserializeOwned,
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let mut url = self.endpoint(&["slugs", ""])?;
        url.query_pairs_mut().append_pair("sha256", sha256);
        let request = self.http.put(url.clone()).header(CONTENT_LENGTH, bytes).body(Body::wrap_stream(slug));
        self.read(request.timeout(PUSH_PATIENCE), &url).await
    }

    /// Deletes a slug from the captain's own store.
    pub async fn delete_slug(&self, sha256: &str) -> Result<(), Error> {
        let url = self.endpoint(&["slugs", sha256])?;
        self.bytes(self.http.delete(url.clone()).timeout(READ_PATIENCE), &url).await.map(drop)
    }
}
