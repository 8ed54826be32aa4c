//! The documentation that a captain carries. That its answers are as documented is asserted of each answer of every test
//! (`captain_e2e::contract`).

use captain_e2e::captain::Settings;
use captain_e2e::contract::document_path;

/// A captain without engines: there is nothing to ask them.
fn alone() -> Settings {
    Settings::default()
        .set("DOCKER_NODES", "app-1=tcp://127.0.0.1:1")
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", "flynn/slugrunner")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_is_the_committed_one() {
    let captain = alone().start_anyhow().await;
    let served = captain.get("/openapi.json").await.expect(200);
    assert_eq!(served.header("content-type"), "application/json");
    let committed = std::fs::read_to_string(document_path()).unwrap();
    assert_eq!(served.text().trim_end(), committed.trim_end());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_it_is_readable_without_a_network() {
    let captain = alone().start_anyhow().await;
    let page = captain.get("/docs").await.expect(200);
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.header("content-type"));
    let html = page.text();
    for part in ["/instances/", "/claims/", "over_capacity", "Captain-Operation"] {
        assert!(html.contains(part), "{part} is not on the page");
    }
    let lower = html.to_lowercase();
    for outward in [
        "<script",
        "src=",
        "<link",
        "@import",
        "url(",
        "<iframe",
        "href=\"http",
        "href=http",
        "href='http",
        "href=\"//",
    ] {
        assert!(!lower.contains(outward), "the page asks for more by {outward}");
    }
}
