//! Errors as answers: every status code and every stable code is decided here.
//!
//! What a client is told names the field, the node or the instance. What only helps an operator is in the log, once, where the
//! failure was seen.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use captain_api::{Code, ErrorBody};

use crate::actions::ActionError;
use crate::actions::start::StartError;
use crate::engine::{EngineError, ErrorKind};
use crate::slugs::{DraftError, FetchError};

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct ApiError(Box<ErrorBody>);

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorBody::new(code, status(code).as_u16(), message)))
    }

    pub(super) fn field(code: Code, field: &str, problem: &str) -> Self {
        let mut error = Self::new(code, format!("{field}: {problem}"));
        error.0.field = Some(field.to_owned());
        error
    }

    pub(super) fn node(mut self, node: &impl ToString) -> Self {
        self.0.node = Some(node.to_string());
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    pub(super) fn operation(mut self, operation: &impl ToString) -> Self {
        self.0.operation = Some(operation.to_string());
        self
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::NoSuchPath | Code::NoSuchInstance | Code::NoSuchNode | Code::NoSuchClaim | Code::NoSuchSlug => {
            StatusCode::NOT_FOUND
        }
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::OperationInProgress | Code::OperationDone | Code::AmbiguousId | Code::SlugInUse => StatusCode::CONFLICT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Unprocessable
        | Code::ImageUnavailable
        | Code::SlugUnavailable
        | Code::SlugInvalid
        | Code::SlugMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Internal | Code::Other => StatusCode::INTERNAL_SERVER_ERROR,
        Code::EngineError | Code::SlugOriginFailed => StatusCode::BAD_GATEWAY,
        Code::OverCapacity | Code::NodeUnavailable | Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Code::EngineTimeout => StatusCode::GATEWAY_TIMEOUT,
        Code::NodeOutOfSpace | Code::CaptainOutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        if matches!(self.0.code, Code::NodeUnavailable | Code::Busy) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Unreachable => Code::NodeUnavailable,
        ErrorKind::TimedOut => Code::EngineTimeout,
        ErrorKind::NotFound => Code::NoSuchInstance,
        ErrorKind::ImageMissing | ErrorKind::ImageUnavailable => Code::ImageUnavailable,
        ErrorKind::Invalid | ErrorKind::Unsupported => Code::Unprocessable,
        ErrorKind::NoSpace => Code::NodeOutOfSpace,
        ErrorKind::Interrupted | ErrorKind::Garbled | ErrorKind::Conflict | ErrorKind::Failed => Code::EngineError,
    }
}

impl From<&EngineError> for ApiError {
    fn from(error: &EngineError) -> Self {
        let answer = Self::new(code_of(error.kind), error.to_string()).node(&error.node);
        match error.kind {
            ErrorKind::NoSpace => answer.help("free disk space on the node, or start on another node"),
            _ => answer,
        }
    }
}

impl ApiError {
    /// What came is not kept. `too_large`: what that is called here.
    pub(super) fn of_draft(error: &DraftError, message: String, too_large: Code) -> Self {
        match error {
            DraftError::Refused(_) => Self::new(Code::SlugInvalid, message),
            DraftError::TooLarge { .. } => {
                Self::new(too_large, message).help("CAPTAIN_SLUG_LIMIT_MB says how large a slug may be")
            }
            DraftError::Mismatch { .. } => Self::new(Code::SlugMismatch, message),
            DraftError::DiskFull { .. } => Self::new(Code::CaptainOutOfSpace, message)
                .help("free space there, lower CAPTAIN_SLUG_CACHE_MB, or set CAPTAIN_DATA (or CAPTAIN_SLUG_STORE, where it names the folder) to a larger disk"),
            DraftError::Disk { .. } | DraftError::Lost => Self::new(Code::Internal, message),
        }
    }

    fn in_field(mut self, field: &str) -> Self {
        self.0.field = Some(field.to_owned());
        self
    }
}

impl From<&FetchError> for ApiError {
    fn from(error: &FetchError) -> Self {
        let message = error.to_string();
        let error = match error {
            FetchError::Uri(_) => Self::new(Code::Unprocessable, message),
            FetchError::Unavailable { .. } => Self::new(Code::SlugUnavailable, message),
            FetchError::NotStored(_) => {
                Self::new(Code::SlugUnavailable, message).help("put it there: `captain slug push FILE`")
            }
            FetchError::Origin { .. } => Self::new(Code::SlugOriginFailed, message),
            FetchError::Content { source: DraftError::Mismatch { .. }, .. } => {
                return Self::new(Code::SlugMismatch, message).in_field("slug_sha256");
            }
            FetchError::Content { source, .. } => Self::of_draft(source, message, Code::SlugInvalid),
            FetchError::Lost(_) => Self::new(Code::Internal, message),
        };
        error.in_field("slug_uri")
    }
}

impl From<ActionError> for ApiError {
    fn from(error: ActionError) -> Self {
        let message = error.to_string();
        match error {
            ActionError::NoSuchInstance(_) => Self::new(Code::NoSuchInstance, message),
            ActionError::AmbiguousId(_) => Self::new(Code::AmbiguousId, message),
            ActionError::NodeUnavailable { node, .. } => Self::new(Code::NodeUnavailable, message).node(&node),
            ActionError::Unheard { nodes, .. } => Self::new(Code::NodeUnavailable, message).node(&nodes),
            ActionError::Engine(error) => Self::from(&error),
            ActionError::NotRemoved { node, .. } => Self::new(Code::EngineTimeout, message).node(&node),
            ActionError::Lost => Self::new(Code::Internal, message),
        }
    }
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let message = error.to_string();
        match error {
            StartError::NoSuchNode(node) => Self::new(Code::NoSuchNode, message).node(&node),
            StartError::NodeUnavailable { node, .. } => Self::new(Code::NodeUnavailable, message).node(&node),
            StartError::OverCapacity { node, asked, free } => Self::new(Code::OverCapacity, message)
                .node(&node)
                .help(format!("it needs {asked} and {node} has {} free", free.0)),
            StartError::InProgress(operation) => Self::new(Code::OperationInProgress, message).operation(&operation),
            StartError::Done { operation, instance } => {
                Self::new(Code::OperationDone, message).operation(&operation).help(format!("see /instances/{instance}"))
            }
            StartError::Busy(node) => Self::new(Code::Busy, message).node(&node),
            StartError::Slug(error) => Self::from(&*error),
            StartError::Engine(error) => Self::from(&*error),
            StartError::Vanished => Self::new(Code::EngineError, message),
            StartError::Lost => Self::new(Code::Internal, message),
        }
    }
}
