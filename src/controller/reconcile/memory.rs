//! What this process knows and the watch may not tell yet: our own writes come back late, and a decision taken on an
//! older object would create twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::record::Record;
use crate::api::External;

/// By uid.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Known>>);

#[derive(Default)]
struct Known {
    /// Where the object was made, until its status says so.
    external: Option<External>,
    /// The record that was written, until the annotation says so. `Some(None)`: it was taken away.
    record: Option<Option<Record>>,
    /// A hash of what the vendor was last told: tells drift from a change of our own.
    told: Option<[u8; 32]>,
    /// Since when the vendor does not show what should be there.
    absent: Option<Instant>,
    /// Since when something fails that is not tried for ever.
    failing: Option<Instant>,
}

impl Memory {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Known) -> T) -> T {
        change(self.0.lock().entry(uid.to_owned()).or_default())
    }

    /// Where the object is, from what its status says and what is known here.
    pub fn external(&self, uid: &str, told: Option<&External>) -> Option<External> {
        self.with(uid, |known| {
            if known.external.as_ref() == told {
                known.external = None;
            }
            known.external.clone().or_else(|| told.cloned())
        })
    }

    pub fn made(&self, uid: &str, external: External) {
        self.with(uid, |known| known.external = Some(external));
    }

    pub fn record(&self, uid: &str, told: Option<Record>) -> Option<Record> {
        self.with(uid, |known| {
            if known.record.as_ref() == Some(&told) {
                known.record = None;
            }
            known.record.clone().unwrap_or(told)
        })
    }

    pub fn recorded(&self, uid: &str, record: Option<Record>) {
        self.with(uid, |known| known.record = Some(record));
    }

    /// Remembers what the vendor was told; what it was told before.
    pub fn told(&self, uid: &str, hash: [u8; 32]) -> Option<[u8; 32]> {
        self.with(uid, |known| known.told.replace(hash))
    }

    /// The vendor does not show it; for how long already.
    pub fn absent(&self, uid: &str) -> Duration {
        self.with(uid, |known| known.absent.get_or_insert_with(Instant::now).elapsed())
    }

    pub fn seen(&self, uid: &str) {
        self.with(uid, |known| known.absent = None);
    }

    /// It failed (again); for how long already.
    pub fn failing(&self, uid: &str) -> Duration {
        self.with(uid, |known| known.failing.get_or_insert_with(Instant::now).elapsed())
    }

    pub fn works(&self, uid: &str) {
        self.with(uid, |known| known.failing = None);
    }

    /// The uids that were made at this place in this process, and may not say so yet.
    pub fn holder(&self, fits: impl Fn(&External) -> bool) -> Vec<String> {
        let known = self.0.lock();
        let fitting = known.iter().filter(|(_, known)| known.external.as_ref().is_some_and(&fits));
        fitting.map(|(uid, _)| uid.clone()).collect()
    }

    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Another replica may write from now on: nothing that is known here counts any more.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_writes_count_until_they_come_back() {
        let memory = Memory::default();
        let at = |id: &str| External { id: id.into(), ..External::default() };
        assert_eq!(memory.external("u", None), None);
        memory.made("u", at("1"));
        assert_eq!(memory.external("u", None), Some(at("1")), "the watch is late");
        assert_eq!(memory.external("u", Some(&at("0"))), Some(at("1")), "and older");
        assert_eq!(memory.holder(|e| e.id == "1"), ["u"]);
        assert_eq!(memory.external("u", Some(&at("1"))), Some(at("1")));
        assert_eq!(memory.external("u", Some(&at("2"))), Some(at("2")), "another replica wrote since");
        assert_eq!(memory.external("v", None), None);

        let record = Record { name: None, at: None, hash: "h".into() };
        memory.recorded("u", Some(record.clone()));
        assert_eq!(memory.record("u", None), Some(record.clone()));
        assert_eq!(memory.record("u", Some(record.clone())), Some(record.clone()));
        memory.recorded("u", None);
        assert_eq!(memory.record("u", Some(record.clone())), None, "taken away, and not yet seen");
        assert_eq!(memory.record("u", None), None);
        assert_eq!(memory.record("u", Some(record.clone())), Some(record));
    }
}
