//! The create record: identifies an object whose create call got no answer, at vendors that choose the id.
//!
//! It is an annotation. The controller writes it by compare-and-swap before the create and removes it once the status
//! names the id. It contains the time by the vendor's clock and a keyed hash of the requested object. An object that is
//! older or has other content belongs to another client.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::time::Millis;

/// The annotation that holds the record.
pub const PENDING_CREATE: &str = "hookstream.dev/pending-create";
/// Tolerated difference between the clocks of a vendor's machines.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Describes the external object that is about to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRecord {
    /// The name, if the vendor keeps names unique. No object had it when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The vendor's clock when the record was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
    /// Keyed hash of the requested object.
    pub hash: String,
}

impl CreateRecord {
    /// Parses the annotation. None if it is malformed, for example edited by hand.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
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
        let record = CreateRecord { name: Some("n".into()), at: Some(Millis(7)), hash: "k:1".into() };
        assert_eq!(CreateRecord::parse(&record.to_text()), Some(record));
        assert_eq!(CreateRecord::parse("by hand"), None);
    }

    #[test]
    fn excludes_objects_that_are_older_than_the_record() {
        let record = CreateRecord { name: None, at: Some(Millis(100_000)), hash: String::new() };
        assert!(record.may_precede(Some(Millis(99_000))), "clocks differ by a little");
        assert!(!record.may_precede(Some(Millis(90_000))));
        assert!(record.may_precede(None));
    }
}
