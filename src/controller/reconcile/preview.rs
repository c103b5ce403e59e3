//! What a sync would do, found out by its own steps up to the plan. Nothing is written, here or there.

use std::sync::Arc;

use serde_json::Value;

use super::apply::at;
use super::holders::take;
use super::kind::{Synced, Vendor, Wanted};
use super::locate::Found;
use super::record::is_hash_of;
use super::{Run, cleanup};
use crate::admin::ExternalClient;
use crate::api::{AdoptMode, DeletionPolicy};
use crate::cluster::ClusterError;
use crate::controller::context::Context;
use crate::controller::problem::Problem;
use crate::core::keys::{KEY_LENGTH, KeyRing};
use crate::core::plan::{Plan, plan};

/// What would become of the vendor's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "camelCase")]
#[strum(serialize_all = "camelCase")]
pub enum Change {
    Create,
    Update,
    /// It is not as wanted, and stays so: nothing may be written.
    Differs,
    Unchanged,
}

/// What a sync would do to one object. It holds no values: what differs may be secret.
#[derive(Debug)]
pub struct Preview {
    pub change: Change,
    /// The vendor's id, where one is known.
    pub id: Option<String>,
    /// The paths that differ.
    pub fields: Vec<String>,
    /// The paths of secrets that nobody here can compare.
    pub uncompared: Vec<String>,
    pub note: Option<String>,
}

impl Preview {
    /// Nothing is written for this object, for this reason.
    pub fn nothing(note: &str) -> Self {
        Preview {
            change: Change::Unchanged,
            id: None,
            fields: Vec::new(),
            uncompared: Vec::new(),
            note: Some(note.to_owned()),
        }
    }
}

/// The key ring, or one that stands in for it: then what is derived from it is shown to nobody and compared with nothing.
pub struct Ring {
    pub keys: Arc<KeyRing>,
    pub is_known: bool,
}

impl Ring {
    pub async fn of(context: &Context) -> Result<Self, Problem> {
        match context.ring().await {
            Ok(keys) => Ok(Ring { keys, is_known: true }),
            Err(ClusterError::KeyRing(_)) => {
                let keys = KeyRing::from_data([("none", [0; KEY_LENGTH].as_slice())].into_iter());
                let keys = keys.map_err(|error| ClusterError::KeyRing(error.to_string()))?;
                Ok(Ring { keys: Arc::new(keys), is_known: false })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What `sync` would do. `derived`: the secrets come of this ring.
pub async fn preview<K: Synced>(
    context: &Context,
    object: &K,
    vendor: &Vendor<K::Client>,
    wanted: &Wanted<<K::Client as ExternalClient>::Desired>,
    derived: Option<&Ring>,
) -> Result<Preview, Problem> {
    let mut run = Run::new(context, object, vendor, wanted)?;
    let left = run.see_the_old_address().await?;
    let mut preview = match Box::pin(run.locate()).await? {
        Found::There { id, item } => run.compare(id, &item, derived).await?,
        Found::Missing if run.policies.observes_only() => {
            let name = wanted.name.clone().or_else(|| run.external.as_ref().map(|e| e.id.clone()));
            return Err(Problem::NotThere { what: K::WHAT, name: name.unwrap_or_default() });
        }
        Found::Missing => Preview {
            change: Change::Create,
            id: run.external.as_ref().map(|e| e.id.clone()),
            fields: Vec::new(),
            uncompared: Vec::new(),
            note: None,
        },
    };
    preview.note = preview.note.or(left);
    Ok(preview)
}

impl<K: Synced> Run<'_, K> {
    /// As `leave_the_old_address`, but what is left there stays; what would become of it.
    async fn see_the_old_address(&mut self) -> Result<Option<String>, Problem> {
        let Some(old) = self.external.clone() else { return Ok(None) };
        let new = self.place(&old.id);
        if (&old.endpoint, &old.workspace) == (&new.endpoint, &new.workspace) {
            return Ok(None);
        }
        if self.vendor.client.observe(&old.id).await?.is_some() {
            self.external = Some(new);
            return Ok(None);
        }
        let stays = cleanup::policy(self.object, self.context) == DeletionPolicy::Orphan
            || self.policies.observes_only();
        self.external = self.keeps_its_id(&old).then_some(new);
        let fate = if stays { "stays" } else { "is deleted" };
        Ok(Some(format!("{} at the former address {} {fate}", old.id, old.endpoint)))
    }

    async fn compare(&self, id: String, item: &Value, derived: Option<&Ring>) -> Result<Preview, Problem> {
        let mode = self.policies.adopt.filter(|_| !self.taken).map(|adopt| adopt.mode);
        let mut fields = match plan(&self.wanted.compared, Some(item)) {
            Plan::Update(fields) => fields,
            Plan::Create | Plan::Nothing => Vec::new(),
        };
        let mut uncompared = Vec::new();
        for (path, value) in &self.wanted.secrets {
            match self.is_same_secret(item, path, value, derived).await? {
                Some(true) => {}
                Some(false) => fields.push(path.clone()),
                None => uncompared.push(path.clone()),
            }
        }
        let writes_nothing = match mode {
            _ if self.policies.observes_only() => Some("managementPolicy: ObserveOnly writes nothing"),
            Some(AdoptMode::Match) => Some("adopt.mode: Match writes nothing"),
            _ => None,
        };
        if mode.is_some() && (fields.is_empty() || writes_nothing.is_none()) {
            let held = |by| Problem::Held { what: K::WHAT, id: id.clone(), by };
            take(self.context, self.object, &self.place(&id)).map_err(held)?;
        }
        let (change, note) = match (fields.is_empty(), writes_nothing) {
            (true, _) => (Change::Unchanged, mode.map(|_| "it is taken over as it is")),
            (false, Some(why)) => (Change::Differs, Some(why)),
            (false, None) => (Change::Update, mode.map(|_| "it is taken over")),
        };
        Ok(Preview { change, id: Some(id), fields, uncompared, note: note.map(ToOwned::to_owned) })
    }

    /// Whether the vendor has this secret; None: nobody here can know.
    async fn is_same_secret(
        &self,
        item: &Value,
        path: &str,
        value: &Value,
        derived: Option<&Ring>,
    ) -> Result<Option<bool>, Problem> {
        if derived.is_some_and(|ring| !ring.is_known) {
            return Ok(None);
        }
        let tracked = self.object.hashes();
        Ok(match tracked.and_then(|hashes| hashes.get(path)) {
            Some(hash) => {
                let ring = Ring::of(self.context).await?;
                ring.is_known.then(|| is_hash_of(&ring.keys, hash, &self.uid, path, value))
            }
            None if K::Client::SECRETS_READ_BACK => Some(at(item, path) == Some(value)),
            // Told to nobody by this object, as far as is known: it would be.
            None => tracked.map(|_| false),
        })
    }
}
