//! The last things that happened, and how many there were in all.

use std::collections::VecDeque;

use axum::Json;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

const MAX_KEPT: usize = 10_000;

pub(super) struct Recent<T>(Mutex<(u64, VecDeque<T>)>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent(Mutex::default())
    }
}

impl<T: Serialize> Recent<T> {
    pub fn push(&self, item: T) {
        let mut recent = self.0.lock();
        recent.0 += 1;
        if recent.1.len() == MAX_KEPT {
            recent.1.pop_front();
        }
        recent.1.push_back(item);
    }

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
    fn it_is_bounded() {
        let recent = Recent::default();
        (0..MAX_KEPT + 3).for_each(|n| recent.push(n));
        let answer = recent.list().0;
        assert_eq!((&answer["total"], &answer["data"][0]), (&json!(MAX_KEPT + 3), &json!(3)));
        assert_eq!(answer["data"].as_array().unwrap().len(), MAX_KEPT);
        recent.clear();
        assert_eq!(recent.list().0, json!({"total": 0, "data": []}));
    }
}
