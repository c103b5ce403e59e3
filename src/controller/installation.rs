//! This installation among others at the same vendor. Each marks its relays (`core::relay_mark`), so that it can read
//! which of them another one configured last.
//!
//! Two installations never fight over an object: the one that finds the other's mark on its own object stops writing it
//! and reports `Conflict`. The last writer goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::context::Context;
use super::error::SyncError;
use super::reconcile::{Found, Synced};
use super::status;
use crate::admin::ExternalClient;
use crate::api::Connection;
use crate::cluster::{ClusterError, ObjectKey};
use crate::core::conditions::{ConditionMessage, build_condition};
use crate::core::relay_mark::{RelayMark, without_mark};
use crate::core::time::Millis;

/// The condition of a Connection whose vendor has relays of other installations.
const CONDITION: &str = "OtherInstallations";
/// How long an id that may not be read counts as unreadable.
const RETRY: Duration = Duration::from_secs(60);

impl Context {
    /// Returns the id of this installation; None if the service account may not read it. Its relays are then unmarked.
    pub(super) async fn installation(&self) -> Result<Option<Arc<str>>, ClusterError> {
        if let Some(id) = &self.options.installation_id {
            return Ok(Some(id.as_str().into()));
        }
        let mut own = self.installations.own.lock().await;
        match &*own {
            Some((_, Some(id))) => return Ok(Some(id.clone())),
            Some((at, None)) if at.elapsed() < RETRY => return Ok(None),
            _ => {}
        }
        let id: Option<Arc<str>> = match self.cluster.installation_mark().await {
            // No namespace, no id. Passed on, this error would mean that the reconciled object is gone.
            Err(ClusterError::Gone) => None,
            other => other?.map(Into::into),
        };
        if id.is_none() && own.is_none() {
            tracing::warn!("relays not marked: the service account may not get the operator's namespace");
        }
        *own = Some((Instant::now(), id.clone()));
        Ok(id)
    }

    /// Returns true if `installation` is neither this installation nor a former one of it.
    fn is_other(&self, own: &str, installation: &str) -> bool {
        own != installation && !self.options.former_installation_ids.iter().any(|id| id == installation)
    }

    /// Returns the other installations whose relays the last list showed. None if there is no list: a snapshot that was
    /// dropped says nothing about them.
    pub(super) fn other_installations<C: ExternalClient>(
        &self,
        client: &C,
        own: Option<&str>,
    ) -> Option<BTreeSet<String>> {
        let Some(own) = own else { return Some(BTreeSet::new()) };
        let mut all = self.snapshots.installations(client.list_scope())?;
        all.retain(|installation| self.is_other(own, installation));
        Some(all)
    }

    /// Requests a reconcile of the Connection if the last list showed other installations than the one before.
    pub(super) fn report_other_installations<C: ExternalClient>(
        &self,
        connection: ObjectKey,
        client: &C,
        own: Option<&str>,
    ) {
        let Some(others) = self.other_installations(client, own) else { return };
        let mut reported = self.installations.reported.lock();
        if reported.get(&connection).map_or(others.is_empty(), |before| *before == others) {
            return;
        }
        reported.insert(connection.clone(), others);
        self.request_connection(connection);
    }
}

/// Checks that no other installation configured the external object last. Without the id of this installation, removes
/// the mark instead: nothing is known about it, and it must not count as a difference.
///
/// `takes_over`: the user asked to adopt the object, so its former installation does not matter.
pub fn check_found<K: Synced>(
    context: &Context,
    own: Option<&str>,
    mut found: Found,
    takes_over: bool,
) -> Result<Found, SyncError> {
    let Some(url) = K::Client::receiver_url(&found.item) else { return Ok(found) };
    let Some(mark) = RelayMark::parse(url) else { return Ok(found) };
    match own {
        None => {
            let plain = without_mark(url).to_owned();
            let mut item = (*found.item).clone();
            if let Some(url) = K::Client::RELAY_URL.and_then(|pointer| item.pointer_mut(pointer)) {
                *url = plain.into();
            }
            found.item = Arc::new(item);
            Ok(found)
        }
        Some(own) if !takes_over && context.is_other(own, &mark.installation) => {
            let (id, installation) = (found.id, mark.installation);
            Err(SyncError::OtherInstallation { what: K::WHAT, id, installation })
        }
        Some(_) => Ok(found),
    }
}

/// Returns the other installation that configured an external object last; None if there is none.
pub async fn find_other_installation<K: Synced>(
    context: &Context,
    client: &K::Client,
    id: &str,
) -> Result<Option<String>, SyncError> {
    if K::Client::RELAY_URL.is_none() {
        return Ok(None);
    }
    let Some(own) = context.installation().await? else { return Ok(None) };
    // Read it now: a snapshot may be from before the other installation took it over.
    let Some(item) = client.observe(id).await? else { return Ok(None) };
    let mark = K::Client::receiver_url(&item).and_then(RelayMark::parse);
    Ok(mark.map(|mark| mark.installation).filter(|installation| context.is_other(&own, installation)))
}

/// Publishes a Warning Event, and logs it.
pub async fn report(context: &Context, connection: &Connection, message: String) {
    if !context.cluster.publishes_to_log() {
        tracing::warn!(connection = %ObjectKey::of(connection), "{message}");
    }
    let note = ConditionMessage::new("OtherInstallation", message);
    status::publish_event(context, connection, true, &note).await;
}

/// Sets the condition of a Connection; removes it if there is no other installation. Returns the message to report if
/// other installations appeared.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    others: &BTreeSet<String>,
    generation: Option<i64>,
) -> Option<String> {
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    if others.is_empty() {
        return None;
    }
    let names: Vec<&str> = others.iter().map(String::as_str).collect();
    let message = format!(
        "this vendor has relays of other installations of Hookstream: {}; objects that both manage report Conflict",
        names.join(", ")
    );
    let text = ("Found", message.as_str());
    let condition = build_condition(before.as_ref(), CONDITION, "True", text, generation, Millis::now());
    let is_new = before.is_none_or(|before| before.message != condition.message);
    conditions.push(condition);
    is_new.then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_follows_the_other_installations() {
        let others = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let mut all = Vec::new();
        assert!(set_condition(&mut all, &others(&[]), Some(1)).is_none());
        assert!(all.is_empty());
        let event = set_condition(&mut all, &others(&["green"]), Some(1)).unwrap();
        assert!(event.contains("green"), "{event}");
        assert_eq!((all[0].status.as_str(), all[0].reason.as_str()), ("True", "Found"));
        assert!(set_condition(&mut all, &others(&["green"]), Some(1)).is_none(), "reported once");
        assert!(set_condition(&mut all, &others(&["blue", "green"]), Some(1)).is_some());
        assert_eq!(all.len(), 1);
        assert!(set_condition(&mut all, &others(&[]), Some(1)).is_none());
        assert!(all.is_empty());
    }
}
