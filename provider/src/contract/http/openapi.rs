//! `/openapi.json`: the operations as OpenAPI 3.1, with the schemas of the types that are read and written.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::cloud_event::CloudEvent;
use super::operations::{Answer, OPERATIONS, Operation, Parameter, Request, batch};
use super::problem::{PROBLEM_JSON, ProblemDocument};

/// Of every operation that needs a caller: nobody known, a body that does not come, or too much of it, too many requests.
const OF_CALLERS: &[u16] = &[401, 408, 413, 429];
/// Of every operation: a request that is none, a page that is not allowed, a head that is too large, a call that failed, what
/// can't be done now, an answer that does not come, another protocol.
const OF_ALL: &[u16] = &[400, 403, 431, 500, 503, 504, 505];

static DOCUMENT: LazyLock<String> = LazyLock::new(|| make().to_string());

/// `GET /openapi.json`
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()
}

fn make() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = described(operation, &mut generator);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Fanout",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A bus of tenants' events over HTTP: CloudEvents in, JSON out, problems by RFC 9457.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        // Who is known by its connection, a certificate or a socket, sends no token.
        "security": [{ "token": [] }, {}],
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": generator.take_definitions(true),
        },
    })
}

fn described(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "operationId": id(operation),
        "summary": operation.summary,
        "parameters": parameters(operation),
        "responses": responses(operation, generator),
    });
    if !operation.functions.is_empty() {
        described["x-functions"] = json!(operation.functions);
    }
    if operation.is_open {
        described["security"] = json!([]);
    }
    let event = |generator: &mut SchemaGenerator| json!({ "schema": generator.subschema_for::<CloudEvent>() });
    let content = match operation.request {
        Request::None => return described,
        Request::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Request::Event => json!({ "application/cloudevents+json": event(generator) }),
        Request::Events => json!({
            "application/cloudevents+json": event(generator),
            "application/cloudevents-batch+json": { "schema": batch(generator) },
        }),
    };
    described["requestBody"] = json!({ "required": true, "content": content });
    described
}

/// `post-v1-events-together`
fn id(operation: &Operation) -> String {
    let words = operation.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    format!("{}-{}", operation.method.to_lowercase(), words.join("-"))
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    let in_path = in_path.map(|(name, _)| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "schema": { "type": "string", "minLength": 1 },
        })
    });
    let others = operation.parameters.iter().map(|parameter| {
        let Parameter {
            name,
            is_header,
            is_required,
            is_list,
            description,
        } = parameter;
        let schema = match is_list {
            true => json!({ "type": "array", "items": { "type": "string" } }),
            false => json!({ "type": "string" }),
        };
        json!({
            "name": name,
            "in": if *is_header { "header" } else { "query" },
            "required": is_required,
            "description": description,
            "schema": schema,
        })
    });
    in_path.chain(others).collect()
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let (status, content) = match operation.answer {
        Answer::Empty => ("204", None),
        Answer::Json(schema) => ("200", Some(("application/json", schema(generator).to_value()))),
        Answer::Text(media_type) => ("200", Some((media_type, json!({})))),
        // OpenAPI 3.1 has no word for the schema of each message.
        Answer::Stream(schema) => {
            schema(generator);
            ("200", Some(("text/event-stream", json!({ "type": "string" }))))
        }
    };
    let mut responses = Map::new();
    let mut answer = json!({ "description": "It is done" });
    if let Some((media_type, schema)) = &content {
        answer["content"][*media_type] = json!({ "schema": schema });
    }
    responses.insert(status.to_owned(), answer);
    let problem = generator.subschema_for::<ProblemDocument>();
    let of_callers = if operation.is_open { &[] } else { OF_CALLERS };
    // Where a part of the path is empty, there is nothing.
    let of_path: &[u16] = if operation.path.contains('{') { &[404] } else { &[] };
    for status in OF_ALL.iter().chain(of_callers).chain(of_path).chain(operation.problems) {
        let mut body = json!({ PROBLEM_JSON: { "schema": problem } });
        // Which says itself what is missing.
        if let (true, Some((media_type, schema))) = (operation.path == "/readyz", &content) {
            body[*media_type] = json!({ "schema": schema });
        }
        responses.insert(
            status.to_string(),
            json!({ "description": "A problem", "content": body }),
        );
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_is_whole() {
        let document = make();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for reference in text.split("\"$ref\":\"").skip(1) {
            let reference = reference.split('"').next().unwrap();
            let name = reference
                .strip_prefix("#/components/schemas/")
                .unwrap_or_else(|| panic!("{reference}"));
            assert!(schemas.contains_key(name), "{reference}");
        }
        let operations = document["paths"].as_object().unwrap().values();
        let ids: Vec<_> = operations
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        let operations = document["paths"].as_object().unwrap().values();
        let statuses: BTreeSet<_> = operations
            .flat_map(|path| path.as_object().unwrap().values())
            .flat_map(|operation| operation["responses"].as_object().unwrap().keys())
            .collect();
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, table) = page.split_once("| status | when |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
        let mut listed: BTreeSet<_> = rows
            .flat_map(|row| row.split('|').nth(1).unwrap().trim().split(", "))
            .map(str::to_owned)
            .collect();
        // Of what is no operation.
        assert!(listed.remove("405"));
        assert_eq!(listed.iter().collect::<BTreeSet<_>>(), statuses, "docs/http.md");
        assert_eq!(ids.len(), OPERATIONS.len());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    }
}
