//! The capabilities of a gateway, detected from its responses: not every Kong version documents every HTTP verb.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::api::Capabilities;

/// The capabilities detected so far; shared by all clients of one Connection.
#[derive(Debug, Default)]
pub struct DetectedCapabilities {
    current: Mutex<Capabilities>,
    /// True if `current` changed since the last `take_changed`.
    changed: AtomicBool,
}

impl DetectedCapabilities {
    pub fn new(current: Capabilities) -> Self {
        DetectedCapabilities { current: Mutex::new(current), changed: AtomicBool::default() }
    }

    pub fn current(&self) -> Capabilities {
        self.current.lock().clone()
    }

    /// Returns true once after each change.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    fn update(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut current = self.current.lock();
        let before = current.clone();
        change(&mut current);
        if *current != before {
            self.changed.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn set_put(&self, supported: bool) {
        self.update(|current| current.put = Some(supported));
    }

    pub(super) fn set_client_id(&self, supported: bool) {
        self.update(|current| current.client_id = Some(supported));
    }

    pub(super) fn set_patch(&self, supported: bool) {
        self.update(|current| current.patch = Some(supported));
    }
}
