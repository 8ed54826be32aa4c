//! `/claims/`: the starts that this captain has under way.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use captain_api::{Claim, Code, ErrorBody};

use super::error::ApiError;
use super::{App, render};

/// Starts under way
///
/// Of this captain: slots that it has taken for instances that do not run yet, and how far each has come.
#[utoipa::path(get, path = "/claims/", tag = "instances", responses((status = 200, description = "The claims", body = Vec<Claim>)))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Claim>> {
    Json(
        app.captain
            .fleet()
            .read(|view| view.claims().map(|(operation, claim)| render::claim(operation, claim)).collect()),
    )
}

/// One start under way
#[utoipa::path(get, path = "/claims/{operation}", tag = "instances",
    params(("operation" = String, Path, description = "The `Captain-Operation` of the start")),
    responses(
        (status = 200, description = "The claim", body = Claim),
        (status = 404, description = "The start has ended, or never was", body = ErrorBody),
    ))]
pub(super) async fn show(
    State(app): State<App>,
    operation: Result<Path<String>, PathRejection>,
) -> Result<Json<Claim>, ApiError> {
    let asked = operation.map(|Path(operation)| operation).unwrap_or_default();
    let claim = asked.parse().ok().and_then(|operation| {
        app.captain.fleet().read(|view| view.claim(operation).map(|claim| render::claim(operation, claim)))
    });
    claim.map(Json).ok_or_else(|| {
        ApiError::new(Code::NoSuchClaim, format!("there is no start {asked} under way")).operation(&asked)
    })
}
