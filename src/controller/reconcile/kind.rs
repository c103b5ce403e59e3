//! What a kind says of itself; the rest of the pipeline is the same for all.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::reflector::Store;
use serde_json::Value;

use crate::admin::{Access, ExternalClient};
use crate::api::{Adopt, Connection, DeletionPolicy, External, ManagementPolicy};
use crate::cluster::{Guarded, View};
use crate::controller::status::Managed;

/// A kind whose objects exist at a vendor.
pub trait Synced: Managed {
    type Client: ExternalClient;
    /// What people call it: "hook at Kong".
    const WHAT: &'static str;
    /// The vendor, as `WrongVendor` names it.
    const VENDOR: &'static str;

    fn policies(&self) -> Policies<'_>;
    fn external(&self) -> Option<&External>;
    fn hashes(&self) -> Option<&Hashes>;
    /// Sets what a sync found out.
    fn record(status: &mut Self::Status, external: Option<External>, hashes: Option<Hashes>);
    /// None: the Connection is to another vendor.
    fn client(access: &Access) -> Option<Self::Client>;
    /// All objects of the kind.
    fn all(view: &View) -> &Store<Guarded<Self>>;
    /// The id that is made from the object's uid, where the vendor takes one.
    fn own_id(_uid: &str) -> Option<String> {
        None
    }
}

/// Keyed hashes of secrets that cannot be read back, by path.
pub type Hashes = BTreeMap<String, String>;

/// What the spec says of how it is managed.
#[derive(Clone, Copy, Debug)]
pub struct Policies<'a> {
    pub connection: Option<&'a str>,
    pub suspend: bool,
    pub management: Option<ManagementPolicy>,
    pub deletion: Option<DeletionPolicy>,
    pub adopt: Option<&'a Adopt>,
}

impl Policies<'_> {
    pub fn observes_only(&self) -> bool {
        self.management == Some(ManagementPolicy::ObserveOnly)
    }
}

/// The vendor an object is for.
pub struct Vendor<C> {
    pub connection: Arc<Connection>,
    pub access: Access,
    pub client: C,
}

/// What an object wants to exist at the vendor. No `Debug`: it holds secrets.
pub struct Wanted<D> {
    pub desired: D,
    /// What is compared with what is there, without the secrets that may not read back.
    pub compared: Value,
    /// Those, by their path in what is there (`config.secret`).
    pub secrets: BTreeMap<String, Value>,
    /// The name, where the vendor keeps names unique and makes the ids itself.
    pub name: Option<String>,
}

impl<D> Wanted<D> {
    /// The object as a vendor would show it that kept nothing to itself.
    pub fn whole(&self) -> Value {
        let mut whole = self.compared.clone();
        for (path, value) in &self.secrets {
            let (parents, name) = path.rsplit_once('.').unwrap_or(("", path));
            let steps = parents.split('.').filter(|step| !step.is_empty());
            let parent = steps.fold(Some(&mut whole), |at, step| at?.get_mut(step));
            if let Some(Value::Object(parent)) = parent {
                parent.insert(name.to_owned(), value.clone());
            }
        }
        whole
    }
}

/// What was done at the vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    Created,
    /// The fields that differed.
    Updated(Vec<String>),
    /// It existed before, and is ours from now on.
    Adopted,
    Nothing,
}
