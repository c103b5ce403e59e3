//! The OpenAPI 3.1 document of the API port, built from the table of routes and the types of the bodies.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::query::{Parameter, ParameterKind};
use super::route::ApiRoute;

/// Returns the document as JSON text.
pub fn document(routes: Vec<ApiRoute>) -> String {
    let mut text = serde_json::to_string_pretty(&build(routes)).unwrap_or_default();
    text.push('\n');
    text
}

/// Returns the document of these routes.
pub fn build(routes: Vec<ApiRoute>) -> Value {
    let generator = |mut settings: SchemaSettings| {
        settings.definitions_path = "/components/schemas".into();
        settings.into_generator()
    };
    // A request may omit what has a default; a response has every member that it does not skip.
    let mut requests = generator(SchemaSettings::draft2020_12().for_deserialize());
    let mut responses = generator(SchemaSettings::draft2020_12().for_serialize());
    let mut paths = Map::new();
    for route in routes.into_iter().filter(|route| !route.is_alias) {
        let method: &str = route.method.into();
        let operation = operation(&route, &mut requests, &mut responses);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(method.to_owned(), operation);
        }
    }
    let mut schemas = responses.take_definitions(true);
    schemas.extend(requests.take_definitions(true));
    schemas.insert("Problem".into(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hookstream worker, API port",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Deliveries and events of a namespace, and Kong's read side. docs/api.md describes it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": {
                "description": "An error (RFC 9457) with a stable `reason`",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }},
            "securitySchemes": {"bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "In a cluster: a token for the worker's audience. A proxy that drops Authorization can send it in x-hookstream-token.",
            }},
        },
    })
}

fn operation(route: &ApiRoute, requests: &mut SchemaGenerator, responses: &mut SchemaGenerator) -> Value {
    let parameters: Vec<Value> =
        path_parameters(route.path).chain(route.parameters.iter().map(parameter)).collect();
    let content = json!({"application/json": {"schema": (route.response)(responses)}});
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            route.status.to_string(): {"description": "Success", "content": content},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    if let Some(members) = operation.as_object_mut() {
        match route.right {
            Some(right) => members.insert("x-hookstream-right".into(), right.into()),
            None => members.insert("security".into(), json!([])),
        };
        if let Some(request) = route.request {
            let content = json!({"application/json": {"schema": request(requests)}});
            members.insert("requestBody".into(), json!({"required": true, "content": content}));
        }
    }
    operation
}

/// Returns the parameters in braces.
fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
}

fn parameter(parameter: &Parameter) -> Value {
    let kind = match parameter.kind {
        ParameterKind::Text | ParameterKind::List => "string",
        ParameterKind::Number => "integer",
        ParameterKind::Flag => "boolean",
    };
    json!({"name": parameter.name, "in": "query", "description": parameter.description, "schema": {"type": kind}})
}

/// The schema of `net::problem::ProblemBody`, with the request's id that the port adds.
fn problem_schema() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["type", "title", "status", "reason", "detail"],
        "properties": {
            "type": text,
            "title": text,
            "status": {"type": "integer"},
            "reason": {"type": "string", "description": "Stable; docs/troubleshooting.md lists them"},
            "detail": text,
            "role": {"type": "string", "description": "The role of the chart that has the permission which the client lacks, without the release's prefix"},
            "requestId": {"type": "string", "description": "The id of the request in the worker's log"},
        },
    })
}
