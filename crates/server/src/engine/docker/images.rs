//! Images: there already, or pulled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::Deserialize;

use super::failure::Failure;
use super::lines::Lines;
use super::wire::{Call, Wire, within};
use crate::engine::{ErrorKind, Progress};

/// An image's description: its layers, its labels.
const LIMIT: usize = 4 << 20;
/// How often people are told how far a pull is.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Layers counted in the progress; an image has at most 127.
const LAYER_LIMIT: usize = 256;

/// Makes sure that an image is on the node.
pub(super) async fn ensure(
    wire: &Wire,
    image: &str,
    pull_timeout: Duration,
    progress: Progress<'_>,
) -> Result<(), Failure> {
    if present(wire, image).await? {
        return Ok(());
    }
    progress(format!("pulling {image}"));
    within(pull_timeout, pull(wire, image, progress)).await?;
    // Streams end well after pulls that failed, in one engine or another. This asks what counts.
    match present(wire, image).await? {
        true => Ok(()),
        false => Err(unavailable(image, "the engine said that it pulled it, and does not have it")),
    }
}

pub(super) async fn present(wire: &Wire, image: &str) -> Result<bool, Failure> {
    let call = Call::get(format!("/images/{}/json", super::encoded_path(image)));
    match wire.ask(&call, wire.timeout(), LIMIT).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.kind == ErrorKind::ImageMissing => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn unavailable(image: &str, words: &str) -> Failure {
    Failure::new(ErrorKind::ImageUnavailable, format!("the image {image} is not there and cannot be pulled: {words}"))
}

/// What the engine says about an image that it could not get; a full disk is the node's fault, not the image's.
fn pull_failure(image: &str, words: &str) -> Failure {
    let body = serde_json::json!({ "message": words }).to_string();
    match Failure::refusal(StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes()) {
        failure if failure.kind == ErrorKind::NoSpace => failure,
        _ => unavailable(image, words),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    progress_detail: Option<Detail>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Detail {
    current: Option<u64>,
    total: Option<u64>,
}

async fn pull(wire: &Wire, image: &str, progress: Progress<'_>) -> Result<(), Failure> {
    let (name, tag) = name_and_tag(image);
    let path = format!("/images/create?fromImage={}&tag={}", super::encoded(name), super::encoded(tag));
    let response = wire.send(&Call::post(path)).await.map_err(|failure| match failure.status {
        Some(_) if !matches!(failure.kind, ErrorKind::NoSpace | ErrorKind::Unreachable) => {
            unavailable(image, &failure.message)
        }
        _ => failure,
    })?;
    let mut lines = Lines::new(response.into_body());
    let mut layers = Layers::default();
    let mut told = Instant::now();
    while let Some(line) = lines.next().await? {
        // An odd line is no reason to give up: only errors count, and the image is looked for in the end.
        let Ok(report) = serde_json::from_slice::<Report>(&line) else { continue };
        if let Some(words) = &report.error {
            return Err(pull_failure(image, words));
        }
        layers.take(&report);
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            progress(format!("pulling {image}{}", layers.tell()));
        }
    }
    Ok(())
}

/// How much of each layer has come, and of how much.
#[derive(Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn take(&mut self, report: &Report) {
        let (Some(id), Some(status)) = (&report.id, &report.status) else { return };
        let detail = report.progress_detail.as_ref();
        match status.as_str() {
            "Downloading" if self.0.len() < LAYER_LIMIT || self.0.contains_key(id) => {
                let current = detail.and_then(|detail| detail.current).unwrap_or(0);
                let total = detail.and_then(|detail| detail.total).unwrap_or(0);
                self.0.insert(id.clone(), (current, total.max(current)));
            }
            "Verifying Checksum" | "Download complete" | "Extracting" | "Pull complete" => {
                if let Some((current, total)) = self.0.get_mut(id) {
                    *current = *total;
                }
            }
            _ => {}
        }
    }

    /// `: 12 MB of 80 MB`, once something is known.
    fn tell(&self) -> String {
        let sum = |part: fn(&(u64, u64)) -> u64| self.0.values().map(part).fold(0, u64::saturating_add) / 1_000_000;
        match sum(|layer| layer.1) {
            0 => String::new(),
            total => format!(": {} MB of {total} MB", sum(|layer| layer.0)),
        }
    }
}

/// A reference, in two parts as the API wants them: `host:5000/name`, `tag`; a digest takes the tag's place. With no tag an
/// engine would pull every tag there is.
fn name_and_tag(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        // `name:tag@digest` is the digest; engines refuse the tag beside it.
        return (split_tag(name).map_or(name, |(name, _)| name), digest);
    }
    split_tag(image).unwrap_or((image, "latest"))
}

/// A colon before the last slash is a registry's port.
fn split_tag(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_engines_read_them() {
        let digest = "sha256:9b74c9897bac770ffc029102a200c5de6b8b2b9a0a7a3a2f9d6b1f5e8c7d6a5b";
        let cases = [
            ("flynn/slugrunner:0.0.0".to_owned(), ("flynn/slugrunner", "0.0.0")),
            ("flynn/slugrunner".to_owned(), ("flynn/slugrunner", "latest")),
            ("localhost:5000/runner".to_owned(), ("localhost:5000/runner", "latest")),
            ("localhost:5000/runner:1".to_owned(), ("localhost:5000/runner", "1")),
            (format!("localhost:5000/runner@{digest}"), ("localhost:5000/runner", digest)),
            (format!("localhost:5000/runner:1@{digest}"), ("localhost:5000/runner", digest)),
        ];
        for (image, expected) in &cases {
            assert_eq!(name_and_tag(image), *expected, "{image}");
        }
    }

    #[test]
    fn layers_are_summed() {
        let mut layers = Layers::default();
        assert_eq!(layers.tell(), "");
        let reports = [
            r#"{"status":"Downloading","id":"a","progressDetail":{"current":2000000,"total":10000000}}"#,
            r#"{"status":"Downloading","id":"b","progressDetail":{"current":1000000,"total":30000000}}"#,
            r#"{"status":"Downloading","id":"a","progressDetail":{"current":5000000,"total":10000000}}"#,
            r#"{"status":"Waiting","id":"c","progressDetail":{}}"#,
            r#"{"status":"Download complete","id":"b","progressDetail":{}}"#,
        ];
        for report in reports {
            layers.take(&serde_json::from_str(report).unwrap());
        }
        assert_eq!(layers.tell(), ": 35 MB of 40 MB");
    }

    #[test]
    fn a_full_disk_is_the_nodes_fault() {
        assert_eq!(pull_failure("a:1", "write /x: no space left on device").kind, ErrorKind::NoSpace);
        let failure = pull_failure("a:1", "manifest unknown");
        assert_eq!(failure.kind, ErrorKind::ImageUnavailable);
        assert!(failure.message.contains("a:1") && failure.message.contains("manifest unknown"), "{}", failure.message);
    }
}
