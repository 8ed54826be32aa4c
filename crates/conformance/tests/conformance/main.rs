//! The suite against each engine there is. One binary, so that it is linked once.
//!
//! The simulated engine of `crates/sim` is not among them: it draws failures by lot at every call and runs no programs, so there is
//! nothing of it that could be put on trial as a [`captain_conformance::Subject`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a panic is how it reports"
)]

mod docker;
mod local;
mod nothing;
mod podman;
mod scripts;
