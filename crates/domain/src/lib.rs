//! Captain's nouns and rules.
//!
//! Invariant: nothing here does I/O, awaits, reads a clock or rolls dice. Time and identifiers come in as arguments, so that
//! production and the simulator run the very same rules.

pub mod backoff;
pub mod claim;
pub mod environment;
pub mod id;
pub mod instance;
pub mod label;
pub mod name;
pub mod node;
pub mod procfile;
pub mod slots;
pub mod time;

pub use environment::Environment;
pub use id::{InstanceId, OperationId};
pub use instance::{Exit, Instance, State};
pub use name::{AppName, Hostname, ImageTag, NodeId, SlugUri};
pub use node::Health;
pub use slots::{SlotSize, Slots};
pub use time::Timestamp;
