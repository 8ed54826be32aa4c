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
        Code::NoSuchPath | Code::NoSuchInstance | Code::NoSuchNode | Code::NoSuchClaim => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::OperationInProgress | Code::OperationDone | Code::AmbiguousId => StatusCode::CONFLICT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::Unprocessable | Code::ImageUnavailable => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Internal | Code::Other => StatusCode::INTERNAL_SERVER_ERROR,
        Code::EngineError => StatusCode::BAD_GATEWAY,
        Code::OverCapacity | Code::NodeUnavailable | Code::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Code::EngineTimeout => StatusCode::GATEWAY_TIMEOUT,
        Code::NodeOutOfSpace => StatusCode::INSUFFICIENT_STORAGE,
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
            ActionError::Busy(node) => Self::new(Code::Busy, message).node(&node),
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
            StartError::Engine(error) => Self::from(&*error),
            StartError::Vanished => Self::new(Code::EngineError, message),
            StartError::Lost => Self::new(Code::Internal, message),
        }
    }
}
