//! A bounded log of the latest entries, with the total count.

use std::collections::VecDeque;

use axum::Json;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

/// The most entries of a log; the oldest are dropped.
const MAX_ENTRIES: usize = 10_000;

/// The count of all entries, and the latest of them.
pub(super) struct RecentLog<T>(Mutex<(u64, VecDeque<T>)>);

impl<T> Default for RecentLog<T> {
    fn default() -> Self {
        RecentLog(Mutex::default())
    }
}

impl<T: Serialize> RecentLog<T> {
    pub fn push(&self, item: T) {
        let mut recent = self.0.lock();
        recent.0 += 1;
        if recent.1.len() == MAX_ENTRIES {
            recent.1.pop_front();
        }
        recent.1.push_back(item);
    }

    /// Returns `{"total", "data"}`, the oldest entry first.
    pub fn list(&self) -> Json<Value> {
        let recent = self.0.lock();
        Json(json!({"total": recent.0, "data": recent.1}))
    }

    pub fn clear(&self) {
        *self.0.lock() = (0, VecDeque::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_latest_entries_and_total() {
        let recent = RecentLog::default();
        (0..MAX_ENTRIES + 3).for_each(|n| recent.push(n));
        let answer = recent.list().0;
        assert_eq!((&answer["total"], &answer["data"][0]), (&json!(MAX_ENTRIES + 3), &json!(3)));
        assert_eq!(answer["data"].as_array().unwrap().len(), MAX_ENTRIES);
        recent.clear();
        assert_eq!(recent.list().0, json!({"total": 0, "data": []}));
    }
}
