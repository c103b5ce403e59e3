//! What the client of Kong makes of every answer, verb by verb, from a server that says what it is told.

use serde_json::{Value, json};

use super::*;
use crate::admin::Class;
use crate::admin::testing::{
    Came, REQUEST_ID, Seen, Server, every_verb, not_its_language, raw, refusals, reply, told,
};

const TOKEN: &str = "the-adm1n-token";
const SECRET: &str = "s1gning-secret";
const ID: &str = "11111111-2222-4333-8444-555555555555";

fn client(server: &Server) -> KongClient {
    KongClient::new(KongAccess {
        http: server.client(),
        admin_url: server.base.clone(),
        workspace: None,
        token: Some((TOKEN_HEADER.into(), TOKEN.to_owned().into())),
        learned: Arc::default(),
    })
}

fn wanted() -> KongHook {
    let headers = json!({"x-own": "h3ader-value"});
    let config = json!({"url": "https://e/p4th", "headers": headers, "secret": SECRET, "ssl_verify": true});
    let (source, handler) = ("crud".into(), "webhook".into());
    KongHook { source, event: None, handler, snooze: None, on_change: None, config }
}

/// What writes carry, the token among it, which every call carries.
const SECRETS: [&str; 4] = [TOKEN, SECRET, "h3ader-value", "https://e/p4th"];

fn carried(verb: &str) -> &'static [&'static str] {
    if matches!(verb, "create" | "update" | "put") { &SECRETS } else { &SECRETS[..1] }
}

async fn all_verbs(answer: Vec<u8>) -> Vec<(&'static str, Came)> {
    let server = Server::start(move |_| answer.clone()).await;
    let mut all = every_verb(|| client(&server), ID, &wanted(), &[]).await;
    all.push(("put", client(&server).create(Some(ID), &wanted()).await.map(|_| true)));
    all.push(("version", client(&server).version().await.map(|_| true)));
    all.push(("sources", client(&server).sources().await.map(|_| true)));
    all
}

#[tokio::test]
async fn a_success_that_says_something_else_is_none() {
    for (what, answer) in not_its_language() {
        for (verb, came) in all_verbs(answer).await {
            let what = format!("{what}: {verb}");
            if verb == "delete" {
                assert!(came.is_ok(), "{what}: what is deleted has nothing to say");
                continue;
            }
            let error = match came {
                Err(error) => error,
                // Members that are named like these are not theirs to judge.
                Ok(_) if verb == "sources" && what.starts_with("members of other") => continue,
                Ok(_) => panic!("{what} was taken"),
            };
            assert_eq!(
                (<&str>::from(&error), error.class()),
                ("UnexpectedAnswer", Class::Retryable),
                "{what}"
            );
            assert_eq!(told(&what, &error, &SECRETS).request_id.as_deref(), Some("req-1"), "{what}");
        }
    }
    for (verb, came) in all_verbs(raw(200, &[], "[]")).await {
        assert_eq!(came.is_ok(), verb == "delete", "a list to {verb}: {came:?}");
    }
    // What counts is the body, not what the header says of it; what a newer gateway adds is no mistake.
    let body = json!({"id": ID, "data": [], "newer": {"a": [1]}, "version": "4.0", "next": null}).to_string();
    let odd = raw(200, &[("content-type", "text/html")], &body);
    for (verb, came) in all_verbs(odd).await {
        assert!(came.is_ok() || verb == "sources", "{verb}: {came:?}");
    }
}

#[tokio::test]
async fn every_refusal_has_a_reason_a_class_and_the_request_id() {
    for (status, vendors, strangers) in refusals() {
        let message = format!("why not: {}", SECRETS.join(" "));
        // A code that is none must not hide the message.
        let body =
            json!({"message": message, "name": "some name", "code": "none", "fields": {"secret": SECRET}});
        let page = raw(status, &[REQUEST_ID], "<html>Sign in</html>");
        for (answer, want, own) in
            [(reply(status, &[REQUEST_ID], &body), vendors, true), (page, strangers, false)]
        {
            for (verb, came) in all_verbs(answer.clone()).await {
                let what = format!("{status} to {verb}, own: {own}");
                match (verb, own && matches!(status, 404 | 410)) {
                    ("delete", true) => assert!(came.is_ok(), "{what}: {came:?}"),
                    ("get", true) => assert!(matches!(came, Ok(false)), "{what}: {came:?}"),
                    _ => {
                        let error = came.expect_err(&what);
                        assert_eq!((<&str>::from(&error), error.class()), want, "{what}: {error}");
                        let last = told(&what, &error, carried(verb));
                        assert_eq!(last.http_status, Some(i32::from(status)), "{what}");
                        assert_eq!(last.request_id.as_deref(), Some("req-1"), "{what}");
                        let says = own && want.0 != "UnexpectedAnswer";
                        assert_eq!(last.code.as_deref() == Some("some name"), says, "{what}: {last:?}");
                    }
                }
            }
        }
    }
    for (verb, came) in all_verbs(Vec::new()).await {
        assert_eq!(<&str>::from(&came.unwrap_err()), "Unreachable", "{verb}");
    }
}

/// A page of hooks; `offset` names the next one.
fn page(ids: impl IntoIterator<Item = usize>, offset: Option<String>) -> Vec<u8> {
    let data: Vec<Value> = ids.into_iter().map(|n| json!({"id": format!("id-{n}")})).collect();
    reply(200, &[REQUEST_ID], &json!({"data": data, "next": "/ignored", "offset": offset}))
}

fn offset(seen: &Seen) -> Option<usize> {
    seen.line.split("offset=").nth(1).map(|text| text.parse().unwrap())
}

async fn listed(
    answer: impl Fn(Option<usize>) -> Vec<u8> + Send + Sync + 'static,
) -> (Result<usize, String>, usize) {
    let server = Server::start(move |seen| answer(offset(seen))).await;
    let came = client(&server).list().await.map(|listed| listed.items.len()).map_err(|e| e.to_string());
    (came, server.lines().len())
}

#[tokio::test]
async fn a_list_is_read_to_its_end_and_no_further() {
    let two = |at: Option<usize>| match at {
        None => page(0..3, Some("1".into())),
        _ => page(2..5, None),
    };
    assert_eq!(listed(two).await, (Ok(5), 2), "what comes twice counts once");
    let (came, calls) = listed(|_| page(0..3, Some("1".into()))).await;
    assert!(came.unwrap_err().contains("repeats itself") && calls == 2);
    let (came, calls) = listed(|_| page(0..0, Some("1".into()))).await;
    assert!(came.unwrap_err().contains("an empty page") && calls == 1);
    let (came, calls) = listed(|at| page([at.unwrap_or(0)], Some((at.unwrap_or(0) + 1).to_string()))).await;
    assert!(came.unwrap_err().contains("has no end") && calls < 1100, "{calls}");
    let (came, _) = listed(|_| reply(200, &[], &json!({"data": [], "offset": 7}))).await;
    assert!(came.unwrap_err().contains("offset"));
    for status in [401, 404, 429, 500, 200] {
        let broken = move |at: Option<usize>| match at {
            None => page(0..3, Some("1".into())),
            _ => raw(status, &[], "{\"data\": ["),
        };
        assert!(listed(broken).await.0.is_err(), "{status}: nothing is taken for missing");
    }
}

#[tokio::test]
async fn an_answer_without_an_id_teaches_nothing_of_the_gateway() {
    let server = Server::start(|seen| match seen.line.split(' ').next() {
        Some("PUT") => reply(405, &[], &json!({"message": "Method not allowed"})),
        _ => reply(201, &[], &json!({})),
    })
    .await;
    let client = client(&server);
    let error = client.create(Some(ID), &wanted()).await.unwrap_err();
    assert_eq!(<&str>::from(&error), "UnexpectedAnswer");
    assert!(client.takes_ids(), "it may take them: {:?}", client.access.learned.known());
}

#[tokio::test]
async fn an_id_that_is_a_way_out_is_not_called() {
    let server = Server::start(|_| raw(204, &[], "")).await;
    for id in ["..", ".", "", "a b"] {
        assert_eq!(<&str>::from(&client(&server).delete(id).await.unwrap_err()), "Rejected", "{id}");
    }
    assert!(server.lines().is_empty(), "the whole collection was spared");
    client(&server).delete("a/../b").await.unwrap();
    assert_eq!(server.lines(), ["DELETE /event-hooks/a%2F..%2Fb"]);
}
