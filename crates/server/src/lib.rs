//! The server: where Captain's decisions meet effects.

pub mod engine;
