//! What Captain writes on the containers that it makes: all that must survive a captain.
//!
//! The labels are an interface between captains of different versions: a name is never given a new meaning, an unknown one is
//! left alone, and a container whose labels cannot be read is reported and otherwise not touched.

use thiserror::Error;

use crate::claim::{AttemptId, Bid};
use crate::{AppName, OperationId, Slots, SlugUri};

/// The app. Its presence is what makes a container Captain's.
pub const APP: &str = "captain.app";
/// The slots taken.
pub const SLOTS: &str = "captain.slots";
/// The slug's URI.
pub const SLUG: &str = "captain.slug";
/// The operation that created the container.
pub const OPERATION: &str = "captain.operation";

/// The attempt at the operation: which of the captains that were given it made the container.
///
/// A label, not a part of the container's name, although engines keep names unique: the embedded engine has no names, and a name
/// that differs with every attempt would give away what names are good for. As it is, `<app>_<operation>` makes Docker and Podman
/// refuse a second container of an operation that is repeated, at once and without a claim; whom the first one belongs to, and what
/// happens where two are made all the same, this label decides, alike on every engine.
pub const ATTEMPT: &str = "captain.attempt";

/// What the labels of one of Captain's containers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The app.
    pub app: AppName,
    /// The slots taken.
    pub slots: Slots,
    /// The slug.
    pub slug_uri: SlugUri,
    /// The operation that created it.
    pub operation: OperationId,
    /// The attempt at it; none where a captain made it that knew no attempts, or knew them otherwise.
    pub attempt: Option<AttemptId>,
}

/// The labels are Captain's, but cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("label {name}={value:?} cannot be read")]
pub struct LabelError {
    /// The label.
    pub name: &'static str,
    /// Its value; empty where the label is missing.
    pub value: String,
}

impl Labels {
    /// Name and value of each label.
    pub fn write(&self) -> impl Iterator<Item = (&'static str, String)> {
        let always = [
            (APP, self.app.to_string()),
            (SLOTS, self.slots.0.to_string()),
            (SLUG, self.slug_uri.to_string()),
            (OPERATION, self.operation.to_string()),
        ];
        always.into_iter().chain(self.attempt.map(|attempt| (ATTEMPT, attempt.to_string())))
    }

    /// What claims are told apart by.
    pub const fn bid(&self) -> Bid {
        Bid { operation: self.operation, attempt: self.attempt }
    }

    /// Reads the labels of a container: `None` where it is not Captain's.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Result<Self, LabelError>> {
        let app = get(APP)?;
        let required = |name| get(name).ok_or(LabelError { name, value: String::new() });
        let read = || {
            let slots = required(SLOTS)?;
            let operation = required(OPERATION)?;
            Ok(Self {
                app: AppName::parse(app).map_err(|_| LabelError { name: APP, value: app.to_owned() })?,
                slots: slots.parse().map(Slots).map_err(|_| LabelError { name: SLOTS, value: slots.to_owned() })?,
                slug_uri: SlugUri::trusted(required(SLUG)?),
                operation: operation
                    .parse()
                    .map_err(|_| LabelError { name: OPERATION, value: operation.to_owned() })?,
                // One that cannot be read is not ours, and that is all it is asked for. Its slots must count all the same.
                attempt: get(ATTEMPT).and_then(|attempt| attempt.parse().ok()),
            })
        };
        Some(read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels {
            app: AppName::parse("demo_1").unwrap(),
            slots: Slots(2),
            slug_uri: SlugUri::parse("http://slugs/demo.tgz").unwrap(),
            operation: OperationId::from_bytes([7; 16]),
            attempt: Some(AttemptId::from_random(9)),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for attempt in [Some(AttemptId::from_random(9)), None] {
            let labels = Labels { attempt, ..labels() };
            let written: Vec<_> = labels.write().collect();
            let read = Labels::read(|name| written.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()));
            assert_eq!(read, Some(Ok(labels)));
        }
    }

    #[test]
    fn an_attempt_that_cannot_be_read_hides_no_slots() {
        let written: Vec<_> = labels().write().collect();
        let value = |name: &str| written.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
        let read = Labels::read(|name| if name == ATTEMPT { Some("of a later version") } else { value(name) });
        assert_eq!(read, Some(Ok(Labels { attempt: None, ..labels() })));
    }

    #[test]
    fn a_foreign_container_is_not_ours() {
        assert_eq!(Labels::read(|name| (name == "com.example").then_some("x")), None);
    }

    #[test]
    fn a_poisoned_label_is_named() {
        for (poisoned, value) in [(APP, "a b"), (SLOTS, "-1"), (SLOTS, "many"), (OPERATION, "x")] {
            let written: Vec<_> = labels().write().collect();
            let read = Labels::read(|name| {
                if name == poisoned {
                    Some(value)
                } else {
                    written.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
                }
            });
            assert_eq!(read, Some(Err(LabelError { name: poisoned, value: value.to_owned() })));
        }
    }
}
