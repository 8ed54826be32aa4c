//! `/slugs/`: Captain's own store.

use std::time::SystemTime;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, http};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use captain_api::{Code, ErrorBody, StoredSlug};
use captain_domain::Timestamp;
use captain_slug::Digest;
use serde::Deserialize;

use super::error::ApiError;
use super::{App, render};
use crate::slugs::{Kept, StoreError};

/// The digests that a client may send along, by the names of two standards and one habit.
const DIGEST_HEADERS: [&str; 3] = ["content-digest", "repr-digest", "digest"];

#[derive(Debug, Default, Deserialize)]
pub(super) struct PutQuery {
    sha256: Option<String>,
}

/// Keep a slug
///
/// The body is the slug: a tar of a built app, plain or compressed with gzip or zstd; the content type does not matter. It is checked
/// while it comes, and nothing of one that is refused stays. A start can then say `"slug_uri": "sha256:…"`.
#[utoipa::path(put, path = "/slugs/", tag = "slugs",
    params(
        ("sha256" = Option<String>, Query, description = "Refuse the slug unless it has this digest. The headers `Content-Digest`, `Repr-Digest` and `Digest` with `sha-256` do the same"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The slug"),
    responses(
        (status = 200, description = "It was there already", body = StoredSlug),
        (status = 201, description = "It is kept", body = StoredSlug),
        (status = 400, description = "The digest is none, or the body broke off", body = ErrorBody),
        (status = 408, description = "The body did not arrive", body = ErrorBody),
        (status = 413, description = "The slug is too large", body = ErrorBody),
        (status = 422, description = "It is no slug, or has another digest", body = ErrorBody),
        (status = 502, description = "The bucket that is the store fails", body = ErrorBody),
        (status = 503, description = "Too many uploads at once", body = ErrorBody),
        (status = 507, description = "The captain has no disk space left", body = ErrorBody),
    ))]
pub(super) async fn put(
    State(app): State<App>,
    query: Result<Query<PutQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::new(Code::BadRequest, error.body_text()))?;
    let pin = pin(query.sha256.as_deref(), request.headers())?;
    let slugs = app.captain.slugs();
    let allowed = slugs.settings().limits.given_bytes;
    if length(request.headers()).is_some_and(|length| length > allowed) {
        return Err(ApiError::new(Code::BodyTooLarge, format!("the slug is larger than {allowed} bytes")));
    }
    let place = std::sync::Arc::clone(slugs.uploads()).try_acquire_owned();
    let place = place.map_err(|_| ApiError::new(Code::Busy, "too many slugs are being uploaded at once"))?;
    // In a task that the captain waits for when it closes: what has come whole is kept.
    let (slugs, body) = (slugs.clone(), request.into_body().into_data_stream());
    let keeping = app.captain.spawn(async move {
        let _place = place;
        slugs.keep(body, pin).await
    });
    let kept = keeping.await.map_err(|_| ApiError::new(Code::Internal, "the upload ended without an answer"))?;
    let (kept, new) = kept?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let place = format!("/slugs/{}", kept.digest);
    Ok((status, [(header::LOCATION, place)], Json(stored(&kept))).into_response())
}

/// The kept slugs
#[utoipa::path(get, path = "/slugs/", tag = "slugs", responses(
    (status = 200, description = "The slugs, by digest", body = Vec<StoredSlug>),
    (status = 502, description = "The bucket that is the store fails", body = ErrorBody),
))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<StoredSlug>>, ApiError> {
    Ok(Json(app.captain.slugs().stored().await?.iter().map(stored).collect()))
}

/// The bytes of a kept slug
#[utoipa::path(get, path = "/slugs/{sha256}", tag = "slugs",
    params(("sha256" = String, Path, description = "Its digest, 64 hexadecimal digits")),
    responses(
        (status = 200, description = "The bytes, as they were put", content_type = "application/octet-stream"),
        (status = 304, description = "As in the answer with this ETag"),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 502, description = "The bucket that is the store fails", body = ErrorBody),
    ))]
pub(super) async fn show(
    State(app): State<App>,
    sha256: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let digest = digest_of(sha256)?;
    let slug = app.captain.slugs().read_stored(digest).await?;
    let etag = format!("\"{digest}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let mut response = Body::from_stream(slug.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("immutable, max-age=31536000"));
    headers.extend(HeaderValue::from_str(&etag).map(|etag| (header::ETAG, etag)));
    headers.extend(slug.bytes.map(|bytes| (header::CONTENT_LENGTH, HeaderValue::from(bytes))));
    Ok(response)
}

/// Delete a kept slug
///
/// Instances that run, and slugs that are prepared on nodes, are not touched.
#[utoipa::path(delete, path = "/slugs/{sha256}", tag = "slugs",
    params(("sha256" = String, Path, description = "Its digest, 64 hexadecimal digits")),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "A start is using it just now", body = ErrorBody),
        (status = 502, description = "The bucket that is the store fails", body = ErrorBody),
    ))]
pub(super) async fn delete(
    State(app): State<App>,
    sha256: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    app.captain.slugs().discard(digest_of(sha256)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn stored(kept: &Kept) -> StoredSlug {
    let moment = |at: SystemTime| {
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        render::moment(Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)))
    };
    StoredSlug {
        sha256: kept.digest.to_string(),
        bytes: kept.bytes,
        created: moment(kept.created),
        last_used: kept.last_used.map(moment),
    }
}

/// The digest in a path, with or without `sha256:`. What is none names no slug.
fn digest_of(sha256: Result<Path<String>, PathRejection>) -> Result<Digest, ApiError> {
    let text = sha256.map(|Path(text)| text).unwrap_or_default();
    let digest = text.strip_prefix("sha256:").unwrap_or(&text).parse();
    digest.map_err(|_| ApiError::new(Code::NoSuchSlug, format!("there is no slug {text} in the store")))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The digest that the slug must have. Several that are given must be the same.
fn pin(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Digest>, ApiError> {
    let bad = |field: &str, problem: &str| ApiError::field(Code::BadRequest, field, problem);
    let mut pins = Vec::new();
    if let Some(text) = query {
        let digest = text.strip_prefix("sha256:").unwrap_or(text).parse();
        pins.push(digest.map_err(|error: captain_slug::NotADigest| bad("sha256", &error.to_string()))?);
    }
    for name in DIGEST_HEADERS {
        for value in headers.get_all(http::HeaderName::from_static(name)) {
            let found = sha256_of_header(value).map_err(|()| bad(name, "its sha-256 is not 32 bytes in base64"))?;
            pins.extend(found);
        }
    }
    match pins.as_slice() {
        [first, rest @ ..] if rest.iter().any(|pin| pin != first) => {
            Err(bad("sha256", "two digests are given for the one slug"))
        }
        pins => Ok(pins.first().copied()),
    }
}

/// `sha-256=<base64>`, the base64 between colons in the newer standard; other algorithms are passed over.
fn sha256_of_header(value: &HeaderValue) -> Result<Option<Digest>, ()> {
    let text = value.to_str().map_err(|_| ())?;
    let is_ours = |(name, _): &(&str, &str)| name.trim().eq_ignore_ascii_case("sha-256");
    let Some((_, digest)) = text.split(',').filter_map(|part| part.split_once('=')).find(is_ours) else {
        return Ok(None);
    };
    let bytes = BASE64_STANDARD.decode(digest.trim().trim_matches(':')).map_err(|_| ())?;
    bytes.try_into().map(|bytes| Some(Digest(bytes))).map_err(|_| ())
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = crate::chain(&error);
        match error {
            StoreError::NoSuchSlug(_) => Self::new(Code::NoSuchSlug, message),
            StoreError::InUse(_) => Self::new(Code::SlugInUse, message),
            StoreError::Draft(error) => Self::of_draft(&error, message, Code::BodyTooLarge),
            StoreError::BrokenOff { .. } => Self::new(Code::BadRequest, message),
            StoreError::TooSlow { .. } => Self::new(Code::RequestTimeout, message),
            StoreError::Bucket { .. } => Self::new(Code::SlugOriginFailed, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn digests_are_read_in_each_form() {
        let (hex, base64) = ("07".repeat(32), BASE64_STANDARD.encode([7; 32]));
        let expected = Some(Digest([7; 32]));
        assert_eq!(pin(Some(&hex), &HeaderMap::new()).unwrap(), expected);
        assert_eq!(pin(Some(&format!("sha256:{hex}")), &HeaderMap::new()).unwrap(), expected);
        for (name, value) in [
            ("digest", format!("SHA-256={base64}")),
            ("digest", format!("md5=abc=,sha-256={base64}")),
            ("content-digest", format!("sha-256=:{base64}:")),
        ] {
            assert_eq!(pin(None, &headers(name, &value)).unwrap(), expected, "{value}");
        }
        assert_eq!(pin(None, &headers("digest", "md5=abc=")).unwrap(), None);
    }

    #[test]
    fn what_is_no_digest_is_named() {
        let other = BASE64_STANDARD.encode([8; 32]);
        for (query, name, value, field) in [
            (Some("abc"), "x-none", String::new(), "sha256"),
            (None, "digest", "sha-256=abc".to_owned(), "digest"),
            (Some(&*"07".repeat(32)), "digest", format!("sha-256={other}"), "sha256"),
        ] {
            let error = pin(query, &headers(name, &value)).unwrap_err().into_response();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{field}");
        }
    }
}
