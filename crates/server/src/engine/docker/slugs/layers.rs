//! A slug as layers that the engine loads: the fast way, where an engine keeps its layers as Docker always has.
//!
//! A container that is filled and committed is written twice by the engine and read in between. Here the slug is divided
//! ([`captain_slug::normalise_to_layers`]), and each part is loaded as the one layer that an otherwise known image adds: the engine has
//! all layers below already, by their digests, and takes them for granted. While it unpacks one part, the next is being read. Only the
//! last part makes an image with the slug's name and labels; those before are of images that nobody keeps.
//!
//! An engine that wants every layer with every image (Podman; Docker on containerd's store) is not asked, and one that refuses all the
//! same is given the slug as a whole ([`super::build`]).

use std::io::{self, BufReader};
use std::time::Duration;

use captain_slug::{Layer, LayersError, Options, normalise_to_layers};
use futures_util::future::join_all;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::encoded;
use super::super::failure::Failure;
use super::super::images;
use super::super::wire::{Call, Wire};
use super::{build, label, pipe, refused};
use crate::engine::ErrorKind;
use crate::engine::reading::Reading;

/// Where an engine keeps layers in such a way.
const DRIVERS: [&str; 2] = ["overlay2", "vfs"];
/// An image's description: its layers, its labels.
const LIMIT: usize = 4 << 20;
/// The least that is worth a call: an engine unpacks so much in a tenth of a second.
const SMALLEST: u64 = 16 << 20;
/// The most, so that this captain's disk never holds much of a slug twice.
const LARGEST: u64 = 256 << 20;
/// Parts that wait while one is sent. More would only lie on this captain's disk.
const WAITING: usize = 1;
/// Images of parts are named so until they go.
const PART: &str = "captain/part";

/// How large the next part should become. A third of what went before: so the last one, for which everybody waits, is small beside the
/// whole, and the largest slug is no more than some twenty layers.
fn room(before: u64) -> u64 {
    (before / 3).clamp(SMALLEST, LARGEST)
}

/// Whether an engine that keeps an image so can be given layers.
pub(super) fn are_taken(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| DRIVERS.contains(&driver))
}

/// Why a slug is not on the node.
pub(super) enum Refusal {
    /// It can be given as a whole.
    Layers(String),
    /// It cannot.
    Slug(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Slug(failure)
    }
}

/// What is to be made.
pub(super) struct Order {
    /// The name of the base.
    pub(super) base: String,
    /// The name of the image.
    pub(super) image: String,
    /// What is written on it.
    pub(super) labels: Vec<(&'static str, String)>,
}

/// What the engine says of the base, as far as an image on it repeats it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Base {
    config: Value,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    architecture: String,
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Vec<String>,
}

/// Divides and loads a slug.
pub(super) async fn load(
    wire: &Wire,
    order: &Order,
    slug: Reading,
    options: Options,
    patience: Duration,
    tell: &(dyn Fn() + Send + Sync),
) -> Result<(), Refusal> {
    let base: Base = wire.ask_json(&Call::get(format!("/images/{}/json", order.base)), LIMIT).await?;
    let batch = format!("{:032x}", rand::random::<u128>());
    let mut loading =
        Loading { wire, order, diffs: base.root_fs.layers.clone(), base, batch, parts: Vec::new(), patience };
    let loaded = loading.run(slug, options, tell).await;
    loading.forget_parts().await;
    loaded
}

struct Loading<'a> {
    wire: &'a Wire,
    order: &'a Order,
    base: Base,
    /// All layers so far, the lowest first.
    diffs: Vec<String>,
    batch: String,
    /// The images of parts.
    parts: Vec<String>,
    patience: Duration,
}

type Division = JoinHandle<Result<Layer, LayersError>>;

fn divide(slug: Reading, options: Options) -> (Division, mpsc::Receiver<Layer>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let division = spawn_blocking(move || {
        let take = |layer| sender.blocking_send(layer).map_err(|_| io::ErrorKind::BrokenPipe.into());
        normalise_to_layers(slug, "app/", &options, room, take).map(|(_, last)| last)
    });
    (division, receiver)
}

impl Loading<'_> {
    async fn run(&mut self, slug: Reading, options: Options, tell: &(dyn Fn() + Send + Sync)) -> Result<(), Refusal> {
        // Dropping the receiver ends the division, wherever it is.
        let (division, mut divided) = divide(slug, options);
        while let Some(layer) = divided.recv().await {
            let name = format!("{PART}:{}-{}", self.batch, self.parts.len());
            self.parts.push(name.clone());
            let labels = json!({ label::BUILD: name });
            self.put(layer, &name, labels, tell).await?;
        }
        let last = match division.await {
            Ok(Ok(last)) => last,
            Ok(Err(LayersError::Slug(error))) if error.is_disk_full() => {
                return Err(Refusal::Layers(error.to_string()));
            }
            Ok(Err(LayersError::Slug(error))) => return Err(refused(&error).into()),
            Ok(Err(error @ LayersError::Indivisible(_))) => return Err(Refusal::Layers(error.to_string())),
            Err(_) => return Err(Failure::new(ErrorKind::Failed, "its reader panicked").into()),
        };
        let mut labels = self.base.config["Labels"].clone();
        for (name, value) in &self.order.labels {
            labels[*name] = json!(value);
        }
        let image = self.order.image.clone();
        self.put(last, &image, labels, tell).await
    }

    /// Loads one layer as an image.
    async fn put(
        &mut self,
        layer: Layer,
        image: &str,
        labels: Value,
        tell: &(dyn Fn() + Send + Sync),
    ) -> Result<(), Refusal> {
        self.diffs.push(format!("sha256:{}", layer.sha256));
        let description = self.description(labels).to_string();
        let layers: Vec<_> = (1..self.diffs.len()).map(|_| "known.tar").chain(["layer.tar"]).collect();
        let manifest = json!([{ "Config": "config.json", "RepoTags": [image], "Layers": layers }]).to_string();
        let write = move |out: &mut pipe::Writer| {
            archive(layer, &description, &manifest, out)
                .map_err(|error| Failure::new(ErrorKind::Failed, format!("a part of the slug cannot be sent: {error}")))
        };
        let sent = pipe::upload(self.wire, Method::POST, "/images/load?quiet=1", self.patience, write, tell).await;
        match sent.and_then(|answer| judge(&answer)) {
            Ok(()) => Ok(()),
            // The answer was lost, or it answers as none that we know: what counts is whether it has the image.
            Err(failure) if failure.is_unknown() => match images::present(self.wire, image).await {
                Ok(true) => Ok(()),
                Ok(false) if matches!(failure.kind, ErrorKind::Failed | ErrorKind::Garbled) => {
                    Err(Refusal::Layers(failure.message))
                }
                _ => Err(failure.into()),
            },
            Err(failure) if matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::NoSpace) => Err(failure.into()),
            Err(failure) => Err(Refusal::Layers(failure.message)),
        }
    }

    /// An image of all layers so far, as an engine describes it.
    fn description(&self, labels: Value) -> Value {
        let mut config = self.base.config.clone();
        config["Labels"] = labels;
        let now = jiff::Timestamp::now().to_string();
        let history: Vec<_> = self.diffs.iter().map(|_| json!({ "created": now, "created_by": "captain" })).collect();
        let mut description = json!({
            "architecture": self.base.architecture,
            "os": self.base.os,
            "created": now,
            "config": config,
            "history": history,
            "rootfs": { "type": "layers", "diff_ids": self.diffs },
        });
        if let Some(variant) = &self.base.variant {
            description["variant"] = json!(variant);
        }
        description
    }

    /// The layers of parts stay, for they are those of the slug; where there is no slug, they go too.
    async fn forget_parts(&self) {
        join_all(self.parts.iter().map(|part| forget(self.wire, part))).await;
    }
}

async fn forget(wire: &Wire, part: &str) {
    let call = Call::new(Method::DELETE, format!("/images/{part}?force=true"));
    match wire.ask(&call, wire.timeout(), LIMIT).await {
        Err(failure) if failure.kind != ErrorKind::ImageMissing => {
            tracing::warn!(image = part, error = failure.message, "a part of a slug stays until it is swept");
        }
        _ => {}
    }
}

/// What an engine loads: a layer, what the image is, and which is which.
fn archive(layer: Layer, description: &str, manifest: &str, out: &mut pipe::Writer) -> io::Result<()> {
    let mut archive = Builder::new(out);
    let mut put = |name: &str, bytes: u64, content: &mut dyn io::Read| {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes);
        archive.append_data(&mut header, name, content)
    };
    put("layer.tar", layer.bytes, &mut BufReader::with_capacity(128 << 10, layer.file))?;
    put("config.json", description.len() as u64, &mut description.as_bytes())?;
    put("manifest.json", manifest.len() as u64, &mut manifest.as_bytes())?;
    archive.finish()
}

/// An engine that fails half-way has said 200 long before.
fn judge(answer: &[u8]) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        error: Option<String>,
    }
    let lines = answer.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    match lines.into_iter().find_map(|line| line.error) {
        Some(words) => {
            let body = json!({ "message": words }).to_string();
            Err(Failure::refusal(StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes()))
        }
        None => Ok(()),
    }
}

/// Removes parts that captains which died left behind.
pub(super) async fn sweep(wire: &Wire, age: Duration) {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Summary {
        created: i64,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
    }
    let filters = json!({ "reference": [PART] }).to_string();
    let Ok((now, images)) =
        build::list_at::<Summary>(wire, format!("/images/json?filters={}", encoded(&filters))).await
    else {
        return; // the next preparation's turn
    };
    let old = images.into_iter().filter(|image| build::is_older(now, image.created, age));
    let ours = |tag: &String| tag.strip_prefix(PART).is_some_and(|rest| rest.starts_with(':'));
    for part in old.flat_map(|image| image.repo_tags.unwrap_or_default()).filter(ours) {
        tracing::info!(image = part, "removing a part of a slug that a captain left behind");
        forget(wire, &part).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_slug_is_a_few_layers_and_each_waits_for_little() {
        let (mut before, mut layers) = (0, 0);
        while before < captain_slug::Limits::default().unpacked_bytes {
            before += room(before);
            layers += 1;
        }
        assert!((10..40).contains(&layers), "{layers}");
        assert_eq!([room(0), room(130 << 20), room(2 << 30)], [16 << 20, (130 << 20) / 3, 256 << 20]);
    }

    #[test]
    fn a_failure_behind_a_success_is_one() {
        assert!(judge(b"{\"stream\":\"Loaded image: captain/slug:x\\n\"}\r\n").is_ok());
        let full = judge(b"{\"stream\":\"x\"}\n{\"errorDetail\":{\"message\":\"m\"},\"error\":\"write /x: no space left on device\"}\n");
        assert_eq!(full.unwrap_err().kind, ErrorKind::NoSpace);
        assert_eq!(judge(b"{\"error\":\"open known.tar: no such file\"}").unwrap_err().kind, ErrorKind::Failed);
    }
}
