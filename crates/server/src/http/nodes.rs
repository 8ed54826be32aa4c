//! `/nodes/`.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use captain_api::{Code, ErrorBody, Node};

use tokio::task::yield_now;

use super::error::ApiError;
use super::{App, render};

/// Nodes rendered in one look at the view. Thousands in one would keep its writers waiting, and behind them its readers.
const SLICE: usize = 256;

/// The nodes
///
/// In the order of the configuration. One that cannot be reached has no slots, and says why.
#[utoipa::path(get, path = "/nodes/", tag = "nodes", responses((status = 200, description = "The nodes", body = Vec<Node>)))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Node>> {
    let now = app.captain.now();
    let (mut nodes, mut place) = (Vec::new(), Some(0));
    while let Some(from) = place {
        app.captain.fleet().read(|view| {
            let mut rest = view.nodes_from(from);
            nodes.extend(rest.by_ref().take(SLICE).map(|(_, node)| render::node(node, now)));
            place = rest.next().map(|(place, _)| place);
        });
        yield_now().await;
    }
    Json(nodes)
}

/// One node
#[utoipa::path(get, path = "/nodes/{id}", tag = "nodes",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The node", body = Node),
        (status = 404, description = "There is none", body = ErrorBody),
    ))]
pub(super) async fn show(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Node>, ApiError> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let now = app.captain.now();
    let node = app.captain.fleet().read(|view| view.node(&id).map(|node| render::node(node, now)));
    node.map(Json).ok_or_else(|| ApiError::new(Code::NoSuchNode, format!("there is no node {id}")).node(&id))
}
