//! The apply stage: carries out the action that `decide` chose.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::Value;

use super::claim::claim;
use super::decide::{Action, Comparison, Found, ReadOnlyPolicy};
use super::finish::remove_create_record;
use super::kind::{Effect, SecretHashes, Synced, value_at};
use super::run::{SyncResult, SyncRun};
use crate::admin::{AdminError, ExternalClient};
use crate::api::{External, FINALIZER};
use crate::cluster::{Metadata, WriteTarget};
use crate::controller::error::SyncError;
use crate::controller::finalizer;
use crate::controller::state::{
    CreateRecord, OWNED_OBJECT, PENDING_CREATE, hash_with_newest_key, is_hash_of,
};
use crate::controller::status;
use crate::core::conditions::ConditionMessage;
use crate::core::plan::{Plan, plan};

impl<K: Synced> SyncRun<'_, K> {
    /// Carries out the action and returns the result.
    pub async fn apply(mut self, action: Action) -> Result<SyncResult, SyncError> {
        match action {
            Action::Create => {
                self.report_missing().await;
                let found = Box::pin(self.create()).await?;
                self.finish_write(found, Effect::Created).await
            }
            Action::Update(comparison) => {
                let effect = Effect::Updated(comparison.fields.clone());
                Box::pin(self.update(comparison, effect)).await
            }
            Action::Adopt(comparison) => self.take(comparison, Effect::Adopted).await,
            Action::TakeOver(comparison) => self.take(comparison, Effect::TakenOver).await,
            Action::Keep(comparison) => self.keep(comparison.found, Effect::None).await,
            Action::Observe(comparison) => {
                Ok(self.result(comparison.found, self.object.secret_hashes().cloned(), Effect::None, None))
            }
            Action::ReportDifference(comparison, policy) => self.report_difference(comparison, policy),
        }
    }

    /// Publishes an Event, before anything is written, if the external object in the status is gone.
    async fn report_missing(&self) {
        // At another address than the status says, the object does not exist yet.
        let Some(external) = self.object.external().filter(|known| Some(*known) == self.external.as_ref())
        else {
            return;
        };
        if !self.context.memory.record_missing(&self.uid, external) {
            return;
        }
        let (what, id, endpoint) = (K::WHAT, &external.id, &external.endpoint);
        let message = format!("the {what} {id} no longer exists at {endpoint}: it is created again");
        let event = ConditionMessage::new("ExternalObjectMissing", message);
        status::publish_event(self.context, self.object, true, &event).await;
    }

    /// Claims an external object for adoption.
    pub fn claim(&self, id: &str) -> Result<(), SyncError> {
        let held = |by| SyncError::Held { what: K::WHAT, id: id.to_owned(), by };
        claim(self.context, self.object, id).map_err(held)
    }

    /// Reports a difference that a policy forbids to write. With `ObserveOnly` this is a result with a condition. With
    /// `adopt.mode: Match` it is an error, because the object owns no external object that its status could name.
    fn report_difference(
        &self,
        comparison: Comparison,
        policy: ReadOnlyPolicy,
    ) -> Result<SyncResult, SyncError> {
        let (what, fields) = (K::WHAT, comparison.fields.join(", "));
        let message = format!(
            "the {what} differs, and {} forbids writing to it; differing fields: {fields}",
            policy.as_str()
        );
        match policy {
            ReadOnlyPolicy::AdoptMatch => Err(SyncError::Differs(message)),
            ReadOnlyPolicy::ObserveOnly => {
                let difference = ConditionMessage::new("Differs", message);
                let hashes = self.object.secret_hashes().cloned();
                Ok(self.result(comparison.found, hashes, Effect::None, Some(difference)))
            }
        }
    }

    /// Takes ownership of the external object and writes the fields that differ.
    async fn take(&mut self, comparison: Comparison, effect: Effect) -> Result<SyncResult, SyncError> {
        self.claim(&comparison.found.id)?;
        match comparison.fields.is_empty() {
            true => self.keep(comparison.found, effect).await,
            false => Box::pin(self.update(comparison, effect)).await,
        }
    }

    /// Takes or keeps ownership of the external object without writing to it.
    async fn keep(&self, found: Found, effect: Effect) -> Result<SyncResult, SyncError> {
        self.write_ownership(Some(&found.id), None).await?;
        let hashes = match self.object.secret_hashes() {
            Some(hashes) => self.retain_desired(hashes),
            None if K::Client::SECRETS_READ_BACK => None,
            None => self.hash_secrets(self.desired.secrets.keys().map(String::as_str)).await?,
        };
        Ok(self.owned_result(found, hashes, effect, None))
    }

    /// Writes the fields that differ.
    async fn update(&mut self, comparison: Comparison, effect: Effect) -> Result<SyncResult, SyncError> {
        let Comparison { found, fields, .. } = comparison;
        self.write_ownership(Some(&found.id), None).await?;
        tracing::debug!(name = self.object.name_any(), ?fields, "updating the external object");
        let found = Box::pin(self.update_or_recreate(found.id, &fields)).await?;
        self.finish_write(found, effect).await
    }

    fn result(
        &self,
        found: Found,
        secret_hashes: Option<SecretHashes>,
        effect: Effect,
        difference: Option<ConditionMessage>,
    ) -> SyncResult {
        let external = self.external_at(&found.id);
        SyncResult {
            external,
            item: found.item,
            secret_hashes,
            effect,
            marker: None,
            difference,
            pending: None,
            former_locations: Vec::new(),
            former_error: None,
        }
    }

    /// Returns the result for an external object that belongs to the custom resource.
    fn owned_result(
        &self,
        found: Found,
        secret_hashes: Option<SecretHashes>,
        effect: Effect,
        difference: Option<ConditionMessage>,
    ) -> SyncResult {
        let marker = self.create_record.as_ref().and_then(|_| self.missing_marker(&found.id));
        SyncResult { marker, ..self.result(found, secret_hashes, effect, difference) }
    }

    /// Drops the hashes of paths that no longer hold a secret. A process that ended before it wrote the status may have
    /// left such hashes.
    fn retain_desired(&self, hashes: &SecretHashes) -> Option<SecretHashes> {
        let desired = hashes.iter().filter(|(path, _)| self.desired.secrets.contains_key(*path));
        let hashes: SecretHashes = desired.map(|(path, hash)| (path.clone(), hash.clone())).collect();
        (!hashes.is_empty()).then_some(hashes)
    }

    /// Returns keyed hashes of the desired secrets at these paths.
    async fn hash_secrets<'p>(
        &self,
        paths: impl Iterator<Item = &'p str>,
    ) -> Result<Option<SecretHashes>, SyncError> {
        let mut hashes = BTreeMap::new();
        for path in paths {
            let Some(value) = self.desired.secrets.get(path) else { continue };
            let key_ring = self.key_ring().await?;
            if let Some(hash) = hash_with_newest_key(&key_ring, &self.uid, path, value) {
                hashes.insert(path.to_owned(), hash);
            }
        }
        Ok((!hashes.is_empty()).then_some(hashes))
    }

    /// Adds the finalizer, the marker of the external object `id`, and the create record if one is given, in one
    /// compare-and-swap write. With a create record, the marker follows when the record is removed.
    async fn write_ownership(&self, id: Option<&str>, record: Option<CreateRecord>) -> Result<(), SyncError> {
        let is_present = finalizer::is_present(self.object);
        let has_record = record.is_some() || self.create_record.is_some();
        let marker = id.filter(|_| !has_record).and_then(|id| self.missing_marker(id));
        if is_present && record.is_none() && marker.is_none() {
            return Ok(());
        }
        let mut finalizers = self.object.finalizers().to_vec();
        finalizers.extend((!is_present).then(|| FINALIZER.to_owned()));
        let record_text = record.as_ref().map(|record| (PENDING_CREATE, Some(record.to_text())));
        let marker_text = marker.map(|marker| (OWNED_OBJECT, Some(marker.to_text())));
        let annotations = record_text.into_iter().chain(marker_text).collect();
        let metadata = Metadata { finalizers: Some(finalizers), annotations };
        self.context.cluster.write_metadata(&WriteTarget::of(K::KIND, self.object), metadata).await?;
        if record.is_some() {
            self.context.memory.set_create_record(&self.uid, record);
        }
        Ok(())
    }

    /// Creates the external object. Chooses its id if the vendor accepts that; otherwise writes a create record first.
    async fn create(&mut self) -> Result<Found, SyncError> {
        let client = &self.vendor.client;
        let derived = K::derived_id(&self.uid).filter(|_| client.may_accept_client_ids());
        // An adopted object that was deleted is created again under its own id.
        let former = self.external.as_ref().map(|e| e.id.clone()).filter(|_| client.may_accept_client_ids());
        match former.or(derived) {
            Some(id) => {
                self.write_ownership(Some(&id), None).await?;
                let item = self.write(&id, client.create(Some(&id), &self.desired.body)).await?;
                Ok(found::<K>(item, &id))
            }
            None => {
                client.check_create(&self.desired.body).await?;
                let is_new = self.write_create_record().await?;
                let result = self.create_recorded().await;
                let is_rejected = matches!(&result, Err(SyncError::Admin(AdminError::RateLimited(..))));
                if is_new && is_rejected && client.creates_with_one_request(&self.desired.body) {
                    // Nothing was created. With the record, the next attempt would wait for an object that cannot appear.
                    remove_create_record(self.context, self.object, None).await?;
                    self.context.memory.record_presence(&self.uid);
                }
                result
            }
        }
    }

    /// Writes the create record, unless the object has it already. Returns true if it did not have it.
    async fn write_create_record(&mut self) -> Result<bool, SyncError> {
        let key_ring = self.key_ring().await?;
        let readable = K::Client::comparable_fields(&self.desired.with_secrets());
        // Replace a record of an earlier spec: it would not match the object that is created now.
        let is_current = |record: &CreateRecord| {
            record.name == self.desired.name
                && is_hash_of(&key_ring, &record.hash, &self.uid, PENDING_CREATE, &readable)
        };
        if self.create_record.as_ref().is_some_and(is_current) {
            return Ok(false);
        }
        let at = self.context.snapshots.find_name(&self.vendor.client, None, Duration::ZERO).await?.at;
        let hash = hash_with_newest_key(&key_ring, &self.uid, PENDING_CREATE, &readable).unwrap_or_default();
        let External { endpoint, workspace, .. } = self.external_at("");
        let name = self.desired.name.clone();
        let uid = Some(self.uid.clone());
        let record = CreateRecord { name, at, hash, endpoint: Some(endpoint), workspace, uid };
        self.write_ownership(None, Some(record.clone())).await?;
        self.create_record = Some(record);
        Ok(true)
    }

    /// Creates the external object and lets the vendor choose its id. The create record must exist already.
    async fn create_recorded(&self) -> Result<Found, SyncError> {
        let client = &self.vendor.client;
        let item = match client.create(None, &self.desired.body).await {
            // Either our own earlier create took the name and its response was lost, or another client took it, or the
            // tenant is at its limit.
            Err(AdminError::Conflict(detail)) if self.desired.name.is_some() => {
                let found = match &self.create_record {
                    Some(record) => self.find_recorded(record).await?,
                    None => None,
                };
                (*found.ok_or(SyncError::LimitReached(detail))?.item).clone()
            }
            other => other?,
        };
        let id = K::Client::id(&item).map(ToOwned::to_owned).ok_or(SyncError::NoId(K::WHAT))?;
        claim(self.context, self.object, &id).ok();
        self.context.snapshots.mark_present(client, &id, &item);
        Ok(Found::new(id, Arc::new(item)))
    }

    /// Updates the external object. If the vendor cannot update, deletes it and creates it again.
    async fn update_or_recreate(&mut self, id: String, fields: &[String]) -> Result<Found, SyncError> {
        let client = &self.vendor.client;
        match self.write(&id, client.update(&id, &self.desired.body, fields)).await {
            Ok(item) => return Ok(Found::new(id, Arc::new(item))),
            Err(SyncError::Admin(AdminError::Unsupported(_))) => {}
            Err(error) => return Err(error),
        }
        tracing::debug!(
            name = self.object.name_any(),
            "update not supported by the vendor, recreating the external object"
        );
        if !client.accepts_client_ids() {
            // If the vendor rejects the id, or this process ends after the delete, only the record says that the object
            // still has to be created.
            self.write_create_record().await?;
        }
        client.delete(&id).await?;
        self.context.snapshots.mark_deleted(client.list_scope(), &id);
        if client.may_accept_client_ids() {
            match self.write(&id, client.create(Some(&id), &self.desired.body)).await {
                Ok(item) => return Ok(found::<K>(item, &id)),
                Err(SyncError::Admin(AdminError::Unsupported(_))) => {}
                Err(error) => return Err(error),
            }
        }
        self.create_recorded().await
    }

    /// Sends one write of an object whose id is known, and records the response in the snapshot.
    async fn write(
        &self,
        id: &str,
        call: impl Future<Output = Result<Value, AdminError>>,
    ) -> Result<Value, SyncError> {
        let (snapshots, scope) = (&self.context.snapshots, self.vendor.client.list_scope());
        let item = snapshots.track_write(scope, id, call).await?;
        snapshots.mark_present(&self.vendor.client, id, &item);
        Ok(item)
    }

    /// Remembers the written object, hashes the secrets that the vendor masks, and compares the response with the
    /// desired object.
    async fn finish_write(&self, found: Found, effect: Effect) -> Result<SyncResult, SyncError> {
        self.context.memory.set_external(&self.uid, self.external_at(&found.id));
        self.context.memory.record_presence(&self.uid);
        let masked = self.desired.secrets.iter().filter(|(path, value)| {
            !K::Client::SECRETS_READ_BACK || value_at(&found.item, path) != Some(*value)
        });
        let hashes = self.hash_secrets(masked.map(|(path, _)| path.as_str())).await?;
        let fields = match plan(&self.desired.readable, Some(&found.item)) {
            Plan::Update(fields) => Some(fields.join(", ")),
            Plan::Create | Plan::Nothing => None,
        };
        // Report the difference and do not repeat the write: the vendor would ignore the same fields again, and each
        // write counts against the rate limit.
        let difference = fields.map(|fields| {
            ConditionMessage::new(
                "NotKept",
                format!(
                    "the vendor accepted the write of the {} but did not keep it; differing fields: {fields}",
                    K::WHAT
                ),
            )
        });
        Ok(self.owned_result(found, hashes, effect, difference))
    }
}

/// Returns the created object with the id in the vendor's response, or with the requested id if the response has none.
fn found<K: Synced>(item: Value, requested_id: &str) -> Found {
    let id = K::Client::id(&item).unwrap_or(requested_id).to_owned();
    Found::new(id, Arc::new(item))
}
