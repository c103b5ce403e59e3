//! The create record: identifies an object whose create call got no answer, at vendors that choose the id.
//!
//! It is an annotation. The controller writes it by compare-and-swap before the create and removes it once the status
//! names the id. It contains the time by the vendor's clock and a keyed hash of the requested object. An object that is
//! older or has other content belongs to another client.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::core::time::Millis;

/// The annotation that holds the record.
pub const PENDING_CREATE: &str = "hookstream.dev/pending-create";
/// Tolerated difference between the clocks of a vendor's machines.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Describes the external object that is about to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRecord {
    /// The name, if the vendor keeps names unique. No object had it when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The vendor's clock when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// Keyed hash of the requested object.
    pub hash: String,
    /// The address and the workspace of the create. Absent in a record of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The uid of the custom resource. None in a record of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

impl CreateRecord {
    /// Parses the annotation. None if it is malformed, for example edited by hand.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Reads the record of an object. None if it has none, or one that was copied from another object.
    pub fn of<K: Resource>(object: &K) -> Option<Self> {
        let record = CreateRecord::parse(object.annotations().get(PENDING_CREATE)?)?;
        (record.uid.is_none() || record.uid == object.uid()).then_some(record)
    }

    /// Returns the annotation's text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// False if the object was created before the record was written. True if either time is unknown.
    pub fn may_precede(&self, created: Option<Millis>) -> bool {
        match (self.at, created) {
            (Some(at), Some(created)) => created + CLOCK_SKEW >= at,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_text() {
        let (name, at, uid) = (Some("n".into()), Some(Millis(7)), Some("u".into()));
        let endpoint = Some("https://k".into());
        let record = CreateRecord { name, at, hash: "k:1".into(), endpoint, workspace: None, uid };
        assert_eq!(CreateRecord::parse(&record.to_text()), Some(record.clone()));
        let object = |uid: &str| {
            let metadata = serde_json::json!({"uid": uid, "annotations": {PENDING_CREATE: record.to_text()}});
            let metadata = serde_json::from_value(metadata).unwrap();
            k8s_openapi::api::core::v1::ConfigMap { metadata, ..Default::default() }
        };
        assert_eq!(CreateRecord::of(&object("u")), Some(record.clone()));
        assert_eq!(CreateRecord::of(&object("v")), None, "copied");
        assert_eq!(CreateRecord::parse("by hand"), None);
    }

    #[test]
    fn excludes_objects_that_are_older_than_the_record() {
        let record = CreateRecord {
            name: None,
            at: Some(Millis(100_000)),
            hash: String::new(),
            ..CreateRecord::default()
        };
        assert!(record.may_precede(Some(Millis(99_000))), "clocks differ by a little");
        assert!(!record.may_precede(Some(Millis(90_000))));
        assert!(record.may_precede(None));
    }
}
