//! Every answer that the Management API can give, for every verb: a reason, a class, the id of the request, no secret.

use std::time::Duration;

use super::*;
use crate::admin::testing::{Came, REQUEST_ID, every_verb, not_its_language, refusals, told};
use crate::admin::{AdminError, Class, ExternalClient};

/// What writes of streams carry, and the tokens that every call does.
const SECRETS: [&str; 3] = ["token-1", "token-2", "r3ceiver-t0ken"];

fn carried(kind: &str, verb: &str) -> &'static [&'static str] {
    if kind == "stream" && matches!(verb, "create" | "update") { &SECRETS } else { &SECRETS[..2] }
}

/// What stands for the token of the request, in as many letters.
const THE_TOKEN: &str = "THE_TOK";

fn quoting(answer: &[u8], seen: &Seen) -> Vec<u8> {
    let token = seen.authorization.trim_start_matches("Bearer ").as_bytes();
    let mut answer = answer.to_vec();
    let places = answer.windows(THE_TOKEN.len()).position(|w| w == THE_TOKEN.as_bytes());
    if let Some(at) = places {
        answer[at..at + THE_TOKEN.len()].copy_from_slice(token);
    }
    answer
}

/// What all verbs of both kinds come to, where every call but the login is answered so.
async fn all_verbs(answer: Vec<u8>) -> Vec<(&'static str, &'static str, Came)> {
    let fake = Fake::start(move |seen| (seen.line != LOGIN).then(|| quoting(&answer, seen))).await;
    let streams =
        every_verb(|| fake.anew().streams(), "i", &bearer("r3ceiver-t0ken"), &["name".into()]).await;
    let mut desired = script(&[]);
    desired.enabled = false;
    let hooks = every_verb(|| fake.anew().hooks(), "i", &desired, &["script".into()]).await;
    let of = |kind| move |(verb, came)| (kind, verb, came);
    streams.into_iter().map(of("stream")).chain(hooks.into_iter().map(of("hook"))).collect()
}

#[tokio::test]
async fn a_success_that_says_something_else_is_none() {
    for (what, answer) in not_its_language() {
        for (kind, verb, came) in all_verbs(answer).await {
            let what = format!("{what}: {verb} of a {kind}");
            if verb == "delete" {
                assert!(came.is_ok(), "{what}: what is deleted has nothing to say");
                continue;
            }
            let error = came.expect_err(&what);
            assert_eq!(
                (<&str>::from(&error), error.class()),
                ("UnexpectedAnswer", Class::Retryable),
                "{what}"
            );
            assert_eq!(told(&what, &error, &SECRETS).request_id.as_deref(), Some("req-1"), "{what}");
        }
    }
}

#[tokio::test]
async fn every_refusal_has_a_reason_a_class_and_the_request_id() {
    for (status, vendors, strangers) in refusals() {
        // As the Management API says it, quoting what it should not.
        let message = format!("why not: {THE_TOKEN} {}", SECRETS[2]);
        let body = json!({"statusCode": status, "error": "E", "errorCode": "some_code", "message": message});
        let page = raw(status, &[REQUEST_ID], "<html>Sign in</html>");
        for (answer, want, own) in
            [(reply(status, &[REQUEST_ID], &body), vendors, true), (page, strangers, false)]
        {
            for (kind, verb, came) in all_verbs(answer.clone()).await {
                let what = format!("{status} to {verb} of a {kind}, own: {own}");
                let gone = own && matches!(status, 404 | 410);
                // An API of hooks that is gone is the end of them.
                let ended = kind == "hook" && own && matches!(status, 403 | 404 | 410 | 501);
                match (verb, gone) {
                    ("delete", _) if gone || ended => assert!(came.is_ok(), "{what}: {came:?}"),
                    ("get", true) if kind == "stream" => {
                        assert!(matches!(came, Ok(false)), "{what}: {came:?}")
                    }
                    _ => {
                        let error = came.expect_err(&what);
                        let want = if ended { ("EndOfLife", Class::Terminal) } else { want };
                        assert_eq!((<&str>::from(&error), error.class()), want, "{what}: {error}");
                        let last = told(&what, &error, carried(kind, verb));
                        assert_eq!(last.http_status, Some(i32::from(status)), "{what}");
                        assert_eq!(last.request_id.as_deref(), Some("req-1"), "{what}");
                        let says = own && want.0 != "UnexpectedAnswer";
                        assert_eq!(last.code.as_deref() == Some("some_code"), says, "{what}: {last:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn an_error_of_another_shape_still_says_what_it_can() {
    let cases = [
        (json!({"message": ["no"], "errorCode": "c", "statusCode": "400"}), Some("c"), "no reason given"),
        (json!({"message": "m", "errorCode": 7, "error": {"a": 1}}), None, "m"),
        (json!({"error": "invalid_request", "error_description": "d"}), Some("invalid_request"), "d"),
        (json!({"message": "a\nb\u{1b}[31m"}), None, "a b [31m"),
    ];
    for (body, code, message) in cases {
        let fake = Fake::start(move |seen| (seen.line != LOGIN).then(|| reply(400, &[], &body))).await;
        let error = fake.streams().create(None, &bearer("t")).await.unwrap_err();
        let last = told("shape", &error, &SECRETS);
        assert_eq!((last.code.as_deref(), last.message.ends_with(message)), (code, true), "{last:?}");
    }
    // As long as they like: a status takes so much of it.
    let long = "x".repeat(100_000);
    let body = json!({"message": long, "errorCode": long});
    let fake = Fake::start(move |seen| {
        let id = [("x-auth0-requestid", long.as_str())];
        (seen.line != LOGIN).then(|| reply(400, &id, &body))
    });
    // A header of that length is more than the client reads.
    let error = fake.await.streams().create(None, &bearer("t")).await.unwrap_err();
    told("long", &error, &SECRETS);
    let body = json!({"message": "x".repeat(100_000), "errorCode": "y".repeat(100_000)});
    let fake = Fake::start(move |seen| (seen.line != LOGIN).then(|| reply(400, &[], &body))).await;
    let error = fake.streams().create(None, &bearer("t")).await.unwrap_err();
    let last = told("long", &error, &SECRETS);
    assert_eq!(last.code.map(|code| code.len()), Some(128));
}

#[tokio::test]
async fn no_answer_is_unreachable() {
    for (kind, verb, came) in all_verbs(Vec::new()).await {
        assert_eq!(<&str>::from(&came.unwrap_err()), "Unreachable", "{verb} of a {kind}");
    }
    for (_, _, came) in all_verbs(b"this is no HTTP\r\n\r\n".to_vec()).await {
        assert_eq!(<&str>::from(&came.unwrap_err()), "Unreachable");
    }
}

#[tokio::test]
async fn a_limit_is_honoured_and_clamped() {
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
        let answer = reply(429, headers, &json!({"errorCode": "too_many_requests"}));
        let fake = Fake::start(move |seen| (seen.line != LOGIN).then(|| quoting(&answer, seen))).await;
        let error = fake.streams().list().await.err().unwrap();
        assert_eq!(error.class(), Class::RateLimited(Duration::from_secs(seconds)), "{headers:?}");
    }
}

/// One page of streams or hooks, for whichever is asked.
fn page(ids: impl IntoIterator<Item = usize>, next: Option<String>) -> Vec<u8> {
    let items: Vec<Value> = ids.into_iter().map(|n| json!({"id": format!("id-{n}")})).collect();
    let mut body = json!({"eventStreams": items, "hooks": items});
    if let Some(next) = next {
        body["next"] = json!(next);
    }
    reply(200, &[REQUEST_ID], &body)
}

fn number(seen: &Seen, name: &str) -> usize {
    let value = seen.line.split(['?', '&']).find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    value.map_or(0, |text| text.parse().unwrap())
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up_and_one_that_repeats_itself_at_once() {
    // Every page is the first one again.
    let fake = Fake::start(|seen| (seen.line != LOGIN).then(|| page(0..100, Some("7".into())))).await;
    for (what, came) in [("streams", fake.streams().list().await), ("hooks", fake.hooks().list().await)] {
        let error = came.err().unwrap();
        assert!(error.to_string().contains("repeats itself"), "{what}: {error}");
        assert_eq!(told(what, &error, &[]).request_id.as_deref(), Some("req-1"));
    }
    assert_eq!(fake.lines().len(), 1 + 2 + 2, "{:?}", fake.lines());
    // Every page names another one.
    let fake = Fake::start(|seen| {
        let from = number(seen, "from");
        (seen.line != LOGIN).then(|| page([from], Some((from + 1).to_string())))
    })
    .await;
    let error = loop {
        match fake.anew().streams().list().await {
            Err(AdminError::Postponed(after)) => tokio::time::sleep(after).await,
            other => break other.err().unwrap(),
        }
    };
    assert!(error.to_string().contains("has no end"), "{error}");
}

#[tokio::test]
async fn a_page_that_fails_takes_nothing_for_missing() {
    for status in [401, 403, 404, 429, 500, 200] {
        let fake = Fake::start(move |seen| {
            let second = seen.line.contains("from=1") || seen.line.contains("page=1");
            let broken = || raw(status, &[], "{\"eventStreams\": [], \"hooks\": [");
            (seen.line != LOGIN).then(|| if second { broken() } else { page(0..100, Some("1".into())) })
        })
        .await;
        assert!(fake.streams().list().await.is_err(), "{status}");
        assert!(fake.anew().hooks().list().await.is_err(), "{status}");
    }
}

#[tokio::test]
async fn what_comes_twice_counts_once() {
    let fake = Fake::start(|seen| {
        let from = number(seen, "from").max(number(seen, "page"));
        let (ids, next) = if from == 0 { (0..100, Some("1".to_owned())) } else { (99..120, None) };
        (seen.line != LOGIN).then(|| page(ids, next))
    })
    .await;
    assert_eq!(fake.streams().list().await.unwrap().items.len(), 120);
    assert_eq!(fake.hooks().list().await.unwrap().items.len(), 120);
}

#[tokio::test]
async fn another_object_than_was_asked_for_is_not_taken() {
    let fake =
        Fake::start(|seen| (seen.line != LOGIN).then(|| reply(200, &[], &json!({"id": "another"})))).await;
    let errors = [
        fake.streams().observe("est_1").await.unwrap_err(),
        fake.streams().update("est_1", &bearer("t"), &["name".into()]).await.unwrap_err(),
        fake.hooks().observe("1").await.unwrap_err(),
        fake.hooks().update("1", &script(&[]), &["script".into()]).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("another object"), "{error}");
    }
}

#[tokio::test]
async fn an_id_that_is_a_way_out_is_not_called() {
    let fake = Fake::start(|_| None).await;
    for id in ["..", ".", "", "a b"] {
        assert_eq!(<&str>::from(&fake.streams().delete(id).await.unwrap_err()), "Rejected", "{id}");
        assert_eq!(<&str>::from(&fake.hooks().delete(id).await.unwrap_err()), "Rejected", "{id}");
    }
    assert_eq!(fake.logins(), fake.lines().len(), "the whole collection was spared");
    fake.streams().delete("a/../b").await.unwrap();
    assert_eq!(fake.lines().last().unwrap(), "DELETE /api/v2/event-streams/a%2F..%2Fb");
}

#[tokio::test]
async fn deleting_what_is_not_there_is_done() {
    let fake = Fake::start(|_| None).await;
    fake.streams().delete("est_1").await.unwrap();
    assert_eq!(fake.streams().observe("est_1").await.unwrap(), None);
    let fake = Fake::start(|seen| seen.line.contains("hooks").then(|| reply(404, &[], &no_hook()))).await;
    fake.hooks().delete("1").await.unwrap();
    assert_eq!(fake.hooks().observe("1").await.unwrap(), None);
}
