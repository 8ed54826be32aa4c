//! The HTTP interface: routes, and the little that stands between a request and an action.
//!
//! Handlers extract, call one thing, and render. A GET is answered from the view and asks no engine (logs of one instance
//! excepted). The OpenAPI document is made from the handlers below and committed as `openapi.json`; a test holds the two together.

mod claims;
mod docs;
mod error;
mod instances;
mod logs;
mod nodes;
mod render;
mod self_stop;
pub mod serve;
mod slugs;
mod start_body;

use std::any::Any;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use captain_api::{CacheInfo, Code};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::predicate::{Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::captain::Captain;
use error::ApiError;

/// The header that names the operation of a start.
const OPERATION: HeaderName = HeaderName::from_static("captain-operation");

/// Readers of logs at once: each holds a connection to an engine.
const LOG_READERS: usize = 512;

/// The shortest answer that is compressed for a client that takes it so, in bytes: some 250 instances. For a shorter one the
/// compression would take more time than a local network. One whose length is not known, a stream, is a long one.
const COMPRESSED_FROM: u64 = 128 * 1024;

/// What every handler can reach. A cheap clone.
#[derive(Clone)]
struct App(Arc<AppInner>);

struct AppInner {
    captain: Captain,
    /// The host name of the machine or container that this captain runs in: an instance whose id begins so is the captain itself.
    hostname: String,
    /// In the ETags, so that those of an earlier process never match.
    boot: u32,
    listing: Mutex<instances::Listing>,
    log_readers: Arc<Semaphore>,
}

impl std::ops::Deref for App {
    type Target = AppInner;

    fn deref(&self) -> &AppInner {
        &self.0
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Captain",
        description = "Starts, stops and watches slugs on a cluster of nodes. Reads are answered from memory and wait for no node. \
                       Every error has the same body, with a stable `code`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "instances", description = "Running processes of slugs"),
        (name = "nodes", description = "Machines and their slots"),
        (name = "slugs", description = "Slugs that were given to Captain"),
        (name = "captain", description = "The captain itself")
    )
)]
struct Document;

fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(instances::list, instances::start))
        .routes(routes!(instances::show, instances::stop))
        .routes(routes!(instances::logs))
        .routes(routes!(instances::summary))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::show))
        .routes(routes!(claims::list))
        .routes(routes!(claims::show))
        .routes(routes!(slugs::list, slugs::put))
        .routes(routes!(slugs::show, slugs::delete))
        .routes(routes!(cache_info, cache_clear))
        .routes(routes!(ping))
}

/// The OpenAPI document of the interface.
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().split_for_parts().1
}

/// All routes.
pub fn router(captain: Captain, hostname: String) -> Router {
    let boot = captain.chance().number();
    let app = App(Arc::new(AppInner {
        captain,
        hostname,
        boot,
        listing: Mutex::default(),
        log_readers: Arc::new(Semaphore::new(LOG_READERS)),
    }));
    let (routes, document) = documented().split_for_parts();
    let page = docs::page(&document);
    let document = serde_json::to_string_pretty(&document).unwrap_or_default();
    routes
        // Without their slash the original answered 301 to some of these and 500 to a POST.
        .route("/instances", get(instances::list).post(instances::start))
        .route("/instances/{id}/", get(instances::show).delete(instances::stop))
        .route("/instances/{id}/logs/", get(instances::logs))
        .route("/instances_summary", get(instances::summary))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}/", get(nodes::show))
        .route("/claims", get(claims::list))
        .route("/slugs", get(slugs::list).put(slugs::put))
        .route("/cache/", get(cache_info).delete(cache_clear))
        .route("/ping/ping/", get(ping))
        .route("/openapi.json", get(move || async { ([(header::CONTENT_TYPE, "application/json")], document) }))
        .route("/docs", get(move || async { ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page) }))
        .route("/", any(async || ApiError::new(Code::NoSuchPath, "there is nothing at /").help("see /docs")))
        .fallback(async |request: Request| {
            let path = request.uri().path().to_owned();
            ApiError::new(Code::NoSuchPath, format!("there is nothing at {path}")).help("see /docs")
        })
        .method_not_allowed_fallback(async |request: Request| {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            ApiError::new(Code::MethodNotAllowed, format!("{method} cannot be done on {path}")).help("see /docs")
        })
        // Instances write what is in logs and environments: no browser is to take it for a page.
        .layer(SetResponseHeaderLayer::overriding(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(
            CompressionLayer::new()
                .quality(CompressionLevel::Fastest)
                .compress_when(SizeAbove::new(COMPRESSED_FROM).and(is_json)),
        )
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

/// Lines of a log must not wait for a block to fill.
fn is_json(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "application/json")
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let said =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    tracing::error!(
        panic = said.as_deref().unwrap_or("(no message)"),
        "a handler panicked: this is a defect of Captain"
    );
    ApiError::new(Code::Internal, "Captain made a mistake; its log says more").into_response()
}

/// Whether the captain answers
#[utoipa::path(get, path = "/ping/ping", tag = "captain", responses((status = 204, description = "It does")))]
async fn ping() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// What is remembered between listings
///
/// The original cached inspections; here it is part of the view.
#[utoipa::path(get, path = "/cache", tag = "captain", responses((status = 200, description = "Figures", body = CacheInfo)))]
async fn cache_info(axum::extract::State(app): axum::extract::State<App>) -> Json<CacheInfo> {
    Json(app.captain.fleet().read(|view| {
        let (hits, misses) = view.inspections();
        let known = view.known_instances() as u64;
        CacheInfo { currsize: known, hits, maxsize: known, misses }
    }))
}

/// Inspect everything anew
///
/// What is known stays until the engines have answered.
#[utoipa::path(delete, path = "/cache", tag = "captain", responses((status = 200, description = "`null`")))]
async fn cache_clear(axum::extract::State(app): axum::extract::State<App>) -> Json<()> {
    for node in app.captain.nodes() {
        app.captain.fleet().write(|view| view.doubt(node.engine.node()));
        node.poke.notify_one();
    }
    Json(())
}
