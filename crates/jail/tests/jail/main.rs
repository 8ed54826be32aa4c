//! Real instances on this kernel. One binary for all, so that it is linked once. Needs root, `/usr/bin/python3` (raw system calls from
//! inside) and control groups with memory and pids; says so instead of passing quietly where they are missing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests too, which clippy does not see

mod concurrency;
mod escapes;
mod kill_points;
mod layouts;
mod leftovers;
mod lifecycle;
mod limits;
mod output;
mod spare;
mod user;
mod v2;
mod world;
