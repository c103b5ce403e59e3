//! Authorizes callers by TokenReview, then SubjectAccessReview. Decisions are cached for a bounded time.
//!
//! Invalid tokens must not overload the API server, nor lock out valid ones. So a token is checked as far as possible without
//! the API server, equal reviews run once, the number of concurrent reviews is bounded, with a share for tokens that were
//! accepted before, and rejections are cached apart from grants. Caches contain hashes of tokens only.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::UserInfo;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::bearer_token::{is_well_formed, may_be_valid};
use super::review_cache::{SingleFlight, TtlCache};
use crate::cluster::{AuthorizationError, Permission};
use crate::core::time::Millis;

/// How long a grant is cached: a revoked permission remains effective for this time.
const ALLOWED_TTL: Duration = Duration::from_secs(60);
/// How long a denial is cached: a new permission takes effect after this time. Without this cache, a caller without
/// permissions could overload the API server.
const DENIED_TTL: Duration = Duration::from_secs(5);
/// How long an accepted token keeps its share of the concurrent reviews.
const KNOWN_TTL: Duration = Duration::from_secs(3600);
/// The most entries of each cache.
const MAX_ENTRIES: usize = 10_000;
/// The most decisions in progress. Further ones are refused with a 503.
const MAX_DECISIONS: usize = 1024;
/// The most concurrent TokenReviews of tokens that were not accepted before, and of those that were.
const MAX_TOKEN_REVIEWS: usize = 8;
/// The most concurrent SubjectAccessReviews.
const MAX_ACCESS_REVIEWS: usize = 16;
/// How long a review waits for others.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// The deadline of both reviews together.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls the API server.
pub trait Reviewer: Send + Sync + 'static {
    /// Returns the user of a token that was issued for our audience.
    fn review_token(&self, token: &str) -> impl Future<Output = Result<UserInfo, AuthorizationError>> + Send;

    /// Checks that a user has a permission.
    fn review_access(
        &self,
        user: &UserInfo,
        permission: Permission<'_>,
    ) -> impl Future<Output = Result<(), AuthorizationError>> + Send;
}

/// Reviews callers and caches the decisions.
pub struct Authorizer<R> {
    audience: String,
    reviews: Arc<Reviews<R>>,
    decisions: SingleFlight<CacheKey, Result<(), AuthorizationError>>,
}

struct Reviews<R> {
    reviewer: R,
    caches: Mutex<Caches>,
    users: SingleFlight<TokenHash, Result<AcceptedUser, AuthorizationError>>,
    limits: Limits,
}

/// Grants and rejections are apart, so that any number of invalid tokens evicts no valid one.
struct Caches {
    allowed: TtlCache<CacheKey, ()>,
    denied: TtlCache<CacheKey, ()>,
    accepted: TtlCache<TokenHash, Arc<UserInfo>>,
    rejected: TtlCache<TokenHash, ()>,
    /// Tokens that were accepted before.
    known: TtlCache<TokenHash, ()>,
}

struct Limits {
    new_tokens: Semaphore,
    known_tokens: Semaphore,
    access: Semaphore,
}

/// The hash of a token, so that no token stays in memory.
type TokenHash = [u8; 32];
/// A user, and until when the review of its token is valid.
type AcceptedUser = (Arc<UserInfo>, Instant);

#[derive(Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    token_hash: TokenHash,
    namespace: String,
    verb: &'static str,
    resource: &'static str,
    /// Without it, a grant of the resource would be reused for its subresource.
    subresource: Option<&'static str>,
}

impl CacheKey {
    fn permission(&self) -> Permission<'_> {
        Permission {
            namespace: &self.namespace,
            verb: self.verb,
            resource: self.resource,
            subresource: self.subresource,
        }
    }
}

impl<R: Reviewer> Authorizer<R> {
    pub fn new(reviewer: R, audience: String) -> Self {
        let reviews = Reviews {
            reviewer,
            caches: Mutex::new(Caches {
                allowed: TtlCache::new(MAX_ENTRIES),
                denied: TtlCache::new(MAX_ENTRIES),
                accepted: TtlCache::new(MAX_ENTRIES),
                rejected: TtlCache::new(MAX_ENTRIES),
                known: TtlCache::new(MAX_ENTRIES),
            }),
            users: SingleFlight::new(MAX_DECISIONS),
            limits: Limits {
                new_tokens: Semaphore::new(MAX_TOKEN_REVIEWS),
                known_tokens: Semaphore::new(MAX_TOKEN_REVIEWS),
                access: Semaphore::new(MAX_ACCESS_REVIEWS),
            },
        };
        Authorizer { audience, reviews: Arc::new(reviews), decisions: SingleFlight::new(MAX_DECISIONS) }
    }

    /// Checks that a caller has a permission, by the cache or by reviews.
    pub async fn authorize(
        &self,
        token: Option<&str>,
        permission: Permission<'_>,
    ) -> Result<(), AuthorizationError> {
        let token = token.filter(|token| is_well_formed(token)).ok_or(AuthorizationError::Unauthenticated)?;
        let key = CacheKey {
            token_hash: Sha256::digest(token.as_bytes()).into(),
            namespace: permission.namespace.to_owned(),
            verb: permission.verb,
            resource: permission.resource,
            subresource: permission.subresource,
        };
        if let Some(decision) = self.reviews.caches.lock().decision(&key, Instant::now()) {
            return decision;
        }
        // The issuer's clock follows real time, which the clock of the store may not.
        if !may_be_valid(token, &self.audience, Millis::wall()) {
            return Err(AuthorizationError::Unauthenticated);
        }
        let decision = self.decisions.run(key.clone(), || {
            let (reviews, token) = (Arc::clone(&self.reviews), token.to_owned());
            async move {
                let decision = tokio::time::timeout(DECISION_TIMEOUT, reviews.decide(token, &key)).await;
                decision.unwrap_or(Err(AuthorizationError::Unavailable))
            }
        });
        decision.await.unwrap_or(Err(AuthorizationError::Unavailable))
    }
}

impl Caches {
    fn decision(&self, key: &CacheKey, now: Instant) -> Option<Result<(), AuthorizationError>> {
        if self.allowed.get(key, now).is_some() {
            Some(Ok(()))
        } else if self.denied.get(key, now).is_some() {
            Some(Err(AuthorizationError::Forbidden))
        } else {
            self.rejected.get(&key.token_hash, now).map(|_| Err(AuthorizationError::Unauthenticated))
        }
    }
}

impl<R: Reviewer> Reviews<R> {
    /// Reviews the token, then the permission of its user, and caches both results.
    async fn decide(self: Arc<Self>, token: String, key: &CacheKey) -> Result<(), AuthorizationError> {
        let accepted = self.caches.lock().accepted.get(&key.token_hash, Instant::now());
        let (user, accepted_until) = match accepted {
            Some(accepted) => accepted,
            None => {
                let (reviews, hash) = (Arc::clone(&self), key.token_hash);
                let user = self.users.run(hash, || async move { reviews.accept(&token, hash).await });
                user.await.unwrap_or(Err(AuthorizationError::Unavailable))?
            }
        };
        let _permit = acquire(&self.limits.access).await?;
        let decision = self.reviewer.review_access(&user, key.permission()).await;
        let (now, mut caches) = (Instant::now(), self.caches.lock());
        match decision {
            // A revoked token has no effect for longer than its own review is valid.
            Ok(()) => caches.allowed.insert(key.clone(), (), accepted_until.min(now + ALLOWED_TTL), now),
            Err(AuthorizationError::Forbidden) => {
                caches.denied.insert(key.clone(), (), now + DENIED_TTL, now)
            }
            Err(AuthorizationError::Unauthenticated | AuthorizationError::Unavailable) => {}
        }
        decision
    }

    /// Reviews a token and caches the result.
    async fn accept(&self, token: &str, hash: TokenHash) -> Result<AcceptedUser, AuthorizationError> {
        let is_known = self.caches.lock().known.get(&hash, Instant::now()).is_some();
        // Otherwise a flood of invalid tokens would delay callers whose grant expires.
        let limit = if is_known { &self.limits.known_tokens } else { &self.limits.new_tokens };
        let reviewed = {
            let _permit = acquire(limit).await?;
            let review = tokio::time::timeout(DECISION_TIMEOUT, self.reviewer.review_token(token));
            review.await.unwrap_or(Err(AuthorizationError::Unavailable))
        };
        let (now, mut caches) = (Instant::now(), self.caches.lock());
        match reviewed {
            Ok(user) => {
                let (user, until) = (Arc::new(user), now + ALLOWED_TTL);
                caches.accepted.insert(hash, Arc::clone(&user), until, now);
                caches.known.insert(hash, (), now + KNOWN_TTL, now);
                Ok((user, until))
            }
            Err(error) => {
                if error == AuthorizationError::Unauthenticated {
                    caches.rejected.insert(hash, (), now + DENIED_TTL, now);
                }
                Err(error)
            }
        }
    }
}

/// Waits for a bounded time until another review may run.
async fn acquire(limit: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>, AuthorizationError> {
    match tokio::time::timeout(QUEUE_TIMEOUT, limit.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => {
            tracing::debug!("too many callers are being reviewed");
            Err(AuthorizationError::Unavailable)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// An API server that accepts the token `good` and grants `create`.
    #[derive(Clone)]
    struct ApiServer {
        token_reviews: Arc<AtomicUsize>,
        access_reviews: Arc<AtomicUsize>,
        /// The most concurrent reviews of tokens.
        concurrent: Arc<Mutex<(usize, usize)>>,
        /// Reviews of tokens that are not `good` wait for a permit.
        release: Arc<Semaphore>,
    }

    impl ApiServer {
        fn new(released: usize) -> Self {
            ApiServer {
                token_reviews: Arc::default(),
                access_reviews: Arc::default(),
                concurrent: Arc::default(),
                release: Arc::new(Semaphore::new(released)),
            }
        }

        fn counts(&self) -> (usize, usize) {
            (self.token_reviews.load(Ordering::SeqCst), self.access_reviews.load(Ordering::SeqCst))
        }
    }

    impl Reviewer for ApiServer {
        async fn review_token(&self, token: &str) -> Result<UserInfo, AuthorizationError> {
            self.token_reviews.fetch_add(1, Ordering::SeqCst);
            {
                let mut concurrent = self.concurrent.lock();
                concurrent.0 += 1;
                concurrent.1 = concurrent.1.max(concurrent.0);
            }
            if !token.starts_with("good") {
                self.release.acquire().await.unwrap().forget();
            }
            self.concurrent.lock().0 -= 1;
            match token.starts_with("good") {
                true => Ok(UserInfo::default()),
                false => Err(AuthorizationError::Unauthenticated),
            }
        }

        async fn review_access(
            &self,
            _user: &UserInfo,
            permission: Permission<'_>,
        ) -> Result<(), AuthorizationError> {
            self.access_reviews.fetch_add(1, Ordering::SeqCst);
            if permission.verb == "create" { Ok(()) } else { Err(AuthorizationError::Forbidden) }
        }
    }

    const PLENTY: usize = 1_000_000;

    fn create(namespace: &str) -> Permission<'_> {
        Permission::new(namespace, "create", "events")
    }

    #[tokio::test]
    async fn token_is_reviewed_once_for_all_permissions() {
        let server = ApiServer::new(PLENTY);
        let authorizer = Authorizer::new(server.clone(), "hookstream".into());
        let authorize = |permission| authorizer.authorize(Some("good"), permission);
        for _ in 0..3 {
            assert_eq!(authorize(create("a")).await, Ok(()));
            assert_eq!(authorize(create("b")).await, Ok(()));
            let forbidden = authorize(Permission::new("a", "list", "events")).await;
            assert_eq!(forbidden, Err(AuthorizationError::Forbidden));
        }
        assert_eq!(server.counts(), (1, 3));
    }

    #[tokio::test]
    async fn rejected_token_is_reviewed_once_for_all_permissions() {
        let server = ApiServer::new(PLENTY);
        let authorizer = Authorizer::new(server.clone(), "hookstream".into());
        for namespace in ["a", "b", "c"] {
            let decision = authorizer.authorize(Some("bad"), create(namespace)).await;
            assert_eq!(decision, Err(AuthorizationError::Unauthenticated));
        }
        assert_eq!(server.counts(), (1, 0));
    }

    #[tokio::test]
    async fn impossible_tokens_cost_no_review() {
        let server = ApiServer::new(PLENTY);
        let authorizer = Authorizer::new(server.clone(), "hookstream".into());
        // {"alg":"none"}.{"aud":"other"}
        let other_audience = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJvdGhlciJ9.c2ln";
        let long = "x".repeat(20_000);
        for token in [None, Some(""), Some("a b"), Some(long.as_str()), Some(other_audience)] {
            let decision = authorizer.authorize(token, create("a")).await;
            assert_eq!(decision, Err(AuthorizationError::Unauthenticated));
        }
        assert_eq!(server.counts(), (0, 0));
    }

    #[tokio::test]
    async fn equal_reviews_run_once_and_different_ones_are_bounded() {
        let server = ApiServer::new(0);
        let authorizer = Arc::new(Authorizer::new(server.clone(), "hookstream".into()));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..200 {
            let authorizer = authorizer.clone();
            callers.spawn(async move {
                let token = format!("bad{}", caller % 20);
                authorizer.authorize(Some(&token), create("a")).await
            });
        }
        while server.counts().0 < MAX_TOKEN_REVIEWS {
            tokio::task::yield_now().await;
        }
        server.release.add_permits(PLENTY);
        while let Some(decision) = callers.join_next().await {
            assert_eq!(decision.unwrap(), Err(AuthorizationError::Unauthenticated));
        }
        assert_eq!(server.counts(), (20, 0));
        assert_eq!(server.concurrent.lock().1, MAX_TOKEN_REVIEWS);
    }

    #[tokio::test]
    async fn invalid_tokens_neither_evict_nor_delay_accepted_ones() {
        let server = ApiServer::new(PLENTY);
        let authorizer = Arc::new(Authorizer::new(server.clone(), "hookstream".into()));
        assert_eq!(authorizer.authorize(Some("good"), create("a")).await, Ok(()));
        for number in 0..MAX_ENTRIES + 100 {
            let decision = authorizer.authorize(Some(&format!("bad{number}")), create("a")).await;
            assert_eq!(decision, Err(AuthorizationError::Unauthenticated));
        }
        let before = server.counts();
        assert_eq!(authorizer.authorize(Some("good"), create("a")).await, Ok(()));
        assert_eq!(server.counts(), before, "by the cache");

        // All reviews of new tokens are occupied, and the grant has expired.
        server.release.forget_permits(PLENTY);
        let mut callers = tokio::task::JoinSet::new();
        for number in 0..MAX_TOKEN_REVIEWS {
            let authorizer = authorizer.clone();
            callers.spawn(async move {
                let token = format!("slow{number}");
                authorizer.authorize(Some(&token), create("a")).await
            });
        }
        while server.counts().0 < before.0 + MAX_TOKEN_REVIEWS {
            tokio::task::yield_now().await;
        }
        {
            let mut caches = authorizer.reviews.caches.lock();
            caches.allowed = TtlCache::new(MAX_ENTRIES);
            caches.accepted = TtlCache::new(MAX_ENTRIES);
        }
        assert_eq!(authorizer.authorize(Some("good"), create("a")).await, Ok(()));
    }
}
