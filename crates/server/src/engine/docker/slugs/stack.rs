//! Bases: a stack with the runner in it and nothing in it that an instance could write. Made once per stack and node; every slug on
//! that stack is a layer on it, so the stack is looked through once, however many slugs come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::failure::Failure;
use super::super::wire::{Call, Wire};
use super::super::{encoded, encoded_path, images};
use super::build::{self, Container, Plan};
use super::{Runner, SCRATCH, key, label, layers, pipe, seal};
use crate::engine::{ErrorKind, Progress};

/// An image's description: its layers, its labels.
const LIMIT: usize = 4 << 20;
/// What `scratch` is on a node, for no engine creates a container of nothing.
const EMPTY: &str = "captain/scratch:1";
/// A base that another captain's newer one replaced is kept so long: while captains of two versions work side by side, both are needed.
const REPLACED_AGE: Duration = Duration::from_secs(24 * 3600);

/// A base on a node.
pub(super) struct Base {
    pub(super) reference: String,
    /// Its size as the engine counts it.
    pub(super) bytes: u64,
    /// Whether a slug can be put on it as layers.
    pub(super) takes_layers: bool,
}

/// What an engine says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    config: Option<Config>,
    #[serde(default)]
    graph_driver: Option<GraphDriver>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    env: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

impl Image {
    pub(super) async fn inspect(wire: &Wire, reference: &str) -> Result<Option<Self>, Failure> {
        let call = Call::get(format!("/images/{}/json", encoded_path(reference)));
        match wire.ask_json(&call, LIMIT).await {
            Ok(image) => Ok(Some(image)),
            Err(failure) if failure.kind == ErrorKind::ImageMissing => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
    }

    fn as_base(&self, reference: String) -> Base {
        let driver = self.graph_driver.as_ref().and_then(|driver| driver.name.as_deref());
        Base { reference, bytes: self.size, takes_layers: layers::are_taken(driver) }
    }

    fn environment(&self) -> &[String] {
        self.config.as_ref().and_then(|config| config.env.as_deref()).unwrap_or_default()
    }

    /// Why it can be no stack.
    fn fault(&self) -> Option<String> {
        let config = self.config.as_ref()?;
        if let Some(label) = config.labels.iter().flat_map(BTreeMap::keys).find(|label| label.starts_with("captain.")) {
            return Some(format!("has the label {label}, which is Captain's own"));
        }
        // What is put below a volume is in no image made of the container; and it would be writable beside /app.
        let volumes: Vec<&str> = config.volumes.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        (!volumes.is_empty()).then(|| format!("declares volumes ({})", volumes.join(", ")))
    }
}

/// Makes sure that the base for a stack is on the node. Where the stack was replaced under its name, so is the base; where it is gone,
/// the base does without it.
pub(super) async fn ensure(
    wire: &Wire,
    runner: &Runner,
    stack: &str,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Base, Failure> {
    let reference = format!("captain/stack:{}", key(runner, stack));
    let image = if stack == SCRATCH { EMPTY } else { stack };
    let (base, found) = (Image::inspect(wire, &reference).await?, Image::inspect(wire, image).await?);
    if let Some(base) = base
        && found.as_ref().is_none_or(|found| base.label(label::STACK_ID) == Some(&found.id))
    {
        return Ok(base.as_base(reference));
    }
    let found = match found {
        Some(found) => found,
        None => obtain(wire, stack, image, patience, progress).await?,
    };
    if let Some(fault) = found.fault() {
        return Err(Failure::new(ErrorKind::Invalid, format!("the image {stack} can be no stack: it {fault}")));
    }
    progress(format!("preparing the stack {stack}"));
    make(wire, runner, stack, &found, &reference, patience).await?;
    forget_replaced(wire, stack, &reference).await;
    let base = Image::inspect(wire, &reference).await?;
    let base = base.ok_or_else(|| Failure::garbled("it said that it made an image, and does not have it"))?;
    Ok(base.as_base(reference))
}

async fn obtain(
    wire: &Wire,
    stack: &str,
    image: &str,
    patience: Duration,
    progress: Progress<'_>,
) -> Result<Image, Failure> {
    if stack == SCRATCH {
        import_nothing(wire, patience).await?;
    } else {
        images::ensure(wire, stack, patience, progress).await?;
    }
    let found = Image::inspect(wire, image).await?;
    found.ok_or_else(|| Failure::garbled(format!("it said that it has the image {image}, and does not have it")))
}

async fn import_nothing(wire: &Wire, patience: Duration) -> Result<(), Failure> {
    // Podman does not see a tag that is given apart.
    let path = format!("/images/create?fromSrc=-&repo={}", encoded(EMPTY));
    pipe::upload(wire, Method::POST, &path, patience, seal::write_nothing, &|| {}).await.map(drop)
}

async fn make(
    wire: &Wire,
    runner: &Runner,
    stack: &str,
    found: &Image,
    reference: &str,
    patience: Duration,
) -> Result<(), Failure> {
    let environment = json!(found.environment()).to_string();
    let plan = Plan {
        from: found.id.clone(),
        labels: vec![
            (label::STACK, stack.to_owned()),
            (label::STACK_ID, found.id.clone()),
            (label::ENVIRONMENT, environment),
        ],
    };
    let container = Container::create(wire, &plan, patience).await?;
    let made = async {
        let findings = container.look().await?;
        let program = Arc::clone(&runner.program);
        container.fill(move |out| seal::write(&findings, &program, out), &|| {}).await?;
        container.commit(reference).await
    };
    let made = made.await;
    container.remove().await;
    made
}

/// Takes away bases for the same stack that nobody makes slugs of any more. The engine keeps their layers as long as a slug is on them.
async fn forget_replaced(wire: &Wire, stack: &str, reference: &str) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Summary {
        id: String,
        created: i64,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        #[serde(default)]
        labels: Option<BTreeMap<String, String>>,
    }
    let filters = json!({ "label": [format!("{}={stack}", label::STACK)] }).to_string();
    let Ok((now, images)) =
        build::list_at::<Summary>(wire, format!("/images/json?filters={}", encoded(&filters))).await
    else {
        return; // the next base's turn
    };
    for image in images {
        let is_slug = image.labels.is_some_and(|labels| labels.contains_key(label::DIGEST));
        let tags = image.repo_tags.unwrap_or_default();
        let is_current = tags.iter().any(|tag| tag.ends_with(reference));
        if is_slug || is_current || !build::is_older(now, image.created, REPLACED_AGE) {
            continue;
        }
        let name = tags.first().filter(|tag| !tag.contains("<none>")).unwrap_or(&image.id);
        let call = Call::new(Method::DELETE, format!("/images/{}", encoded_path(name)));
        if let Err(failure) = wire.ask(&call, wire.timeout(), LIMIT).await {
            tracing::debug!(image = name, error = failure.message, "a replaced base stays");
        }
    }
}
