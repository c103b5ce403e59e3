//! The readiness of an object as responses show it, and what its status has of the vendor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{Connection, EventHook, EventStream, External, Hook, LastError};
use crate::cluster::{DeserializeGuard, ObjectKey};
use crate::core::shown_readiness::ShownReadiness;

/// An object and its condition Ready.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectResponse {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    /// True, False, or Unknown before the first sync of the present spec.
    pub ready: &'static str,
    pub reason: String,
    pub message: String,
    pub since: Option<String>,
    /// True if a user requested the state.
    pub expected: bool,
}

/// An object of one of the kinds, whose state at the vendor is in its status.
pub trait VendorObject {
    fn conditions(&self) -> &[Condition];
    fn last_error(&self) -> Option<&LastError>;
    /// Returns where the vendor has it. None: nowhere, or it is a Connection.
    fn external(&self) -> Option<&External> {
        None
    }
    /// Returns the name of the Connection that it references.
    fn connection(&self) -> Option<&str> {
        None
    }
    /// Returns the object if it is an EventStream.
    fn stream(&self) -> Option<&EventStream> {
        None
    }
    /// Returns the object if it is a Connection.
    fn connection_object(&self) -> Option<&Connection> {
        None
    }
}

macro_rules! vendor_object {
    ($kind:ty, { $($more:tt)* }) => {
        impl VendorObject for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map_or(&[], |status| &status.conditions)
            }

            fn last_error(&self) -> Option<&LastError> {
                self.status.as_ref()?.last_error.as_deref()
            }

            $($more)*
        }
    };
}

vendor_object!(Connection, {
    fn connection_object(&self) -> Option<&Connection> {
        Some(self)
    }
});

vendor_object!(EventHook, {
    fn external(&self) -> Option<&External> {
        self.status.as_ref()?.external.as_deref()
    }

    fn connection(&self) -> Option<&str> {
        self.spec.connection_ref.as_ref().map(|connection| &*connection.name)
    }
});

vendor_object!(EventStream, {
    fn external(&self) -> Option<&External> {
        self.status.as_ref()?.external.as_deref()
    }

    fn connection(&self) -> Option<&str> {
        Some(&self.spec.connection_ref.name)
    }

    fn stream(&self) -> Option<&EventStream> {
        Some(self)
    }
});

vendor_object!(Hook, {
    fn external(&self) -> Option<&External> {
        self.status.as_ref()?.external.as_deref()
    }

    fn connection(&self) -> Option<&str> {
        Some(&self.spec.connection_ref.name)
    }
});

/// Returns the conditions of an object.
pub fn conditions_of(object: &impl VendorObject) -> &[Condition] {
    object.conditions()
}

/// Returns the readiness of an object.
pub fn readiness<K>(kind: &'static str, guard: &DeserializeGuard<K>) -> ObjectResponse
where
    K: Resource<DynamicType = ()> + VendorObject,
{
    let ObjectKey { namespace, name } = ObjectKey::of(guard);
    let object = |ready, reason: &str, message: &str| ObjectResponse {
        kind,
        namespace,
        name,
        ready,
        reason: reason.to_owned(),
        message: message.to_owned(),
        since: None,
        expected: false,
    };
    let found = match &guard.0 {
        Err(invalid) => return object("False", "InvalidObject", &invalid.error),
        Ok(found) => found,
    };
    let shown = ShownReadiness::of(found.conditions(), found.meta().generation);
    ObjectResponse {
        since: shown.since.map(|since| since.0.to_string()),
        expected: shown.expected,
        ..object(shown.ready, shown.reason, shown.message)
    }
}

/// Returns whether an object is ready: True, False or Unknown, as `readiness` does, without its texts.
pub fn ready_of<K>(guard: &DeserializeGuard<K>) -> &'static str
where
    K: Resource<DynamicType = ()> + VendorObject,
{
    match &guard.0 {
        Err(_) => "False",
        Ok(found) => ShownReadiness::of(found.conditions(), found.meta().generation).ready,
    }
}
