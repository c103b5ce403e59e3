//! External objects that this process has claimed for one custom resource.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Claims by external object. They prevent two concurrent reconciles from adopting one external object before a status
/// names it.
#[derive(Default)]
pub struct ClaimedIds(Mutex<HashMap<String, String>>);

impl ClaimedIds {
    /// Claims the external object `key` for `uid`. If another uid holds the claim, returns that uid. A holder for which
    /// `exists` returns false loses its claim.
    pub fn claim(&self, key: String, uid: &str, exists: impl Fn(&str) -> bool) -> Option<String> {
        let mut claims = self.0.lock();
        match claims.get(&key) {
            Some(holder) if holder != uid && exists(holder) => Some(holder.clone()),
            _ => {
                claims.insert(key, uid.to_owned());
                None
            }
        }
    }

    /// Returns the uid that holds the claim of the external object `key`.
    pub fn holder(&self, key: &str) -> Option<String> {
        self.0.lock().get(key).cloned()
    }

    /// Drops the claims of one object.
    pub fn forget(&self, uid: &str) {
        self.0.lock().retain(|_, holder| holder != uid);
    }

    /// Drops every claim.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_claim_wins_while_its_object_exists() {
        let claims = ClaimedIds::default();
        assert_eq!(claims.claim("x".into(), "a", |_| true), None);
        assert_eq!(claims.claim("x".into(), "a", |_| true), None, "a claim may be repeated");
        assert_eq!((claims.holder("x").as_deref(), claims.holder("y")), (Some("a"), None));
        assert_eq!(claims.claim("x".into(), "b", |_| true).as_deref(), Some("a"));
        assert_eq!(claims.claim("x".into(), "b", |_| false), None, "the holder no longer exists");
        claims.forget("b");
        assert_eq!(claims.claim("x".into(), "c", |_| true), None);
    }
}
