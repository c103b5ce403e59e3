//! Deletion: by what is known to exist at the vendor, not by the spec, which may no longer be valid.

use std::time::Duration;

use kube::ResourceExt;

use super::holders::held_elsewhere;
use super::kind::Synced;
use super::record::{PENDING_CREATE, Record, is_hash_of};
use super::release;
use crate::admin::{Access, ExternalClient};
use crate::api::{DeletionPolicy, External, FINALIZER};
use crate::cluster::{Key, MissingSecret};
use crate::controller::context::Context;
use crate::controller::problem::Problem;
use crate::controller::{connection, status};
use crate::core::conditions::Note;
use crate::core::time::Millis;

const DONE: Duration = Duration::from_secs(600);

/// Removes the vendor's object, then the finalizer.
pub async fn cleanup<K: Synced>(object: &K, context: &Context) -> Result<Duration, Problem> {
    let uid = object.uid().unwrap_or_default();
    if !object.finalizers().iter().any(|f| f == FINALIZER) {
        context.forget(&uid);
        return Ok(DONE);
    }
    let others: Vec<&str> =
        object.finalizers().iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
    // Who else holds the object may still need what it made. Two who both want to be the last would wait for ever.
    if !others.is_empty() && waited(object) < context.options.patience.credentials {
        return Err(Problem::OtherFinalizers(others.join(", ")));
    }
    if policy(object, context) == DeletionPolicy::Delete && !object.policies().observes_only() {
        match remove(object, context).await {
            Err(problem) if !problem.is_own() && out_of_patience(object, context, &problem) => {
                give_up(object, context, &problem).await;
            }
            other => other?,
        }
    }
    release(context, object).await?;
    context.forget(&uid);
    Ok(DONE)
}

/// Deletes the vendor's object as a deletion of ours would, which stays.
pub async fn delete_external<K: Synced>(object: &K, context: &Context) -> Result<(), Problem> {
    if policy(object, context) == DeletionPolicy::Delete && !object.policies().observes_only() {
        remove(object, context).await?;
    }
    Ok(())
}

/// What becomes of the vendor's object when ours is deleted.
pub fn policy<K: Synced>(object: &K, context: &Context) -> DeletionPolicy {
    let of_connection = || {
        let connection = context.view.connection(&object.namespace()?, &connection_name(object, None)?)?;
        connection.0.as_ref().ok()?.spec.deletion_policy
    };
    object.policies().deletion.or_else(of_connection).unwrap_or(DeletionPolicy::Delete)
}

/// Deletes what is left at an address that the Connection no longer has. A bounded wait, then it is let go: the new
/// address must not wait for ever for one that is gone.
pub async fn leave<K: Synced>(context: &Context, object: &K, old: &External) -> Result<(), Problem> {
    let uid = object.uid().unwrap_or_default();
    let result = match access(object, context, Some(old)).await {
        Ok(Some(access)) => delete_at::<K>(context, &access, &old.id).await,
        Ok(None) => Ok(()),
        Err(problem) => Err(problem),
    };
    let Err(problem) = result else {
        context.memory.works(&uid);
        return Ok(());
    };
    if problem.is_own() {
        return Err(problem);
    }
    if context.memory.failing(&uid) < context.options.patience.credentials {
        return Err(Problem::OldAddress {
            what: K::WHAT,
            id: old.id.clone(),
            endpoint: old.endpoint.clone(),
            problem: Box::new(problem),
        });
    }
    context.memory.works(&uid);
    let message =
        format!("{problem}; the {} {} may still exist at {}: delete it there", K::WHAT, old.id, old.endpoint);
    orphaned(context, object, message).await;
    Ok(())
}

async fn remove<K: Synced>(object: &K, context: &Context) -> Result<(), Problem> {
    let uid = object.uid().unwrap_or_default();
    let external = context.memory.external(&uid, object.external());
    let Some(access) = access(object, context, external.as_ref()).await? else { return Ok(()) };
    context.backoff.may_call(&uid)?;
    let place = |id: String| External {
        id,
        connection: connection_name(object, external.as_ref()).unwrap_or_default(),
        endpoint: access.endpoint(),
        workspace: access.workspace().map(ToOwned::to_owned),
    };
    let mut ids: Vec<String> = match (&external, object.policies().adopt) {
        (Some(external), _) => vec![external.id.clone()],
        // Taken, and the status was never written. What another object has is not ours to delete.
        (None, Some(adopt)) => {
            let held = held_elsewhere(context, object, &place(adopt.id.clone())).is_some();
            if held { Vec::new() } else { vec![adopt.id.clone()] }
        }
        (None, None) => Vec::new(),
    };
    // A create whose status was never written is found by the id that it was made under, or by its record.
    if external.is_none() {
        ids.extend(K::own_id(&uid));
    }
    ids.extend(recorded(object, context, &access, &place).await?);
    ids.dedup();
    for id in ids {
        delete_at::<K>(context, &access, &id).await?;
    }
    // The Connection has another address by now: the object may have been made there, and no status says so yet.
    if let (Some(external), Some(own)) = (&external, K::own_id(&uid))
        && let Ok(Some(today)) = self::access(object, context, None).await
        && today.endpoint() != external.endpoint
    {
        delete_at::<K>(context, &today, &own).await?;
    }
    Ok(())
}

/// The object of a create that was begun.
async fn recorded<K: Synced>(
    object: &K,
    context: &Context,
    access: &Access,
    place: &impl Fn(String) -> External,
) -> Result<Option<String>, Problem> {
    let uid = object.uid().unwrap_or_default();
    let told = object.annotations().get(PENDING_CREATE).and_then(|text| Record::parse(text));
    let Some(record) = context.memory.record(&uid, told) else { return Ok(None) };
    let client = K::client(access).ok_or_else(|| wrong_vendor::<K>(object))?;
    let ring = context.ring().await?;
    for item in context.snapshots.all(&client).await?.items {
        let Some(id) = K::Client::id(&item).map(ToOwned::to_owned) else { continue };
        let item = match K::Client::LIST_IS_WHOLE {
            true => Some((*item).clone()),
            false => client.observe(&id).await?,
        };
        let is_ours = item.is_some_and(|item| {
            record.is_later(K::Client::created_at(&item))
                && is_hash_of(&ring, &record.hash, &uid, PENDING_CREATE, &K::Client::readable(&item))
        });
        if is_ours && held_elsewhere(context, object, &place(id.clone())).is_none() {
            return Ok(Some(id));
        }
    }
    // What was made a moment ago may not be shown yet.
    let (absent, grace) = (context.memory.absent(&uid), context.options.patience.creation);
    if absent < grace { Err(Problem::NotVisible(grace.saturating_sub(absent))) } else { Ok(None) }
}

async fn delete_at<K: Synced>(context: &Context, access: &Access, id: &str) -> Result<(), Problem> {
    let Some(client) = K::client(access) else { return Ok(()) };
    context.snapshots.writing(client.scope(), id, client.delete(id)).await?;
    context.snapshots.gone(client.scope(), id);
    Ok(())
}

fn wrong_vendor<K: Synced>(object: &K) -> Problem {
    let connection = connection_name(object, object.external()).unwrap_or_default();
    Problem::WrongVendor { connection, vendor: K::VENDOR }
}

fn connection_name<K: Synced>(object: &K, external: Option<&External>) -> Option<String> {
    let by_status = external.or_else(|| object.external()).map(|e| e.connection.clone());
    by_status.or_else(|| object.policies().connection.map(ToOwned::to_owned))
}

/// How to reach what exists: the address in the status, by the credentials that last worked there, else by today's, else
/// by those that last worked at all. None: nothing was ever made.
async fn access<K: Synced>(
    object: &K,
    context: &Context,
    external: Option<&External>,
) -> Result<Option<Access>, Problem> {
    let Some(name) = connection_name(object, external) else { return Ok(None) };
    let namespace = object.namespace().unwrap_or_default();
    let key = Key::new(&namespace, &name);
    let connection = context.view.connection(&namespace, &name);
    let today = match connection.as_ref().map(|c| &c.0) {
        Some(Ok(connection)) => connection::access(connection, context).await,
        Some(Err(_)) => Err(Problem::ConnectionInvalid(name.clone())),
        None => Err(Problem::ConnectionMissing(name.clone())),
    };
    let place = |access: Access| match external {
        Some(external) => access.at(&external.endpoint, external.workspace.as_deref()),
        None => access,
    };
    let elsewhere = |access: &Access| external.is_some_and(|e| e.endpoint != access.endpoint());
    let last = context.last_access(&key, external.map(|e| e.endpoint.as_str()));
    match (today, last) {
        (Ok(today), Some(last)) if elsewhere(&today) => Ok(Some(place(last))),
        (Ok(today), _) => Ok(Some(place(today))),
        (Err(_), Some(last)) => Ok(Some(place(last))),
        (Err(problem), None) => Err(problem),
    }
}

/// For how long the object is being deleted.
fn waited<K: Synced>(object: &K) -> Duration {
    let since = object.meta().deletion_timestamp.as_ref().map(|t| Millis(t.0.as_millisecond()));
    since.map(|since| Millis::now().since(since)).unwrap_or_default()
}

/// Without any credentials, or where a vendor answers nothing or only refuses, the object is let go after a while: a
/// namespace must not hang for ever. The time is that of the deletion, but for a process that just started, which tries
/// for a while itself: the vendor may have been away together with it.
fn out_of_patience<K: Synced>(object: &K, context: &Context, problem: &Problem) -> bool {
    let patience = &context.options.patience;
    let bound = match problem {
        problem if problem.is_own() => return false,
        // Nothing that the vendor or its credentials have to do with.
        Problem::Cluster(_) | Problem::Secret(MissingSecret::Cluster(_)) => return false,
        Problem::Admin(_) | Problem::NotVisible(_) => patience.vendor,
        _ => patience.credentials,
    };
    let tried = context.memory.failing(&object.uid().unwrap_or_default());
    waited(object) >= bound && tried >= bound / 10
}

async fn give_up<K: Synced>(object: &K, context: &Context, problem: &Problem) {
    let uid = object.uid().unwrap_or_default();
    let external = context.memory.external(&uid, object.external());
    let id = external.map(|e| e.id).or_else(|| K::own_id(&uid)).unwrap_or_else(|| object.name_any());
    let message = format!(
        "{problem}; waited {} s and let go: the {} {id} may still exist, delete it there",
        waited(object).as_secs(),
        K::WHAT,
    );
    orphaned(context, object, message).await;
}

/// Tells what may be left; in the log, too, for in a namespace that ends nobody can publish an Event.
async fn orphaned<K: Synced>(context: &Context, object: &K, message: String) {
    if !context.cluster.publishes_to_log() {
        tracing::warn!(namespace = object.namespace(), name = object.name_any(), "{message}");
    }
    status::tell(context, object, true, &Note::new("Orphaned", message)).await;
}
