//! What a user may do. The API decides about each request; this is only for what pages offer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::client::ApiClient;
use super::path::Path;
use super::problem::Problem;
use super::request::{PageRequest, Scope};

/// A permission that a part of a page needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Payload,
    Replay,
    Cancel,
    Test,
    Ping,
    Publish,
}

impl Right {
    /// Returns the right as the API names it.
    fn name(self) -> &'static str {
        match self {
            Right::Payload => "get deliveries/payload",
            Right::Replay => "create deliveries/replay",
            Right::Cancel => "create deliveries/cancel",
            Right::Test => "create eventhooks/test",
            Right::Ping => "create eventhooks/ping",
            Right::Publish => "create events",
        }
    }
}

/// The rights of a user in a namespace, or in all together, and the role that has each. Empty: they could not be read.
#[derive(Debug, Default)]
pub struct Rights {
    items: Vec<RightItem>,
}

#[derive(Deserialize)]
struct RightList {
    rights: Vec<RightItem>,
}

#[derive(Debug, Deserialize)]
struct RightItem {
    right: String,
    allowed: bool,
    /// The role of the chart, without the release's prefix.
    role: String,
}

/// How long rights are cached: a right that was granted is offered after this time. Open pages are rendered more often, and
/// would cause a review of each denied right each time.
const MAX_AGE: Duration = Duration::from_secs(30);
/// The most entries of the cache.
const MAX_ENTRIES: usize = 1000;

/// The rights by the hash of a token and the scope.
#[derive(Default)]
pub struct RightsCache(Mutex<HashMap<CacheKey, (Instant, Arc<Rights>)>>);

/// The hash of a token, and the scope.
type CacheKey = ([u8; 32], Scope);

impl RightsCache {
    fn get(&self, key: &CacheKey, now: Instant) -> Option<Arc<Rights>> {
        let entries = self.0.lock();
        let (read, rights) = entries.get(key)?;
        (now.saturating_duration_since(*read) < MAX_AGE).then(|| rights.clone())
    }

    fn insert(&self, key: CacheKey, rights: Arc<Rights>, now: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, (read, _)| now.saturating_duration_since(*read) < MAX_AGE);
        }
        if entries.len() < MAX_ENTRIES {
            entries.insert(key, (now, rights));
        }
    }
}

impl Rights {
    /// Reads the rights in a page's scope. If they cannot be read, pages offer everything, and the API decides.
    pub async fn read(request: &PageRequest) -> Arc<Self> {
        Self::try_read(request).await.unwrap_or_default()
    }

    /// Fails if the API does not accept the user's token. Succeeds if the API does not answer, because pages then fail anyway.
    pub async fn check(request: &PageRequest) -> Result<(), Problem> {
        match Self::try_read(request).await {
            Err(problem) if problem.is_unauthenticated() => Err(problem),
            _ => Ok(()),
        }
    }

    async fn try_read(request: &PageRequest) -> Result<Arc<Self>, Problem> {
        let token = request.caller.token();
        let token = token.as_ref().map_or("", |token| token.expose_secret());
        let key: CacheKey = (Sha256::digest(token).into(), request.scope.clone());
        let now = Instant::now();
        if let Some(rights) = request.console.rights.get(&key, now) {
            return Ok(rights);
        }
        let found: RightList = request.api.get(&request.scope.api("rights")).await?;
        let rights = Arc::new(Rights { items: found.rights });
        request.console.rights.insert(key, rights.clone(), now);
        Ok(rights)
    }

    pub fn may(&self, right: Right) -> bool {
        self.find(right).is_none_or(|item| item.allowed)
    }

    /// Returns the role that has a right, as the API names it. None: it is unknown.
    pub fn role(&self, right: Right) -> Option<&str> {
        self.find(right).map(|item| item.role.as_str())
    }

    fn find(&self, right: Right) -> Option<&RightItem> {
        self.items.iter().find(|item| item.right == right.name())
    }
}

/// Checks that the API accepts the client's token, whatever it may do.
pub async fn check_token(api: &ApiClient) -> Result<(), Problem> {
    match api.get_bytes(&Path::new("/v1/rights")).await {
        Err(problem) if problem.is_unauthenticated() => Err(Problem {
            detail: "the worker does not accept this token: it is wrong, has expired, or was issued for another audience"
                .to_owned(),
            ..problem
        }),
        Err(problem) if !problem.is_forbidden() => Err(problem),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_denied_rights_are_not_offered() {
        let item = |right: &str, allowed| RightItem { right: right.into(), allowed, role: "operator".into() };
        let rights =
            Rights { items: vec![item("create deliveries/replay", false), item("create events", true)] };
        assert!(!rights.may(Right::Replay) && rights.may(Right::Cancel) && rights.may(Right::Publish));
        assert_eq!((rights.role(Right::Replay), rights.role(Right::Cancel)), (Some("operator"), None));
        assert!(Rights::default().may(Right::Payload));
    }

    #[test]
    fn cache_is_bounded_and_forgets() {
        let (cache, now) = (RightsCache::default(), Instant::now());
        let key = |n: usize| ([0; 32], Scope::of(&format!("n{n}")));
        (0..MAX_ENTRIES + 5).for_each(|n| cache.insert(key(n), Arc::default(), now));
        assert_eq!(cache.0.lock().len(), MAX_ENTRIES);
        assert!(cache.get(&key(0), now).is_some() && cache.get(&key(MAX_ENTRIES), now).is_none());
        assert!(cache.get(&key(0), now + MAX_AGE).is_none());
        cache.insert(key(MAX_ENTRIES), Arc::default(), now + MAX_AGE);
        assert_eq!(cache.0.lock().len(), 1);
    }
}
