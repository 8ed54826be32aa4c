//! Agreeing with an engine on the version of its API, and learning what it is.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::failure::{Failure, one_line};
use super::wire::{Call, Wire, decode, read};
use crate::engine::{ErrorKind, Facts};

/// The oldest version spoken: the first in which all that Captain asks for exists (Docker 1.12).
const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The newest version whose answers are known to be read right. Newer engines are asked in this one.
const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 51 };
/// A few kilobytes in fact; Podman lists its plugins.
const LIMIT: usize = 1 << 20;

/// A version of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whose API it is: they differ in small things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Podman,
}

/// What is known of an engine once versions are agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) api: ApiVersion,
    pub(super) kind: Kind,
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    version: Option<String>,
    api_version: Option<String>,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: Option<String>,
    components: Option<Vec<Component>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Component {
    name: Option<String>,
}

impl Profile {
    pub(super) async fn ask(wire: &Wire) -> Result<Self, Failure> {
        let response = wire.exchange(&Call::get("/version")).await?;
        Self::read(&decode(&read(response.into_body(), LIMIT).await?)?)
    }

    fn read(said: &Version) -> Result<Self, Failure> {
        let newest = said.api_version.as_deref().and_then(ApiVersion::parse).ok_or_else(|| {
            Failure::garbled("its answer to /version names no API version: it is no engine that Captain knows")
        })?;
        let oldest = said.min_api_version.as_deref().and_then(ApiVersion::parse).unwrap_or(OLDEST);
        let version = one_line(said.version.as_deref().unwrap_or("of unknown version"));
        if newest < OLDEST {
            return Err(Failure::new(
                ErrorKind::Unsupported,
                format!(
                    "the engine {version} is too old: it speaks API {newest}, and Captain needs {OLDEST} (Docker 1.12)"
                ),
            ));
        }
        if oldest > NEWEST {
            return Err(Failure::new(
                ErrorKind::Unsupported,
                format!(
                    "the engine {version} is too new: it wants API {oldest}, and this Captain speaks up to {NEWEST}"
                ),
            ));
        }
        let is_podman = |component: &Component| component.name.as_deref().is_some_and(|name| name.contains("Podman"));
        let podman = said.components.iter().flatten().any(is_podman);
        Ok(Self { api: newest.min(NEWEST), kind: if podman { Kind::Podman } else { Kind::Docker }, version })
    }

    /// The call with the version in front of its path.
    pub(super) fn versioned(&self, call: &Call) -> Call {
        let path = format!("/v{}{}", self.api, call.path);
        Call { method: call.method.clone(), path, body: call.body.clone() }
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Info {
    mem_total: Option<i64>,
    #[serde(rename = "NCPU")]
    cpus: Option<i64>,
    memory_limit: Option<bool>,
    swap_limit: Option<bool>,
    #[serde(rename = "CPUShares")]
    cpu_shares: Option<bool>,
    pids_limit: Option<bool>,
}

/// Asks the engine who it is. Versions are agreed anew: it may have been replaced.
pub(super) async fn facts(wire: &Wire, deadline: Duration) -> Result<Facts, Failure> {
    super::wire::within(deadline, async {
        let profile = wire.negotiate().await?;
        let response = wire.send(&Call::get("/info")).await?;
        let info: Info = decode(&read(response.into_body(), LIMIT).await?)?;
        Ok(describe(&profile, &info))
    })
    .await
}

fn describe(profile: &Profile, info: &Info) -> Facts {
    let unenforced = [
        (info.memory_limit, "it cannot limit memory: an instance may take all that the node has"),
        (info.swap_limit, "it cannot limit swap: an instance may take its memory once more as swap"),
        (info.cpu_shares, "it cannot share the processors by slots"),
        (info.pids_limit, "it cannot limit the number of processes of an instance"),
    ];
    Facts {
        kind: match profile.kind {
            Kind::Docker => "docker",
            Kind::Podman => "podman",
        },
        version: profile.version.clone(),
        memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        cpus: info.cpus.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(0),
        warnings: unenforced
            .into_iter()
            .filter(|(supported, _)| *supported == Some(false))
            .map(|(_, sentence)| sentence.to_owned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Profile, Failure> {
        Profile::read(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn the_lesser_of_both_versions_is_spoken() {
        let agreed = |newest: &str, oldest: &str| {
            read(serde_json::json!({"Version": "20.10.24", "ApiVersion": newest, "MinAPIVersion": oldest}))
                .map(|profile| profile.api.to_string())
                .map_err(|failure| failure.kind)
        };
        assert_eq!(agreed("1.41", "1.12"), Ok("1.41".to_owned()));
        assert_eq!(agreed("1.99", "1.44"), Ok(NEWEST.to_string()));
        assert_eq!(agreed("1.24", "1.12"), Ok("1.24".to_owned()));
        assert_eq!(agreed("1.9", "1.0"), Err(ErrorKind::Unsupported));
        assert_eq!(agreed("2.0", "1.60"), Err(ErrorKind::Unsupported));
        assert_eq!(agreed("", ""), Err(ErrorKind::Garbled));
        let told = read(serde_json::json!({"Version": "1.11.2", "ApiVersion": "1.23"})).unwrap_err().message;
        assert_eq!(told, "the engine 1.11.2 is too old: it speaks API 1.23, and Captain needs 1.24 (Docker 1.12)");
    }

    #[test]
    fn podman_is_told_from_docker() {
        let kind = |name: &str| read(serde_json::json!({"ApiVersion": "1.41", "Components": [{"Name": name}]}));
        assert_eq!(kind("Podman Engine").unwrap().kind, Kind::Podman);
        assert_eq!(kind("Engine").unwrap().kind, Kind::Docker);
    }

    #[test]
    fn what_is_not_enforced_is_said_only_when_the_engine_says_so() {
        let profile = read(serde_json::json!({"ApiVersion": "1.41", "Version": "20.10.24"})).unwrap();
        let facts = |json| describe(&profile, &serde_json::from_value(json).unwrap());
        let silent = facts(serde_json::json!({"MemTotal": 1024, "NCPU": 2}));
        assert_eq!((silent.memory_bytes, silent.cpus, silent.warnings.len()), (1024, 2, 0));
        let weak =
            facts(serde_json::json!({"MemTotal": -1, "MemoryLimit": false, "SwapLimit": true, "PidsLimit": false}));
        assert_eq!(weak.memory_bytes, 0);
        assert_eq!(weak.warnings.len(), 2);
        assert!(weak.warnings[0].contains("memory") && weak.warnings[1].contains("processes"), "{:?}", weak.warnings);
    }
}
