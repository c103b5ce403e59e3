//! What a user can do about a request that the worker rejected.

use reqwest::StatusCode;
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use crate::cluster::AuthorizationError;

/// The members of a problem body (RFC 9457) that are shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProblemBody {
    title: Option<String>,
    detail: Option<String>,
    /// The message of the API server if it does not forward a request.
    message: Option<String>,
}

impl ProblemBody {
    /// Reads a problem; an empty one for any other body.
    pub fn parse(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Returns its text as one line, prefixed by `: `; empty without one.
    pub fn text(&self, status: StatusCode) -> String {
        // Omit a title that repeats the status, which the caller prints already.
        let title = self.title.as_ref().filter(|title| Some(title.as_str()) != status.canonical_reason());
        let parts: Vec<String> = [title, self.detail.as_ref(), self.message.as_ref()]
            .into_iter()
            .flatten()
            .map(|text| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect())
            .collect();
        if parts.is_empty() { String::new() } else { format!(": {}", parts.join(": ")) }
    }

    fn is_empty(&self) -> bool {
        self.title.is_none() && self.detail.is_none() && self.message.is_none()
    }
}

/// Returns the remedy as the end of a message; empty if the response says what to do.
pub fn remedy(url: &Url, status: StatusCode, problem: &ProblemBody, caller: Option<&str>) -> String {
    let detail = problem.detail.as_deref().unwrap_or_default();
    let parts = segments(url);
    let namespace = match parts.as_slice() {
        ["kong", namespace, ..] | ["v1", "namespaces", namespace, ..] => *namespace,
        _ => "NAMESPACE",
    };
    match status {
        StatusCode::UNAUTHORIZED => format!(
            ": give a valid token with --token-file; in a cluster, `kubectl create token SERVICEACCOUNT -n {namespace} \
             --audience hookstream > token` creates one"
        ),
        StatusCode::FORBIDDEN if is_of_all_namespaces(&parts) => {
            let caller = caller.unwrap_or("the token's user");
            let (right, role) = needed_right(url);
            format!(
                ": {caller} needs the right to {right} in all namespaces: bind {role} with a ClusterRoleBinding, or ask \
                 for one namespace (-n)"
            )
        }
        StatusCode::FORBIDDEN if problem.message.is_some() => {
            ": ask for a Role with this right in the namespace".to_owned()
        }
        StatusCode::FORBIDDEN if detail == AuthorizationError::Forbidden.to_string() => {
            let (right, role) = needed_right(url);
            let caller = caller.unwrap_or("the token's user");
            format!(": {caller} needs the right to {right} in namespace {namespace}: bind {role} there")
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
            if detail.starts_with("no such path") || status == StatusCode::METHOD_NOT_ALLOWED =>
        {
            // Routes that older workers do not have.
            let is_newer = is_event_list(url)
                || is_of_all_namespaces(&parts)
                || matches!(
                    parts.as_slice(),
                    [.., "deliveries", "cancel"] | [.., "status"] | [_, _, _, "replays", ..]
                );
            if is_newer {
                ": the worker is older than this program and has no such route: update it, or give the address of its API port (--url)".to_owned()
            } else {
                wrong_port()
            }
        }
        StatusCode::NOT_FOUND if problem.is_empty() => wrong_port(),
        StatusCode::NOT_FOUND => wrong_id(&parts, namespace),
        _ => String::new(),
    }
}

fn wrong_port() -> String {
    ": is this the right port of the worker? Events are published at 8080, deliveries are at 8082 (--url)"
        .to_owned()
}

/// Returns the parts of the worker's path. Behind the API server's proxy, it begins after `proxy`.
fn segments(url: &Url) -> Vec<&str> {
    let all: Vec<&str> = url.path_segments().into_iter().flatten().collect();
    let skipped =
        if all.first() == Some(&"api") { all.iter().position(|part| *part == "proxy") } else { None };
    all.into_iter().skip(skipped.map_or(0, |at| at + 1)).collect()
}

/// Returns true for a list of events. One is published without a query.
fn is_event_list(url: &Url) -> bool {
    url.query().is_some() && matches!(segments(url).as_slice(), [_, _, _, "events"] | ["v1", "events"])
}

/// Returns true for a list, or the status, of all namespaces.
fn is_of_all_namespaces(parts: &[&str]) -> bool {
    matches!(parts, ["v1", "deliveries" | "events" | "replays" | "status"])
}

/// Returns the right that a route needs, and a role that has it.
fn needed_right(url: &Url) -> (&'static str, &'static str) {
    const READER: &str = "the ClusterRole hookstream-deliveries-reader";
    const OPERATOR: &str = "the ClusterRole hookstream-deliveries-operator";
    const PAYLOAD: &str = "a Role with both, because no ClusterRole of the chart has the second,";
    const TESTER: &str = "the ClusterRole hookstream-hooks-tester";
    match segments(url).as_slice() {
        ["kong", .., "ping"] => ("create eventhooks/ping", TESTER),
        ["kong", ..] => ("list eventhooks", TESTER),
        _ if is_event_list(url) => match url.query_pairs().any(|(name, _)| name == "payload") {
            true => ("list deliveries and get deliveries/payload", PAYLOAD),
            false => ("list deliveries", READER),
        },
        [_, _, _, "events"] => ("create events", "the ClusterRole hookstream-publisher"),
        [.., "replay" | "replays"] | [_, _, _, "replays", ..] => ("create deliveries/replay", OPERATOR),
        [.., "cancel"] => ("create deliveries/cancel", OPERATOR),
        [.., "deliveries" | "status"] => ("list deliveries", READER),
        _ if url.query() == Some("payload=true") => ("get deliveries and deliveries/payload", PAYLOAD),
        _ => ("get deliveries", READER),
    }
}

/// The id of an event is easily given for that of a delivery, and the other way round.
fn wrong_id(parts: &[&str], namespace: &str) -> String {
    match parts {
        [_, _, _, "events", id, ..] if Uuid::parse_str(id).is_ok() => {
            format!(": if it is the id of a delivery, `hookstream deliveries show -n {namespace} {id}`")
        }
        [_, _, _, "deliveries", id, ..] if !matches!(*id, "replay" | "cancel") => {
            format!(": if it is the id of an event, `hookstream deliveries explain -n {namespace} {id}`")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_text_is_one_line_without_the_status() {
        let text = |body: &[u8]| ProblemBody::parse(body).text(StatusCode::FORBIDDEN);
        assert_eq!(text(br#"{"title":"Too big","detail":"1 MiB\nat most"}"#), ": Too big: 1 MiB at most");
        assert_eq!(text(br#"{"title":"Forbidden","detail":"no right"}"#), ": no right");
        assert_eq!(text(b"<html>"), "");
    }

    #[test]
    fn names_right_and_role_of_each_route() {
        let forbidden =
            ProblemBody { detail: Some(AuthorizationError::Forbidden.to_string()), ..ProblemBody::default() };
        for (path, right, role) in [
            ("v1/namespaces/shop/events", "create events", "hookstream-publisher"),
            ("v1/namespaces/shop/deliveries?limit=5", "list deliveries", "hookstream-deliveries-reader"),
            ("v1/namespaces/shop/events?limit=5", "list deliveries", "hookstream-deliveries-reader"),
            (
                "v1/namespaces/shop/events?payload=true&limit=5",
                "list deliveries and get deliveries/payload",
                "a Role with both",
            ),
            ("v1/namespaces/shop/deliveries/1", "get deliveries", "hookstream-deliveries-reader"),
            (
                "v1/namespaces/shop/deliveries/1?payload=true",
                "get deliveries and deliveries/payload",
                "a Role with both",
            ),
            (
                "v1/namespaces/shop/deliveries/1/replay",
                "create deliveries/replay",
                "hookstream-deliveries-operator",
            ),
            (
                "v1/namespaces/shop/deliveries/1/cancel",
                "create deliveries/cancel",
                "hookstream-deliveries-operator",
            ),
            ("v1/namespaces/shop/events/a/explain", "get deliveries", "hookstream-deliveries-reader"),
            ("kong/shop/event-hooks/h/ping", "create eventhooks/ping", "hookstream-hooks-tester"),
            (
                "api/v1/namespaces/home/services/h:api/proxy/v1/namespaces/shop/replays/1",
                "create deliveries/replay",
                "hookstream-deliveries-operator",
            ),
        ] {
            let url: Url = format!("http://a/{path}").parse().unwrap();
            let text = remedy(&url, StatusCode::FORBIDDEN, &forbidden, Some("bob"));
            assert!(
                text.starts_with(&format!(": bob needs the right to {right} in namespace shop: bind ")),
                "{text}"
            );
            assert!(text.contains(role), "{text}");
        }
    }
}
