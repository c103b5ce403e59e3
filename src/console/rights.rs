//! What a user may do. The API decides about each request; this is only for what pages offer.

use serde::Deserialize;

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

    /// Returns the ClusterRole of the chart that grants it.
    pub fn role(self) -> &'static str {
        match self {
            Right::Payload => "hookstream-deliveries-payload",
            Right::Replay | Right::Cancel => "hookstream-deliveries-operator",
            Right::Test | Right::Ping => "hookstream-hooks-tester",
            Right::Publish => "hookstream-publisher",
        }
    }
}

/// The rights that a user lacks in a namespace, or in all together.
#[derive(Debug, Default)]
pub struct Rights {
    denied: Vec<String>,
}

#[derive(Deserialize)]
struct RightList {
    rights: Vec<RightItem>,
}

#[derive(Deserialize)]
struct RightItem {
    right: String,
    allowed: bool,
}

impl Rights {
    /// Reads the rights in a page's scope. If they cannot be read, pages offer everything, and the API decides.
    pub async fn read(request: &PageRequest) -> Self {
        Rights::of(&request.api, &request.scope).await
    }

    async fn of(api: &ApiClient, scope: &Scope) -> Self {
        let found: Result<RightList, Problem> = api.get(&scope.api("rights")).await;
        let rights = found.map(|found| found.rights).unwrap_or_default();
        Rights { denied: rights.into_iter().filter(|item| !item.allowed).map(|item| item.right).collect() }
    }

    pub fn may(&self, right: Right) -> bool {
        !self.denied.iter().any(|denied| denied == right.name())
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
        let rights = Rights { denied: vec!["create deliveries/replay".to_owned()] };
        assert!(!rights.may(Right::Replay) && rights.may(Right::Cancel));
        assert!(Rights::default().may(Right::Payload));
    }

    #[test]
    fn every_role_is_in_the_chart() {
        let chart = include_str!("../../charts/hookstream/templates/user-roles.yaml");
        for right in [Right::Payload, Right::Replay, Right::Cancel, Right::Test, Right::Ping, Right::Publish]
        {
            let role = right.role().strip_prefix("hookstream-").unwrap();
            assert!(chart.contains(&format!("\"{role}\"")), "{role}");
        }
    }
}
