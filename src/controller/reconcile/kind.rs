//! The trait that a kind implements for the pipeline, and the types that the stages share.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::admin::{AdminAccess, ExternalClient};
use crate::api::{
    Adopt, Connection, ConnectionSpec, DeletionPolicy, External, FormerLocation, ManagementPolicy,
};
use crate::cluster::{ObjectStore, View};
use crate::controller::status::Managed;

/// A kind whose objects each have an external object at a vendor.
pub trait Synced: Managed {
    type Client: ExternalClient;
    /// The name of the external object in messages, such as "hook at Kong".
    const WHAT: &'static str;
    /// The name of the vendor in messages.
    const VENDOR: &'static str;

    // `shared_members!` implements the next six methods, because every kind has these members in its spec and status.
    fn policies(&self) -> Policies<'_>;
    fn external(&self) -> Option<&External>;
    fn former_locations(&self) -> &[FormerLocation];
    fn secret_hashes(&self) -> Option<&SecretHashes>;
    /// Writes the result of a sync into the status.
    fn set_synced(status: &mut Self::Status, external: Option<External>, hashes: Option<SecretHashes>);
    /// Writes the locations of the external object into the status.
    fn set_locations(status: &mut Self::Status, external: Option<External>, former: Vec<FormerLocation>);
    /// Returns true if the Connection leads to this kind's vendor.
    fn is_vendor(connection: &ConnectionSpec) -> bool;
    /// Returns a client. None if the access is to another vendor.
    fn client(access: &AdminAccess) -> Option<Self::Client>;
    /// Returns the store with all objects of this kind.
    fn store(view: &View) -> &ObjectStore<Self>;
    /// Returns the external id that is derived from the object's uid, if the vendor accepts an id of the client's choice.
    fn derived_id(_uid: &str) -> Option<String> {
        None
    }
}

/// Implements the methods of `Synced` for the members that every kind has in its spec and status.
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

        fn former_locations(&self) -> &[$crate::api::FormerLocation] {
            self.status.as_ref().map_or(&[], |status| &status.former_locations)
        }

        fn secret_hashes(&self) -> Option<&$crate::controller::reconcile::SecretHashes> {
            self.status.as_ref()?.secret_hashes.as_ref()
        }

        fn set_synced(
            status: &mut Self::Status,
            external: Option<$crate::api::External>,
            hashes: Option<$crate::controller::reconcile::SecretHashes>,
        ) {
            status.external = external.map(Box::new);
            status.secret_hashes = hashes;
        }

        fn set_locations(
            status: &mut Self::Status,
            external: Option<$crate::api::External>,
            former: Vec<$crate::api::FormerLocation>,
        ) {
            status.external = external.map(Box::new);
            status.former_locations = former;
        }
    };
}
pub(in crate::controller) use shared_members;

/// Keyed hashes of the secrets that were last written, by path. Contains only secrets that the vendor does not show.
pub type SecretHashes = BTreeMap<String, String>;

/// The policies in a spec.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policies<'a> {
    /// The name of the Connection.
    pub connection: Option<&'a str>,
    pub suspend: bool,
    pub management: Option<ManagementPolicy>,
    pub deletion: Option<DeletionPolicy>,
    pub adopt: Option<&'a Adopt>,
}

impl Policies<'_> {
    /// Returns true if the controller must not write to the external object.
    pub fn observes_only(&self) -> bool {
        self.management == Some(ManagementPolicy::ObserveOnly)
    }
}

/// The Connection of an object, dereferenced.
pub struct VendorAccess<C> {
    pub connection: Arc<Connection>,
    pub access: AdminAccess,
    pub client: C,
    /// The id of this installation, if it is known.
    pub installation: Option<Arc<str>>,
}

/// The external object that should exist. No `Debug`: it holds secrets.
pub struct DesiredObject<D> {
    /// The request body that the client sends.
    pub body: D,
    /// The members that are compared with the external object, without the secrets.
    pub readable: Value,
    /// Values from Secrets, by their dotted path in the external object (`config.secret`). A vendor may mask them.
    pub secrets: BTreeMap<String, Value>,
    /// The name, if the vendor requires unique names and chooses the ids.
    pub name: Option<String>,
    /// The worker's URL for this custom resource, if the vendor sends events there. An external object with this URL
    /// belongs to the custom resource of this name.
    pub relay_url: Option<String>,
}

impl<D> DesiredObject<D> {
    /// Creates the desired object. `object` is the external object as it should read back; the values at `secret_paths`
    /// are moved into `secrets`.
    pub fn new(body: D, mut object: Value, secret_paths: &[&str], name: Option<String>) -> Self {
        let mut secrets = BTreeMap::new();
        for path in secret_paths {
            let (parent, name) = split_path(path);
            if let Some(Value::Object(parent)) = object.pointer_mut(&parent)
                && let Some(value) = parent.remove(name)
            {
                secrets.insert((*path).to_owned(), value);
            }
        }
        DesiredObject { body, readable: object, secrets, name, relay_url: None }
    }

    /// Returns the object with its secrets, as a vendor that masks nothing would show it.
    pub fn with_secrets(&self) -> Value {
        let mut object = self.readable.clone();
        for (path, value) in &self.secrets {
            let (parent, name) = split_path(path);
            if let Some(Value::Object(parent)) = object.pointer_mut(&parent) {
                parent.insert(name.to_owned(), value.clone());
            }
        }
        object
    }
}

/// Splits a dotted path into the JSON pointer of its parent and the last segment.
fn split_path(path: &str) -> (String, &str) {
    match path.rsplit_once('.') {
        Some((parents, name)) => (format!("/{}", parents.replace('.', "/")), name),
        None => (String::new(), path),
    }
}

/// Returns the value at a dotted path.
pub fn value_at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(object, |value, segment| value.get(segment))
}

/// The change that a sync made to the external object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Created,
    /// With the fields that differed.
    Updated(Vec<String>),
    /// The external object existed before and belongs to the custom resource from now on.
    Adopted,
    /// It belonged to an earlier custom resource of the same name.
    TakenOver,
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn separates_and_restores_secrets() {
        let object = json!({"a": 1, "token": "t", "config": {"secret": "s", "url": "u"}});
        let paths = ["config.secret", "token", "config.none", "x.y"];
        let desired = DesiredObject::new((), object.clone(), &paths, None);
        assert_eq!(desired.readable, json!({"a": 1, "config": {"url": "u"}}));
        assert_eq!(desired.secrets.len(), 2);
        assert_eq!(desired.with_secrets(), object);
        assert_eq!(value_at(&object, "config.secret"), Some(&json!("s")));
    }
}
