//! The OpenAPI document as a page to read: plain HTML without scripts, so that it works offline and costs a few kilobytes.

use std::fmt::Write as _;

use serde_json::Value;
use utoipa::openapi::OpenApi;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
code,pre{font:14px/1.4 ui-monospace,monospace;background:#f4f4f4;border-radius:3px;padding:.1em .3em}\
h2{margin-top:2.5rem;border-bottom:1px solid #ddd}h3{margin-top:2rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eee}\
.m{display:inline-block;min-width:4.5rem;font-weight:bold}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}\
code,pre{background:#2a2a2a}td,th,h2{border-color:#333}a{color:#8bf}}";

/// The page.
pub(super) fn page(document: &OpenApi) -> String {
    let document = serde_json::to_value(document).unwrap_or_default();
    let mut out = String::with_capacity(32 * 1024);
    let info = &document["info"];
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0} API</title><style>{STYLE}</style><h1>{0} API</h1><p>{1}</p>\
         <p>Version {2}. The same for programs: <a href=\"/openapi.json\">/openapi.json</a>.</p>",
        text(&info["title"]),
        text(&info["description"]),
        text(&info["version"]),
    );
    for (path, methods) in entries(&document["paths"]) {
        for (method, operation) in entries(methods) {
            write_operation(&mut out, path, method, operation);
        }
    }
    out.push_str("<h2>Types</h2>");
    for (name, schema) in entries(&document["components"]["schemas"]) {
        write_type(&mut out, name, schema);
    }
    out.push_str("</html>");
    out
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Escaped, with what stands between backticks as code.
fn text(value: &Value) -> String {
    let escaped = escape(value.as_str().unwrap_or_default());
    let mut out = String::with_capacity(escaped.len());
    for (at, part) in escaped.split('`').enumerate() {
        out.push_str(match at {
            0 => "",
            at if at % 2 == 1 => "<code>",
            _ => "</code>",
        });
        out.push_str(part);
    }
    out
}

fn escape(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn write_operation(out: &mut String, path: &str, method: &str, operation: &Value) {
    let _ = write!(
        out,
        "<h2><span class=\"m\">{}</span> <code>{}</code></h2><p><b>{}.</b> {}</p>",
        method.to_uppercase(),
        escape(path),
        text(&operation["summary"]),
        text(&operation["description"]),
    );
    if let Some(parameters) = operation["parameters"].as_array() {
        out.push_str("<table><tr><th>Parameter<th>In<th>");
        for parameter in parameters {
            let _ = write!(
                out,
                "<tr><td><code>{}</code><td>{}<td>{}",
                text(&parameter["name"]),
                text(&parameter["in"]),
                text(&parameter["description"])
            );
        }
        out.push_str("</table>");
    }
    let body = &operation["requestBody"]["content"];
    if let Some((_, content)) = entries(body).next() {
        let _ = write!(out, "<p>Body: {}</p>", type_name(&content["schema"]));
    }
    out.push_str("<table><tr><th>Status<th>Body<th>");
    for (status, response) in entries(&operation["responses"]) {
        let body = entries(&response["content"]).next().map(|(_, content)| type_name(&content["schema"]));
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}",
            escape(status),
            body.unwrap_or_default(),
            text(&response["description"])
        );
    }
    out.push_str("</table>");
}

fn write_type(out: &mut String, name: &str, schema: &Value) {
    let _ = write!(out, "<h3 id=\"{0}\">{0}</h3><p>{1}</p>", escape(name), text(&schema["description"]));
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| format!("<code>{}</code>", text(word))).collect();
        let _ = write!(out, "<p>{}</p>", words.join(", "));
        return;
    }
    out.push_str("<table><tr><th>Field<th>Type<th>");
    for (field, property) in entries(&schema["properties"]) {
        let _ = write!(
            out,
            "<tr><td><code>{}</code><td>{}<td>{}",
            escape(field),
            type_name(property),
            text(&property["description"])
        );
    }
    out.push_str("</table>");
}

fn type_name(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    for several in ["oneOf", "anyOf"] {
        if let Some(schemas) = schema[several].as_array() {
            return schemas.iter().map(type_name).collect::<Vec<_>>().join(" or ");
        }
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", type_name(&schema["items"])),
        Value::String(kind) => escape(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).map(escape).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    }
}
