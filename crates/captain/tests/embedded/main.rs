//! The embedded engine as it ships: the engine of the server, the monitor role of the built binary, the carried runner, and real
//! slugs. As root, on the real kernel.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod captains;
mod kill_points;
mod languages;
mod lifecycle;
mod server;
mod shared;
mod world;
