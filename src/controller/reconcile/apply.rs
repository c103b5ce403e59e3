//! Plan and apply: what differs, and the writes that end it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use serde_json::Value;

use super::holders::take;
use super::kind::{Done, Hashes, Synced};
use super::locate::Found;
use super::record::{PENDING_CREATE, Record, is_hash_of, keyed_hash};
use super::{Outcome, Run, cleanup};
use crate::admin::{AdminError, ExternalClient};
use crate::api::{AdoptMode, DeletionPolicy, External, FINALIZER};
use crate::cluster::{Metadata, Target};
use crate::controller::problem::Problem;
use crate::core::conditions::Note;
use crate::core::keys::KeyRing;
use crate::core::plan::{Plan, plan};

impl<K: Synced> Run<'_, K> {
    pub(super) async fn once(mut self) -> Result<Outcome, Problem> {
        Box::pin(self.leave_the_old_address()).await?;
        match Box::pin(self.locate()).await? {
            Found::There { id, item } => Box::pin(self.there(id, item)).await,
            Found::Missing if self.policies.observes_only() => {
                let id = self.external.as_ref().map(|e| e.id.clone()).unwrap_or_default();
                match &self.wanted.name {
                    Some(name) if id.is_empty() => {
                        Err(Problem::NotThere { what: K::WHAT, name: name.clone() })
                    }
                    _ => Err(Problem::AdoptNotFound { what: K::WHAT, id }),
                }
            }
            Found::Missing => {
                let (id, item) = Box::pin(self.create()).await?;
                self.written(id, item, Done::Created).await
            }
        }
    }

    async fn there(&self, id: String, item: Arc<Value>) -> Result<Outcome, Problem> {
        let tracked = self.object.hashes();
        let mode = self.policies.adopt.filter(|_| !self.taken).map(|adopt| adopt.mode);
        // What never reads back cannot differ from what nobody has told yet. Until the status says so, what was matched
        // may have been so a moment ago, or before a crash: it must not be written all the same.
        let matched = self.policies.adopt.is_some_and(|adopt| adopt.mode == AdoptMode::Match)
            && self.object.external().is_none();
        let blind =
            !K::Client::SECRETS_READ_BACK && tracked.is_none() && (self.policies.observes_only() || matched);
        let mut fields = match plan(&self.wanted.compared, Some(&item)) {
            Plan::Update(fields) => fields,
            Plan::Create | Plan::Nothing => Vec::new(),
        };
        if !blind {
            fields.extend(self.differing_secrets(&item, tracked).await?);
        }
        let only_look = self.policies.observes_only();
        if !fields.is_empty() && (only_look || mode == Some(AdoptMode::Match)) {
            let why = if only_look { "managementPolicy: ObserveOnly" } else { "adopt.mode: Match" };
            let (what, fields) = (K::WHAT, fields.join(", "));
            let message = format!("the {what} differs and {why} writes nothing; differing: {fields}");
            // What was not adopted is not ours: only who observes says where it is.
            return self.reported((id, item), message, only_look);
        }
        if only_look {
            return Ok(self.outcome((id, item), tracked.cloned(), Done::Nothing, None));
        }
        if mode.is_some() {
            let held = |by| Problem::Held { what: K::WHAT, id: id.clone(), by };
            take(self.context, self.object, &self.place(&id)).map_err(held)?;
        }
        self.hold(None).await?;
        if fields.is_empty() {
            let hashes = match tracked {
                Some(hashes) => self.still_wanted(hashes),
                None if K::Client::SECRETS_READ_BACK => None,
                None => self.hashes(self.wanted.secrets.keys().map(String::as_str)).await?,
            };
            let done = if mode.is_some() { Done::Adopted } else { Done::Nothing };
            return Ok(self.outcome((id, item), hashes, done, None));
        }
        tracing::debug!(name = self.object.name_any(), ?fields, "the vendor differs from the spec");
        let (id, item) = Box::pin(self.update(id, &fields)).await?;
        let done = if mode.is_some() { Done::Adopted } else { Done::Updated(fields) };
        self.written(id, item, done).await
    }

    fn reported(
        &self,
        found: (String, Arc<Value>),
        message: String,
        known: bool,
    ) -> Result<Outcome, Problem> {
        if !known {
            return Err(Problem::Differs(message));
        }
        let note = Note::new("Differs", message);
        Ok(self.outcome(found, self.object.hashes().cloned(), Done::Nothing, Some(note)))
    }

    fn outcome(
        &self,
        (id, item): (String, Arc<Value>),
        hashes: Option<Hashes>,
        done: Done,
        differs: Option<Note>,
    ) -> Outcome {
        Outcome { external: self.place(&id), item, hashes, done, differs, pending: None }
    }

    /// The secrets that are not what is wanted: by what reads back, or by the hash of what was last told.
    async fn differing_secrets(
        &self,
        item: &Value,
        tracked: Option<&Hashes>,
    ) -> Result<Vec<String>, Problem> {
        let mut differing = Vec::new();
        for (path, value) in &self.wanted.secrets {
            let same = match tracked.and_then(|hashes| hashes.get(path)) {
                Some(hash) => is_hash_of(&*self.ring().await?, hash, &self.uid, path, value),
                None => K::Client::SECRETS_READ_BACK && at(item, path) == Some(value),
            };
            if !same {
                differing.push(path.clone());
            }
        }
        Ok(differing)
    }

    /// The hashes of what is a secret still: a change that was made by a process which then ended left others.
    fn still_wanted(&self, hashes: &Hashes) -> Option<Hashes> {
        let wanted = hashes.iter().filter(|(path, _)| self.wanted.secrets.contains_key(*path));
        let hashes: Hashes = wanted.map(|(path, hash)| (path.clone(), hash.clone())).collect();
        (!hashes.is_empty()).then_some(hashes)
    }

    /// Keyed hashes of the wanted secrets at these paths.
    async fn hashes<'p>(&self, paths: impl Iterator<Item = &'p str>) -> Result<Option<Hashes>, Problem> {
        let mut hashes = BTreeMap::new();
        for path in paths {
            let Some(value) = self.wanted.secrets.get(path) else { continue };
            let ring = self.ring().await?;
            if let Some(hash) = hash(&ring, &self.uid, path, value) {
                hashes.insert(path.to_owned(), hash);
            }
        }
        Ok((!hashes.is_empty()).then_some(hashes))
    }

    /// Our finalizer and, before a create whose id the vendor makes, its record: in one write, by compare-and-swap.
    async fn hold(&self, record: Option<Record>) -> Result<(), Problem> {
        let ours = self.object.finalizers().iter().any(|f| f == FINALIZER);
        if ours && record.is_none() {
            return Ok(());
        }
        let mut finalizers = self.object.finalizers().to_vec();
        finalizers.extend((!ours).then(|| FINALIZER.to_owned()));
        let text = record.as_ref().map(|record| (PENDING_CREATE, Some(record.text())));
        let metadata = Metadata { finalizers: Some(finalizers), annotations: text.into_iter().collect() };
        self.context.cluster.write_metadata(&Target::of(K::KIND, self.object), metadata).await?;
        if record.is_some() {
            self.context.memory.recorded(&self.uid, record);
        }
        Ok(())
    }

    async fn create(&mut self) -> Result<(String, Value), Problem> {
        let client = &self.vendor.client;
        let own = K::own_id(&self.uid).filter(|_| client.takes_ids());
        // What was adopted and is gone comes back under its id.
        let kept = self.external.as_ref().map(|e| e.id.clone()).filter(|_| client.takes_ids());
        match kept.or(own) {
            Some(id) => {
                self.hold(None).await?;
                let item = self.write(&id, client.create(Some(&id), &self.wanted.desired)).await?;
                Ok((K::Client::id(&item).unwrap_or(&id).to_owned(), item))
            }
            None => {
                client.may_create(&self.wanted.desired).await?;
                self.record_create().await?;
                self.create_recorded().await
            }
        }
    }

    /// Writes down that a create begins, unless it is written already.
    async fn record_create(&mut self) -> Result<(), Problem> {
        let ring = self.ring().await?;
        let readable = K::Client::readable(&self.wanted.whole());
        // One of an older spec would not know what is created now.
        let is_it = |record: &Record| {
            record.name == self.wanted.name
                && is_hash_of(&ring, &record.hash, &self.uid, PENDING_CREATE, &readable)
        };
        if self.record.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        let at = self.context.snapshots.all(&self.vendor.client).await?.at;
        let hash = hash(&ring, &self.uid, PENDING_CREATE, &readable).unwrap_or_default();
        let record = Record { name: self.wanted.name.clone(), at, hash };
        self.hold(Some(record.clone())).await?;
        self.record = Some(record);
        Ok(())
    }

    async fn create_recorded(&self) -> Result<(String, Value), Problem> {
        let client = &self.vendor.client;
        let item = match client.create(None, &self.wanted.desired).await {
            // A name that is taken, by our own create that was cut off or by somebody else; or the tenant's limit.
            Err(AdminError::Conflict(detail)) if self.wanted.name.is_some() => {
                let all = self.context.snapshots.all(client).await?;
                let found = match &self.record {
                    Some(record) => self.find_recorded(record, &all).await?,
                    None => None,
                };
                match found {
                    Some(Found::There { item, .. }) => (*item).clone(),
                    _ => return Err(Problem::LimitReached(detail)),
                }
            }
            other => other?,
        };
        let id = K::Client::id(&item).map(ToOwned::to_owned).ok_or(Problem::NoId(K::WHAT))?;
        take(self.context, self.object, &self.place(&id)).ok();
        self.context.snapshots.is(client.scope(), &id, item.clone());
        Ok((id, item))
    }

    /// Changes the object, or, where the vendor cannot, deletes it and creates it again.
    async fn update(&self, id: String, fields: &[String]) -> Result<(String, Value), Problem> {
        let client = &self.vendor.client;
        match self.write(&id, client.update(&id, &self.wanted.desired, fields)).await {
            Ok(item) => return Ok((id, item)),
            Err(Problem::Admin(AdminError::Unsupported(_))) => {}
            Err(error) => return Err(error),
        }
        tracing::debug!(
            name = self.object.name_any(),
            "the vendor changes nothing: deleted and created again"
        );
        let mut again = self.again();
        if !client.surely_takes_ids() {
            // Where the id is not taken, or this process ends in between, only the record tells that it is to be made.
            again.record_create().await?;
        }
        client.delete(&id).await?;
        self.context.snapshots.gone(client.scope(), &id);
        if client.takes_ids() {
            match self.write(&id, client.create(Some(&id), &self.wanted.desired)).await {
                Ok(item) => return Ok((K::Client::id(&item).unwrap_or(&id).to_owned(), item)),
                Err(Problem::Admin(AdminError::Unsupported(_))) => {}
                Err(error) => return Err(error),
            }
        }
        again.create_recorded().await
    }

    /// One write of an object whose id is known. While its answer is out, nothing is known of it.
    async fn write(
        &self,
        id: &str,
        call: impl Future<Output = Result<Value, AdminError>>,
    ) -> Result<Value, Problem> {
        let (snapshots, scope) = (&self.context.snapshots, self.vendor.client.scope());
        let item = snapshots.writing(scope, id, call).await?;
        snapshots.is(scope, id, item.clone());
        Ok(item)
    }

    /// Something was written: what the answer shows is what counts from now on.
    async fn written(&self, id: String, item: Value, done: Done) -> Result<Outcome, Problem> {
        self.context.memory.made(&self.uid, self.place(&id));
        self.context.memory.seen(&self.uid);
        let unread = self
            .wanted
            .secrets
            .iter()
            .filter(|(path, value)| !K::Client::SECRETS_READ_BACK || at(&item, path) != Some(*value));
        let hashes = self.hashes(unread.map(|(path, _)| path.as_str())).await?;
        let kept = match plan(&self.wanted.compared, Some(&item)) {
            Plan::Update(fields) => Some(fields.join(", ")),
            Plan::Create | Plan::Nothing => None,
        };
        // Written again and again it would be kept no better, and each write is one of the tenant's limit.
        let differs = kept.map(|fields| {
            Note::new(
                "NotKept",
                format!("the {} was written and reads otherwise; differing: {fields}", K::WHAT),
            )
        });
        Ok(self.outcome((id, Arc::new(item)), hashes, done, differs))
    }

    /// The Connection has another address than the object was made at. Where the object is at the new one, too, it is
    /// the same vendor by another address. Else what is left at the old one is deleted before a new one is made.
    async fn leave_the_old_address(&mut self) -> Result<(), Problem> {
        let Some(old) = self.external.clone() else { return Ok(()) };
        let new = self.place(&old.id);
        if (&old.endpoint, &old.workspace) == (&new.endpoint, &new.workspace) {
            return Ok(());
        }
        if self.vendor.client.observe(&old.id).await?.is_some() {
            self.external = Some(new);
            return Ok(());
        }
        let orphan = cleanup::policy(self.object, self.context) == DeletionPolicy::Orphan;
        if !orphan && !self.policies.observes_only() {
            cleanup::leave::<K>(self.context, self.object, &old).await?;
        }
        self.external = self.keeps_its_id(&old).then_some(new);
        Ok(())
    }

    /// An id of ours goes along to another vendor; one of the old vendor's does not.
    pub(super) fn keeps_its_id(&self, old: &External) -> bool {
        K::own_id(&self.uid).as_ref() == Some(&old.id) && self.vendor.client.takes_ids()
    }

    fn again(&self) -> Run<'_, K> {
        Run {
            external: self.external.clone(),
            record: self.record.clone(),
            handled: self.handled.clone(),
            uid: self.uid.clone(),
            ..*self
        }
    }
}

fn hash(ring: &KeyRing, uid: &str, what: &str, value: &Value) -> Option<String> {
    keyed_hash(ring, ring.newest()?, uid, what, value)
}

/// What stands at a dotted path.
pub(super) fn at<'v>(item: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(item, |value, step| value.get(step))
}
