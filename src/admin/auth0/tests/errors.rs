//! Every response of the Management API, for every verb: the reason, the class and the request id, without secrets.

use std::time::Duration;

use super::*;
use crate::admin::testing::{
    REQUEST_ID, VerbResult, call_every_verb, check_error, error_statuses, malformed_reason,
    malformed_responses,
};
use crate::admin::{AdminError, AdminErrorClass, ExternalClient};

/// The tokens, which every request contains, and the secret in writes of streams.
const SECRETS: [&str; 3] = ["token-1", "token-2", "r3ceiver-t0ken"];

fn sent_secrets(kind: &str, verb: &str) -> &'static [&'static str] {
    if kind == "stream" && matches!(verb, "create" | "update") { &SECRETS } else { &SECRETS[..2] }
}

/// A placeholder of the token's length, which the server replaces with the token of the request.
const TOKEN_PLACEHOLDER: &str = "THE_TOK";

fn with_token(response: &[u8], request: &ReceivedRequest) -> Vec<u8> {
    let token = request.authorization.trim_start_matches("Bearer ").as_bytes();
    let mut response = response.to_vec();
    let position = response.windows(TOKEN_PLACEHOLDER.len()).position(|w| w == TOKEN_PLACEHOLDER.as_bytes());
    if let Some(at) = position {
        response[at..at + TOKEN_PLACEHOLDER.len()].copy_from_slice(token);
    }
    response
}

/// Calls every verb of both kinds against a fixed response to all requests but the login.
async fn call_all(response: Vec<u8>) -> Vec<(&'static str, &'static str, VerbResult)> {
    let tenant =
        FakeTenant::start(move |request| (request.line != LOGIN).then(|| with_token(&response, request)))
            .await;
    let streams = call_every_verb(
        || tenant.with_new_client().streams(),
        "i",
        &stream_with_token("r3ceiver-t0ken"),
        &["name".into()],
    )
    .await;
    let mut desired = hook_with_secrets(&[]);
    desired.enabled = false;
    let hooks = call_every_verb(|| tenant.with_new_client().hooks(), "i", &desired, &["script".into()]).await;
    let with_kind = |kind| move |(verb, result)| (kind, verb, result);
    streams.into_iter().map(with_kind("stream")).chain(hooks.into_iter().map(with_kind("hook"))).collect()
}

#[tokio::test]
async fn rejects_malformed_success_responses() {
    for (what, response) in malformed_responses() {
        for (kind, verb, result) in call_all(response).await {
            let what = format!("{what}: {verb} of a {kind}");
            if verb == "delete" {
                assert!(result.is_ok(), "{what}: a delete ignores the body");
                continue;
            }
            let error = result.expect_err(&what);
            assert_eq!(
                (<&str>::from(&error), error.class()),
                (malformed_reason(&what), AdminErrorClass::Retryable),
                "{what}"
            );
            assert_eq!(check_error(&what, &error, &SECRETS).request_id.as_deref(), Some("req-1"), "{what}");
        }
    }
}

#[tokio::test]
async fn classifies_every_error_status_and_keeps_the_request_id() {
    for (status, from_vendor, from_proxy) in error_statuses() {
        // The format of the Management API, with a message that repeats secrets.
        let message = format!("why not: {TOKEN_PLACEHOLDER} {}", SECRETS[2]);
        let body = json!({"statusCode": status, "error": "E", "errorCode": "some_code", "message": message});
        let page = raw(status, &[REQUEST_ID], "<html>Sign in</html>");
        for (response, want, is_vendors) in
            [(reply(status, &[REQUEST_ID], &body), from_vendor, true), (page, from_proxy, false)]
        {
            for (kind, verb, result) in call_all(response.clone()).await {
                let what = format!("{status} to {verb} of a {kind}, from the vendor: {is_vendors}");
                // A removed Hooks API means the end of life.
                let has_ended = kind == "hook" && is_vendors && matches!(status, 404 | 410 | 501);
                let error = result.expect_err(&what);
                let want = match (has_ended, is_vendors, status) {
                    (true, ..) => ("EndOfLife", AdminErrorClass::Terminal),
                    (_, true, 404) => ("NotFound", AdminErrorClass::Retryable),
                    _ => want,
                };
                assert_eq!((<&str>::from(&error), error.class()), want, "{what}: {error}");
                let last = check_error(&what, &error, sent_secrets(kind, verb));
                assert_eq!(last.http_status, Some(i32::from(status)), "{what}");
                assert_eq!(last.request_id.as_deref(), Some("req-1"), "{what}");
                let has_code = is_vendors && want.0 != "UnexpectedAnswer";
                assert_eq!(last.code.as_deref() == Some("some_code"), has_code, "{what}: {last:?}");
            }
        }
    }
}

#[tokio::test]
async fn reads_the_valid_members_of_an_unusual_error() {
    let cases = [
        (json!({"message": ["no"], "errorCode": "c", "statusCode": "400"}), Some("c"), "no reason given"),
        (json!({"message": "m", "errorCode": 7, "error": {"a": 1}}), None, "m"),
        (json!({"error": "invalid_request", "error_description": "d"}), Some("invalid_request"), "d"),
        (json!({"message": "a\nb\u{1b}[31m"}), None, "a b [31m"),
    ];
    for (body, code, message) in cases {
        let tenant =
            FakeTenant::start(move |request| (request.line != LOGIN).then(|| reply(400, &[], &body))).await;
        let error = tenant.streams().create(None, &stream_with_token("t")).await.unwrap_err();
        let last = check_error("shape", &error, &SECRETS);
        assert_eq!((last.code.as_deref(), last.message.ends_with(message)), (code, true), "{last:?}");
    }
    // Long texts are truncated to the limits of a status.
    let long = "x".repeat(100_000);
    let body = json!({"message": long, "errorCode": long});
    let tenant = FakeTenant::start(move |request| {
        let id = [("x-auth0-requestid", long.as_str())];
        (request.line != LOGIN).then(|| reply(400, &id, &body))
    });
    // A header of this length exceeds the limit of the client.
    let error = tenant.await.streams().create(None, &stream_with_token("t")).await.unwrap_err();
    check_error("long", &error, &SECRETS);
    let body = json!({"message": "x".repeat(100_000), "errorCode": "y".repeat(100_000)});
    let tenant =
        FakeTenant::start(move |request| (request.line != LOGIN).then(|| reply(400, &[], &body))).await;
    let error = tenant.streams().create(None, &stream_with_token("t")).await.unwrap_err();
    let last = check_error("long", &error, &SECRETS);
    assert_eq!(last.code.map(|code| code.len()), Some(128));
}

#[tokio::test]
async fn missing_response_is_unreachable() {
    for (kind, verb, result) in call_all(Vec::new()).await {
        assert_eq!(<&str>::from(&result.unwrap_err()), "Unreachable", "{verb} of a {kind}");
    }
    for (_, _, result) in call_all(b"this is no HTTP\r\n\r\n".to_vec()).await {
        assert_eq!(<&str>::from(&result.unwrap_err()), "Unreachable");
    }
}

#[tokio::test]
async fn requested_pause_is_clamped() {
    let date = "Sun, 22 Nov 2026 08:00:00 GMT";
    let noon: u64 = 1_795_334_400;
    let reset = (noon + 7).to_string();
    let cases: [(&[(&str, &str)], u64); 5] = [
        (&[], 5),
        (&[("retry-after", "9")], 9),
        (&[("retry-after", "0")], 1),
        (&[("retry-after", "99999999")], 3600),
        (&[("date", date), ("x-ratelimit-reset", &reset)], 7),
    ];
    for (headers, seconds) in cases {
        let response = reply(429, headers, &json!({"errorCode": "too_many_requests"}));
        let tenant =
            FakeTenant::start(move |request| (request.line != LOGIN).then(|| with_token(&response, request)))
                .await;
        let error = tenant.streams().list(ListFilter::all()).await.err().unwrap();
        assert_eq!(error.class(), AdminErrorClass::RateLimited(Duration::from_secs(seconds)), "{headers:?}");
    }
}

/// Responds with one page that is valid for streams and for hooks.
fn page(ids: impl IntoIterator<Item = usize>, next: Option<String>) -> Vec<u8> {
    let items: Vec<Value> = ids.into_iter().map(|n| json!({"id": format!("id-{n}")})).collect();
    let mut body = json!({"eventStreams": items, "hooks": items});
    if let Some(next) = next {
        body["next"] = json!(next);
    }
    reply(200, &[REQUEST_ID], &body)
}

fn query_number(request: &ReceivedRequest, name: &str) -> usize {
    let value = request.line.split(['?', '&']).find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    value.map_or(0, |text| text.parse().unwrap())
}

#[tokio::test]
async fn stops_at_endless_and_repeating_lists() {
    // Every page equals the first one.
    let tenant =
        FakeTenant::start(|request| (request.line != LOGIN).then(|| page(0..100, Some("7".into())))).await;
    for (what, result) in [
        ("streams", tenant.streams().list(ListFilter::all()).await),
        ("hooks", tenant.hooks().list(ListFilter::all()).await),
    ] {
        let error = result.err().unwrap();
        assert!(error.to_string().contains("repeats itself"), "{what}: {error}");
        assert_eq!(check_error(what, &error, &[]).request_id.as_deref(), Some("req-1"));
    }
    assert_eq!(tenant.lines().len(), 1 + 2 + 2, "{:?}", tenant.lines());
    // Every page has a next one.
    let tenant = FakeTenant::start(|request| {
        let from = query_number(request, "from");
        (request.line != LOGIN).then(|| page([from], Some((from + 1).to_string())))
    })
    .await;
    let error = loop {
        match tenant.with_new_client().streams().list(ListFilter::all()).await {
            Err(AdminError::Postponed(after)) => tokio::time::sleep(after).await,
            other => break other.err().unwrap(),
        }
    };
    assert!(error.to_string().contains("has no end"), "{error}");
}

#[tokio::test]
async fn failed_page_fails_the_list() {
    for status in [401, 403, 404, 429, 500, 200] {
        let tenant = FakeTenant::start(move |request| {
            let is_second = request.line.contains("from=1") || request.line.contains("page=1");
            let broken = || raw(status, &[], "{\"eventStreams\": [], \"hooks\": [");
            (request.line != LOGIN).then(|| if is_second { broken() } else { page(0..100, Some("1".into())) })
        })
        .await;
        assert!(tenant.streams().list(ListFilter::all()).await.is_err(), "{status}");
        assert!(tenant.with_new_client().hooks().list(ListFilter::all()).await.is_err(), "{status}");
    }
}

#[tokio::test]
async fn objects_on_two_pages_count_once() {
    let tenant = FakeTenant::start(|request| {
        let from = query_number(request, "from").max(query_number(request, "page"));
        let (ids, next) = if from == 0 { (0..100, Some("1".to_owned())) } else { (99..120, None) };
        (request.line != LOGIN).then(|| page(ids, next))
    })
    .await;
    assert_eq!(tenant.streams().list(ListFilter::all()).await.unwrap().items.len(), 120);
    assert_eq!(tenant.hooks().list(ListFilter::all()).await.unwrap().items.len(), 120);
}

#[tokio::test]
async fn empty_next_is_the_last_page() {
    let tenant =
        FakeTenant::start(|request| (request.line != LOGIN).then(|| page(0..3, Some(String::new())))).await;
    assert_eq!(tenant.streams().list(ListFilter::all()).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn rejects_another_object_than_requested() {
    let tenant = FakeTenant::start(|request| {
        (request.line != LOGIN).then(|| reply(200, &[], &json!({"id": "another"})))
    })
    .await;
    let errors = [
        tenant.streams().observe("est_1").await.unwrap_err(),
        tenant.streams().update("est_1", &stream_with_token("t"), &["name".into()]).await.unwrap_err(),
        tenant.hooks().observe("1").await.unwrap_err(),
        tenant.hooks().update("1", &hook_with_secrets(&[]), &["script".into()]).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("another object"), "{error}");
    }
}

#[tokio::test]
async fn sends_nothing_for_an_invalid_id() {
    let tenant = FakeTenant::start(|_| None).await;
    for id in ["..", ".", "", "a b"] {
        assert_eq!(<&str>::from(&tenant.streams().delete(id).await.unwrap_err()), "Rejected", "{id}");
        assert_eq!(<&str>::from(&tenant.hooks().delete(id).await.unwrap_err()), "Rejected", "{id}");
    }
    assert_eq!(tenant.login_count(), tenant.lines().len(), "no request reaches the collection");
    tenant.streams().delete("a/../b").await.unwrap();
    assert_eq!(tenant.lines().last().unwrap(), "DELETE /api/v2/event-streams/a%2F..%2Fb");
}

#[tokio::test]
async fn deleting_a_missing_object_succeeds() {
    let tenant = FakeTenant::start(|_| None).await;
    tenant.streams().delete("est_1").await.unwrap();
    assert_eq!(tenant.streams().observe("est_1").await.unwrap(), None);
    let tenant =
        FakeTenant::start(|request| request.line.contains("hooks").then(|| reply(404, &[], &missing_hook())))
            .await;
    tenant.hooks().delete("1").await.unwrap();
    assert_eq!(tenant.hooks().observe("1").await.unwrap(), None);
}

/// Another program's 404 and 403, at the API or at the login, delete nothing and end no API.
#[tokio::test]
async fn only_the_management_api_proves_absence() {
    let foreign = [
        (404, json!({"message": "no Route matched with those values"})),
        (404, json!({"error": "Not Found"})),
        (404, json!({"error": "access_denied", "error_description": "Client has been deleted."})),
        (
            403,
            json!({"error": "access_denied", "error_description": "Client is not authorized: grant revoked"}),
        ),
        (403, json!({"message": "blocked"})),
        (410, json!({"error": "gone"})),
        (501, json!({"error": "not_implemented"})),
    ];
    for (status, body) in foreign {
        for at_login in [false, true] {
            let response = reply(status, &[], &body);
            let tenant = FakeTenant::start(move |request| {
                ((request.line == LOGIN) == at_login).then(|| response.clone())
            })
            .await;
            let what = format!("{status} {body} at the login: {at_login}");
            let errors = [
                tenant.streams().delete("est_1").await.unwrap_err(),
                tenant.hooks().delete("1").await.unwrap_err(),
                tenant.streams().observe("est_1").await.unwrap_err(),
                tenant.hooks().observe("1").await.unwrap_err(),
                tenant.hooks().list(ListFilter::all()).await.err().unwrap(),
            ];
            for error in errors {
                let reason = <&str>::from(&error);
                assert_ne!(reason, "EndOfLife", "{what}");
                assert_eq!(reason == "LoginRejected", at_login && status != 501, "{what}: {error}");
            }
        }
    }
    // A list that the API answers with 200 proves it.
    let tenant = FakeTenant::start(|request| {
        let is_list = request.line.contains('?');
        let answer =
            || if is_list { page(7..9, None) } else { reply(404, &[], &json!({"error": "Not Found"})) };
        (request.line != LOGIN).then(answer)
    })
    .await;
    tenant.streams().delete("est_1").await.unwrap();
    tenant.hooks().delete("1").await.unwrap();
    assert_eq!(tenant.hooks().observe("1").await.unwrap(), None);
    assert!(tenant.hooks().delete("id-7").await.is_err(), "the list shows it");
}
