//! Deletion: by what is known to exist at the vendor, not by the spec, which may no longer be valid.

use std::time::Duration;

use kube::ResourceExt;

use super::context::Context;
use super::problem::Problem;
use super::{connection, eventhook, reconcile, status};
use crate::admin::ExternalClient;
use crate::admin::kong::{KongAccess, KongClient};
use crate::api::{DeletionPolicy, EventHook, External, FINALIZER};
use crate::cluster::Key;
use crate::core::conditions::Note;
use crate::core::time::Millis;

/// Without any credentials the vendor's object is given up after this time: a namespace must not hang for ever.
const PATIENCE: Duration = Duration::from_secs(600);
/// A gateway that answers nothing, or only refuses, is given up after this time.
const LAST_PATIENCE: Duration = Duration::from_secs(3600);
const DONE: Duration = Duration::from_secs(600);

/// Removes the vendor's object, then the finalizer.
pub async fn cleanup(object: &EventHook, context: &Context) -> Result<Duration, Problem> {
    if !object.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(DONE);
    }
    if policy(object, context) == DeletionPolicy::Delete {
        match access(object, context).await {
            Ok(Some(access)) => {
                context.backoff.may_call(&object.uid().unwrap_or_default())?;
                match KongClient::new(access).delete(&external_id(object)).await {
                    Err(error) if !error.is_own() && waited(object) >= LAST_PATIENCE => {
                        give_up(object, context, &error.into()).await
                    }
                    other => other?,
                }
            }
            Ok(None) => {}
            Err(problem) if waited(object) >= PATIENCE => give_up(object, context, &problem).await,
            Err(problem) => return Err(problem),
        }
    }
    reconcile::release(context, object).await?;
    context.told.lock().remove(&object.uid().unwrap_or_default());
    Ok(DONE)
}

fn policy(object: &EventHook, context: &Context) -> DeletionPolicy {
    let of_connection = || {
        let connection = context.view.connection(&object.namespace()?, &connection_name(object)?)?;
        connection.0.as_ref().ok()?.spec.deletion_policy
    };
    object.spec.deletion_policy.or_else(of_connection).unwrap_or(DeletionPolicy::Delete)
}

fn external(object: &EventHook) -> Option<&External> {
    object.status.as_ref()?.external.as_ref()
}

fn connection_name(object: &EventHook) -> Option<String> {
    let by_status = external(object).map(|e| e.connection.clone());
    by_status.or_else(|| object.spec.connection_ref.as_ref().map(|r| r.name.clone()))
}

/// A create whose status was never written is found by the id that it was made under.
fn external_id(object: &EventHook) -> String {
    external(object)
        .map_or_else(|| eventhook::external_id(&object.uid().unwrap_or_default()), |e| e.id.clone())
}

/// How to reach what exists: the address in the status, with today's credentials, else with those that last worked.
/// None: nothing was ever made.
async fn access(object: &EventHook, context: &Context) -> Result<Option<KongAccess>, Problem> {
    let Some(name) = connection_name(object) else { return Ok(None) };
    let namespace = object.namespace().unwrap_or_default();
    let connection = context.view.connection(&namespace, &name);
    let today = match connection.as_ref().map(|c| &c.0) {
        Some(Ok(connection)) => connection::kong_access(connection, context).await,
        Some(Err(_)) => Err(Problem::ConnectionInvalid(name.clone())),
        None => Err(Problem::ConnectionMissing(name.clone())),
    };
    let mut access = match today {
        Ok(access) => access,
        Err(problem) => {
            let last = context.last_access.lock().get(&Key::new(&namespace, &name)).cloned();
            last.ok_or(problem)?
        }
    };
    if let Some(external) = external(object) {
        if let Ok(url) = external.endpoint.parse() {
            access.admin_url = url;
        }
        access.workspace.clone_from(&external.workspace);
    }
    Ok(Some(access))
}

fn waited(object: &EventHook) -> Duration {
    let since = object.metadata.deletion_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
    since.map(|since| Millis::now().since(since)).unwrap_or_default()
}

async fn give_up(object: &EventHook, context: &Context, problem: &Problem) {
    let what = external_id(object);
    let note = Note::new(
        "Orphaned",
        format!(
            "{problem}; waited {} s and let go: the hook {what} may still exist at Kong, delete it there",
            waited(object).as_secs()
        ),
    );
    status::tell(context, object, true, &note).await;
}
