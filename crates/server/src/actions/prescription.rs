//! What a start makes its container of: decided, and had, before the node is asked for anything.

use std::sync::Arc;

use tracing::warn;

use super::start::{Order, StartError};
use crate::captain::{Captain, Mode};
use crate::engine::{Preparation, SlugOnStack};
use crate::fleet::{Phase, Reservation};
use crate::slugs::{FetchError, Resolved, SlugCopy};

/// The process type of a start that names none.
const USUAL_PROCESS: &str = "web";

/// What the container is made of, and what it is told.
pub(super) struct Prescription {
    pub(super) preparation: Preparation,
    pub(super) command: Vec<String>,
    /// The slug, where it is not the runner image that fetches it. Its bytes stay on this captain's disk as long as this is held.
    pub(super) slug: Option<Arc<Resolved>>,
}

impl Prescription {
    /// What should be said about the slug.
    pub(super) fn note(&self) -> Option<String> {
        self.slug.as_ref()?.note.clone()
    }

    /// Why a node that lacks the slug cannot be given it.
    pub(super) fn lacking(&self) -> Option<Arc<FetchError>> {
        match &self.slug.as_ref()?.copy {
            SlugCopy::Gone { why, .. } => Some(Arc::clone(why)),
            SlugCopy::Here(_) => None,
        }
    }
}

/// Decides it. In stack mode this is when the slug is fetched and checked, so that one that is refused has touched no node.
pub(super) async fn prescribe(
    captain: &Captain,
    order: &Order,
    reservation: &Reservation,
) -> Result<Prescription, StartError> {
    let stack = match &captain.policy().mode {
        Mode::RunnerImage { image, version, command } => {
            let version = order.runner_version.as_deref().unwrap_or(version);
            let preparation = Preparation::RunnerImage { image: format!("{image}:{version}") };
            return Ok(Prescription { preparation, command: command.clone(), slug: None });
        }
        Mode::Stack { stack } => Arc::clone(stack),
    };
    let say = |detail: String| reservation.phase(Phase::Preparing, Some(detail));
    let slug = captain.slugs().resolve(&order.slug_uri, order.slug_sha256, &say).await.map_err(|error| {
        warn!(node = %order.node, app = %order.app, operation = %order.operation, %error, "start failed: there is no slug");
        StartError::Slug(error)
    })?;
    let preparation = Preparation::Slug(SlugOnStack { digest: slug.digest, file: slug.path(), stack });
    let process = order.process.as_deref().unwrap_or(USUAL_PROCESS);
    Ok(Prescription { preparation, command: vec![process.to_owned()], slug: Some(slug) })
}
