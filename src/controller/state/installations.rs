//! What this process knows about the installations at its vendors.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::cluster::ObjectKey;

/// The id of this installation, and the other installations that were reported.
#[derive(Default)]
pub struct Installations {
    /// Locked during a read, so that concurrent reconciles share its result. None as the id: it may not be read.
    pub own: tokio::sync::Mutex<Option<(Instant, Option<Arc<str>>)>>,
    /// The other installations at the vendor of each Connection, as last reported.
    pub reported: Mutex<HashMap<ObjectKey, BTreeSet<String>>>,
}

impl Installations {
    /// Drops what was reported of a deleted Connection.
    pub fn forget_connection(&self, connection: &ObjectKey) {
        self.reported.lock().remove(connection);
    }
}
