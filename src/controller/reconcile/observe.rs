//! The observe stage: finds the external object that belongs to a custom resource.

use std::sync::Arc;

use kube::ResourceExt;
use serde_json::Value;

use super::claim::claim;
use super::decide::Found;
use super::kind::Synced;
use super::recorded::{Candidate, find_candidates};
use super::run::SyncRun;
use crate::admin::ExternalClient;
use crate::cluster::{ClusterError, WriteTarget};
use crate::controller::error::SyncError;
use crate::controller::state::{CreateRecord, SnapshotEntry};
use crate::controller::status::reconcile_request;
use crate::core::relay_mark::without_mark;

impl<K: Synced> SyncRun<'_, K> {
    /// Finds the external object: by its id if one is known, otherwise by the create record, otherwise by the URL of an
    /// earlier object of this name. Otherwise checks that its name is free. None if the object has to be created.
    pub async fn observe(&self) -> Result<Option<Found>, SyncError> {
        if let Some(id) = &self.inherited_id
            && let Some(item) = self.read(id).await?
        {
            return Ok(Some(Found { is_inherited: true, ..Found::new(id.clone(), item) }));
        }
        let adopt = self.policies.adopt.filter(|_| !self.is_owned);
        let derived = || K::derived_id(&self.uid).filter(|_| self.vendor.client.may_accept_client_ids());
        let known_id = self.external.as_ref().map(|e| e.id.clone());
        let known_id = known_id.or_else(|| adopt.map(|a| a.id.clone())).or_else(derived);
        if let Some(id) = known_id.clone()
            && let Some(item) = self.read(&id).await?
        {
            self.context.memory.record_presence(&self.uid);
            // Use the id as the vendor spells it, because its lists do; `adopt.id` may be an upper-case UUID.
            let id = K::Client::id(&item).map_or(id, ToOwned::to_owned);
            return Ok(Some(Found::new(id, item)));
        }
        // An adopted object that was deleted and recreated has a new id; do not search for the old one.
        if let Some(record) = &self.create_record {
            return self.observe_recorded(record).await;
        }
        if let Some(adopt) = adopt {
            return Err(SyncError::AdoptNotFound { what: K::WHAT, id: adopt.id.clone() });
        }
        // With a client-chosen id, create is idempotent: repeating a create that already succeeded is harmless.
        if known_id.is_some() && !self.vendor.client.may_accept_client_ids() {
            self.check_creation_grace()?;
        }
        match &self.desired.name {
            Some(name) => self.observe_by_name(name).await,
            None => self.observe_inherited_relay().await,
        }
    }

    /// Finds an external object that sends events to the worker's URL for this object. An earlier object of the same name
    /// left it, for example one that a restore replaced: a second one would deliver every event twice.
    async fn observe_inherited_relay(&self) -> Result<Option<Found>, SyncError> {
        let url = self.desired.relay_url.as_deref().filter(|_| !self.policies.observes_only());
        let Some(url) = url else { return Ok(None) };
        let client = &self.vendor.client;
        for id in self.context.snapshots.find_by_url(client, url, self.max_snapshot_age).await? {
            if self.find_other_owner(&id).is_some() {
                continue;
            }
            let is_receiver =
                |item: &Value| K::Client::receiver_url(item).map(without_mark) == Some(without_mark(url));
            if let Some(item) = self.read_current(&id).await?.filter(|item| is_receiver(item)) {
                return Ok(Some(Found { is_inherited: true, ..Found::new(id, item) }));
            }
        }
        Ok(None)
    }

    /// Reads one object that is about to be written: with a GET, because the snapshot may be old. A preview writes nothing.
    async fn read_current(&self, id: &str) -> Result<Option<Arc<Value>>, SyncError> {
        match self.context.options.prefers_lists {
            true => self.read(id).await,
            false => Ok(self.vendor.client.observe(id).await?.map(Arc::new)),
        }
    }

    /// Reads one object from the snapshot. Falls back to a GET when the snapshot cannot answer or when a reconcile was
    /// requested explicitly.
    async fn read(&self, id: &str) -> Result<Option<Arc<Value>>, SyncError> {
        let client = &self.vendor.client;
        let snapshots = &self.context.snapshots;
        // An object to adopt may have been created or corrected a moment ago. And until the status has the vendor's
        // spelling of its id, a list may show it under another spelling.
        let adopts = self.policies.adopt.is_some() && self.object.external().is_none();
        if self.context.options.prefers_lists || (!adopts && !self.is_requested()) {
            match snapshots.get(client, id, self.max_snapshot_age).await? {
                SnapshotEntry::Present(item) if K::Client::LIST_IS_COMPLETE => return Ok(Some(item)),
                SnapshotEntry::Absent if !adopts => return Ok(None),
                SnapshotEntry::Present(_) | SnapshotEntry::Absent | SnapshotEntry::Unknown => {}
            }
        }
        let item = client.observe(id).await.inspect_err(|error| {
            // The GET failed, so the older snapshot entry proves nothing; mark it unknown. Skip this when the call was
            // only postponed by our own rate limiter.
            if !error.is_deferred() {
                snapshots.mark_unknown(client.list_scope(), id);
            }
        })?;
        // Without this, a list from before the create would make the next reconcile treat the object as deleted.
        match &item {
            Some(item) => snapshots.mark_present(client, id, item),
            None => snapshots.mark_deleted(client.list_scope(), id),
        }
        Ok(item.map(Arc::new))
    }

    /// True if an annotation requests a reconcile that was not handled yet.
    fn is_requested(&self) -> bool {
        let request = reconcile_request(self.object);
        request.is_some() && request != self.handled_request
    }

    /// Finds the object of an interrupted create. None if it was never created. Fails with `NotVisibleYet` while the
    /// vendor may not show it yet.
    async fn observe_recorded(&self, record: &CreateRecord) -> Result<Option<Found>, SyncError> {
        let found = self.find_recorded(record).await?;
        if found.is_none() {
            self.check_creation_grace()?;
        }
        Ok(found)
    }

    /// Finds the object that a create record describes. Fails if an object of its name does not match the record,
    /// because it belongs to another client.
    pub async fn find_recorded(&self, record: &CreateRecord) -> Result<Option<Found>, SyncError> {
        let key_ring = self.key_ring().await?;
        let candidates =
            find_candidates::<K>(self.context, &self.vendor.client, &self.uid, record, &key_ring).await?;
        for Candidate { id, item, is_match } in candidates {
            let is_ours = is_match
                && self.find_other_owner(&id).is_none()
                && claim(self.context, self.object, &id).is_ok();
            if is_ours {
                // A snapshot from before the create would make the next reconcile create it once more.
                self.context.snapshots.mark_present(&self.vendor.client, &id, &item);
                self.context.memory.record_presence(&self.uid);
                return Ok(Some(Found::new(id, Arc::new(item))));
            }
            if let Some(name) = &record.name {
                return Err(self.name_conflict(name, &id));
            }
        }
        Ok(None)
    }

    /// Finds the relay of an earlier object; otherwise checks that no object has the name. An object with this name is ours
    /// only if a create record says so. The watch may deliver that record late: then this fails with
    /// `ClusterError::Conflict`, which requeues.
    async fn observe_by_name(&self, name: &str) -> Result<Option<Found>, SyncError> {
        let listed = self
            .context
            .snapshots
            .find_name(&self.vendor.client, Some(name), self.context.max_name_list_age())
            .await?;
        // After the list, which it shares.
        if let Some(found) = self.observe_inherited_relay().await? {
            return Ok(Some(found));
        }
        let Some(id) = listed.id else { return Ok(None) };
        if self.policies.observes_only() {
            // ObserveOnly needs no ownership.
            let item = self.read_current(&id).await?;
            return Ok(item.map(|item| Found::new(id, item)));
        }
        let stored = self.context.cluster.read_object(&WriteTarget::of(K::KIND, self.object)).await?;
        if stored.pointer("/metadata/resourceVersion").and_then(Value::as_str)
            != self.object.resource_version().as_deref()
        {
            return Err(ClusterError::Conflict.into());
        }
        Err(self.name_conflict(name, &id))
    }

    fn name_conflict(&self, name: &str, id: &str) -> SyncError {
        let holder = self.find_other_owner(id);
        SyncError::Conflict { name: name.to_owned(), id: id.to_owned(), holder }
    }

    /// Fails with `NotVisibleYet` during the grace period after a create, in which a vendor may not show the new
    /// object. Without this check, the controller would create the object twice.
    fn check_creation_grace(&self) -> Result<(), SyncError> {
        let grace = self.context.options.deadlines.creation;
        let absent = self.context.memory.record_absence(&self.uid);
        if absent < grace { Err(SyncError::NotVisibleYet(grace.saturating_sub(absent))) } else { Ok(()) }
    }
}
