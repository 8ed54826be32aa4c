//! Thousands of simulated engines that speak Docker's HTTP API, in one process, for the real server in another.
//!
//! - `engines`: the engines. What each container is follows from its engine and its number, so two million of them take next to no
//!   memory; kept is only what changed.
//! - `client`: a keep-alive client with a clock.
//!
//! `captain-scale` is the benchmark. Its figures are of *simulated engines* and say so: they measure Captain, not Docker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a tool for tests and benchmarks: a panic is how it reports, and its output is its purpose"
)]

pub mod client;
pub mod engines;
