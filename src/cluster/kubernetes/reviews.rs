//! Callers, judged the Kubernetes way: TokenReview, then SubjectAccessReview. Answers are kept for a bounded time.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::api::GROUP;
use crate::cluster::{Access, AccessError};

/// A right that was taken away may serve this long.
const ALLOWED_FOR: Duration = Duration::from_secs(60);
/// A right that was given is seen after this time; without it, a caller without rights could load the API server.
const REFUSED_FOR: Duration = Duration::from_secs(5);
const MAX_ENTRIES: usize = 10_000;
/// An API server that does not answer in this time is away.
const ASK_WITHIN: Duration = Duration::from_secs(5);

pub struct Reviews {
    client: Client,
    audience: String,
    answers: Mutex<HashMap<Question, Answer>>,
}

/// An answer, and until when it serves.
type Answer = (Instant, Result<(), AccessError>);

/// The token by its hash: tokens are not kept in memory.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    token: [u8; 32],
    namespace: String,
    verb: &'static str,
    resource: &'static str,
    /// Without it, a right to the whole would be remembered as one to the part.
    subresource: Option<&'static str>,
}

impl Reviews {
    pub fn new(client: Client, audience: String) -> Self {
        Reviews { client, audience, answers: Mutex::default() }
    }

    pub async fn authorize(&self, token: Option<&str>, access: Access<'_>) -> Result<(), AccessError> {
        let token = token.ok_or(AccessError::Unauthenticated)?;
        let question = Question {
            token: Sha256::digest(token.as_bytes()).into(),
            namespace: access.namespace.to_owned(),
            verb: access.verb,
            resource: access.resource,
            subresource: access.subresource,
        };
        let now = Instant::now();
        if let Some((_, answer)) = self.answers.lock().get(&question).filter(|(until, _)| *until > now) {
            return *answer;
        }
        // Two calls; a caller that cannot be judged soon comes again.
        let asked = tokio::time::timeout(ASK_WITHIN, self.ask(token, access)).await;
        let answer = asked.unwrap_or(Err(AccessError::Unavailable));
        let keep = match answer {
            Ok(()) => ALLOWED_FOR,
            Err(AccessError::Unavailable) => return answer,
            Err(_) => REFUSED_FOR,
        };
        let mut answers = self.answers.lock();
        if answers.len() >= MAX_ENTRIES {
            answers.retain(|_, (until, _)| *until > now);
        }
        if answers.len() < MAX_ENTRIES {
            answers.insert(question, (now + keep, answer));
        }
        answer
    }

    async fn ask(&self, token: &str, access: Access<'_>) -> Result<(), AccessError> {
        let user = self.review_token(token).await?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                groups: user.groups,
                uid: user.uid,
                extra: user.extra.map(|extra| extra.into_iter().collect::<BTreeMap<_, _>>()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.into()),
                    namespace: Some(access.namespace.to_owned()),
                    resource: Some(access.resource.to_owned()),
                    subresource: access.subresource.map(ToOwned::to_owned),
                    verb: Some(access.verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(unavailable)?;
        if answer.status.is_some_and(|s| s.allowed) { Ok(()) } else { Err(AccessError::Forbidden) }
    }

    async fn review_token(&self, token: &str) -> Result<UserInfo, AccessError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await.map_err(unavailable)?.status;
        // An API server (or a webhook behind it) that knows nothing of audiences says yes to a token for itself, and
        // names no audience: such a token was not given to us.
        let for_us = |s: &TokenReviewStatus| s.audiences.iter().flatten().any(|a| *a == self.audience);
        status
            .filter(|s| s.authenticated == Some(true) && for_us(s))
            .and_then(|s| s.user)
            .ok_or(AccessError::Unauthenticated)
    }
}

fn unavailable(error: kube::Error) -> AccessError {
    tracing::warn!(%error, "a caller cannot be checked");
    AccessError::Unavailable
}
