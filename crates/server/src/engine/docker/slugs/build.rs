//! Build containers: created, filled, committed, removed, and never started.
//!
//! They bear no label of an instance, so nobody counts them. What the image is to be is said at the *creation* of the container and not
//! at its commit: Podman takes no configuration there.

use std::time::Duration;

use bytes::Bytes;
use captain_domain::Timestamp;
use http::Method;
use http::header::DATE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::super::failure::Failure;
use super::super::wire::{Call, Wire, decode, read, within};
use super::super::{encoded, images};
use super::{GRACE_SECONDS, RUNNER_PATH, USER, label, pipe, seal};

/// The answer to a creation or a commit: an id and warnings.
const LIMIT: usize = 1 << 20;
/// Far more than any engine bears, a few kilobytes each.
const LISTING_LIMIT: usize = 64 << 20;
/// A build container, or a part of a slug, of this age belongs to a captain that died: each of the at most four long steps ends within
/// its own deadline, minutes usually.
const FORGOTTEN: Duration = Duration::from_secs(3600);
const LONG_STEPS: u32 = 4;
const NAME_PREFIX: &str = "captain-build-";

/// What an image is to be made of.
pub(super) struct Plan {
    /// The image under it.
    pub(super) from: String,
    /// What is written on it.
    pub(super) labels: Vec<(&'static str, String)>,
}

/// A build container. Whoever made it removes it.
pub(super) struct Container<'a> {
    wire: &'a Wire,
    name: String,
    patience: Duration,
}

impl<'a> Container<'a> {
    pub(super) async fn create(wire: &'a Wire, plan: &Plan, patience: Duration) -> Result<Self, Failure> {
        let name = format!("{NAME_PREFIX}{:032x}", rand::random::<u128>());
        let mut call = Call::post(format!("/containers/create?name={name}"));
        call.body = Bytes::from(document(plan, &name).to_string());
        let container = Self { wire, name, patience };
        match wire.ask(&call, wire.timeout(), LIMIT).await {
            Ok(_) => Ok(container),
            Err(failure) => {
                if failure.is_unknown() {
                    container.remove().await; // by its name: it may be there all the same
                }
                Err(failure)
            }
        }
    }

    /// Puts what `write` writes, a tar archive, over the root of the container.
    pub(super) async fn fill(
        &self,
        write: impl FnOnce(&mut pipe::Writer) -> Result<(), Failure> + Send + 'static,
        tell: &(dyn Fn() + Send + Sync),
    ) -> Result<(), Failure> {
        let path = format!("/containers/{}/archive?path=%2F", self.name);
        pipe::upload(self.wire, Method::PUT, &path, self.patience, write, tell).await.map(drop)
    }

    /// What in the container has to be sealed. (By its export, for the archive call of Podman hides the owners.)
    pub(super) async fn look(&self) -> Result<seal::Findings, Failure> {
        let call = Call::get(format!("/containers/{}/export", self.name));
        let answer = within(self.wire.timeout(), self.wire.send(&call)).await?;
        pipe::download(answer.into_body(), self.patience, |root| seal::find(root)).await
    }

    /// Makes an image of it. Where the answer is lost, the image is looked for.
    pub(super) async fn commit(&self, image: &str) -> Result<(), Failure> {
        let (repository, tag) = image.split_once(':').unwrap_or((image, "latest"));
        let (repository, tag) = (encoded(repository), encoded(tag));
        let mut call = Call::post(format!("/commit?container={}&repo={repository}&tag={tag}&pause=false", self.name));
        call.body = Bytes::from_static(b"null"); // nothing but what the container says; Podman does not take an empty body
        match self.wire.ask(&call, self.patience, LIMIT).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_unknown() => match images::present(self.wire, image).await {
                Ok(true) => Ok(()),
                _ => Err(failure),
            },
            Err(failure) => Err(failure),
        }
    }

    /// A container that cannot be removed now is swept later, so this fails nothing.
    pub(super) async fn remove(&self) {
        remove(self.wire, &self.name).await;
    }
}

async fn remove(wire: &Wire, name: &str) {
    let call = Call::new(Method::DELETE, format!("/containers/{name}?force=true&v=true"));
    match wire.ask(&call, wire.timeout(), LIMIT).await {
        Err(failure) if failure.kind != crate::engine::ErrorKind::NotFound => {
            tracing::warn!(container = name, error = failure.message, "a build container stays until it is swept");
        }
        _ => {}
    }
}

fn document(plan: &Plan, name: &str) -> Value {
    let labels: Map<_, _> = plan
        .labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
        .chain([(label::BUILD.to_owned(), Value::from(name))])
        .collect();
    json!({
        "Image": plan.from,
        "Entrypoint": [RUNNER_PATH, "--grace", GRACE_SECONDS],
        "Cmd": ["run", "web"],
        "User": format!("{USER}:{USER}"),
        "WorkingDir": "/app",
        "Env": ["HOME=/app"],
        "Labels": labels,
        "StopSignal": "SIGTERM", // the stack's own may be one that the runner passes on and no app expects
        "Healthcheck": { "Test": ["NONE"] },
        "HostConfig": { "NetworkMode": "none" },
    })
}

/// How old something must be to be forgotten.
pub(super) fn forgotten(patience: Duration) -> Duration {
    FORGOTTEN.max(patience.saturating_mul(LONG_STEPS))
}

/// Removes what captains that died left behind.
pub(super) async fn sweep(wire: &Wire, age: Duration) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Summary {
        names: Vec<String>,
        created: i64,
        labels: std::collections::HashMap<String, String>,
    }
    let filters = json!({ "label": [label::BUILD] }).to_string();
    let path = format!("/containers/json?all=true&filters={}", encoded(&filters));
    let (now, containers): (_, Vec<Summary>) = match list_at(wire, path).await {
        Ok(listing) => listing,
        Err(failure) => {
            return tracing::warn!(error = failure.message, "forgotten build containers cannot be looked for");
        }
    };
    for container in containers {
        // Instances inherit the label of their image, but not the name in it.
        let of_its_name = |name: &&str| container.labels.get(label::BUILD).is_some_and(|build| build == name);
        let names = container.names.iter().map(|name| name.trim_start_matches('/'));
        let Some(name) = names.filter(|name| name.starts_with(NAME_PREFIX)).find(of_its_name) else { continue };
        if is_older(now, container.created, age) {
            tracing::info!(container = name, "removing a build container that a captain left behind");
            remove(wire, name).await;
        }
    }
}

/// A listing, and what the engine's clock said then. (Captain's own may go differently.)
pub(super) async fn list_at<T: DeserializeOwned>(wire: &Wire, path: String) -> Result<(Timestamp, Vec<T>), Failure> {
    within(wire.timeout(), async {
        let response = wire.send(&Call::get(path)).await?;
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
        let now = now.ok_or_else(|| Failure::garbled("it does not say what time it is"))?.timestamp();
        let records: Option<Vec<T>> = decode(&read(response.into_body(), LISTING_LIMIT).await?)?; // Podman: `null` for none
        Ok((Timestamp(now.as_millisecond()), records.unwrap_or_default()))
    })
    .await
}

/// Whether something of this time (in seconds, as lists have it) is older than that.
pub(super) fn is_older(now: Timestamp, created: i64, age: Duration) -> bool {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    now.0.saturating_sub(created.saturating_mul(1000)) > age
}
