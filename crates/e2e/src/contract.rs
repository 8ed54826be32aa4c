//! The committed OpenAPI document, held against every answer that a test gets from a captain: a status that is not documented for
//! its route fails the test, and so does a body that is not of the documented shape or says more than is documented.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use http::StatusCode;
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::http::Response;

/// Pages beside the interface, which does not document its own documentation.
const PAGES: [&str; 2] = ["/openapi.json", "/docs"];

/// A body, documented by its words only: the original's `null`.
const NULL: (&str, &str) = ("delete", "/cache");

/// The document's path: in the root of the repository.
#[must_use]
pub fn document_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json")
}

struct Contract {
    routes: Vec<Route>,
    error: Validator,
}

struct Route {
    /// Without the slash at its end, which may be left out of every path.
    path: String,
    operations: HashMap<String, HashMap<u16, Body>>,
}

enum Body {
    None,
    /// Without a shape where it is no JSON.
    Of {
        media: String,
        shape: Option<Box<Validator>>,
    },
}

/// Holds a whole answer against the document.
#[track_caller]
pub(crate) fn check(method: &str, target: &str, answer: &Response) {
    if let Err(problem) = contract().judge(method, target, answer.status, Some(answer)) {
        panic!("{method} {target} breaks openapi.json: {problem}\n{}: {}", answer.status, answer.text());
    }
}

/// The same for an answer whose body is still coming.
#[track_caller]
pub(crate) fn check_status(method: &str, target: &str, status: StatusCode) {
    if let Err(problem) = contract().judge(method, target, status, None) {
        panic!("{method} {target} breaks openapi.json: {problem}");
    }
}

fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| {
        let text = std::fs::read_to_string(document_path()).unwrap();
        Contract::read(&serde_json::from_str(&text).unwrap())
    })
}

impl Contract {
    fn read(document: &Value) -> Self {
        let mut components = document["components"].clone();
        for schema in components["schemas"].as_object_mut().unwrap().values_mut() {
            // A field that nobody documented is a promise that nobody made.
            if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
                schema["additionalProperties"] = json!(false);
            }
        }
        let shape = |schema: &Value| {
            let whole = json!({"allOf": [schema], "components": components});
            jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{schema}: {error}"))
        };
        let routes = document["paths"].as_object().unwrap().iter().map(|(path, operations)| Route {
            path: trimmed(path).to_owned(),
            operations: operations
                .as_object()
                .unwrap()
                .iter()
                .map(|(method, it)| (method.clone(), answers(it, shape)))
                .collect(),
        });
        Self { routes: routes.collect(), error: shape(&json!({"$ref": "#/components/schemas/ErrorBody"})) }
    }

    fn judge(&self, method: &str, target: &str, status: StatusCode, answer: Option<&Response>) -> Result<(), String> {
        let path = target.split('?').next().unwrap_or(target);
        let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
        if PAGES.contains(&path) && method == "get" {
            return if status == 200 { Ok(()) } else { Err("a page of the documentation is not there".to_owned()) };
        }
        // Of two routes that fit, the one without a parameter is meant.
        let fitting = self.routes.iter().filter(|route| route.fits(path));
        let Some(route) = fitting.min_by_key(|route| route.path.matches('{').count()) else {
            return if PAGES.contains(&path) {
                self.fallback(405, "method_not_allowed", status, answer)
            } else {
                self.fallback(404, "no_such_path", status, answer)
            };
        };
        let Some(answers) = route.operations.get(&method) else {
            return self.fallback(405, "method_not_allowed", status, answer);
        };
        let documented =
            answers.get(&status.as_u16()).ok_or_else(|| format!("{status} is not documented for {}", route.path))?;
        let Some(answer) = answer else { return Ok(()) };
        if answer.head_only {
            return if answer.body.is_empty() { Ok(()) } else { Err("an answer to HEAD has a body".to_owned()) };
        }
        match documented {
            Body::None if (method.as_str(), route.path.as_str()) == NULL => equal("the body", &answer.text(), "null"),
            Body::None => equal("the body", &answer.text(), ""),
            Body::Of { media, shape } => fits(media, shape.as_deref(), answer),
        }
    }

    /// What every path or method that is none is answered with; the document tells of those that are.
    fn fallback(&self, expected: u16, code: &str, status: StatusCode, answer: Option<&Response>) -> Result<(), String> {
        equal("the status", &status.as_u16().to_string(), &expected.to_string())?;
        let Some(answer) = answer.filter(|answer| !answer.head_only) else { return Ok(()) };
        fits("application/json", Some(&self.error), answer)?;
        equal("the code", answer.json()["code"].as_str().unwrap_or_default(), code)
    }
}

fn answers(operation: &Value, shape: impl Fn(&Value) -> Validator) -> HashMap<u16, Body> {
    let empty = Map::new();
    let body = |answer: &Value| {
        let Some((media, it)) = answer["content"].as_object().and_then(|content| content.iter().next()) else {
            return Body::None;
        };
        Body::Of { media: media.clone(), shape: it.get("schema").map(|schema| Box::new(shape(schema))) }
    };
    let answers = operation["responses"].as_object().unwrap_or(&empty).iter();
    answers.map(|(status, answer)| (status.parse().unwrap(), body(answer))).collect()
}

impl Route {
    fn fits(&self, path: &str) -> bool {
        let (wanted, given) = (self.path.split('/'), trimmed(path).split('/'));
        wanted.clone().count() == given.clone().count()
            && wanted
                .zip(given)
                .all(|(wanted, given)| wanted == given || (wanted.starts_with('{') && !given.is_empty()))
    }
}

/// Without the slash at its end.
fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn equal(what: &str, is: &str, expected: &str) -> Result<(), String> {
    if is == expected { Ok(()) } else { Err(format!("{what} is {is:?} instead of {expected:?}")) }
}

fn fits(media: &str, shape: Option<&Validator>, answer: &Response) -> Result<(), String> {
    equal("the content type", answer.header("content-type"), media)?;
    let Some(shape) = shape else { return Ok(()) };
    // A stream of JSON is documented by the shape of its lines.
    let values = if media == "application/json" {
        vec![serde_json::from_slice(&answer.body).map_err(|error| format!("the body is no JSON: {error}"))?]
    } else {
        let lines = serde_json::Deserializer::from_slice(&answer.body).into_iter::<Value>();
        lines.collect::<Result<_, _>>().map_err(|error| format!("a line is no JSON: {error}"))?
    };
    for value in &values {
        let problems: Vec<String> =
            shape.iter_errors(value).take(3).map(|error| format!("{}: {error}", error.instance_path())).collect();
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn judge(method: &str, target: &str, status: u16, media: &str, body: &str) -> Result<(), String> {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, media.parse().unwrap())]);
        let body = bytes::Bytes::from(body.to_owned());
        let answer = Response { status, headers, body, head_only: method == "HEAD" };
        contract().judge(method, target, status, Some(&answer))
    }

    fn json(method: &str, target: &str, status: u16, body: &Value) -> Result<(), String> {
        judge(method, target, status, "application/json", &body.to_string())
    }

    #[test]
    fn what_is_documented_passes() {
        let summary = json!({"total_instances": 1, "apps": {"demo": 1}});
        assert_eq!(json("GET", "/instances_summary/", 200, &summary), Ok(()));
        assert_eq!(json("GET", "/instances_summary?x=1", 200, &summary), Ok(()), "without its slash, with a query");
        assert_eq!(judge("HEAD", "/instances_summary/", 200, "application/json", ""), Ok(()));
        assert_eq!(judge("GET", "/ping/ping", 204, "text/plain", ""), Ok(()));
        let lines = "{\"msg\": \"a\\n\"}\n{\"msg\": \"\\n\"}\n";
        assert_eq!(judge("GET", "/instances/abc/logs", 200, "application/jsonstream", lines), Ok(()));
        let error =
            |status: u16, code: &str| json!({"code": code, "status": status, "message": "m", "description": "m"});
        assert_eq!(json("GET", "/nothing", 404, &error(404, "no_such_path")), Ok(()));
        assert_eq!(json("PUT", "/nodes/", 405, &error(405, "method_not_allowed")), Ok(()));
    }

    #[test]
    fn what_is_not_documented_does_not() {
        let summary = json!({"total_instances": 1, "apps": {}});
        assert!(json("GET", "/instances_summary/", 202, &summary).is_err(), "a status");
        assert!(json("GET", "/instances_summary/", 200, &json!({"total_instances": 1})).is_err(), "a field missing");
        assert!(
            json("GET", "/instances_summary/", 200, &json!({"total_instances": "1", "apps": {}})).is_err(),
            "a type"
        );
        let more = json!({"total_instances": 1, "apps": {}, "more": true});
        assert!(json("GET", "/instances_summary/", 200, &more).is_err(), "a further field");
        assert!(judge("GET", "/instances_summary/", 200, "text/html", &summary.to_string()).is_err(), "a content type");
        assert!(judge("GET", "/instances_summary/", 200, "application/json", "<html>").is_err(), "no JSON");
        assert!(judge("GET", "/ping/ping", 204, "text/plain", "pong").is_err(), "a body");
        assert!(judge("HEAD", "/instances_summary/", 200, "application/json", "{}").is_err(), "a body of a HEAD");
        assert!(
            judge("GET", "/instances/abc/logs", 200, "application/jsonstream", "{\"line\": 1}\n").is_err(),
            "a line"
        );
        let error = json!({"code": "no_such_node", "status": 404, "message": "m", "description": "m"});
        assert!(json("GET", "/nothing", 404, &error).is_err(), "another code for a path that is none");
        assert!(json("GET", "/nothing", 200, &json!({})).is_err(), "a path that is none and answers");
    }
}
