//! Which object of the vendor's is ours.

use std::sync::Arc;

use kube::ResourceExt;
use serde_json::Value;

use super::Run;
use super::holders::{held_elsewhere, take};
use super::kind::Synced;
use super::record::{PENDING_CREATE, Record, is_hash_of};
use super::snapshot::{All, Seen};
use crate::admin::ExternalClient;
use crate::api::RECONCILE_REQUESTED_AT;
use crate::cluster::{ClusterError, Target};
use crate::controller::problem::Problem;

/// What was found.
pub enum Found {
    There {
        id: String,
        item: Arc<Value>,
    },
    /// It is to be created.
    Missing,
}

impl<K: Synced> Run<'_, K> {
    /// Finds the object at the vendor. By its id, where one is known; else by the record of a create; else by its name,
    /// which must be free.
    pub(super) async fn locate(&self) -> Result<Found, Problem> {
        let adopt = self.policies.adopt.filter(|_| !self.taken);
        let own = || K::own_id(&self.uid).filter(|_| self.vendor.client.takes_ids());
        let known = self.external.as_ref().map(|e| e.id.clone());
        let known = known.or_else(|| adopt.map(|a| a.id.clone())).or_else(own);
        if let Some(id) = known.clone()
            && let Some(item) = self.look(&id).await?
        {
            self.context.memory.seen(&self.uid);
            // As the vendor writes it, for so its lists do: `adopt.id` may be a UUID in capitals.
            let id = K::Client::id(&item).map_or(id, ToOwned::to_owned);
            return Ok(Found::There { id, item });
        }
        // What was adopted and deleted to be made anew is not looked for under its old id.
        if let Some(record) = &self.record {
            return self.by_record(record).await;
        }
        if let Some(adopt) = adopt {
            return Err(Problem::AdoptNotFound { what: K::WHAT, id: adopt.id.clone() });
        }
        // Under an id that the vendor takes, a create that was done already is done once more and no harm.
        if known.is_some() && !self.vendor.client.takes_ids() {
            self.wait_for_lag()?;
        }
        match &self.wanted.name {
            Some(name) => self.name_is_free(name).await,
            None => Ok(Found::Missing),
        }
    }

    /// One object, by the snapshot; by itself where the snapshot cannot tell, and where somebody asked for a look now.
    async fn look(&self, id: &str) -> Result<Option<Arc<Value>>, Problem> {
        let client = &self.vendor.client;
        // What is to be adopted may have been made, or made right, a moment ago; and until the status names it as the
        // vendor does, a list may show it under an id that is written otherwise.
        let adopts = self.policies.adopt.is_some() && self.object.external().is_none();
        if !adopts && !self.is_requested() {
            match self.context.snapshots.get(client, id, self.oldest).await? {
                Seen::There(item) if K::Client::LIST_IS_WHOLE => return Ok(Some(item)),
                Seen::Missing => return Ok(None),
                Seen::There(_) | Seen::Unknown => {}
            }
        }
        let item = client.observe(id).await.inspect_err(|error| {
            // What was listed before it failed tells nothing any more. One that was not its turn failed at nothing.
            if !error.is_own() {
                self.context.snapshots.unknown(client.scope(), id);
            }
        })?;
        // A list from before it was made must not tell the next reconcile that it is gone.
        match &item {
            Some(item) => self.context.snapshots.is(client.scope(), id, item.clone()),
            None => self.context.snapshots.gone(client.scope(), id),
        }
        Ok(item.map(Arc::new))
    }

    fn is_requested(&self) -> bool {
        let token = self.object.annotations().get(RECONCILE_REQUESTED_AT);
        token.is_some() && token != self.handled.as_ref()
    }

    /// A create was begun: it is there, not there yet, or was never done.
    async fn by_record(&self, record: &Record) -> Result<Found, Problem> {
        let all = self.context.snapshots.all(&self.vendor.client).await?;
        match self.find_recorded(record, &all).await? {
            Some(found) => Ok(found),
            None => {
                self.wait_for_lag()?;
                Ok(Found::Missing)
            }
        }
    }

    /// The object that a record speaks of. One of its name that is not it is somebody else's.
    pub(super) async fn find_recorded(&self, record: &Record, all: &All) -> Result<Option<Found>, Problem> {
        let ring = self.ring().await?;
        let named = |item: &Value| {
            record.name.as_deref().is_none_or(|name| item.get("name").and_then(Value::as_str) == Some(name))
        };
        for item in all.items.iter().filter(|item| named(item)) {
            let Some(id) = K::Client::id(item) else { continue };
            let item = if K::Client::LIST_IS_WHOLE {
                item.clone()
            } else {
                match self.vendor.client.observe(id).await? {
                    Some(item) => Arc::new(item),
                    None => continue,
                }
            };
            let readable = K::Client::readable(&item);
            let is_ours = record.is_later(K::Client::created_at(&item))
                && is_hash_of(&ring, &record.hash, &self.uid, PENDING_CREATE, &readable)
                && take(self.context, self.object, &self.place(id)).is_ok();
            if is_ours {
                self.context.memory.seen(&self.uid);
                return Ok(Some(Found::There { id: id.to_owned(), item }));
            }
            if let Some(name) = &record.name {
                return Err(self.conflict(name, id));
            }
        }
        Ok(None)
    }

    /// Nothing has the name. What has it is ours only if a record says so, and the watch may be late to tell.
    async fn name_is_free(&self, name: &str) -> Result<Found, Problem> {
        let all = self.context.snapshots.all(&self.vendor.client).await?;
        let holder = all.items.iter().find(|i| i.get("name").and_then(Value::as_str) == Some(name));
        let Some(id) = holder.and_then(|item| K::Client::id(item)) else { return Ok(Found::Missing) };
        if self.policies.observes_only() {
            // To look at it takes nothing from anybody.
            let item = self.vendor.client.observe(id).await?;
            return Ok(
                item.map_or(Found::Missing, |item| Found::There { id: id.to_owned(), item: Arc::new(item) })
            );
        }
        let stored = self.context.cluster.stored(&Target::of(K::KIND, self.object)).await?;
        if stored.pointer("/metadata/resourceVersion").and_then(Value::as_str)
            != self.object.resource_version().as_deref()
        {
            return Err(ClusterError::Conflict.into());
        }
        Err(self.conflict(name, id))
    }

    fn conflict(&self, name: &str, id: &str) -> Problem {
        let holder = held_elsewhere(self.context, self.object, &self.place(id));
        Problem::Conflict { name: name.to_owned(), id: id.to_owned(), holder }
    }

    /// What was made may not be shown at once. Only what stays away is made (again).
    fn wait_for_lag(&self) -> Result<(), Problem> {
        let grace = self.context.options.patience.creation;
        let absent = self.context.memory.absent(&self.uid);
        if absent < grace { Err(Problem::NotVisible(grace.saturating_sub(absent))) } else { Ok(()) }
    }
}
