//! The harness of the end-to-end tests: real engines, the built binary, and what stands around them.
//!
//! Nothing here knows Captain's code: the tests speak HTTP to the binary and look at the engines themselves, so that both sides of
//! every claim are checked from outside. A test leases whole nodes (see [`cluster`]), which come to it clean; so no test can see
//! another's instances, and as many tests run at once as there are nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test code: a panic is how it reports, and its settings come from the environment"
)]

pub mod captain;
pub mod cluster;
pub mod contract;
pub mod ec2;
pub mod engine;
pub mod fake;
pub mod figures;
pub mod heavy;
pub mod http;
pub mod origin;
pub mod process;
pub mod proxy;
pub mod slugs;
mod wait;
mod wire;

pub use wait::{eventually, within};
