//! Validates EventHooks and compiles them into the form that the worker runs and the controller syncs.
//!
//! Both roles share this code, so the worker never delivers for a spec that the controller reports as Stalled.

mod content;
mod delivery;
mod handler;
mod selector;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use content::{RenderedBody, RenderedContent, RequestContent, context};
pub use delivery::{Delivery, parse_rate_limit};
pub use handler::{
    Address, FunctionHash, Handler, Lambda, RequestTarget, Signature, Webhook, WebhookCustom, parse_header,
};
pub use selector::EventSelector;

use super::duration;
use super::filter::{Filter, FilterError};
use super::gate::{Gates, OnChange, Snooze};
use super::template::Diagnostic;
pub use super::urls::parse_url;
use crate::api::{AdoptMode, DeliverBy, EventHook, EventHookSpec, ManagementPolicy, Trailing};

/// A validated EventHook with compiled filter, templates and functions.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledHook {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub source: Box<str>,
    /// `None` matches every event of the source.
    pub event: Option<Box<str>>,
    /// `None` matches every event.
    pub filter: Option<Filter>,
    /// With `deliverBy: Gateway`, the gateway applies the gates.
    pub gates: Gates,
    pub handler: Handler,
    /// The name of the Connection. A hook with a Connection receives only the events of its own relay.
    pub connection: Option<Box<str>>,
    pub deliver_by: DeliverBy,
    pub delivery: Delivery,
}

/// Why a spec is invalid. The message is shown to the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
pub enum InvalidSpec {
    #[error("filter: {0}")]
    InvalidFilter(FilterError),
    #[error("{field}: line {}, column {}: {}", .at.line, .at.column, .at.message)]
    InvalidTemplate { field: String, at: Diagnostic },
    #[error("{field}: line {}, column {}: {}", .at.line, .at.column, .at.message)]
    InvalidLambda { field: String, at: Diagnostic },
    #[error("{field}: {problem}")]
    InvalidSpec { field: &'static str, problem: String },
    /// All violations of the CRD schema, found in a mode without an API server.
    #[error("{0}")]
    #[strum(serialize = "InvalidSpec")]
    RejectedBySchema(String),
    /// The object cannot be deserialized: a field has a wrong type, or a newer version wrote it.
    #[error("the object cannot be read: {0}")]
    #[strum(serialize = "InvalidObject")]
    Unreadable(String),
}

/// Annotation that holds the CRD schema violations of an object that was read from a file.
pub const REJECTED_ANNOTATION: &str = "hookstream.dev/refused";

/// Returns an error if the object violates its CRD schema, as recorded in [`REJECTED_ANNOTATION`].
pub fn check_not_rejected(meta: &ObjectMeta) -> Result<(), InvalidSpec> {
    let violations = meta.annotations.as_ref().and_then(|annotations| annotations.get(REJECTED_ANNOTATION));
    violations.map_or(Ok(()), |text| Err(InvalidSpec::RejectedBySchema(text.clone())))
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Validates and compiles a hook. Repeats the CRD's rules, because standalone mode has no API server.
pub fn validate(hook: &EventHook) -> Result<CompiledHook, InvalidSpec> {
    check_not_rejected(&hook.metadata)?;
    let spec = &hook.spec;
    if spec.connection_ref.is_none() && spec.deliver_by.is_some() {
        return Err(invalid("deliverBy", "needs connectionRef"));
    }
    if spec.connection_ref.is_some() && spec.from.is_some() {
        return Err(invalid(
            "from",
            "cannot be combined with connectionRef: such a hook receives only the events of its own relay",
        ));
    }
    if spec.connection_ref.is_none() && spec.rotation.is_some() {
        return Err(invalid("rotation", "needs connectionRef"));
    }
    let deliver_by = spec.deliver_by.unwrap_or(DeliverBy::Worker);
    check_adoption(spec, deliver_by)?;
    if deliver_by == DeliverBy::Gateway {
        check_gateway_support(spec)?;
    }
    let meta = &hook.metadata;
    Ok(CompiledHook {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
        source: spec.source.as_str().into(),
        event: spec.event.as_deref().map(Into::into),
        filter: spec
            .filter
            .as_deref()
            .map(Filter::compile)
            .transpose()
            .map_err(InvalidSpec::InvalidFilter)?,
        gates: parse_gates(spec)?,
        handler: handler::compile_handler(&spec.handler)?,
        connection: spec.connection_ref.as_ref().map(|r| r.name.as_str().into()),
        deliver_by,
        delivery: delivery::parse_delivery(spec)?,
    })
}

/// Rejects adopting or observing an object that cannot be compared with the spec.
fn check_adoption(spec: &EventHookSpec, deliver_by: DeliverBy) -> Result<(), InvalidSpec> {
    let observes = spec.management_policy == Some(ManagementPolicy::ObserveOnly);
    let matches = spec.adopt.as_ref().is_some_and(|adopt| adopt.mode == AdoptMode::Match);
    let worker = deliver_by == DeliverBy::Worker;
    let (field, problem) = match spec.adopt {
        Some(_) if spec.connection_ref.is_none() => ("adopt", "needs connectionRef"),
        None if observes => {
            ("managementPolicy", "ObserveOnly needs adopt.id: it names the object to observe")
        }
        _ if observes && worker => ("managementPolicy", "ObserveOnly needs deliverBy: Gateway"),
        _ if matches && worker => ("adopt.mode", "Match needs deliverBy: Gateway"),
        _ => return Ok(()),
    };
    Err(invalid(field, problem))
}

/// Rejects fields that are ignored when the gateway delivers.
fn check_gateway_support(spec: &EventHookSpec) -> Result<(), InvalidSpec> {
    let fields = spec.on_change.as_ref().is_some_and(|on_change| on_change.fields.is_some());
    let trailing = spec.snooze.as_ref().is_some_and(|snooze| snooze.trailing.is_some());
    let ignored = [
        ("delivery", spec.delivery.is_some()),
        ("filter", spec.filter.is_some()),
        ("groupBy", spec.group_by.is_some()),
        ("onChange.fields", fields),
        (
            "handler.webhook.handshake",
            spec.handler.webhook.as_ref().is_some_and(|webhook| webhook.handshake.is_some()),
        ),
        (
            "handler.webhook.oauth2",
            spec.handler.webhook.as_ref().is_some_and(|webhook| webhook.oauth2.is_some()),
        ),
        (
            "handler.webhookCustom.oauth2",
            spec.handler.webhook_custom.as_ref().is_some_and(|custom| custom.oauth2.is_some()),
        ),
        ("snooze.trailing", trailing),
    ];
    match ignored.into_iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(invalid(field, "would be ignored with deliverBy: Gateway: remove it")),
        None => Ok(()),
    }
}

fn parse_gates(spec: &EventHookSpec) -> Result<Gates, InvalidSpec> {
    let snooze = match &spec.snooze {
        Some(snooze) => {
            let period =
                duration::parse(&snooze.period.0).map_err(|e| invalid("snooze.period", e.to_string()))?;
            if spec.deliver_by == Some(DeliverBy::Gateway) && period.subsec_nanos() != 0 {
                return Err(invalid("snooze.period", "must be whole seconds with deliverBy: Gateway"));
            }
            Some(Snooze { period, trailing: snooze.trailing == Some(Trailing::Last) })
        }
        None => None,
    };
    Ok(Gates {
        group_by: check_paths("groupBy", spec.group_by.as_ref())?,
        snooze,
        on_change: match &spec.on_change {
            Some(rule) => Some(OnChange { fields: check_paths("onChange.fields", rule.fields.as_ref())? }),
            None => None,
        },
    })
}

/// Checks dotted paths. Rejects an empty segment, because such a path never matches and would put all events into one
/// group.
fn check_paths(field: &'static str, paths: Option<&Vec<String>>) -> Result<Option<Vec<String>>, InvalidSpec> {
    let Some(paths) = paths else { return Ok(None) };
    if paths.is_empty() {
        return Err(invalid(field, "must name at least one path, or be left out"));
    }
    match paths.iter().find(|path| path.split('.').any(str::is_empty)) {
        Some(path) => Err(invalid(field, format!("{path:.64} is not a path: write it as entity.id"))),
        None => Ok(Some(paths.clone())),
    }
}

#[cfg(test)]
mod tests;
