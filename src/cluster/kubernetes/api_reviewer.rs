//! TokenReview and SubjectAccessReview at the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use super::api_server::to_cluster_error;
use super::authorizer::Reviewer;
use crate::api::GROUP;
use crate::cluster::{AuthorizationError, Permission};

/// Reviews callers at the API server.
pub struct ApiReviewer {
    client: Client,
    audience: String,
}

impl ApiReviewer {
    pub fn new(client: Client, audience: String) -> Self {
        ApiReviewer { client, audience }
    }
}

impl Reviewer for ApiReviewer {
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

    async fn review_access(
        &self,
        user: &UserInfo,
        permission: Permission<'_>,
    ) -> Result<(), AuthorizationError> {
        let user = user.clone();
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
}

fn unavailable(error: kube::Error) -> AuthorizationError {
    let error = to_cluster_error(error);
    tracing::warn!(%error, "reviewing a caller failed");
    AuthorizationError::Unavailable
}
