//! Authorizes callers by TokenReview, then SubjectAccessReview. Decisions are cached for a bounded time.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::api_server::to_cluster_error;
use crate::api::GROUP;
use crate::cluster::{AuthorizationError, Permission};

/// How long a grant is cached: a revoked permission remains effective for this time.
const ALLOWED_TTL: Duration = Duration::from_secs(60);
/// How long a denial is cached: a new permission takes effect after this time. Without this cache, a caller without
/// permissions could overload the API server.
const DENIED_TTL: Duration = Duration::from_secs(5);
const MAX_ENTRIES: usize = 10_000;
/// The deadline of both reviews together.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Reviews callers and caches the decisions.
pub struct Authorizer {
    client: Client,
    audience: String,
    decisions: Mutex<HashMap<CacheKey, CachedDecision>>,
}

/// The time until which a decision is valid, and the decision.
type CachedDecision = (Instant, Result<(), AuthorizationError>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    /// The hash of the token, so that no token stays in memory.
    token_hash: [u8; 32],
    namespace: String,
    verb: &'static str,
    resource: &'static str,
    /// Without it, a grant of the resource would be reused for its subresource.
    subresource: Option<&'static str>,
}

impl Authorizer {
    pub fn new(client: Client, audience: String) -> Self {
        Authorizer { client, audience, decisions: Mutex::default() }
    }

    /// Checks that a caller has a permission, by the cache or by reviews.
    pub async fn authorize(
        &self,
        token: Option<&str>,
        permission: Permission<'_>,
    ) -> Result<(), AuthorizationError> {
        let token = token.ok_or(AuthorizationError::Unauthenticated)?;
        let cache_key = CacheKey {
            token_hash: Sha256::digest(token.as_bytes()).into(),
            namespace: permission.namespace.to_owned(),
            verb: permission.verb,
            resource: permission.resource,
            subresource: permission.subresource,
        };
        let now = Instant::now();
        if let Some((_, decision)) = self.decisions.lock().get(&cache_key).filter(|(until, _)| *until > now) {
            return *decision;
        }
        let review = tokio::time::timeout(REVIEW_TIMEOUT, self.review(token, permission)).await;
        let decision = review.unwrap_or(Err(AuthorizationError::Unavailable));
        let ttl = match decision {
            Ok(()) => ALLOWED_TTL,
            Err(AuthorizationError::Unavailable) => return decision,
            Err(_) => DENIED_TTL,
        };
        let mut decisions = self.decisions.lock();
        if decisions.len() >= MAX_ENTRIES {
            decisions.retain(|_, (until, _)| *until > now);
        }
        if decisions.len() < MAX_ENTRIES {
            decisions.insert(cache_key, (now + ttl, decision));
        }
        decision
    }

    /// Reviews the token, then the permission of its user.
    async fn review(&self, token: &str, permission: Permission<'_>) -> Result<(), AuthorizationError> {
        let user = self.review_token(token).await?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra.map(|extra| extra.into_iter().collect::<BTreeMap<_, _>>()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.into()),
                    namespace: Some(permission.namespace.to_owned()),
                    resource: Some(permission.resource.to_owned()),
                    subresource: permission.subresource.map(ToOwned::to_owned),
                    verb: Some(permission.verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        if reviewed.status.is_some_and(|s| s.allowed) { Ok(()) } else { Err(AuthorizationError::Forbidden) }
    }

    /// Returns the user of a token that was issued for our audience.
    async fn review_token(&self, token: &str) -> Result<UserInfo, AuthorizationError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await.map_err(unavailable)?.status;
        // An API server (or its authentication webhook) that does not support audiences accepts a token for itself and
        // returns no audience. Such a token was not issued for us.
        let is_for_us = |s: &TokenReviewStatus| s.audiences.iter().flatten().any(|a| *a == self.audience);
        status
            .filter(|s| s.authenticated == Some(true) && is_for_us(s))
            .and_then(|s| s.user)
            .ok_or(AuthorizationError::Unauthenticated)
    }
}

fn unavailable(error: kube::Error) -> AuthorizationError {
    let error = to_cluster_error(error);
    tracing::warn!(%error, "reviewing a caller failed");
    AuthorizationError::Unavailable
}
