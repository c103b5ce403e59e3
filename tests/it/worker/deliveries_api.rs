//! The deliveries API and its command line: reading, explaining, replaying and cancelling, and the rights that each needs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::deliveries::{get, get_ok, list_deliveries, post, run, run_command, url};
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick, secret};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::worker::{Worker, create_accounts};
use crate::harness::{DEADLINE, Receiver, Recorded, Reply, control_plane, eventually};

/// Returns a hook for one event of the source `s`.
fn hook_for_event(event: &str, url: &str, more: Value) -> String {
    let mut spec = quick();
    spec["event"] = json!(event);
    merge(&mut spec, more);
    hook(event, url, spec)
}

/// Publishes an event of the source `s`.
async fn publish(standalone: &Standalone, name: &str, id: &str) {
    let mut body = event(id);
    merge(&mut body, json!({"event": name, "data": {"id": null, "number": 1.10}}));
    standalone.publish_accepted(&body).await;
}

/// Returns the values of a member of each item.
fn values<'a>(items: &'a [Value], member: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[member].as_str().unwrap_or_default()).collect()
}

/// Starts a worker with a delivery of each kind: delivered, delivered by a retry, dead, snoozed; and an unmatched event.
async fn start_with_one_of_each() -> (Receiver, Standalone) {
    let failed = AtomicBool::new(false);
    let receiver = Receiver::start(move |request, _| match request.path.as_str() {
        "/refuses/hush-hush" => Reply::status(422).body("no such field at /refuses/hush-hush for k3y-k3y"),
        "/flaky" if !failed.swap(true, Ordering::SeqCst) => Reply::status(503),
        _ => Reply::status(200),
    });
    let url_of = |path: &str| format!("{}/{path}", receiver.url());
    let from_secret = json!({"handler": {"webhook": {"url": null, "urlSecretRef": {"name": "to", "key": "url"},
        "headersFrom": [{"name": "x-key", "secretRef": {"name": "to", "key": "key"}}]}}});
    let kong = json!({"connectionRef": {"name": "kong"}});
    let manifests = [
        secret("to", json!({"url": url_of("refuses/hush-hush"), "key": "k3y-k3y"})),
        hook_for_event("fine", &url_of("fine"), json!({})),
        hook_for_event("refused", &url_of("-"), from_secret),
        hook_for_event("flaky", &url_of("flaky"), json!({})),
        hook_for_event("snoozed", &url_of("snoozed"), json!({"snooze": {"period": "1h"}})),
        hook_for_event("filtered", &url_of("fine"), json!({"event": "fine", "filter": "data.number > 2.0"})),
        hook_for_event("relayed", &url_of("fine"), kong),
        hook("elsewhere", &url_of("fine"), json!({"source": "t"})),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    for (name, id) in [
        ("fine", "1"),
        ("refused", "2"),
        ("flaky", "3"),
        ("snoozed", "4"),
        ("snoozed", "5"),
        ("nothing", "6"),
    ] {
        publish(&standalone, name, id).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 3).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    (receiver, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_shows_deliveries() {
    let (_receiver, standalone) = start_with_one_of_each().await;
    let all = list_deliveries(&standalone, "").await;
    assert_eq!(values(&all, "event"), ["5", "4", "3", "2", "1"], "newest first");
    assert_eq!(values(&all, "state"), ["dropped", "delivered", "delivered", "dead", "delivered"]);
    for (query, expected) in [
        ("hook=fine", &["1"][..]),
        ("state=dead", &["2"]),
        ("state=dropped", &["5"]),
        ("state=delivered&hook=snoozed", &["4"]),
        ("event=3", &["3"]),
        ("event=6", &[]),
        ("hook=missing", &[]),
        ("since=1h&limit=2", &["5", "4"]),
        ("until=1h", &[]),
        ("since=2099-01-01T00:00:00Z", &[]),
    ] {
        assert_eq!(values(&list_deliveries(&standalone, query).await, "event"), expected, "{query}");
    }

    // The pages together have all items, and the last page has no token.
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let page = get_ok(&standalone, &format!("deliveries?limit=2{next}")).await;
        pages.extend(page["items"].as_array().unwrap().clone());
        let Some(token) = page["continue"].as_str() else { break };
        next = format!("&continue={token}");
    }
    assert_eq!(pages, all);

    let id = |n: usize| all[n]["id"].as_str().unwrap();
    let flaky = get_ok(&standalone, &format!("deliveries/{}", id(2))).await;
    let attempts = flaky["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!((&attempts[0]["status"], &attempts[0]["error"]), (&json!(503), &json!("Status")));
    assert_eq!((&attempts[1]["status"], &attempts[1]["error"]), (&json!(200), &Value::Null));
    assert!(attempts.iter().all(|a| a["time"].as_str().unwrap().ends_with('Z') && a["durationMs"].is_u64()));
    assert_eq!(flaky["nextAttemptTime"], Value::Null);
    assert!(flaky.get("data").is_none(), "payloads are shown on request only");
    let response =
        standalone.client.get(url(&standalone, &format!("deliveries/{}?payload=true", id(2)))).send().await;
    let text = response.unwrap().text().await.unwrap();
    assert!(text.contains(r#""data":{"number":1.1}"#), "{text}");

    let dead = get_ok(&standalone, &format!("deliveries/{}", id(3))).await;
    assert_eq!(dead["reason"], "TerminalStatus");
    assert_eq!(dead["attempts"][0]["detail"], "no such field at *** for ***");
    let answers = format!("{all:?}{dead}{}", get_ok(&standalone, "events/2/explain").await);
    assert!(!answers.contains("hush") && !answers.contains("k3y"), "a secret is shown: {answers}");

    for (path, status, reason) in [
        ("deliveries?hok=x", 400, "BadParameter"),
        ("deliveries?limit=501", 400, "BadParameter"),
        ("deliveries/01a201d0-e928-7748-a797-9272c188e8bd", 404, "NotFound"),
        ("deliveries/nonsense", 404, "NotFound"),
        ("events/missing/explain", 404, "NotFound"),
        ("replays/01a201d0-e928-7748-a797-9272c188e8bd", 404, "NotFound"),
        ("nonsense", 404, "NotFound"),
        ("deliveries/replay", 405, "MethodNotAllowed"),
    ] {
        let (answered, body) = get(&standalone, path).await;
        assert_eq!((answered, body["reason"].as_str()), (status, Some(reason)), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explains_every_event() {
    let (_receiver, standalone) = start_with_one_of_each().await;
    for (id, hook, expected) in [
        ("1", "fine", "delivered on attempt 1"),
        (
            "2",
            "refused",
            "dead: the receiver refused it for good (retry.terminalStatuses); attempt 1 was answered 422",
        ),
        ("3", "flaky", "delivered on attempt 2"),
        ("5", "snoozed", "dropped: snoozed"),
    ] {
        let explanation = get_ok(&standalone, &format!("events/{id}/explain")).await;
        let delivery = &explanation["deliveries"][0];
        assert_eq!(delivery["hook"], hook, "{explanation}");
        assert!(delivery["explanation"].as_str().unwrap().starts_with(expected), "{explanation}");
    }
    let nothing = get_ok(&standalone, "events/6/explain").await;
    assert_eq!((&nothing["deliveries"], &nothing["event"]), (&json!([]), &json!("nothing")));
    assert_eq!((&nothing["origin"], &nothing["source"]), (&json!("api"), &json!("s")));
    let others = nothing["others"].as_array().unwrap();
    assert_eq!(
        values(others, "hook"),
        ["elsewhere", "filtered", "fine", "flaky", "refused", "relayed", "snoozed"]
    );
    assert_eq!(values(others, "reason")[0], "OtherSource");
    assert_eq!(values(others, "reason")[2], "OtherEvent");
    assert_eq!(values(others, "reason")[5], "OwnRelayOnly");
    let fine = get_ok(&standalone, "events/1/explain").await;
    let filtered = &fine["others"].as_array().unwrap()[1];
    assert_eq!((&filtered["hook"], &filtered["reason"]), (&json!("filtered"), &json!("Filtered")));
    let mut alone = get_ok(&standalone, "events/1/explain?deliveriesOnly=true").await;
    assert_eq!((&alone["others"], &alone["othersLeftOut"]), (&json!([]), &json!(0)));
    alone["others"] = fine["others"].clone();
    assert_eq!(alone, fine, "the rest is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_line_shows_the_same() {
    let (_receiver, standalone) = start_with_one_of_each().await;
    let (code, table) = run(&standalone, &["list", "--since", "1h"]).await;
    assert_eq!(code, 0, "{table}");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 6, "{table}");
    let column = lines[0].find("STATE").unwrap();
    assert!(lines[0].starts_with("AGE ") && lines[4][column..].starts_with("dead "), "{table}");

    let (code, json) = run(&standalone, &["list", "--state", "dead", "--output", "json"]).await;
    let page: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &page), (0, &get_ok(&standalone, "deliveries?state=dead").await));
    let (code, yaml) = run(&standalone, &["list", "--state", "dead", "--output", "yaml"]).await;
    assert_eq!((code, serde_saphyr::from_str::<Value>(&yaml).unwrap()), (0, page.clone()));

    let dead = page["items"][0]["id"].as_str().unwrap();
    let (code, shown) = run(&standalone, &["show", dead, "--payload"]).await;
    assert_eq!(code, 1, "it is dead: {shown}");
    assert!(shown.contains("TerminalStatus") && shown.contains("422") && shown.contains("1.1"), "{shown}");
    let (code, explanation) = run(&standalone, &["explain", "5"]).await;
    assert!(code == 0 && explanation.contains("dropped: snoozed"), "{explanation}");
    let (code, explanation) = run(&standalone, &["explain", "6"]).await;
    assert!(code == 0 && explanation.contains("No hook matched the event."), "{explanation}");

    for (args, code, part) in [
        (&["show", "01a201d0-e928-7748-a797-9272c188e8bd"][..], 2, "there is no delivery"),
        (&["list", "--limit", "501"], 2, "limit must be"),
        (&["cancel", dead], 1, "the delivery is dead"),
        (&["explain", ".."], 2, "'..' is not a valid name"),
    ] {
        let (exit_code, text) = run(&standalone, args).await;
        assert_eq!(exit_code, code, "{args:?}: {text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{args:?}: {text}");
    }
}

/// Returns the requests for an event.
fn requests_for<'a>(requests: &'a [Recorded], id: &str) -> Vec<&'a Recorded> {
    requests.iter().filter(|request| request.json()["id"] == id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_dead_letters_at_a_rate() {
    let receiver = Receiver::start(|_, _| Reply::status(422));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    for id in ["1", "2", "3", "4", "5"] {
        standalone.publish_accepted(&event(id)).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], 5).await;
    receiver.script(|_, _| Reply::status(200));

    let dead = list_deliveries(&standalone, "event=1").await;
    let id = dead[0]["id"].as_str().unwrap();
    let (status, body) = post(&standalone, &format!("deliveries/{id}/replay"), &json!({})).await;
    assert_eq!((status, &body["id"]), (202, &dead[0]["id"]), "{body}");
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let requests = receiver.wait_for(6, DEADLINE).await;
    let [first, replay] = requests_for(&requests, "1")[..] else { panic!("{requests:?}") };
    assert_eq!((first.header("webhook-id"), replay.header("webhook-id")), (id, id));
    assert_eq!((first.header("x-hookstream-replay"), replay.header("x-hookstream-replay")), ("", "1"));
    assert_eq!(list_deliveries(&standalone, "event=1").await[0]["state"], "delivered");

    // Four dead letters remain: at a rate of two a second the replay takes more than a second.
    let start = Instant::now();
    let filter = json!({"hook": "h", "since": "1h", "rate": 2});
    let (status, progress) = post(&standalone, "deliveries/replay", &filter).await;
    assert_eq!(
        (status, &progress["done"], &progress["state"]),
        (202, &json!(false), &json!("dead")),
        "{progress}"
    );
    let path = format!("replays/{}", progress["id"].as_str().unwrap());
    let done = eventually(DEADLINE, "the end of the replay", async || {
        let progress = get_ok(&standalone, &path).await;
        if progress["done"] == true { Ok(progress) } else { Err(progress.to_string()) }
    })
    .await;
    assert_eq!(done["replayed"], 4, "delivered ones are not replayed: {done}");
    assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    standalone.wait_for_count(FINISHED, &[DELIVERED], 5).await;
    let ids: HashSet<String> =
        receiver.requests().iter().map(|r| r.header("webhook-id").to_owned()).collect();
    assert_eq!((receiver.requests().len(), ids.len()), (10, 5));
    assert!(list_deliveries(&standalone, "state=dead").await.is_empty());

    let (code, text) =
        run(&standalone, &["replay", "--state", "delivered", "--event", "3", "--rate", "100", "--wait"])
            .await;
    assert!(code == 0 && text.ends_with("1 replayed\ndone\n"), "{text}");
    let requests = receiver.wait_for(11, DEADLINE).await;
    assert_eq!(requests_for(&requests, "3")[2].header("x-hookstream-replay"), "2");
    for body in [json!({"hok": "h"}), json!({"state": "pending"}), json!({"rate": 0}), json!([])] {
        assert_eq!(post(&standalone, "deliveries/replay", &body).await.0, 400, "{body}");
    }
}

/// Someone selects too much, and sees it in time.
#[tokio::test(flavor = "multi_thread")]
async fn mistaken_replay_is_counted_before_and_stopped_at_once() {
    const DEAD_LETTERS: usize = 2000;
    let receiver = Receiver::start(|_, _| Reply::status(422));
    let standalone = Standalone::start(&hook("h", &receiver.url(), json!({})), &[]).await;
    for n in 0..DEAD_LETTERS {
        standalone.publish_accepted(&event(&n.to_string())).await;
    }
    standalone.wait_for_count(FINISHED, &[DEAD], DEAD_LETTERS as u64).await;
    let count = async |filter: Value| post(&standalone, "deliveries/replay?dryRun=true", &filter).await;
    let all = json!({"matching": DEAD_LETTERS, "isExact": true});
    assert_eq!(count(json!({"hook": "h"})).await, (200, all));
    assert_eq!(count(json!({"event": "7"})).await, (200, json!({"matching": 1, "isExact": true})));
    assert_eq!(count(json!({"hook": "x"})).await.1["matching"], 0);
    assert_eq!(get_ok(&standalone, "replays").await, json!({"items": []}), "a dry run starts nothing");
    assert_eq!(receiver.requests().len(), DEAD_LETTERS);

    let (status, replay) = post(&standalone, "deliveries/replay", &json!({"hook": "h", "rate": 200})).await;
    assert_eq!(status, 202, "{replay}");
    let path = format!("replays/{}", replay["id"].as_str().unwrap());
    eventually(DEADLINE, "the first replayed deliveries", async || {
        let progress = get_ok(&standalone, &path).await;
        if progress["replayed"].as_u64() > Some(0) { Ok(()) } else { Err(progress.to_string()) }
    })
    .await;
    let (status, cancelled) = post(&standalone, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!((status, &cancelled["cancelled"], &cancelled["done"]), (200, &json!(true), &json!(true)));
    let replayed = cancelled["replayed"].as_u64().unwrap();
    assert!(replayed < DEAD_LETTERS as u64, "{cancelled}");
    receiver.wait_for(DEAD_LETTERS + replayed as usize, DEADLINE).await;
    standalone
        .assert_stays("a cancelled replay sends nothing", async || {
            receiver.requests().len() == DEAD_LETTERS + replayed as usize
        })
        .await;
    assert_eq!(get_ok(&standalone, "replays").await["items"], json!([cancelled]));
    let again = post(&standalone, &format!("{path}/cancel"), &json!({})).await;
    assert_eq!((again.0, &again.1), (200, &cancelled), "to cancel again changes nothing");

    // The same with the command line.
    let counted = run(&standalone, &["replay", "--hook", "h", "--dry-run"]).await;
    assert_eq!(counted, (0, format!("{DEAD_LETTERS} deliveries would be replayed\n")));
    let (code, started) = run(&standalone, &["replay", "--event", "7"]).await;
    assert_eq!(code, 0, "{started}");
    let second = started.split(' ').nth(1).unwrap();
    eventually(DEADLINE, "the end of the second replay", async || {
        let (_, shown) = run_command(&standalone, "replays", &["show", second]).await;
        if shown.contains("done") { Ok(()) } else { Err(shown) }
    })
    .await;
    let (code, listed) = run_command(&standalone, "replays", &["list"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{listed}");
    assert!(lines[1].contains("done") && lines[1].ends_with("state=dead event=7"), "{listed}");
    assert!(lines[2].contains("cancelled") && lines[2].ends_with("hook=h state=dead"), "{listed}");
    let (code, refused) = run_command(&standalone, "replays", &["cancel", second]).await;
    assert!(code == 1 && refused.contains("has ended"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_deliveries_are_not_sent() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    // Until the test changes it, the rate limit allows the first delivery only.
    let limited = |interval: &str| {
        let limit = json!({"delivery": {"rateLimit": {"requests": 1, "interval": interval, "burst": 1}}});
        hook("limited", &receiver.url(), limit)
    };
    let paused = json!({"source": "p", "delivery": {"paused": true}});
    let manifests = limited("1h") + &hook("paused", &receiver.url(), paused);
    let standalone = Standalone::start(&manifests, &[]).await;
    for id in ["1", "2", "3"] {
        standalone.publish_accepted(&event(id)).await;
    }
    let mut paused_event = event("4");
    paused_event["source"] = json!("p");
    standalone.publish_accepted(&paused_event).await;
    let explanation = get_ok(&standalone, "events/4/explain").await;
    assert!(
        explanation["deliveries"][0]["explanation"].as_str().unwrap().starts_with("held: "),
        "{explanation}"
    );

    receiver.wait_for(1, DEADLINE).await;

    // The second delivery is scheduled in memory, the fourth is on disk only.
    for event in ["2", "4"] {
        let id = list_deliveries(&standalone, &format!("event={event}")).await[0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        for _ in 0..2 {
            let (status, body) = post(&standalone, &format!("deliveries/{id}/cancel"), &json!({})).await;
            assert_eq!((status, &body["state"]), (200, &json!("cancelled")), "{body}");
        }
    }
    standalone.write("all.yaml", &(limited("1s") + &hook("paused", &receiver.url(), json!({"source": "p"}))));
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    let requests = receiver.requests();
    assert_eq!(requests.iter().map(|r| r.json()["id"].clone()).collect::<Vec<_>>(), ["1", "3"]);
    standalone
        .assert_stays("a cancelled delivery is not sent", async || receiver.requests().len() == 2)
        .await;

    let id = list_deliveries(&standalone, "event=1").await[0]["id"].as_str().unwrap().to_owned();
    let (status, body) = post(&standalone, &format!("deliveries/{id}/cancel"), &json!({})).await;
    assert_eq!((status, body["reason"].as_str()), (409, Some("Finished")), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_file_requires_token() {
    let token = crate::harness::watchdog::unique_path("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let flags = ["--token-file", token.to_str().unwrap()];
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:1", json!({})), &flags).await;
    assert_eq!(get(&standalone, "deliveries").await.0, 401);
    let request = standalone.client.get(url(&standalone, "deliveries")).bearer_auth("t0ken");
    assert_eq!(answer(request).await, (200, json!({"items": [], "continue": null})));
    assert_eq!(run(&standalone, &["list"]).await.0, 2);
    assert_eq!(run(&standalone, &["list", "--token-file", flags[1]]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_right_allows_its_requests_only() {
    let (namespace, kubeconfig) = create_accounts("rights").await;
    let rule = |resource: &str, verb: &str| {
        format!("{{apiGroups: [hookstream.dev], resources: [{resource}], verbs: [{verb}]}}")
    };
    let (get, payload) = (rule("deliveries", "get"), rule("deliveries/payload", "get"));
    for (account, rules) in [
        ("lists", rule("deliveries", "list")),
        ("gets", get.clone()),
        ("payload-alone", payload.clone()),
        ("payloads", format!("{get}, {payload}")),
        ("replays", rule("deliveries/replay", "create")),
        ("cancels", rule("deliveries/cancel", "create")),
        ("creates", rule("deliveries", "create")),
    ] {
        namespace.service_account(account, &format!("[{rules}]")).await;
    }
    // The example roles that are shipped.
    for (file, account) in [("reader", "support"), ("operator", "on-call")] {
        let path = format!("{}/deploy/base/deliveries-{file}-role.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("namespace: shop", &format!("namespace: {}", namespace.name));
        control_plane()
            .kubectl(["apply", "--server-side", "--validate=strict", "-f", "-"], &text)
            .await
            .unwrap();
        namespace.kubectl(&["create", "serviceaccount", account]).await.unwrap();
    }
    let other = control_plane().namespace("rights-elsewhere").await;
    let worker = Worker::start(namespace, kubeconfig, &[]).await;
    let name = &worker.namespace.name;
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    assert_eq!(worker.publish(name, Some(&publisher), "e").await.0, 202);

    let id = "01a201d0-e928-7748-a797-9272c188e8bd";
    let [one, with_payload, replay, cancel, progress, cancel_replay] = [
        format!("deliveries/{id}"),
        format!("deliveries/{id}?payload=true"),
        format!("deliveries/{id}/replay"),
        format!("deliveries/{id}/cancel"),
        format!("replays/{id}"),
        format!("replays/{id}/cancel"),
    ];
    let requests = [
        ("GET", "deliveries"),
        ("GET", &one),
        ("GET", &with_payload),
        ("GET", "events/e/explain"),
        ("POST", &replay),
        ("POST", "deliveries/replay"),
        ("GET", &progress),
        ("GET", "replays"),
        ("POST", &cancel_replay),
        ("POST", &cancel),
        ("GET", "events"),
        ("GET", "events?payload=true"),
        ("GET", "events/e"),
        ("GET", "events/e?payload=true"),
        ("POST", "deliveries/cancel"),
    ];
    let request_status = async |token: Option<&str>, namespace: &str, method: &str, path: &str| {
        let url = format!("{}/v1/namespaces/{namespace}/{path}", worker.api);
        let request = worker.client.request(method.parse().unwrap(), url).body("{}");
        answer(match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
        .await
        .0
    };
    for (account, statuses) in [
        ("lists", &[200, 403, 403, 403, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403, 403]),
        ("gets", &[403, 404, 403, 200, 403, 403, 403, 403, 403, 403, 403, 403, 200, 403, 403]),
        ("payload-alone", &[403; 15]),
        ("payloads", &[403, 404, 404, 200, 403, 403, 403, 403, 403, 403, 403, 403, 200, 200, 403]),
        ("replays", &[403, 403, 403, 403, 404, 202, 404, 200, 404, 403, 403, 403, 403, 403, 403]),
        ("cancels", &[403, 403, 403, 403, 403, 403, 403, 403, 403, 404, 403, 403, 403, 403, 200]),
        ("creates", &[403; 15]),
        ("publisher", &[403; 15]),
        ("support", &[200, 404, 403, 200, 403, 403, 403, 403, 403, 403, 200, 403, 200, 403, 403]),
        ("on-call", &[200, 404, 403, 200, 404, 202, 404, 200, 404, 404, 200, 403, 200, 403, 200]),
    ] {
        let token = worker.namespace.token(account, &["hookstream"]).await;
        for ((method, path), expected) in requests.iter().zip(statuses) {
            let status = request_status(Some(&token), name, method, path).await;
            assert_eq!(status, *expected, "{account}: {method} {path}");
            assert_eq!(
                request_status(Some(&token), &other.name, method, path).await,
                403,
                "{account} elsewhere: {path}"
            );
        }
    }
    for (method, path) in requests {
        assert_eq!(request_status(None, name, method, path).await, 401, "{path}");
    }
}
