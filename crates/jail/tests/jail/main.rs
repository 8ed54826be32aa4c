//! Real instances on this kernel. One binary for all, so that it is linked once. Needs root, `/usr/bin/python3` (raw system calls from
//! inside) and control groups with memory and pids; says so instead of passing quietly where they are missing.

mod concurrency;
mod escapes;
mod kill_points;
mod leftovers;
mod lifecycle;
mod limits;
mod output;
mod user;
mod world;
