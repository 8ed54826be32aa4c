//! The one error body, and the codes that programs may rely on.

use serde::{Deserialize, Serialize};

/// What went wrong, for programs. Stable: a code is never renamed and never given another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: the request cannot be read: not JSON, a missing, unknown or wrongly typed field, a parameter that is no such value.
    BadRequest,
    /// 404: no such path.
    NoSuchPath,
    /// 404: no such instance.
    NoSuchInstance,
    /// 404: no such node.
    NoSuchNode,
    /// 404: no such claim: the start has ended, or never was.
    NoSuchClaim,
    /// 404: Captain's own store has no such slug.
    NoSuchSlug,
    /// 405: the path is there, the method is not.
    MethodNotAllowed,
    /// 408: the body did not arrive in time.
    RequestTimeout,
    /// 409: the same operation is being carried out already.
    OperationInProgress,
    /// 409: the same operation was carried out before: its instance is there.
    OperationDone,
    /// 409: the prefix of an id fits several instances.
    AmbiguousId,
    /// 409: the slug is being used by a start just now.
    SlugInUse,
    /// 413: the body is too large.
    BodyTooLarge,
    /// 415: the body is not `application/json`.
    UnsupportedMediaType,
    /// 422: well formed, but it cannot work: a value that no engine takes, an image or a slug that is not there.
    Unprocessable,
    /// 422: the runner image cannot be had: it is not on the node and cannot be pulled.
    ImageUnavailable,
    /// 422: the slug is not where the start says, or not for Captain to have.
    SlugUnavailable,
    /// 422: what was given as a slug is none, or holds what no node is given.
    SlugInvalid,
    /// 422: the slug has another digest than was asked for.
    SlugMismatch,
    /// 500: a defect of Captain.
    Internal,
    /// 502: the node's engine answered with an error.
    EngineError,
    /// 502: where the slug is, or the store for slugs, cannot be reached or fails. Try again.
    SlugOriginFailed,
    /// 503: the node has not enough free slots.
    OverCapacity,
    /// 503: the node is known to be out of reach.
    NodeUnavailable,
    /// 503: Captain has too much to do at once, or is shutting down. Try again.
    Busy,
    /// 504: the node's engine did not answer in time; what came of the call is not known yet.
    EngineTimeout,
    /// 507: the node has no disk space left.
    NodeOutOfSpace,
    /// 507: the captain itself has no disk space left for slugs.
    CaptainOutOfSpace,
    /// A code that this version of the client does not know.
    #[serde(other)]
    Other,
}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What went wrong, for programs.
    pub code: Code,
    /// The HTTP status, as a number.
    pub status: u16,
    /// What went wrong, for people.
    pub message: String,
    /// The same as `message` (the original named it so where a node was over capacity).
    pub description: String,
    /// The field of the request that is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The node concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The smallest change that would help, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The operation of the start that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

impl ErrorBody {
    /// An error with nothing but its code, status and message.
    pub fn new(code: Code, status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        let description = message.clone();
        Self { code, status, message, description, field: None, node: None, help: None, operation: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_newer_captain_can_be_read() {
        let text = r#"{"code":"from_the_future","status":500,"message":"m","description":"m","new_field":1}"#;
        let body: ErrorBody = serde_json::from_str(text).unwrap();
        assert_eq!(body.code, Code::Other);
    }

    #[test]
    fn codes_are_written_in_snake_case() {
        assert_eq!(serde_json::to_string(&Code::OverCapacity).unwrap(), r#""over_capacity""#);
    }
}
