//! Slugs, from origins that behave and origins that do not, to nodes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

mod engine;
mod fetching;
mod hostile;
mod origin;
mod staging;
mod starting;
mod store;
