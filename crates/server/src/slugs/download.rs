//! One download over HTTP: bounded in size and time, resumed where the origin can, tried again where that may help.
//!
//! A download that broke off goes on only where a strong ETag says that the rest is of the same bytes; else it begins anew.

use std::error::Error as _;
use std::future::Future;
use std::time::{Duration, SystemTime};

use captain_domain::backoff::Backoff;
use captain_slug::{Digest, Options};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Request, Response, StatusCode, redirect};
use tokio::time::{Instant, sleep, timeout};

use super::draft::Draft;
use super::error::{DraftError, FetchError};
use super::memory::Validators;
use super::shelf::Shelf;
use crate::captain::Chance;

/// Redirects followed. Real ones are a single one to a store, or two.
const REDIRECTS: usize = 5;

/// Tries in a row that brought nothing new. With the pauses between them some three seconds: what lasts longer is no hiccup.
const FRUITLESS: u32 = 5;

/// Waits between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often it is said how much has come.
const SAY_EVERY: Duration = Duration::from_millis(250);

/// The longest that each part of a download may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until an answer begins, and between two pieces of it.
    pub idle: Duration,
    /// Until an answer begins, where an earlier one could stand in.
    pub revalidate: Duration,
    /// All of it, tries included.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // Two lost SYN packets are sent again within 3 s.
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            revalidate: Duration::from_secs(5),
            whole: Duration::from_secs(900),
        }
    }
}

/// A client that follows redirects, a few and only to where a slug may be.
pub(super) fn client(patience: &Patience, redirects: bool) -> Result<Client, reqwest::Error> {
    let policy = redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("it redirects more than {REDIRECTS} times"))
        } else if matches!(attempt.url().scheme(), "http" | "https") {
            attempt.follow()
        } else {
            let problem = format!("it redirects to a {}: URI", attempt.url().scheme());
            attempt.error(problem)
        }
    });
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster; then there is one, which is all that is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = || {
        Client::builder()
            .user_agent(concat!("captain/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .tcp_keepalive(Duration::from_secs(15))
    };
    let with = |builder: reqwest::ClientBuilder| match redirects {
        true => builder,
        false => builder.redirect(redirect::Policy::none()),
    };
    // A machine without any root certificates can still fetch over http.
    with(builder().redirect(policy)).build().or_else(|_| with(builder()).tls_certs_only([]).build())
}

/// What came.
#[derive(Debug)]
pub(super) enum Fetched {
    /// The same as was known.
    Unchanged,
    /// All of it, and what its origin calls it.
    New(Box<Draft>, Validators),
}

/// A download.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    /// Makes the request, anew for each try: signatures are made for a moment.
    pub(super) request: &'a (dyn Fn() -> Result<Request, String> + Send + Sync),
    /// The URI as it may be shown.
    pub(super) shown: &'a str,
    pub(super) shelf: &'a Shelf,
    pub(super) options: &'a Options,
    pub(super) pin: Option<Digest>,
    /// What is known already. Then one try must do.
    pub(super) known: Option<&'a Validators>,
    pub(super) patience: &'a Patience,
    pub(super) chance: &'a Chance,
    pub(super) say: &'a (dyn Fn(String) + Send + Sync),
}

/// What has come so far.
struct Partial {
    draft: Draft,
    validators: Validators,
    total: Option<u64>,
}

impl Partial {
    /// The ETag by which the rest may be asked for.
    fn strong_etag(&self) -> Option<&str> {
        self.validators.etag.as_deref().filter(|etag| !etag.starts_with("W/") && self.draft.bytes() > 0)
    }
}

/// A try that failed.
enum Stop {
    /// For good.
    Final(FetchError),
    /// It may go better next time.
    Again(String),
}

impl Download<'_> {
    /// Carries it out.
    pub(super) async fn run(self) -> Result<Fetched, FetchError> {
        let seconds = self.patience.whole.as_secs();
        match timeout(self.patience.whole, self.persist()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.origins(format!("it did not come within {seconds} s"))),
        }
    }

    async fn persist(&self) -> Result<Fetched, FetchError> {
        let tries = if self.known.is_some() { 1 } else { FRUITLESS };
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let (mut partial, mut best, mut fruitless, mut made) = (None, 0, 0, 0u32);
        loop {
            made += 1;
            let problem = match self.attempt(&mut partial).await {
                Ok(fetched) => return Ok(fetched),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Again(problem)) => problem,
            };
            let reached = partial.as_ref().map_or(0, |partial: &Partial| partial.draft.bytes());
            if reached > best {
                (best, fruitless) = (reached, 0);
                backoff.reset();
            } else {
                fruitless += 1;
            }
            if fruitless >= tries {
                let times = if made > 1 { format!(" (tried {made} times)") } else { String::new() };
                return Err(self.origins(format!("{problem}{times}")));
            }
            (self.say)(format!("fetching {}: {problem}; trying again", self.shown));
            sleep(backoff.next(self.chance.number())).await;
        }
    }

    fn origins(&self, problem: String) -> FetchError {
        FetchError::Origin { uri: self.shown.to_owned(), problem }
    }

    fn for_good(&self, problem: String, status: Option<StatusCode>) -> Stop {
        let status = status.map(|status| status.as_u16());
        Stop::Final(FetchError::Unavailable { uri: self.shown.to_owned(), problem, status })
    }

    fn content(&self, source: DraftError) -> Stop {
        Stop::Final(FetchError::Content { uri: self.shown.to_owned(), source })
    }

    async fn attempt(&self, partial: &mut Option<Partial>) -> Result<Fetched, Stop> {
        let response = self.ask(partial).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED if self.known.is_some() => return Ok(Fetched::Unchanged),
            StatusCode::PARTIAL_CONTENT if partial.as_ref().is_some_and(|partial| continues(partial, &response)) => {}
            StatusCode::OK => *partial = Some(self.begin(&response).await?),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                *partial = None;
                return Err(Stop::Again("it cannot be resumed".to_owned()));
            }
            status if is_transient(status) => return Err(Stop::Again(format!("its origin answered {status}"))),
            status => return Err(self.for_good(format!("its origin answered {status}"), Some(status))),
        }
        self.receive(response, partial).await?;
        match partial.take() {
            Some(Partial { draft, validators, .. }) => Ok(Fetched::New(Box::new(draft), validators)),
            None => Err(Stop::Again("nothing came".to_owned())),
        }
    }

    /// Asks for the slug, for the rest of it, or whether it is still the same.
    async fn ask(&self, partial: &mut Option<Partial>) -> Result<Response, Stop> {
        let mut request = (self.request)().map_err(|problem| self.for_good(problem, None))?;
        let headers = request.headers_mut();
        // The bytes as they are stored: their digest is the slug's.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let rest = partial.as_ref().and_then(|partial| Some((partial.draft.bytes(), partial.strong_etag()?)));
        match (rest, self.known) {
            (Some((from, etag)), _) => {
                set(headers, RANGE, &format!("bytes={from}-"));
                set(headers, IF_RANGE, etag);
            }
            (None, Some(known)) => {
                known.etag.iter().for_each(|etag| set(headers, IF_NONE_MATCH, etag));
                known.last_modified.iter().for_each(|at| set(headers, IF_MODIFIED_SINCE, at));
            }
            (None, None) => {}
        }
        if rest.is_none() {
            *partial = None;
        }
        let patience = if self.known.is_some() { self.patience.revalidate } else { self.patience.idle };
        (self.say)(format!("asking for {}", self.shown));
        match timeout(patience, self.client.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_redirect() || error.is_builder() => Err(self.for_good(cause(&error), None)),
            Ok(Err(error)) => Err(Stop::Again(cause(&error))),
            Err(_) => Err(Stop::Again(format!("its origin did not answer within {} s", patience.as_secs()))),
        }
    }

    async fn begin(&self, response: &Response) -> Result<Partial, Stop> {
        let (total, allowed) = (response.content_length(), self.options.limits.given_bytes);
        if total.is_some_and(|total| total > allowed) {
            return Err(self.content(DraftError::TooLarge { allowed }));
        }
        let draft = Draft::begin(self.shelf, self.options.clone(), self.pin).await;
        let draft = draft.map_err(|error| self.content(error))?;
        Ok(Partial { draft, validators: validators(response.headers()), total })
    }

    async fn receive(&self, mut response: Response, partial: &mut Option<Partial>) -> Result<(), Stop> {
        let Some(Partial { draft, total, .. }) = partial else { return Ok(()) };
        let mut said: Option<Instant> = None;
        while let Some(chunk) = self.piece(response.chunk()).await? {
            draft.write(&chunk).await.map_err(|error| self.content(error))?;
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                said = Some(Instant::now());
                let of = total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
                (self.say)(format!("fetching {}: {}{of}", self.shown, size(draft.bytes())));
            }
        }
        match total {
            Some(total) if *total != draft.bytes() => {
                Err(Stop::Again(format!("it ended after {} of {total} bytes", draft.bytes())))
            }
            _ => Ok(()),
        }
    }

    async fn piece<T>(&self, piece: impl Future<Output = reqwest::Result<T>>) -> Result<T, Stop> {
        match timeout(self.patience.idle, piece).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(Stop::Again(format!("it broke off: {}", cause(&error)))),
            Err(_) => Err(Stop::Again(format!("nothing came for {} s", self.patience.idle.as_secs()))),
        }
    }
}

/// A value that cannot be a header came from no origin: it is left out.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whether the answer is the rest of what has come.
fn continues(partial: &Partial, response: &Response) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
    first == Some(partial.draft.bytes())
}

/// Statuses that another try may change.
fn is_transient(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

/// What the origin calls this version. A time of change counts only if it was over when the answer was made: what changed in the
/// same second may change again within it, and would have the same time.
fn validators(headers: &HeaderMap) -> Validators {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
    let time = |text: &Option<String>| text.as_deref().and_then(|text| httpdate::parse_http_date(text).ok());
    let (etag, last_modified, date) = (text(ETAG), text(LAST_MODIFIED), text(DATE));
    let over = |changed: SystemTime, made: SystemTime| {
        made.duration_since(changed).is_ok_and(|age| age >= Duration::from_secs(1))
    };
    let strong = time(&last_modified).zip(time(&date)).is_some_and(|(changed, made)| over(changed, made));
    Validators { last_modified: last_modified.filter(|_| strong && etag.is_none()), etag }
}

/// What happened, without the layers that say only that something did. The URL, which may hold a secret, is in none of them.
fn cause(error: &reqwest::Error) -> String {
    let last = std::iter::successors(error.source(), |cause| (*cause).source()).last();
    last.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_time_of_change_counts_only_when_it_is_over() {
        let (changed, same, later) =
            ("Sun, 22 Nov 2026 10:00:00 GMT", "Sun, 22 Nov 2026 10:00:00 GMT", "Sun, 22 Nov 2026 10:00:01 GMT");
        let of = |date| validators(&headers(&[("last-modified", changed), ("date", date)])).last_modified;
        assert_eq!(of(same), None);
        assert_eq!(of("nonsense"), None);
        assert_eq!(of(later).as_deref(), Some(changed));
        let both = validators(&headers(&[("last-modified", changed), ("date", later), ("etag", "W/\"1\"")]));
        assert_eq!(both, Validators { etag: Some("W/\"1\"".to_owned()), last_modified: None });
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1, 999_999, 12_345_678].map(size), ["0 kB", "1 kB", "1000 kB", "12.3 MB"]);
    }
}
