//! Events: hints that something happened to a container.
//!
//! Engines send the head of the answer *before* they subscribe the client (moby: `output.Flush()` stands above
//! `SubscribeToEvents`), so a head alone does not mean that events flow. Hence `since`, by the engine's own clock: what happened
//! between is replayed from its buffer. Clocks are never compared.

use bytes::BytesMut;
use captain_domain::InstanceId;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::DATE;
use serde::Deserialize;

use super::failure::Failure;
use super::lines::Lines;
use super::negotiate::Kind;
use super::wire::{Call, Wire, read, within};
use crate::engine::Hint;

/// What changes what a listing or an inspection says. Left out on purpose: `exec_*` and `health_status`, which come every few
/// seconds from a container with a health check; `kill` and `stop`, which `die` follows.
const ACTIONS: [&str; 11] =
    ["create", "start", "restart", "die", "destroy", "remove", "pause", "unpause", "oom", "rename", "update"];
/// Those of them that a start of an instance causes.
const BEGINNINGS: [&str; 2] = ["create", "start"];
/// Podman's own word, which not every version translates.
const PODMANS_DIE: &str = "died";

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Type", default)]
    about: Option<String>,
    #[serde(rename = "Action", default)]
    action: Option<String>,
    #[serde(rename = "Actor", default)]
    actor: Option<Actor>,
}

#[derive(Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: Option<String>,
}

/// Subscribes: hints from this call on.
pub(super) async fn events(wire: &Wire) -> Result<BoxStream<'static, Result<Hint, Failure>>, Failure> {
    let response = within(wire.timeout(), async {
        let kind = wire.profile().await?.kind;
        let since = engine_time(wire).await?;
        wire.send(&Call::get(path(kind, since))).await
    })
    .await?;
    let lines = Lines::new(response.into_body());
    let hints = stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        loop {
            match lines.next().await.and_then(|line| line.map(|line| hint(&line)).transpose()) {
                Ok(Some(Some(hint))) => return Some((Ok(hint), Some(lines))),
                Ok(Some(None)) => {}
                Ok(None) => return None,
                Err(failure) => return Some((Err(failure), None)),
            }
        }
    });
    Ok(hints.boxed())
}

/// The engine's clock, in seconds; none where something on the way strips the header.
async fn engine_time(wire: &Wire) -> Result<Option<i64>, Failure> {
    let response = wire.send(&Call::get("/_ping")).await?;
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let time = date.and_then(|date| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
    read(response.into_body(), 1 << 20).await?; // so that its connection can be used again
    Ok(time.map(jiff::Timestamp::as_second))
}

fn path(kind: Kind, since: Option<i64>) -> String {
    // Podman compares the filter with its own words before it translates them, so it is asked for all.
    let filter = match kind {
        Kind::Docker => serde_json::json!({ "type": ["container"], "event": ACTIONS }),
        Kind::Podman => serde_json::json!({ "type": ["container"] }),
    };
    let since = since.map(|since| format!("since={since}&")).unwrap_or_default();
    format!("/events?{since}filters={}", super::encoded(&filter.to_string()))
}

/// The container that an event is about. What is no event of a container's is skipped; what is no JSON is no event stream.
fn hint(line: &BytesMut) -> Result<Option<Hint>, Failure> {
    let event: Event = match serde_json::from_slice(line) {
        Ok(event) => event,
        Err(error) if error.is_data() => return Ok(None),
        Err(error) => return Err(Failure::undecodable(&error)),
    };
    let action = event.action.as_deref().unwrap_or_default();
    let matters = ACTIONS.contains(&action) || action == PODMANS_DIE;
    if event.about.as_deref() != Some("container") || !matters {
        return Ok(None);
    }
    let id = event.actor.and_then(|actor| actor.id).and_then(|id| id.parse::<InstanceId>().ok());
    let begins = BEGINNINGS.contains(&action);
    Ok(id.map(|id| Hint { id, begins }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_a_container_is_a_hint() {
        let id = InstanceId::from_bytes([9; 32]);
        let read = |text: String| hint(&BytesMut::from(text.as_str()));
        let event =
            |about: &str, action: &str| format!(r#"{{"Type":"{about}","Action":"{action}","Actor":{{"ID":"{id}"}}}}"#);
        for (action, begins) in
            [("die", false), ("died", false), ("create", true), ("start", true), ("restart", false), ("destroy", false)]
        {
            assert_eq!(read(event("container", action)).unwrap(), Some(Hint { id, begins }), "{action}");
        }
        for text in
            [event("image", "create"), event("container", "exec_create: sh"), "{}".into(), "[1]".into(), "7".into()]
        {
            assert_eq!(read(text.clone()).unwrap(), None, "{text}");
        }
        assert!(read("HTTP".into()).is_err());
    }
}
