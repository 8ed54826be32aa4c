//! The slug crate through its public face, against archives made by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may fail the test")]

mod archives;
mod disk;
mod hostile;
mod layers;
mod layouts;
mod lints;
mod outcome;
mod packing;
mod properties;
mod shapes;
