//! What is prepared on a node, and taking it away again.

use std::collections::{BTreeSet, HashMap};

use captain_domain::Timestamp;
use captain_slug::Digest;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::failure::Failure;
use super::super::wire::{Call, Wire};
use super::super::{encoded, encoded_path};
use super::label;
use super::stack::Image;
use crate::engine::{ErrorKind, Prepared};

/// Far more images and containers than any engine bears, a few kilobytes each.
const LIMIT: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageSummary {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
    created: i64,
    #[serde(default)]
    size: u64,
}

#[derive(Deserialize)]
struct ContainerSummary {
    #[serde(rename = "ImageID", default)]
    image_id: String,
}

/// The slugs on a node. Images are asked for first: what a container is made of between both questions counts as in use.
pub(in crate::engine::docker) async fn prepared(wire: &Wire) -> Result<Vec<Prepared>, Failure> {
    let filters = json!({ "label": [label::DIGEST] }).to_string();
    let images: Option<Vec<ImageSummary>> =
        wire.ask_json(&Call::get(format!("/images/json?filters={}", encoded(&filters))), LIMIT).await?;
    let images = images.unwrap_or_default();
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let containers: Option<Vec<ContainerSummary>> =
        wire.ask_json(&Call::get("/containers/json?all=true"), LIMIT).await?;
    let containers = containers.unwrap_or_default();
    let used: BTreeSet<&str> = containers.iter().map(|container| hex(&container.image_id)).collect();
    Ok(images.iter().filter_map(|image| image.prepared(used.contains(hex(&image.id)))).collect())
}

impl ImageSummary {
    /// None where the label cannot be read: then it is not ours to judge.
    fn prepared(&self, in_use: bool) -> Option<Prepared> {
        let labels = self.labels.as_ref()?;
        let digest: Digest = labels.get(label::DIGEST)?.parse().ok()?;
        let base: u64 = labels.get(label::BASE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        let tag = self.repo_tags.iter().flatten().find(|tag| !tag.contains("<none>"));
        Some(Prepared {
            digest,
            reference: tag.unwrap_or(&self.id).clone(),
            bytes: self.size.saturating_sub(base),
            created: Timestamp(self.created.saturating_mul(1000)),
            in_use,
        })
    }
}

/// Podman leaves out what Docker writes before an id.
fn hex(id: &str) -> &str {
    id.trim_start_matches("sha256:")
}

/// Takes a slug off a node. One that is not there is off already.
pub(in crate::engine::docker) async fn discard(wire: &Wire, reference: &str) -> Result<(), Failure> {
    let Some(image) = Image::inspect(wire, reference).await? else { return Ok(()) };
    if image.label(label::DIGEST).is_none() {
        return Err(Failure::new(ErrorKind::Invalid, format!("the image {reference} is no slug of Captain's")));
    }
    let call = Call::new(Method::DELETE, format!("/images/{}?force=false", encoded_path(reference)));
    match wire.ask(&call, wire.timeout(), LIMIT).await {
        Err(failure) if failure.kind != ErrorKind::ImageMissing => Err(failure),
        _ => Ok(()),
    }
}
