//! What a kind says of itself; the rest of the pipeline is the same for all.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::reflector::Store;
use serde_json::Value;

use crate::admin::{Access, ExternalClient};
use crate::api::{Adopt, Connection, ConnectionSpec, DeletionPolicy, External, ManagementPolicy};
use crate::cluster::{Guarded, View};
use crate::controller::status::Managed;

/// A kind whose objects exist at a vendor.
pub trait Synced: Managed {
    type Client: ExternalClient;
    /// What people call it: "hook at Kong".
    const WHAT: &'static str;
    /// The vendor, as `WrongVendor` names it.
    const VENDOR: &'static str;

    // These four read and write members that every such kind has: `shared_members!` makes them.
    fn policies(&self) -> Policies<'_>;
    fn external(&self) -> Option<&External>;
    fn hashes(&self) -> Option<&Hashes>;
    /// Sets what a sync found out.
    fn record(status: &mut Self::Status, external: Option<External>, hashes: Option<Hashes>);
    /// True where the Connection is to this vendor.
    fn is_vendor(connection: &ConnectionSpec) -> bool;
    /// None: the access is to another vendor.
    fn client(access: &Access) -> Option<Self::Client>;
    /// All objects of the kind.
    fn all(view: &View) -> &Store<Guarded<Self>>;
    /// The id that is made from the object's uid, where the vendor takes one.
    fn own_id(_uid: &str) -> Option<String> {
        None
    }
}

/// The methods of `Synced` that read and write what the kinds' specs and statuses have in common.
macro_rules! shared_members {
    () => {
        fn policies(&self) -> $crate::controller::reconcile::Policies<'_> {
            let spec = &self.spec;
            let connection: Option<&$crate::api::NameRef> = Option::from(&spec.connection_ref);
            $crate::controller::reconcile::Policies {
                connection: connection.map(|connection| connection.name.as_str()),
                suspend: spec.suspend == Some(true),
                management: spec.management_policy,
                deletion: spec.deletion_policy,
                adopt: spec.adopt.as_ref(),
            }
        }

        fn external(&self) -> Option<&$crate::api::External> {
            self.status.as_ref()?.external.as_deref()
        }

        fn hashes(&self) -> Option<&$crate::controller::reconcile::Hashes> {
            self.status.as_ref()?.secret_hashes.as_ref()
        }

        fn record(
            status: &mut Self::Status,
            external: Option<$crate::api::External>,
            hashes: Option<$crate::controller::reconcile::Hashes>,
        ) {
            status.external = external.map(Box::new);
            status.secret_hashes = hashes;
        }
    };
}
pub(in crate::controller) use shared_members;

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
    /// `whole` is the object as it should read back; what stands at the paths of `secrets` is taken out of the comparison.
    pub fn new(desired: D, mut whole: Value, secrets: &[&str], name: Option<String>) -> Self {
        let mut taken = BTreeMap::new();
        for path in secrets {
            let (parent, name) = parent_of(path);
            if let Some(Value::Object(parent)) = whole.pointer_mut(&parent)
                && let Some(value) = parent.remove(name)
            {
                taken.insert((*path).to_owned(), value);
            }
        }
        Wanted { desired, compared: whole, secrets: taken, name }
    }

    /// The object as a vendor would show it that kept nothing to itself.
    pub fn whole(&self) -> Value {
        let mut whole = self.compared.clone();
        for (path, value) in &self.secrets {
            let (parent, name) = parent_of(path);
            if let Some(Value::Object(parent)) = whole.pointer_mut(&parent) {
                parent.insert(name.to_owned(), value.clone());
            }
        }
        whole
    }
}

/// A dotted path as the JSON pointer of its parent, and the last step.
fn parent_of(path: &str) -> (String, &str) {
    match path.rsplit_once('.') {
        Some((parents, name)) => (format!("/{}", parents.replace('.', "/")), name),
        None => (String::new(), path),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_taken_out_and_put_back() {
        let whole = json!({"a": 1, "token": "t", "config": {"secret": "s", "url": "u"}});
        let wanted = Wanted::new((), whole.clone(), &["config.secret", "token", "config.none", "x.y"], None);
        assert_eq!(wanted.compared, json!({"a": 1, "config": {"url": "u"}}));
        assert_eq!(wanted.secrets.len(), 2);
        assert_eq!(wanted.whole(), whole);
    }
}
