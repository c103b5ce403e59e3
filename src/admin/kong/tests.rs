//! Tests the Kong client against a scripted server: every response for every verb.

use serde_json::{Value, json};

use super::*;
use crate::admin::AdminErrorClass;
use crate::admin::testing::{
    REQUEST_ID, ReceivedRequest, ScriptedServer, VerbResult, call_every_verb, check_error, error_statuses,
    malformed_reason, malformed_responses, raw, reply,
};

const TOKEN: &str = "the-adm1n-token";
const SECRET: &str = "s1gning-secret";
const ID: &str = "11111111-2222-4333-8444-555555555555";

fn client(server: &ScriptedServer) -> KongClient {
    KongClient::new(KongAccess {
        http: server.client(),
        admin_url: server.base.clone(),
        workspace: None,
        token: Some((TOKEN_HEADER.into(), TOKEN.to_owned().into())),
        capabilities: Arc::default(),
    })
}

fn desired_hook() -> KongHook {
    let headers = json!({"x-own": "h3ader-value"});
    let config = json!({"url": "https://e/p4th", "headers": headers, "secret": SECRET, "ssl_verify": true});
    let (source, handler) = ("crud".into(), "webhook".into());
    KongHook { source, event: None, handler, snooze: None, on_change: None, config }
}

/// The secrets in write requests. The first one is the token, which every request contains.
const SECRETS: [&str; 4] = [TOKEN, SECRET, "h3ader-value", "https://e/p4th"];

fn sent_secrets(verb: &str) -> &'static [&'static str] {
    if matches!(verb, "create" | "update" | "put") { &SECRETS } else { &SECRETS[..1] }
}

/// Calls every verb against a server with a fixed response.
async fn call_all(response: Vec<u8>) -> Vec<(&'static str, VerbResult)> {
    let server = ScriptedServer::start(move |_| response.clone()).await;
    let mut all = call_every_verb(|| client(&server), ID, &desired_hook(), &[]).await;
    all.push(("put", client(&server).create(Some(ID), &desired_hook()).await.map(|_| true)));
    all.push(("version", client(&server).version().await.map(|_| true)));
    all.push(("sources", client(&server).sources().await.map(|_| true)));
    all
}

#[tokio::test]
async fn rejects_malformed_success_responses() {
    for (what, response) in malformed_responses() {
        for (verb, result) in call_all(response).await {
            let what = format!("{what}: {verb}");
            if verb == "delete" {
                assert!(result.is_ok(), "{what}: a delete ignores the body");
                continue;
            }
            let error = match result {
                Err(error) => error,
                // `sources` accepts any object in `data`.
                Ok(_) if verb == "sources" && what.starts_with("members of other") => continue,
                Ok(_) => panic!("{what} was accepted"),
            };
            assert_eq!(
                (<&str>::from(&error), error.class()),
                (malformed_reason(&what), AdminErrorClass::Retryable),
                "{what}"
            );
            assert_eq!(check_error(&what, &error, &SECRETS).request_id.as_deref(), Some("req-1"), "{what}");
        }
    }
    for (verb, result) in call_all(raw(200, &[], "[]")).await {
        assert_eq!(result.is_ok(), verb == "delete", "a list to {verb}: {result:?}");
    }
    // The content type is ignored, and so are unknown members of newer gateways.
    let body = json!({"id": ID, "data": [], "newer": {"a": [1]}, "version": "4.0", "next": null}).to_string();
    let html_json = raw(200, &[("content-type", "text/html")], &body);
    for (verb, result) in call_all(html_json).await {
        assert!(result.is_ok() || verb == "sources", "{verb}: {result:?}");
    }
}

#[tokio::test]
async fn classifies_every_error_status_and_keeps_the_request_id() {
    for (status, from_vendor, from_proxy) in error_statuses() {
        let message = format!("why not: {}", SECRETS.join(" "));
        // An invalid code must not hide the message.
        let body =
            json!({"message": message, "name": "some name", "code": "none", "fields": {"secret": SECRET}});
        let page = raw(status, &[REQUEST_ID], "<html>Sign in</html>");
        for (response, want, is_vendors) in
            [(reply(status, &[REQUEST_ID], &body), from_vendor, true), (page, from_proxy, false)]
        {
            for (verb, result) in call_all(response.clone()).await {
                let what = format!("{status} to {verb}, from the vendor: {is_vendors}");
                let error = result.expect_err(&what);
                assert_eq!((<&str>::from(&error), error.class()), want, "{what}: {error}");
                let last = check_error(&what, &error, sent_secrets(verb));
                assert_eq!(last.http_status, Some(i32::from(status)), "{what}");
                assert_eq!(last.request_id.as_deref(), Some("req-1"), "{what}");
                let has_code = is_vendors && want.0 != "UnexpectedAnswer";
                assert_eq!(last.code.as_deref() == Some("some name"), has_code, "{what}: {last:?}");
            }
        }
    }
    for (verb, result) in call_all(Vec::new()).await {
        assert_eq!(<&str>::from(&result.unwrap_err()), "Unreachable", "{verb}");
    }
}

/// Answers requests for one hook with 404 and `body`, and lists with `list`.
async fn not_found_server(body: Value, list: Vec<u8>) -> ScriptedServer {
    ScriptedServer::start(move |request| match request.line.starts_with("GET /event-hooks?") {
        true => list.clone(),
        false => reply(404, &[], &body),
    })
    .await
}

#[tokio::test]
async fn only_proof_of_absence_completes_a_delete() {
    let plain = json!({"message": "Not found"});
    let missing =
        json!({"code": 6, "name": "not found", "message": "could not find the entity", "fields": {"id": ID}});
    let proxy_port = json!({"message": "no Route matched with those values"});
    let listed = || reply(200, &[], &json!({"data": [{"id": ID}]}));
    let (other, failed) = (page(0..3, None), reply(404, &[], &plain));
    // The body of the 404, the list, and whether the hook is missing.
    let proven = [
        (&missing, failed.clone()),
        (&plain, other.clone()),
        (&proxy_port, other.clone()),
        (&json!({"error": "x"}), other),
    ];
    for (body, list) in proven {
        let server = not_found_server(body.clone(), list).await;
        client(&server).delete(ID).await.unwrap();
        assert_eq!(client(&server).observe(ID).await.unwrap(), None, "{body}");
    }
    let proxy_list = reply(404, &[], &proxy_port);
    let unproven = [
        (&plain, failed.clone(), "NotFound"),
        (&plain, listed(), "NotFound"),
        (&proxy_port, proxy_list, "UnexpectedAnswer"),
        (&proxy_port, listed(), "UnexpectedAnswer"),
        (&json!({"message": "Not Found"}), failed, "NotFound"),
        (&plain, raw(200, &[], "<html>Sign in</html>"), "UnexpectedAnswer"),
    ];
    for (body, list, reason) in unproven {
        let server = not_found_server(body.clone(), list).await;
        let error = client(&server).delete(ID).await.unwrap_err();
        assert_eq!(<&str>::from(&error), reason, "{body}: {error}");
        // A list that shows the hook is as good as a read.
        let observed = client(&server).observe(ID).await;
        assert!(!matches!(observed, Ok(None)), "{body}: {observed:?}");
    }
}

/// A page of hooks; `offset` names the next one.
fn page(ids: impl IntoIterator<Item = usize>, offset: Option<String>) -> Vec<u8> {
    let data: Vec<Value> = ids.into_iter().map(|n| json!({"id": format!("id-{n}")})).collect();
    reply(200, &[REQUEST_ID], &json!({"data": data, "next": "/ignored", "offset": offset}))
}

fn offset(request: &ReceivedRequest) -> Option<usize> {
    request.line.split("offset=").nth(1).map(|text| text.parse().unwrap())
}

/// Lists against a server with these pages; returns the count or the error, and the number of requests.
async fn list_pages(
    response: impl Fn(Option<usize>) -> Vec<u8> + Send + Sync + 'static,
) -> (Result<usize, String>, usize) {
    let server = ScriptedServer::start(move |request| response(offset(request))).await;
    let result = client(&server)
        .list(ListFilter::all())
        .await
        .map(|listing| listing.items.len())
        .map_err(|e| e.to_string());
    (result, server.lines().len())
}

#[tokio::test]
async fn shares_listings_only_with_the_same_credentials_and_tls_identity() {
    let server = ScriptedServer::start(|_| Vec::new()).await;
    let (same, mut other) = (client(&server), client(&server));
    assert_eq!(same.list_scope(), other.list_scope());
    other.access.http =
        server.client_with_tls(&crate::net::TlsOptions { insecure: true, ..Default::default() });
    assert_ne!(same.list_scope(), other.list_scope());
    let mut other = client(&server);
    other.access.token = Some((TOKEN_HEADER.into(), "another".to_owned().into()));
    assert_ne!(same.list_scope(), other.list_scope());
}

#[tokio::test]
async fn reads_a_list_to_its_end() {
    let two = |at: Option<usize>| match at {
        None => page(0..3, Some("1".into())),
        _ => page(2..5, None),
    };
    assert_eq!(list_pages(two).await, (Ok(5), 2), "objects on two pages count once");
    let empty = |_| reply(200, &[], &json!({"data": {}, "next": null}));
    assert_eq!(list_pages(empty).await, (Ok(0), 1), "Lua's empty list");
    let (result, calls) = list_pages(|_| page(0..3, Some("1".into()))).await;
    assert!(result.unwrap_err().contains("repeats itself") && calls == 2);
    let (result, calls) = list_pages(|_| page(0..0, Some("1".into()))).await;
    assert!(result.unwrap_err().contains("an empty page") && calls == 1);
    let (result, calls) =
        list_pages(|at| page([at.unwrap_or(0)], Some((at.unwrap_or(0) + 1).to_string()))).await;
    assert!(result.unwrap_err().contains("has no end") && calls < 1100, "{calls}");
    let (result, _) = list_pages(|_| reply(200, &[], &json!({"data": [], "offset": 7}))).await;
    assert!(result.unwrap_err().contains("offset"));
    for status in [401, 404, 429, 500, 200] {
        let broken = move |at: Option<usize>| match at {
            None => page(0..3, Some("1".into())),
            _ => raw(status, &[], "{\"data\": ["),
        };
        assert!(list_pages(broken).await.0.is_err(), "{status}: a partial list is an error");
    }
}

#[tokio::test]
async fn pages_that_are_too_large_shrink() {
    let server = ScriptedServer::start(|request| {
        let size: usize =
            request.line.split("size=").nth(1).unwrap().split('&').next().unwrap().parse().unwrap();
        let hook = |n: usize| json!({"id": format!("id-{n}"), "config": {"functions": ["x".repeat(60_000)]}});
        let start = offset(request).unwrap_or(0);
        let end = (start + size).min(400);
        let next = (end < 400).then(|| end.to_string());
        reply(200, &[], &json!({"data": (start..end).map(hook).collect::<Vec<_>>(), "offset": next}))
    })
    .await;
    let listing = client(&server).list(ListFilter::new(&|_| false)).await.unwrap();
    assert_eq!(listing.count(), 400);
    let sizes: Vec<bool> = server.lines().iter().map(|line| line.contains("size=1000")).collect();
    assert_eq!(sizes, [true, false, false, false, false], "24 MB in four pages");
    let server = ScriptedServer::start(|_| {
        malformed_responses().into_iter().find(|(what, _)| *what == "endless").unwrap().1
    })
    .await;
    let error = client(&server).list(ListFilter::all()).await.unwrap_err();
    assert_eq!((<&str>::from(&error), server.lines().len()), ("ResponseTooLarge", 3));
}

#[tokio::test]
async fn response_without_an_id_detects_no_capability() {
    let server = ScriptedServer::start(|request| match request.line.split(' ').next() {
        Some("PUT") => reply(405, &[], &json!({"message": "Method not allowed"})),
        _ => reply(201, &[], &json!({})),
    })
    .await;
    let client = client(&server);
    let error = client.create(Some(ID), &desired_hook()).await.unwrap_err();
    assert_eq!(<&str>::from(&error), "UnexpectedAnswer");
    assert!(client.may_accept_client_ids(), "still possible: {:?}", client.access.capabilities.current());
}

#[tokio::test]
async fn sends_nothing_for_an_invalid_id() {
    let server = ScriptedServer::start(|_| raw(204, &[], "")).await;
    for id in ["..", ".", "", "a b"] {
        assert_eq!(<&str>::from(&client(&server).delete(id).await.unwrap_err()), "Rejected", "{id}");
    }
    assert!(server.lines().is_empty(), "no request reaches the collection");
    client(&server).delete("a/../b").await.unwrap();
    assert_eq!(server.lines(), ["DELETE /event-hooks/a%2F..%2Fb"]);
}
