//! A captain that runs as a slug cannot stop itself: it sends the client to another one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// 307 to the same URL, as the client sees it, when `id` is the container that this captain runs in: behind a load balancer the
/// repeated request reaches another captain.
pub(super) fn redirect(hostname: &str, id: &str, request: &Request) -> Option<Response> {
    // An engine names a container's host by the first 12 digits of its id. Any other name is a machine's, and says nothing of ids.
    let is_container = hostname.len() == 12 && hostname.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if !is_container || !id.starts_with(hostname) {
        return None;
    }
    let headers = request.headers();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let location = match first(headers, &FORWARDED_HOST).or_else(|| first(headers, &header::HOST)) {
        Some(host) => format!("{}://{host}{path}", first(headers, &FORWARDED_PROTO).unwrap_or("http")),
        None => path.to_owned(),
    };
    let location = HeaderValue::from_str(&location).ok()?;
    Some((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response())
}

/// The first of the values that proxies have joined by commas: the one nearest to the client.
fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    value.split(',').next().map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "888f02560d34aa0011223344556677889900aabbccddeeff0123456789abcdef";

    fn location(hostname: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = axum::http::Request::delete(format!("/instances/{ID}?a=b"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = redirect(hostname, ID, &request)?;
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        Some(response.headers()[header::LOCATION].to_str().unwrap().to_owned())
    }

    #[test]
    fn only_the_own_container_is_sent_elsewhere() {
        for hostname in ["888f02560d35", "888f", "", "captain-1"] {
            assert_eq!(location(hostname, &[("host", "captain")]), None, "{hostname}");
        }
    }

    #[test]
    fn the_url_is_the_one_that_the_client_used() {
        let path = format!("/instances/{ID}?a=b");
        let cases: [(&[(&str, &str)], String); 3] = [
            (&[("host", "captain:8080")], format!("http://captain:8080{path}")),
            (
                &[("host", "inner"), ("x-forwarded-host", "captain.example, proxy"), ("x-forwarded-proto", "https")],
                format!("https://captain.example{path}"),
            ),
            (&[], path.clone()),
        ];
        for (headers, expected) in cases {
            assert_eq!(location("888f02560d34", headers), Some(expected));
        }
    }
}
