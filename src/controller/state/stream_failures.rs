//! Facts about streams that Auth0 disabled, as this process knows them.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::core::time::Millis;

/// Disabled streams by uid.
#[derive(Default)]
pub struct StreamFailures(Mutex<HashMap<String, StreamFacts>>);

#[derive(Default)]
struct StreamFacts {
    /// Text about the newest failed delivery. Cached, so that Auth0 is queried once.
    failure: Option<String>,
    /// When the controller last enabled the stream. The watch delivers the status late. Without this, a reconcile of an
    /// older version of the object would enable the stream twice.
    enabled_at: Option<Millis>,
}

impl StreamFailures {
    /// Returns the cached text about the newest failed delivery.
    pub fn failure(&self, uid: &str) -> Option<String> {
        self.0.lock().get(uid).and_then(|facts| facts.failure.clone())
    }

    /// Caches the text about the newest failed delivery.
    pub fn set_failure(&self, uid: &str, failure: String) {
        self.0.lock().entry(uid.to_owned()).or_default().failure = Some(failure);
    }

    /// Records that the stream was enabled, and drops the text about its failure.
    pub fn record_enabled(&self, uid: &str, at: Millis) {
        self.0.lock().insert(uid.to_owned(), StreamFacts { failure: None, enabled_at: Some(at) });
    }

    /// Returns when this process last enabled the stream.
    pub fn last_enabled(&self, uid: &str) -> Option<Millis> {
        self.0.lock().get(uid).and_then(|facts| facts.enabled_at)
    }

    /// Drops the facts about one stream.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}
