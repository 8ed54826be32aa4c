//! What goes over Captain's wire.
//!
//! The types of requests and answers, the stable error codes, and (feature `client`) a typed client. The original's fields keep
//! their names, types and meanings; whatever is newer stands beside them. A reader must ignore fields that it does not know.

#[cfg(feature = "client")]
pub mod client;
mod error;
mod types;

pub use error::{Code, ErrorBody};
pub use types::*;
