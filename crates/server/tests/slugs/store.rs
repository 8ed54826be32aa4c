//! Captain's own store, through the HTTP interface: in a folder, and in a bucket.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use captain_server::slugs::{Access, Store};
use captain_slug::Digest;
use serde_json::{Value, json};

use crate::staging::{digest_of, slug, tar_of};
use crate::starting::{Fleet, stack};

async fn fleet() -> Fleet {
    Fleet::new(stack(), |settings| settings.limits.given_bytes = 1_000_000).await
}

async fn put(fleet: &Fleet, query: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request =
        Request::put(format!("/slugs/{query}")).header("content-type", "text/html").body(body.into()).unwrap();
    let (status, _, body) = fleet.ask(request).await;
    (status, serde_json::from_slice(&body).unwrap())
}

async fn on(fleet: &Fleet, method: &str, path: &str) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
    fleet.ask(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await
}

async fn listed(fleet: &Fleet) -> Vec<String> {
    let (status, _, body) = on(fleet, "GET", "/slugs/").await;
    assert_eq!(status, StatusCode::OK);
    let slugs: Vec<captain_api::StoredSlug> = serde_json::from_slice(&body).unwrap();
    slugs.into_iter().map(|slug| slug.sha256).collect()
}

async fn start(fleet: &Fleet, digest: Digest) -> (StatusCode, Value) {
    let body = json!({"app": "demo", "node": "app-1", "slug_uri": format!("sha256:{digest}")}).to_string();
    let request = Request::post("/instances/").header("content-type", "application/json").body(body.into()).unwrap();
    let (status, _, body) = fleet.ask(request).await;
    (status, serde_json::from_slice(&body).unwrap())
}

/// What holds of a store, wherever it is.
async fn goes_round(fleet: &Fleet) {
    let body = slug(1, 300_000);
    let digest = digest_of(&body);
    let path = format!("/slugs/{digest}");
    assert_eq!(listed(fleet).await, [""; 0]);
    assert_eq!(on(fleet, "GET", &path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(start(fleet, digest).await.1["code"], "slug_unavailable");

    let (status, kept) = put(fleet, "", body.clone()).await;
    assert_eq!(
        (status, &kept["sha256"], &kept["bytes"]),
        (StatusCode::CREATED, &json!(digest.to_string()), &json!(body.len()))
    );
    assert_eq!(put(fleet, &format!("?sha256={digest}"), body.clone()).await.0, StatusCode::OK, "it is there");
    assert_eq!(listed(fleet).await, [digest.to_string()]);
    let (status, headers, bytes) = on(fleet, "GET", &path).await;
    assert!(status == StatusCode::OK && bytes == body);
    assert_eq!(headers["content-length"], body.len().to_string());
    let (status, headers, bytes) = on(fleet, "HEAD", &path).await;
    assert_eq!(
        (status, bytes.len(), &headers["etag"]),
        (StatusCode::OK, 0, &format!("\"{digest}\"")[..].parse().unwrap())
    );

    assert_eq!(start(fleet, digest).await.0, StatusCode::CREATED);
    let other = slug(2, 1000);
    assert_eq!(put(fleet, "", other.clone()).await.0, StatusCode::CREATED);
    let mut both = [digest, digest_of(&other)];
    both.sort_unstable();
    assert_eq!(listed(fleet).await, both.map(|digest| digest.to_string()));
    assert_eq!(on(fleet, "DELETE", &format!("/slugs/sha256:{}", digest_of(&other))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(on(fleet, "DELETE", &path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(on(fleet, "DELETE", &path).await.0, StatusCode::NOT_FOUND);
    assert_eq!(listed(fleet).await, [""; 0]);
    assert_eq!(start(fleet, digest).await.1["code"], "slug_unavailable");
}

#[tokio::test]
async fn a_folder_keeps_slugs() {
    goes_round(&fleet().await).await;
}

#[tokio::test]
async fn a_bucket_keeps_slugs() {
    let endpoint = bucket::serve().await;
    let fleet = Fleet::new(stack(), |settings| {
        settings.store = Store::parse("s3://slugs/captain").unwrap();
        settings.s3 = Access {
            endpoint: Some(endpoint.parse().unwrap()),
            region: Some("eu-west-2".to_owned()),
            credentials: Some(captain_server::discovery::ec2::Credentials {
                id: "AKIA".to_owned(),
                secret: "hunter2".to_owned(),
                token: None,
            }),
        };
    })
    .await;
    goes_round(&fleet).await;
}

#[tokio::test]
async fn a_bucket_that_is_away_is_said_to_be() {
    let fleet = Fleet::new(stack(), |settings| {
        settings.store = Store::parse("s3://slugs").unwrap();
        settings.s3.endpoint = Some("http://127.0.0.1:1".parse().unwrap());
    })
    .await;
    for (method, path) in [("GET", "/slugs/".to_owned()), ("DELETE", format!("/slugs/{}", "07".repeat(32)))] {
        let (status, _, body) = on(&fleet, method, &path).await;
        let error: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &error["code"]), (StatusCode::BAD_GATEWAY, &json!("slug_origin_failed")), "{error}");
    }
    assert_eq!(put(&fleet, "", slug(1, 1000)).await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let fleet = fleet().await;
    let (good, pin) = (slug(1, 1000), "07".repeat(32));
    let broken = Body::from_stream(futures_util::stream::iter([Ok(Bytes::from(good.clone())), Err("gone")]));
    let cases = [
        (String::new(), Body::from("<html>"), 422, "slug_invalid"),
        (String::new(), Body::from(tar_of("mkfifo pipe")), 422, "slug_invalid"),
        (String::new(), Body::from(slug(1, 2_000_000)), 413, "body_too_large"),
        (format!("?sha256={pin}"), Body::from(good), 422, "slug_mismatch"),
        ("?sha256=abc".to_owned(), Body::empty(), 400, "bad_request"),
        (String::new(), broken, 400, "bad_request"),
    ];
    for (query, body, status, code) in cases {
        let (answered, error) = put(&fleet, &query, body).await;
        assert_eq!((answered.as_u16(), &error["code"]), (status, &json!(code)), "{error}");
    }
    let left =
        |folder: &str| std::fs::read_dir(fleet.folder.path().join("data").join(folder)).map_or(0, Iterator::count);
    assert_eq!((left("store"), left("store/drafts")), (1, 0), "only the folder of drafts");
    for path in ["/slugs/x", "/slugs/%ff", "/slugs/..%2f..%2fetc%2fpasswd"] {
        assert_eq!(on(&fleet, "GET", path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn an_upload_that_stops_coming_is_let_go() {
    let fleet = Fleet::new(stack(), |settings| settings.patience.idle = std::time::Duration::from_millis(100)).await;
    let stalled = futures_util::StreamExt::chain(
        futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(slug(1, 1000)))]),
        futures_util::stream::pending(),
    );
    let (status, error) = put(&fleet, "", Body::from_stream(stalled)).await;
    assert_eq!((status, &error["code"]), (StatusCode::REQUEST_TIMEOUT, &json!("request_timeout")));
}

/// As much of S3 as four requests need.
mod bucket {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::to_bytes;
    use axum::extract::Request;
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse, Response};

    type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    pub(super) async fn serve() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let objects = Objects::default();
        let routes = Router::new().fallback(move |request: Request| answer(Arc::clone(&objects), request));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        endpoint
    }

    async fn answer(objects: Objects, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let header =
            |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let scope = "/eu-west-2/s3/aws4_request, SignedHeaders=";
        assert!(header("authorization").contains(scope), "every request is signed: {}", header("authorization"));
        let body = to_bytes(body, usize::MAX).await.unwrap();
        if !body.is_empty() {
            let found = captain_slug::inspect(&body[..], &captain_slug::Options::default()).unwrap().report.sha256;
            assert_eq!(
                (header("x-amz-content-sha256"), header("content-length")),
                (found.to_string(), body.len().to_string())
            );
        }
        let mut objects = objects.lock().unwrap();
        let path = head.uri.path().to_owned();
        match head.method {
            Method::PUT => drop(objects.insert(path, body.into())),
            Method::DELETE => {
                objects.remove(&path);
                return StatusCode::NO_CONTENT.into_response();
            }
            _ if path == "/slugs/" => return listing(&objects, head.uri.query().unwrap_or_default()),
            _ => {
                return objects
                    .get(&path)
                    .cloned()
                    .map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response);
            }
        }
        StatusCode::OK.into_response()
    }

    /// One object a page, so that pages are followed.
    fn listing(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> Response {
        assert!(query.starts_with("list-type=2&prefix=captain%2F"), "{query}");
        let after =
            query.split_once("continuation-token=").map(|(_, token)| token.replace("%2F", "/")).unwrap_or_default();
        let mut rest = objects.iter().filter(|(path, _)| **path > after);
        let contents = rest.next().map(|(path, bytes)| {
            let (key, size) = (path.trim_start_matches("/slugs/"), bytes.len());
            let next = if objects.keys().any(|other| other > path) { format!("<NextContinuationToken>{path}</NextContinuationToken>") } else { String::new() };
            format!("<Contents><Key>{key}</Key><LastModified>2026-11-22T10:00:00.000Z</LastModified><Size>{size}</Size></Contents>{next}")
        });
        format!("<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{}</ListBucketResult>", contents.unwrap_or_default()).into_response()
    }
}
