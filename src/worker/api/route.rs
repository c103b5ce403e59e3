//! One route of the API port: its handler, and its description for the OpenAPI document.

use std::sync::Arc;

use axum::routing::MethodRouter;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::query::Parameter;
use super::state::ApiState;

/// Returns the schema of a body.
pub type BodySchema = fn(&mut SchemaGenerator) -> Schema;

/// One route of the API port.
pub struct ApiRoute {
    pub method: RouteMethod,
    pub path: &'static str,
    /// The `operationId`.
    pub id: &'static str,
    pub summary: &'static str,
    /// The right (of `hookstream.dev`) that a client needs. None: none.
    pub right: Option<&'static str>,
    pub parameters: &'static [Parameter],
    pub request: Option<BodySchema>,
    pub status: u16,
    pub response: BodySchema,
    /// True for a second spelling of a path, which the document does not repeat.
    pub is_alias: bool,
    pub handler: MethodRouter<Arc<ApiState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum RouteMethod {
    Get,
    Post,
}

/// Returns the schema of a type.
pub fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl ApiRoute {
    pub fn get(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        right: &'static str,
        response: BodySchema,
        handler: MethodRouter<Arc<ApiState>>,
    ) -> Self {
        ApiRoute {
            method: RouteMethod::Get,
            path,
            id,
            summary,
            right: Some(right),
            parameters: &[],
            request: None,
            status: 200,
            response,
            is_alias: false,
            handler,
        }
    }

    pub fn post(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        right: &'static str,
        response: BodySchema,
        handler: MethodRouter<Arc<ApiState>>,
    ) -> Self {
        ApiRoute { method: RouteMethod::Post, ..ApiRoute::get(path, id, summary, right, response, handler) }
    }

    pub fn parameters(self, parameters: &'static [Parameter]) -> Self {
        ApiRoute { parameters, ..self }
    }

    pub fn request<T: JsonSchema>(self) -> Self {
        ApiRoute { request: Some(schema::<T>), ..self }
    }

    pub fn status(self, status: u16) -> Self {
        ApiRoute { status, ..self }
    }
}
