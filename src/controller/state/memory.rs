//! Facts about objects that this process knows before the watch delivers them. The watch delivers our own writes late.
//! A decision based on an older version of the object would create its external object twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::create_record::CreateRecord;
use crate::api::{External, FormerLocation};

/// Remembered facts by uid.
#[derive(Default)]
pub struct ObjectMemory(Mutex<HashMap<String, ObjectFacts>>);

#[derive(Default)]
struct ObjectFacts {
    /// The external object that was written, until the status names it.
    external: Option<External>,
    /// The former locations that were written, until the status shows them.
    former_locations: Option<Vec<FormerLocation>>,
    /// The id of the external object that this process last wrote as its owner.
    written_id: Option<String>,
    /// The create record that was written, until the annotation shows it. `Some(None)`: the record was removed.
    record: Option<Option<CreateRecord>>,
    /// Hash of the last desired object. Distinguishes drift from a change of our own.
    desired_hash: Option<[u8; 32]>,
    /// Hash of the spec that was last synced, without `suspend`.
    synced_spec: Option<[u8; 32]>,
    /// The time since which the vendor does not show an object that should exist.
    absent_since: Option<Instant>,
    /// The external object whose disappearance was reported.
    reported_missing: Option<External>,
    /// The time since which a step with a give-up period has been failing.
    failing_since: Option<Instant>,
    /// The time since which the deletion at a former address has been failing.
    former_failing_since: Option<Instant>,
}

impl ObjectMemory {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut ObjectFacts) -> T) -> T {
        change(self.0.lock().entry(uid.to_owned()).or_default())
    }

    /// Returns the external object: the remembered one until the status agrees with it, then the one in the status.
    pub fn external(&self, uid: &str, in_status: Option<&External>) -> Option<External> {
        self.with(uid, |facts| {
            if facts.external.as_ref() == in_status {
                facts.external = None;
            }
            facts.external.clone().or_else(|| in_status.cloned())
        })
    }

    /// Remembers the external object that was just written.
    pub fn set_external(&self, uid: &str, external: External) {
        self.with(uid, |facts| {
            facts.written_id = Some(external.id.clone());
            facts.external = Some(external);
        });
    }

    /// True if this process wrote the external object with this id as its owner.
    pub fn wrote(&self, uid: &str, id: &str) -> bool {
        self.with(uid, |facts| facts.written_id.as_deref() == Some(id))
    }

    /// Forgets the external object that was written: the status names none.
    pub fn forget_external(&self, uid: &str) {
        self.with(uid, |facts| facts.external = None);
    }

    /// Returns the former locations: the remembered ones until the status agrees with them, then those in the status.
    pub fn former_locations(&self, uid: &str, in_status: &[FormerLocation]) -> Vec<FormerLocation> {
        self.with(uid, |facts| {
            if facts.former_locations.as_deref() == Some(in_status) {
                facts.former_locations = None;
            }
            facts.former_locations.clone().unwrap_or_else(|| in_status.to_vec())
        })
    }

    /// Remembers the former locations from which the object still has to be deleted.
    pub fn set_former_locations(&self, uid: &str, former: Vec<FormerLocation>) {
        self.with(uid, |facts| facts.former_locations = Some(former));
    }

    /// Records that the deletion at a former address failed. Returns for how long it has been failing.
    pub fn record_former_failure(&self, uid: &str) -> Duration {
        self.with(uid, |facts| facts.former_failing_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Ends the period in which the deletion at a former address fails.
    pub fn record_former_success(&self, uid: &str) {
        self.with(uid, |facts| facts.former_failing_since = None);
    }

    /// Returns the create record: the remembered one until the annotation agrees with it, then the annotation's.
    pub fn create_record(&self, uid: &str, in_annotation: Option<CreateRecord>) -> Option<CreateRecord> {
        self.with(uid, |facts| {
            if facts.record.as_ref() == Some(&in_annotation) {
                facts.record = None;
            }
            facts.record.clone().unwrap_or(in_annotation)
        })
    }

    /// Remembers the create record that was just written (None: removed).
    pub fn set_create_record(&self, uid: &str, record: Option<CreateRecord>) {
        self.with(uid, |facts| facts.record = Some(record));
    }

    /// Remembers the hash of the desired object and returns the previous one.
    pub fn replace_desired_hash(&self, uid: &str, hash: [u8; 32]) -> Option<[u8; 32]> {
        self.with(uid, |facts| facts.desired_hash.replace(hash))
    }

    /// Remembers the hash of the spec that was synced.
    pub fn set_synced_spec(&self, uid: &str, hash: [u8; 32]) {
        self.with(uid, |facts| facts.synced_spec = Some(hash));
    }

    /// Returns the hash of the spec that this process last synced.
    pub fn synced_spec(&self, uid: &str) -> Option<[u8; 32]> {
        self.with(uid, |facts| facts.synced_spec)
    }

    /// Records that the vendor does not show the object. Returns for how long it has not been shown.
    pub fn record_absence(&self, uid: &str) -> Duration {
        self.with(uid, |facts| facts.absent_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Ends the absence: the vendor shows the object.
    pub fn record_presence(&self, uid: &str) {
        self.with(uid, |facts| {
            facts.absent_since = None;
            facts.reported_missing = None;
        });
    }

    /// Records that the external object vanished and is reported. Returns false if it was reported before.
    pub fn record_missing(&self, uid: &str, external: &External) -> bool {
        self.with(uid, |facts| facts.reported_missing.replace(external.clone()).as_ref() != Some(external))
    }

    /// Records a failure. Returns for how long there has been no success.
    pub fn record_failure(&self, uid: &str) -> Duration {
        self.with(uid, |facts| facts.failing_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Ends the period of failures.
    pub fn record_success(&self, uid: &str) {
        self.with(uid, |facts| facts.failing_since = None);
    }

    /// Drops the facts about one object.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Drops every fact: another replica may write from now on.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_writes_win_until_the_watch_shows_them() {
        let memory = ObjectMemory::default();
        let at = |id: &str| External { id: id.into(), ..External::default() };
        assert_eq!(memory.external("u", None), None);
        memory.set_external("u", at("1"));
        assert_eq!(memory.external("u", None), Some(at("1")), "the watch is late");
        assert_eq!(memory.external("u", Some(&at("0"))), Some(at("1")), "the status is older");
        assert_eq!(memory.external("u", Some(&at("1"))), Some(at("1")));
        assert_eq!(memory.external("u", Some(&at("2"))), Some(at("2")), "another replica wrote since");
        assert_eq!(memory.external("v", None), None);
        assert!(memory.wrote("u", "1") && !memory.wrote("u", "2") && !memory.wrote("v", "1"));

        let former = |id: &str| FormerLocation { id: id.into(), ..FormerLocation::default() };
        assert_eq!(memory.former_locations("u", &[former("1")]), [former("1")]);
        memory.set_former_locations("u", Vec::new());
        assert_eq!(memory.former_locations("u", &[former("1")]), [], "the status is older");
        assert_eq!(memory.former_locations("u", &[]), []);
        assert_eq!(
            memory.former_locations("u", &[former("2")]),
            [former("2")],
            "another replica wrote since"
        );

        let record = CreateRecord { hash: "h".into(), ..CreateRecord::default() };
        memory.set_create_record("u", Some(record.clone()));
        assert_eq!(memory.create_record("u", None), Some(record.clone()));
        assert_eq!(memory.create_record("u", Some(record.clone())), Some(record.clone()));
        memory.set_create_record("u", None);
        assert_eq!(memory.create_record("u", Some(record.clone())), None, "removed, and the watch is late");
        assert_eq!(memory.create_record("u", None), None);
        assert_eq!(memory.create_record("u", Some(record.clone())), Some(record));
    }
}
