//! The body of a start: read field by field, so that every mistake is named by its field.

use std::collections::BTreeMap;

use captain_api::Code;
use captain_domain::procfile::is_process_type;
use captain_domain::{AppName, Environment, Hostname, ImageTag, NodeId, OperationId, Slots, SlugUri};
use captain_slug::Digest;
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::actions::start::Order;
use crate::captain::{Mode, Policy};
use crate::slugs::Slugs;

/// Linux takes no single string of an environment beyond 128 KiB (`MAX_ARG_STRLEN`), its name and the final NUL included.
const LONGEST_VARIABLE: usize = 128 * 1024 - 1;

const FIELDS: [&str; 11] = [
    "app",
    "node",
    "slug_uri",
    "version",
    "environment",
    "slots",
    "hostname",
    "process",
    "slug_sha256",
    "slug_runner_version",
    "allocated_port",
];

type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn bad(field: &str, problem: &str) -> ApiError {
    ApiError::field(Code::BadRequest, field, problem)
}

fn cannot_work(field: &str, problem: &str) -> ApiError {
    ApiError::field(Code::Unprocessable, field, problem)
}

/// The operation of a start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) id: OperationId,
    /// Whether the client chose it.
    pub(super) given: bool,
}

/// Reads the body: what was given, and what it means under this policy.
pub(super) fn parse(body: &[u8], operation: Operation, policy: &Policy) -> Result<Order, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::new(Code::BadRequest, "the body is not UTF-8, and so not JSON"))?;
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| not_an_object(text, &error))?;
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        let known = FIELDS.join(", ");
        return Err(bad(unknown, "there is no such field").help(format!("the fields are: {known}")));
    }
    let app = required(&fields, "app")?;
    let app = AppName::parse(&app).map_err(|error| cannot_work("app", &error.to_string()))?;
    let node = required(&fields, "node")?;
    let slug_uri = slug_uri(&fields, &app, policy)?;
    let hostname = optional(&fields, "hostname")?.filter(|name| !name.is_empty());
    let hostname = hostname.map(|name| Hostname::parse(&name)).transpose();
    let Running { runner_version, process, slug_sha256 } = running(&fields, &slug_uri, &policy.mode)?;
    Ok(Order {
        operation: operation.id,
        repeatable: operation.given,
        app,
        node: NodeId::trusted(&node),
        slug_uri,
        environment: environment(&fields)?,
        slots: slots(&fields, policy)?,
        hostname: hostname.map_err(|error| cannot_work("hostname", &error.to_string()))?,
        runner_version,
        process,
        slug_sha256,
    })
}

/// How the slug is to be run.
struct Running {
    runner_version: Option<String>,
    process: Option<String>,
    slug_sha256: Option<Digest>,
}

/// Reads the fields that only a runner image knows, or only Captain's own runner.
fn running(fields: &Fields<'_>, slug_uri: &SlugUri, mode: &Mode) -> Result<Running, ApiError> {
    let runner_version = optional(fields, "slug_runner_version")?;
    let process = optional(fields, "process")?;
    let slug_sha256 = optional(fields, "slug_sha256")?;
    if let Mode::RunnerImage { .. } = mode {
        let given = [("process", process.is_some()), ("slug_sha256", slug_sha256.is_some())];
        if let Some((field, _)) = given.iter().find(|(_, given)| *given) {
            let problem = match *field {
                "process" => "cannot be chosen: this captain gives its runner image one command (SLUG_RUNNER_COMMAND)",
                _ => "cannot be checked: this captain uses a runner image, which fetches the slug by itself",
            };
            return Err(
                cannot_work(field, problem).help("without SLUG_RUNNER_IMAGE, Captain fetches and runs slugs itself")
            );
        }
        if slug_uri.as_str().starts_with("sha256:") {
            let problem = "this captain uses a runner image, which fetches the slug by itself and knows no digests";
            return Err(cannot_work("slug_uri", problem)
                .help("give a URL: that of this captain followed by /slugs/ and the digest"));
        }
    } else {
        if runner_version.is_some() {
            let problem = "this captain uses no runner image (SLUG_RUNNER_IMAGE is not set)";
            return Err(cannot_work("slug_runner_version", problem));
        }
        Slugs::check(slug_uri).map_err(|error| cannot_work("slug_uri", &error.to_string()))?;
    }
    if let Some(Err(error)) = runner_version.as_deref().map(ImageTag::parse) {
        return Err(cannot_work("slug_runner_version", &error.to_string()));
    }
    if process.as_deref().is_some_and(|name| !is_process_type(name)) {
        return Err(cannot_work("process", "a process type is letters, digits, '_' and '-'"));
    }
    let slug_sha256 = slug_sha256.map(|text| text.strip_prefix("sha256:").unwrap_or(&text).parse()).transpose();
    let slug_sha256 =
        slug_sha256.map_err(|error: captain_slug::NotADigest| cannot_work("slug_sha256", &error.to_string()))?;
    Ok(Running { runner_version, process, slug_sha256 })
}

fn not_an_object(text: &str, error: &serde_json::Error) -> ApiError {
    let message = match error.classify() {
        _ if text.trim().is_empty() => "the body is empty: a start is a JSON object".to_owned(),
        serde_json::error::Category::Data => "the body is JSON, but not an object".to_owned(),
        _ => format!("the body is not JSON: {error}"),
    };
    ApiError::new(Code::BadRequest, message)
}

fn given<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    fields.get(name).map(|value| value.get()).filter(|value| *value != "null")
}

fn optional(fields: &Fields<'_>, name: &str) -> Result<Option<String>, ApiError> {
    let read =
        |value| serde_json::from_str(value).map_err(|_| bad(name, &format!("must be a string, not {}", kind(value))));
    given(fields, name).map(read).transpose()
}

fn required(fields: &Fields<'_>, name: &str) -> Result<String, ApiError> {
    optional(fields, name)?.ok_or_else(|| bad(name, "is required"))
}

fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn slug_uri(fields: &Fields<'_>, app: &AppName, policy: &Policy) -> Result<SlugUri, ApiError> {
    let version = match given(fields, "version") {
        Some(value) if kind(value) == "a number" => Some(value.to_owned()),
        _ => optional(fields, "version")?,
    };
    let (field, uri) = match (optional(fields, "slug_uri")?, version, &policy.slug_path) {
        (Some(uri), _, _) => ("slug_uri", uri),
        (None, Some(version), Some(path)) => {
            ("version", path.replace("{app_name}", app.as_str()).replace("{app_version}", &version))
        }
        (None, Some(_), None) => {
            let problem = "cannot be used: this captain has no SLUG_PATH to make a slug's URI of it";
            return Err(bad("version", problem).help("give slug_uri, or set SLUG_PATH"));
        }
        (None, None, _) => return Err(bad("slug_uri", "is required (or version)")),
    };
    SlugUri::parse(&uri).map_err(|error| cannot_work(field, &error.to_string()))
}

fn slots(fields: &Fields<'_>, policy: &Policy) -> Result<Slots, ApiError> {
    let Some(value) = given(fields, "slots") else { return Ok(policy.default_slots) };
    let slots: u32 = serde_json::from_str(value)
        .map_err(|_| bad("slots", &format!("must be a whole number from 0 to {}, not {}", u32::MAX, shown(value))))?;
    Ok(if slots == 0 { policy.default_slots } else { Slots(slots) })
}

fn shown(value: &str) -> String {
    if kind(value) == "a number" && value.len() <= 32 { value.to_owned() } else { kind(value).to_owned() }
}

fn environment(fields: &Fields<'_>) -> Result<Environment, ApiError> {
    let Some(value) = given(fields, "environment") else { return Ok(Environment::new()) };
    let variables: Fields<'_> = serde_json::from_str(value)
        .map_err(|_| bad("environment", &format!("must be an object of strings, not {}", kind(value))))?;
    let mut environment = Environment::new();
    for (name, value) in variables {
        let field = format!("environment.{name}");
        let text = match kind(value.get()) {
            "a number" => value.get().to_owned(),
            "a string" => serde_json::from_str(value.get()).map_err(|_| bad(&field, "is not a string"))?,
            other => return Err(bad(&field, &format!("must be a string or a number, not {other}"))),
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(cannot_work(&field, "the name of a variable is not empty and holds no '=' and no NUL"));
        }
        if text.contains('\0') {
            return Err(cannot_work(&field, "the value of a variable holds no NUL"));
        }
        if name.len() + 1 + text.len() >= LONGEST_VARIABLE {
            return Err(cannot_work(
                &field,
                &format!("is longer than {LONGEST_VARIABLE} bytes, the most that Linux takes"),
            ));
        }
        environment.set(&name, &text);
    }
    Ok(environment)
}
