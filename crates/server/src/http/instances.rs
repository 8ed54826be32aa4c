//! `/instances/`, `/instances_summary/`.

use std::sync::PoisonError;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract};
use captain_api::{Code, ErrorBody, Instance, LogLine, Start, Summary};
use captain_domain::InstanceId;
use captain_domain::id::IdPrefix;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::error::ApiError;
use super::render::{self, InstanceJson};
use super::start_body::{self, Operation};
use super::{App, OPERATION, logs, self_stop};
use crate::actions;
use crate::captain::Captain;
use crate::fleet::{Filter, Found, StateFilter, View};

/// The largest body of a start: an environment of many kilobytes is rare, one of a megabyte is a mistake.
const LARGEST_BODY: usize = 1024 * 1024;

/// How long the body of a start may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Instances rendered in one look at the view: some 100 µs, for which writers wait. A longer listing is made of several looks.
const SLICE: usize = 256;

/// The most instances of a page, and of a listing that is kept as one answer.
const PAGE: usize = 2_000;

/// The last whole listing, for as long as nothing changes. Most listings are asked for again before anything has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    version: u64,
    body: Option<Bytes>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    node: Option<String>,
    app: Option<String>,
    state: Option<String>,
    limit: Option<String>,
    after: Option<String>,
}

struct Wanted {
    filter: Filter,
    after: Option<InstanceId>,
    limit: Option<usize>,
}

impl Wanted {
    fn parse(query: ListQuery) -> Result<Self, ApiError> {
        let state = match query.state.as_deref() {
            None | Some("") => StateFilter::Running,
            Some("all") => StateFilter::All,
            Some("unknown") => StateFilter::Unknown,
            Some(word) => captain_domain::State::from_word(word).map(StateFilter::Only).ok_or_else(|| {
                let words = captain_domain::State::ALL.map(captain_domain::State::word).join(", ");
                ApiError::field(Code::BadRequest, "state", &format!("must be one of {words}, unknown, all"))
            })?,
        };
        let limit = query.limit.map(|limit| match limit.parse() {
            Ok(limit @ 1..) => Ok(limit),
            _ => Err(ApiError::field(Code::BadRequest, "limit", "must be a whole number of 1 or more")),
        });
        let after = query.after.map(|after| {
            after.parse().map_err(|_| ApiError::field(Code::BadRequest, "after", "must be the id of an instance"))
        });
        Ok(Self {
            filter: Filter { node: query.node, app: query.app, state },
            after: after.transpose()?,
            limit: limit.transpose()?,
        })
    }

    fn is_everything(&self) -> bool {
        self.after.is_none() && self.limit.is_none() && self.filter == Filter::default()
    }
}

/// The instances
///
/// Those that run, on every node, unless `state` asks for others; in the order of their ids. Those of a node that cannot be reached
/// stay listed, with the state `unknown`. A long listing streams, and may mix what was true at its beginning and at its end.
#[utoipa::path(get, path = "/instances/", tag = "instances",
    params(
        ("node" = Option<String>, Query, description = "Of this node only"),
        ("app" = Option<String>, Query, description = "Of this app only"),
        ("state" = Option<String>, Query, description = "In this state only; `all` for every state. By default those that run"),
        ("limit" = Option<u32>, Query, description = "At most so many. A `Link` header with `rel=\"next\"` leads to the rest"),
        ("after" = Option<String>, Query, description = "Those whose ids come after this one"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of an earlier answer: 304 if nothing has changed since"),
    ),
    responses(
        (status = 200, description = "The instances", body = Vec<Instance>, headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "As in the answer with this ETag"),
        (status = 400, description = "A parameter that is no such value", body = ErrorBody),
    ))]
pub(super) async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::new(Code::BadRequest, error.body_text()))?;
    let wanted = Wanted::parse(query)?;
    let version = app.captain.fleet().read(View::version);
    let etag = format!("W/\"{:08x}-{version:x}\"", app.boot);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let mut response = match wanted.limit {
        Some(limit) => page(&app, wanted, limit).await,
        None if wanted.is_everything() => whole_listing(&app),
        None => stream(Slices::new(&app, wanted.filter, wanted.after)),
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

fn whole_listing(app: &App) -> Response {
    let mut listing = app.listing.lock().unwrap_or_else(PoisonError::into_inner);
    let rendered = app.captain.fleet().read(|view| {
        if let Some(body) = listing.body.as_ref().filter(|_| listing.version == view.version()) {
            return Some(body.clone());
        }
        if view.known_instances() > PAGE {
            return None;
        }
        let mut out = vec![b'['];
        Slice { filter: &Filter::default(), after: None, limit: usize::MAX, any_before: false }.render(view, &mut out);
        out.push(b']');
        let body = Bytes::from(out);
        *listing = Listing { version: view.version(), body: Some(body.clone()) };
        Some(body)
    });
    drop(listing);
    match rendered {
        Some(body) => (JSON, body).into_response(),
        None => stream(Slices::new(app, Filter::default(), None)),
    }
}

async fn page(app: &App, wanted: Wanted, limit: usize) -> Response {
    let limit = limit.min(PAGE);
    let mut slices = Slices::new(app, wanted.filter, wanted.after);
    let mut out = vec![b'['];
    while slices.rendered < limit && !slices.ended {
        slices.next(SLICE.min(limit - slices.rendered), &mut out).await;
    }
    out.push(b']');
    let link = if slices.ended { None } else { slices.after.and_then(|last| next_link(&slices.filter, limit, last)) };
    let mut response = (JSON, out).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn next_link(filter: &Filter, limit: usize, last: InstanceId) -> Option<HeaderValue> {
    let mut link = format!("</instances/?limit={limit}&after={last}");
    let state = match filter.state {
        StateFilter::Running => None,
        StateFilter::All => Some("all"),
        StateFilter::Unknown => Some("unknown"),
        StateFilter::Only(state) => Some(state.word()),
    };
    let pairs = [("app", filter.app.as_deref()), ("node", filter.node.as_deref()), ("state", state)];
    for (name, value) in pairs {
        if let Some(value) = value {
            // Names that Captain takes need no escaping; others fit no instance, and have no next page.
            link.push_str(&format!("&{name}={value}"));
        }
    }
    link.push_str(">; rel=\"next\"");
    HeaderValue::from_str(&link).ok()
}

/// Which instances to render in one look.
struct Slice<'a> {
    filter: &'a Filter,
    after: Option<InstanceId>,
    limit: usize,
    /// Whether the list has instances already, so that a comma comes first.
    any_before: bool,
}

impl Slice<'_> {
    /// Appends them. Answers how many, and the id to go on after where there may be more.
    fn render(&self, view: &View, out: &mut Vec<u8>) -> (usize, Option<InstanceId>) {
        let mut rendered = 0;
        let last = view.page(self.filter, self.after, self.limit, |instance| {
            if self.any_before || rendered > 0 {
                out.push(b',');
            }
            // Plain text and numbers written to memory: it does not fail.
            let _ = serde_json::to_writer(&mut *out, &InstanceJson { instance, listed: true });
            rendered += 1;
        });
        (rendered, last)
    }
}

/// A listing of any length, slice by slice: between two looks others have the view, and the thread.
struct Slices {
    captain: Captain,
    filter: Filter,
    after: Option<InstanceId>,
    rendered: usize,
    ended: bool,
}

impl Slices {
    fn new(app: &App, filter: Filter, after: Option<InstanceId>) -> Self {
        Self { captain: app.captain.clone(), filter, after, rendered: 0, ended: false }
    }

    async fn next(&mut self, limit: usize, out: &mut Vec<u8>) {
        let slice = Slice { filter: &self.filter, after: self.after, limit, any_before: self.rendered > 0 };
        let (rendered, last) = self.captain.fleet().read(|view| slice.render(view, out));
        self.rendered += rendered;
        self.ended = last.is_none();
        self.after = last.or(self.after);
        yield_now().await;
    }
}

/// A listing in bounded memory: each slice is made when the client has taken the one before.
fn stream(slices: Slices) -> Response {
    let first = Bytes::from_static(b"[");
    let parts = futures_util::stream::unfold((slices, Some(first)), async |(mut slices, first)| {
        if let Some(first) = first {
            return Some((Ok::<_, std::convert::Infallible>(first), (slices, None)));
        }
        if slices.ended {
            return None;
        }
        let mut out = Vec::with_capacity(SLICE * 512);
        slices.next(SLICE, &mut out).await;
        if slices.ended {
            out.push(b']');
        }
        Some((Ok(Bytes::from(out)), (slices, None)))
    });
    // Compression asks once more after the end.
    (JSON, Body::from_stream(parts.fuse())).into_response()
}

/// The id in a path. What is no text there is no id either.
fn id_of(id: Result<Path<String>, extract::rejection::PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}

/// One instance
///
/// The full id, or at least 12 digits of its beginning. An instance that has ended is found until it is collected.
#[utoipa::path(get, path = "/instances/{id}", tag = "instances",
    params(("id" = String, Path, description = "Its id, or at least 12 digits of the beginning")),
    responses(
        (status = 200, description = "The instance", body = Instance),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "Several ids begin so", body = ErrorBody),
    ))]
pub(super) async fn show(
    State(app): State<App>,
    id: Result<Path<String>, extract::rejection::PathRejection>,
) -> Result<Response, ApiError> {
    let id = id_of(id);
    let no_such = || ApiError::new(Code::NoSuchInstance, format!("there is no instance {id}"));
    let prefix: IdPrefix = id.parse().map_err(|_| no_such())?;
    app.captain.fleet().read(|view| match view.find(&prefix) {
        Found::One(instance) => {
            let mut out = Vec::with_capacity(1024);
            let _ = serde_json::to_writer(&mut out, &InstanceJson { instance, listed: false });
            Ok((JSON, out).into_response())
        }
        Found::None => Err(no_such()),
        Found::Ambiguous => Err(ApiError::new(Code::AmbiguousId, format!("several instances' ids begin with {id}"))),
    })
}

/// How many instances run
#[utoipa::path(get, path = "/instances_summary/", tag = "instances",
    responses((status = 200, description = "In all, and of each app", body = Summary)))]
pub(super) async fn summary(State(app): State<App>) -> Json<Summary> {
    Json(app.captain.fleet().read(|view| Summary {
        total_instances: view.running_instances(),
        apps: view.running_by_app().map(|(app, running)| (app.to_string(), running)).collect(),
    }))
}

/// Start an instance
///
/// Answers when its container runs; does not wait for the app to listen. The start goes on although the client hangs up.
#[utoipa::path(post, path = "/instances/", tag = "instances",
    request_body(content = Start, content_type = "application/json"),
    params(("Captain-Operation" = Option<String>, Header, description = "A UUID for this start, by which `/claims/{operation}` tells how far it has come")),
    responses(
        (status = 201, description = "It runs", body = Instance),
        (status = 400, description = "The body cannot be read, or a field is missing, unknown or of a wrong type", body = ErrorBody),
        (status = 404, description = "There is no such node", body = ErrorBody),
        (status = 408, description = "The body did not arrive", body = ErrorBody),
        (status = 409, description = "This operation is being carried out already", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not JSON", body = ErrorBody),
        (status = 422, description = "A value that cannot work, or an image that cannot be had", body = ErrorBody),
        (status = 502, description = "The engine failed", body = ErrorBody),
        (status = 503, description = "Not enough free slots, or the node is out of reach", body = ErrorBody),
        (status = 504, description = "The engine did not answer in time; whatever may have started is removed", body = ErrorBody),
        (status = 507, description = "The node has no disk space left", body = ErrorBody),
    ))]
pub(super) async fn start(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let operation = operation_of(&app, request.headers())?;
    let body = json_body(request).await?;
    let order = start_body::parse(&body, operation, app.captain.policy())?;
    let instance = actions::start::start(&app.captain, order)
        .await
        .map_err(|error| ApiError::from(error).operation(&operation.id))?;
    let place = format!("/instances/{}", instance.id);
    let mut response = (StatusCode::CREATED, Json(render::fresh(&instance))).into_response();
    for (name, value) in [(header::LOCATION, place), (OPERATION, operation.id.to_string())] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn operation_of(app: &App, headers: &HeaderMap) -> Result<Operation, ApiError> {
    let Some(given) = headers.get(OPERATION) else {
        return Ok(Operation { id: app.captain.chance().operation(), given: false });
    };
    let parsed = given.to_str().ok().and_then(|text| text.parse().ok()).map(|id| Operation { id, given: true });
    parsed.ok_or_else(|| ApiError::field(Code::BadRequest, "Captain-Operation", "must be a UUID"))
}

async fn json_body(request: Request) -> Result<Bytes, ApiError> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let problem = if essence.is_empty() { "there is none".to_owned() } else { format!("not {essence}") };
        return Err(ApiError::new(
            Code::UnsupportedMediaType,
            format!("Content-Type must be application/json: {problem}"),
        ));
    }
    match timeout(BODY_WITHIN, to_bytes(request.into_body(), LARGEST_BODY)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_too_long(&error) => {
            Err(ApiError::new(Code::BodyTooLarge, format!("the body is larger than {LARGEST_BODY} bytes")))
        }
        Ok(Err(_)) => Err(ApiError::new(Code::BadRequest, "the body broke off")),
        Err(_) => Err(ApiError::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()),
        )),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Stop an instance
///
/// SIGTERM, 10 seconds, SIGKILL, and removal; answered when its container is gone. Also removes one that has ended.
#[utoipa::path(delete, path = "/instances/{id}", tag = "instances",
    params(("id" = String, Path, description = "Its id, or at least 12 digits of the beginning")),
    responses(
        (status = 204, description = "It is stopped and removed"),
        (status = 307, description = "It is this captain itself: another one must stop it. Repeat the request at `Location`"),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "Several ids begin so", body = ErrorBody),
        (status = 502, description = "The engine failed", body = ErrorBody),
        (status = 503, description = "Its node is out of reach", body = ErrorBody),
        (status = 504, description = "The engine did not answer in time", body = ErrorBody),
    ))]
pub(super) async fn stop(
    State(app): State<App>,
    id: Result<Path<String>, extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id = id_of(id);
    if let Some(elsewhere) = self_stop::redirect(&app.hostname, &id, &request) {
        return Ok(elsewhere);
    }
    actions::stop::stop(&app.captain, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct LogsQuery {
    follow: Option<String>,
}

/// Output of an instance
///
/// Standard output and standard error together, from the beginning, a JSON object a line. Ends with one extra `{"msg": "\n"}`.
/// With `follow=1` it goes on until the instance ends.
#[utoipa::path(get, path = "/instances/{id}/logs", tag = "instances",
    params(
        ("id" = String, Path, description = "Its id, or at least 12 digits of the beginning"),
        ("follow" = Option<i64>, Query, description = "1: go on until the instance ends"),
    ),
    responses(
        (status = 200, description = "Lines", body = LogLine, content_type = "application/jsonstream"),
        (status = 400, description = "`follow` is not a whole number", body = ErrorBody),
        (status = 404, description = "There is none", body = ErrorBody),
        (status = 409, description = "Several ids begin so", body = ErrorBody),
        (status = 502, description = "The engine failed", body = ErrorBody),
        (status = 503, description = "Its node is out of reach, or too many read logs at once", body = ErrorBody),
        (status = 504, description = "The engine did not answer in time", body = ErrorBody),
    ))]
pub(super) async fn logs(
    State(app): State<App>,
    id: Result<Path<String>, extract::rejection::PathRejection>,
    query: Result<Query<LogsQuery>, extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::new(Code::BadRequest, error.body_text()))?;
    let follow = match query.follow.as_deref().map(|text| text.trim().parse::<i128>()) {
        None => false,
        Some(Ok(number)) => number == 1,
        Some(Err(_)) => return Err(ApiError::field(Code::BadRequest, "follow", "must be a whole number: 0 or 1")),
    };
    let place = std::sync::Arc::clone(&app.log_readers)
        .try_acquire_owned()
        .map_err(|_| ApiError::new(Code::Busy, "too many readers of logs at once"))?;
    let lines = actions::logs::logs(&app.captain, &id_of(id), follow).await?;
    let body = logs::body(lines, follow, place, app.captain.closing().clone());
    Ok(([(header::CONTENT_TYPE, "application/jsonstream")], body).into_response())
}
