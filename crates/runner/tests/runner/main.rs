//! The built runner from outside: real processes, real shells, real pid namespaces. One binary, so that it is linked once.
//!
//! Most of it runs as any user; what needs root says so and fails without, rather than passing unseen.

#![expect(clippy::unwrap_used, reason = "a test that cannot get at its own means has failed")]

mod corpus;
mod differential;
mod empty_root;
mod init;
mod privileges;
mod support;
mod traps;
