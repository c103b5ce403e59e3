//! The custom resource definitions, as the API server applies them.

mod kubectl;
mod rules;
mod schemas;
