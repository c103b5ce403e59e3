//! The list of events: those with deliveries and those that no hook matched, their rights, their age, and their share.

use serde_json::{Value, json};

use crate::harness::deliveries::{get, get_ok, run, run_command};
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually};

/// Returns the ids of the events that fit the query, newest first.
async fn ids(standalone: &Standalone, query: &str) -> Vec<String> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let page = get_ok(standalone, &format!("events?{query}{token}")).await;
        let items = page["items"].as_array().unwrap();
        all.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["continue"].as_str() else { return all };
        token = format!("&continue={next}");
    }
}

/// Starts a worker with an event of each outcome: matched (1), dead (2), snoozed (4), unmatched (5, 6).
async fn start() -> (Receiver, Standalone) {
    let receiver =
        Receiver::start(|request, _| Reply::status(if request.path == "/dead" { 422 } else { 200 }));
    let of = |name: &str, more: Value| {
        let mut spec = quick();
        merge(&mut spec, json!({"event": name}));
        merge(&mut spec, more);
        hook(name, &format!("{}/{name}", receiver.url()), spec)
    };
    let manifests = [
        of("fine", json!({})),
        of("dead", json!({})),
        of("snoozed", json!({"snooze": {"period": "1h"}, "groupBy": ["number"]})),
        of("filtered", json!({"event": "fine", "filter": "data.number > 2.0"})),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, name) in
        [("1", "fine"), ("2", "dead"), ("3", "snoozed"), ("4", "snoozed"), ("5", "lost"), ("6", "other")]
    {
        let mut body = event(id);
        merge(&mut body, json!({"event": name, "data": {"number": 1, "text": format!("word-{id}")}}));
        standalone.publish_accepted(&body).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    (receiver, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_events_with_their_outcomes() {
    let (_receiver, standalone) = start().await;
    for (query, expected) in [
        ("", &["6", "5", "4", "3", "2", "1"][..]),
        ("limit=1", &["6", "5", "4", "3", "2", "1"]),
        ("limit=4", &["6", "5", "4", "3", "2", "1"]),
        ("source=s&since=1h", &["6", "5", "4", "3", "2", "1"]),
        ("source=t", &[]),
        ("event=lost", &["5"]),
        ("outcome=unmatched", &["6", "5"]),
        ("outcome=unmatched&limit=1", &["6", "5"]),
        ("outcome=dead", &["2"]),
        ("outcome=dropped", &["4"]),
        ("outcome=matched", &["4", "3", "2", "1"]),
        ("hook=fine", &["1"]),
        ("hook=filtered", &[]),
        ("origin=api&limit=5", &["6", "5", "4", "3", "2", "1"]),
        ("origin=relay", &[]),
        ("text=5", &["5"]),
        ("text=word-5", &[]),
        ("text=word-5&payload=true", &["5"]),
        ("until=1h", &[]),
        ("since=2099-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(ids(&standalone, query).await, expected, "{query}");
    }
    let all = get_ok(&standalone, "events").await["items"].as_array().unwrap().clone();
    let outcomes: Vec<_> = all.iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["unmatched", "unmatched", "dropped", "matched", "dead", "matched"]);
    assert_eq!((&all[4]["deliveries"], &all[4]["hooks"]), (&json!({"dead": 1}), &json!(["dead"])));
    assert!(all.iter().all(|item| item.get("data").is_none()), "payloads are shown on request only");
    let one = get_ok(&standalone, "events/5?payload=true").await;
    assert_eq!((&one["outcome"], &one["data"]["text"]), (&json!("unmatched"), &json!("word-5")));
    // Which hooks did not match, and why.
    let explanation = get_ok(&standalone, "events/5/explain").await;
    assert_eq!(explanation["others"].as_array().unwrap().len(), 4, "{explanation}");
    for (path, status, reason) in [
        ("events?state=dead", 400, "BadParameter"),
        ("events?outcome=lost", 400, "BadParameter"),
        ("events/missing", 404, "NotFound"),
    ] {
        let (answered, body) = get(&standalone, path).await;
        assert_eq!((answered, body["reason"].as_str()), (status, Some(reason)), "{path}: {body}");
    }

    let (code, table) = run_command(&standalone, "events", &["list", "--outcome", "unmatched"]).await;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().skip(1).collect()).collect();
    assert_eq!(
        (code, rows),
        (
            0,
            vec![
                vec!["SOURCE", "EVENT", "OUTCOME", "DELIVERIES", "ID"],
                vec!["s", "other", "unmatched", "6"],
                vec!["s", "lost", "unmatched", "5"],
            ]
        )
    );
    let (code, names) = run_command(&standalone, "events", &["list", "--hook", "fine", "-o", "name"]).await;
    assert_eq!((code, names.as_str()), (0, "1\n"));
    let (code, json) = run_command(&standalone, "events", &["list", "--text", "5", "-o", "json"]).await;
    assert_eq!(
        (code, serde_json::from_str::<Value>(&json).unwrap()["items"][0]["id"].as_str()),
        (0, Some("5"))
    );
    let (code, none) = run_command(&standalone, "events", &["list", "--source", "t"]).await;
    assert!(code == 0 && none.contains("no matching event in namespace default"), "{none}");
}

/// A Kong event that no hook matched: the developer knows its source and when it happened.
#[tokio::test(flavor = "multi_thread")]
async fn an_unmatched_kong_event_is_found_and_explained() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec = json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"},
        "filter": "data.operation == \"delete\""});
    let manifests = kong.connection() + &hook("relayed", &receiver.url(), spec);
    let standalone = Standalone::start(&manifests, &[]).await;
    kong.wait_for_hooks(1).await;
    kong.emit("crud", "consumers", json!({"entity": {"id": "1"}, "operation": "create"})).await;
    let found = eventually(DEADLINE, "the event in the list", async || {
        let page = get_ok(&standalone, "events?source=crud&since=1h").await;
        match page["items"].as_array().unwrap().first() {
            Some(item) => Ok(item.clone()),
            None => Err(page.to_string()),
        }
    })
    .await;
    assert_eq!(
        (&found["outcome"], &found["origin"]),
        (&json!("unmatched"), &json!("relay/relayed")),
        "{found}"
    );
    let (code, explained) = run(&standalone, &["explain", found["id"].as_str().unwrap()]).await;
    assert!(code == 0 && explained.contains("its filter rejects the event"), "{explained}");
}
