//! An EventHook, understood: what the worker runs and the controller syncs.
//!
//! One reading for both roles, so that an object which the controller calls Stalled is not delivered by other rules.

mod content;
mod delivery;
mod handler;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use content::{Content, Filled, FilledBody, context, form};
pub use delivery::{Delivery, rate};
pub use handler::{
    Address, Handler, Lambda, Mark, Signature, Target, Webhook, WebhookCustom, header, parse_url,
};

use super::duration;
use super::filter::{Filter, FilterError};
use super::gate::{Gates, OnChange, Snooze};
use super::template::Diagnostic;
use crate::api::{AdoptMode, DeliverBy, EventHook, EventHookSpec, ManagementPolicy, Trailing};

/// A valid hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Hook {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub source: String,
    /// None: every event of the source.
    pub event: Option<String>,
    /// None: all of them.
    pub filter: Option<Filter>,
    /// With `deliverBy: Gateway` they are the gateway's to keep.
    pub gates: Gates,
    pub handler: Handler,
    /// The name of the Connection, where there is one: then the hook gets its own relay's events and no others.
    pub connection: Option<String>,
    pub deliver_by: DeliverBy,
    pub delivery: Delivery,
}

/// Why a hook's spec cannot be carried out. The message says what to do.
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
    /// What the API server would have refused: all its faults.
    #[error("{0}")]
    #[strum(serialize = "InvalidSpec")]
    Refused(String),
}

/// The annotation by which an object from a file tells what the API server would have refused it for.
pub const REFUSED: &str = "hookstream.dev/refused";

/// An error where the API server would have refused the object.
pub fn not_refused(meta: &ObjectMeta) -> Result<(), InvalidSpec> {
    let refused = meta.annotations.as_ref().and_then(|annotations| annotations.get(REFUSED));
    refused.map_or(Ok(()), |told| Err(InvalidSpec::Refused(told.clone())))
}

fn invalid(field: &'static str, problem: impl Into<String>) -> InvalidSpec {
    InvalidSpec::InvalidSpec { field, problem: problem.into() }
}

/// Understands a hook. What the API server refuses is refused again here, for standalone has no API server.
pub fn validate(hook: &EventHook) -> Result<Hook, InvalidSpec> {
    not_refused(&hook.metadata)?;
    let spec = &hook.spec;
    if spec.connection_ref.is_none() && spec.deliver_by.is_some() {
        return Err(invalid("deliverBy", "needs connectionRef"));
    }
    if spec.connection_ref.is_some() && spec.from.is_some() {
        return Err(invalid(
            "from",
            "excludes connectionRef: a hook with one gets the events of its own relay",
        ));
    }
    if spec.connection_ref.is_none() && spec.rotation.is_some() {
        return Err(invalid("rotation", "needs connectionRef"));
    }
    let deliver_by = spec.deliver_by.unwrap_or(DeliverBy::Worker);
    taken_over(spec, deliver_by)?;
    if deliver_by == DeliverBy::Gateway {
        gateway_takes(spec)?;
    }
    let meta = &hook.metadata;
    Ok(Hook {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        namespace: meta.namespace.as_deref().unwrap_or_default().into(),
        name: meta.name.as_deref().unwrap_or_default().into(),
        source: spec.source.clone(),
        event: spec.event.clone(),
        filter: spec
            .filter
            .as_deref()
            .map(Filter::compile)
            .transpose()
            .map_err(InvalidSpec::InvalidFilter)?,
        gates: gates(spec)?,
        handler: handler::handler(&spec.handler)?,
        connection: spec.connection_ref.as_ref().map(|r| r.name.clone()),
        deliver_by,
        delivery: delivery::delivery(spec)?,
    })
}

/// Refuses to take or observe what cannot be told or compared.
fn taken_over(spec: &EventHookSpec, deliver_by: DeliverBy) -> Result<(), InvalidSpec> {
    let observes = spec.management_policy == Some(ManagementPolicy::ObserveOnly);
    let matches = spec.adopt.as_ref().is_some_and(|adopt| adopt.mode == AdoptMode::Match);
    let worker = deliver_by == DeliverBy::Worker;
    let (field, problem) = match spec.adopt {
        Some(_) if spec.connection_ref.is_none() => ("adopt", "needs connectionRef"),
        None if observes => {
            ("managementPolicy", "ObserveOnly needs adopt.id: which object is to be observed")
        }
        _ if observes && worker => ("managementPolicy", "ObserveOnly needs deliverBy: Gateway"),
        _ if matches && worker => ("adopt.mode", "Match needs deliverBy: Gateway"),
        _ => return Ok(()),
    };
    Err(invalid(field, problem))
}

/// Refuses what a gateway that delivers by itself would ignore.
fn gateway_takes(spec: &EventHookSpec) -> Result<(), InvalidSpec> {
    let fields = spec.on_change.as_ref().is_some_and(|on_change| on_change.fields.is_some());
    let trailing = spec.snooze.as_ref().is_some_and(|snooze| snooze.trailing.is_some());
    let ignored = [
        ("delivery", spec.delivery.is_some()),
        ("filter", spec.filter.is_some()),
        ("groupBy", spec.group_by.is_some()),
        ("onChange.fields", fields),
        ("snooze.trailing", trailing),
    ];
    match ignored.into_iter().find(|(_, used)| *used) {
        Some((field, _)) => Err(invalid(field, "would be ignored with deliverBy: Gateway")),
        None => Ok(()),
    }
}

fn gates(spec: &EventHookSpec) -> Result<Gates, InvalidSpec> {
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
        group_by: paths("groupBy", spec.group_by.as_ref())?,
        snooze,
        on_change: match &spec.on_change {
            Some(rule) => Some(OnChange { fields: paths("onChange.fields", rule.fields.as_ref())? }),
            None => None,
        },
    })
}

/// Dotted paths. One with an empty step would never find anything, and so put all events into one group.
fn paths(field: &'static str, paths: Option<&Vec<String>>) -> Result<Option<Vec<String>>, InvalidSpec> {
    let Some(paths) = paths else { return Ok(None) };
    if paths.is_empty() {
        return Err(invalid(field, "must name at least one path, or be left out"));
    }
    match paths.iter().find(|path| path.split('.').any(str::is_empty)) {
        Some(path) => Err(invalid(field, format!("{path:.64} is no path: write it as entity.id"))),
        None => Ok(Some(paths.clone())),
    }
}

#[cfg(test)]
mod tests;
