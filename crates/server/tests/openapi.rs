//! The committed OpenAPI document is the one that the handlers make.

use std::path::Path;

#[test]
fn the_committed_document_is_that_of_the_handlers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let made = format!("{}\n", captain_server::http::openapi().to_pretty_json().unwrap());
    if std::env::vars().any(|(name, _)| name == "UPDATE_OPENAPI") {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert_eq!(committed, made, "openapi.json differs: UPDATE_OPENAPI=1 cargo test -p captain-server --test openapi");
}
