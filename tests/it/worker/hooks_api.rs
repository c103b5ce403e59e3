//! Hooks in the API: their states, one hook in detail, test runs, and the right that each route needs.

use serde_json::{Value, json};

use crate::harness::deliveries::{get, get_ok, post};
use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, manifest, merge, quick, secret};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::worker::{Worker, create_accounts};
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// Returns the states of the listed hooks by name, in their order.
fn states(list: &Value) -> Vec<(&str, &str)> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|hook| (hook["name"].as_str().unwrap(), hook["state"].as_str().unwrap())).collect()
}

/// Starts a worker with a hook in each of these states, and an event for each of them.
async fn start() -> (Receiver, Standalone) {
    let receiver = Receiver::start(|request, _| match request.path.as_str() {
        "/failing" => Reply::status(503).body("closed for s3cr3t-key"),
        _ => Reply::status(200).header("x-echo", "s3cr3t-key").body("thanks"),
    });
    let of = |name: &str, more: Value| {
        let mut spec = quick();
        merge(&mut spec, json!({"event": name}));
        merge(&mut spec, more);
        hook(name, &format!("{}/{name}", receiver.url()), spec)
    };
    let webhook = json!({"webhook": {"headers": {"Authorization": "Basic s3cr3t-plain", "x-plain": "seen"},
        "headersFrom": [{"name": "x-key", "secretRef": {"name": "keys", "key": "key"}}]}});
    let function = "return function (data) return data.n == 7 end";
    let manifests = [
        secret("keys", json!({"key": "s3cr3t-key"})),
        of("failing", json!({ "handler": webhook })),
        of(
            "fine",
            json!({"handler": webhook, "filter": "data.n > 1", "groupBy": ["n"],
            "snooze": {"period": "1m", "trailing": "Last"}, "onChange": {}}),
        ),
        of("held", json!({"filter": "data.n >"})),
        of("idle", json!({"event": null, "source": "t"})),
        of("paused", json!({"delivery": {"paused": true}})),
        manifest(
            "hookstream.dev/v1alpha1",
            "EventHook",
            "lambda",
            json!({"spec": {"source": "s", "event": "l",
            "handler": {"lambda": {"functions": [function]}}}}),
        ),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, name, n) in
        [("1", "failing", 7), ("2", "fine", 7), ("3", "held", 7), ("4", "paused", 7), ("5", "paused", 7)]
    {
        let mut body = event(id);
        merge(&mut body, json!({"event": name, "data": {"n": n}}));
        standalone.publish_accepted(&body).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    (receiver, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_listed_with_state_and_backlog() {
    let (_receiver, standalone) = start().await;
    let expected = [
        ("failing", "failing"),
        ("held", "held"),
        ("paused", "paused"),
        ("idle", "idle"),
        ("lambda", "idle"),
        ("fine", "delivering"),
    ];
    eventually(DEADLINE, "the state of each hook", async || {
        let list = get_ok(&standalone, "hooks?sort=state").await;
        if states(&list) == expected { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
    let list = get_ok(&standalone, "hooks?sort=pending").await;
    let item = |name: &str| {
        let mut items = list["items"].as_array().unwrap().iter();
        items.find(|hook| hook["name"] == name).unwrap().clone()
    };
    assert_eq!(states(&list)[0].0, "paused", "two are pending: {list}");
    let (failing, fine, paused) = (item("failing"), item("fine"), item("paused"));
    assert_eq!((&paused["pending"], &paused["reason"]), (&json!(2), &json!("Paused")));
    assert!(paused["oldestTime"].is_string() && paused["lastSuccessTime"].is_null());
    assert_eq!((&failing["reason"], &failing["pending"]), (&json!("ReceiverFailing"), &json!(1)));
    assert!(failing["since"].is_string() && failing["p95Ms"].as_f64().unwrap() > 0.0, "{failing}");
    assert_eq!((&fine["host"], &fine["handler"]), (&json!("127.0.0.1"), &json!("Webhook")));
    assert!(fine["lastSuccessTime"].is_string(), "{fine}");
    assert_eq!((&item("lambda")["host"], &item("idle")["event"]), (&Value::Null, &Value::Null));
    let counts = json!({"failing": 1, "held": 1, "notReady": 0, "deleting": 0, "paused": 1, "suspended": 0,
        "idle": 2, "delivering": 1});
    assert_eq!(list["counts"], counts);

    for (query, names) in [
        ("source=t", &["idle"][..]),
        ("event=fine", &["fine"]),
        ("name=a", &["failing", "lambda", "paused"]),
        ("state=held&state=paused", &["held", "paused"]),
        ("sort=lastSuccess&limit=1", &["fine"]),
    ] {
        let list = get_ok(&standalone, &format!("hooks?{query}")).await;
        let listed: Vec<_> = states(&list).into_iter().map(|(name, _)| name).collect();
        assert_eq!(listed, names, "{query}");
    }
    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = get_ok(&standalone, &format!("hooks?sort=state&limit=1{token}")).await;
        paged.extend(states(&page).into_iter().map(|(name, state)| (name.to_owned(), state.to_owned())));
        let Some(next) = page["continue"].as_str() else { break };
        token = format!("&continue={next}");
    }
    let paged: Vec<_> = paged.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect();
    assert_eq!(paged, expected);
    let (status, body) = get(&standalone, &format!("hooks?sort=name{token}")).await;
    assert_eq!((status, &body["reason"]), (400, &json!("BadParameter")), "a token of another order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_is_shown_with_what_explains_its_state() {
    let (_receiver, standalone) = start().await;
    let shown = eventually(DEADLINE, "an open breaker and a change in the timeline", async || {
        let shown = get_ok(&standalone, "hooks/failing").await;
        // The condition is written later.
        let has_condition = shown["conditions"].to_string().contains("Delivering");
        let is_reported = shown["timeline"][0]["reason"] == "ReceiverFailing" && shown["held"].is_null();
        if is_reported && has_condition { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert!(!shown.to_string().contains("s3cr3t"), "{shown}");
    assert_eq!(shown["timeline"][0]["healthy"], false);
    let headers = &shown["spec"]["handler"]["webhook"]["headers"];
    assert_eq!((&headers["Authorization"], &headers["x-plain"]), (&json!("***"), &json!("seen")));
    assert!(shown["breaker"].is_null(), "a few failures do not open it");

    let fine = get_ok(&standalone, "hooks/fine").await;
    assert_eq!(fine["filter"], "data.n > 1");
    assert_eq!(
        fine["gates"],
        json!({"groupBy": ["n"], "snoozePeriod": "1m", "snoozeTrailing": true, "onChange": true,
            "onChangeFields": null, "defaultFields": []})
    );
    let paused = get_ok(&standalone, "hooks/paused").await;
    assert_eq!((&paused["state"], &paused["held"]["reason"]), (&json!("paused"), &json!("Paused")));
    let held = get_ok(&standalone, "hooks/held").await;
    assert_eq!(
        (&held["held"]["reason"], &held["reason"]),
        (&json!("InvalidFilter"), &json!("InvalidFilter"))
    );
    for (path, status) in [("hooks/missing", 404), ("hooks/fine?x=1", 400), ("hooks/..", 404)] {
        assert_eq!(get(&standalone, path).await.0, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_is_no_success() {
    let receiver = Receiver::start(|_, _| Reply::status(422));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    standalone.publish_accepted(&event("1")).await;
    let shown = eventually(DEADLINE, "a receiver that answers", async || {
        let shown = get_ok(&standalone, "hooks/h").await;
        if shown["state"] == "delivering" { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert!(shown["lastSuccessTime"].is_null(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn breaker_that_opens_is_shown_with_its_next_probe() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    for n in 0..20 {
        standalone.publish_accepted(&event(&n.to_string())).await;
    }
    eventually(DEADLINE, "an open breaker", async || {
        let shown = get_ok(&standalone, "hooks/h").await;
        let breaker = &shown["breaker"];
        let is_open = breaker["failures"].as_u64() >= Some(8) && shown["state"] == "failing";
        if is_open && shown["held"]["reason"] == "ReceiverFailing" { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_run_shows_what_was_sent_and_received_without_secrets() {
    let (receiver, standalone) = start().await;
    let (status, run) = post(&standalone, "hooks/fine/test", &json!({"data": {"n": 1}})).await;
    assert_eq!((status, &run["delivered"], &run["status"]), (200, &json!(true), &json!(200)), "{run}");
    assert!(!run.to_string().contains("s3cr3t"), "{run}");
    let request = &run["exchange"]["request"];
    assert!(request["url"].as_str().unwrap().ends_with("/fine") && request["method"] == "POST", "{run}");
    let sent: Value = serde_json::from_str(request["body"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(sent, json!({"n": 1, "source": "s", "event": "fine"}));
    assert_eq!(run["exchange"]["response"]["body"]["text"], "thanks");
    assert_eq!(receiver.requests().last().unwrap().header("x-key"), "s3cr3t-key", "the real secret was sent");

    let (_, stored) = post(&standalone, "hooks/fine/test", &json!({"event": "2"})).await;
    assert_eq!((&stored["delivered"], &stored["event"]), (&json!(true), &json!("fine")), "{stored}");
    let (_, failed) = post(&standalone, "hooks/failing/test", &json!({})).await;
    assert_eq!(
        (&failed["delivered"], &failed["reason"], &failed["status"]),
        (&json!(false), &json!("Status"), &json!(503))
    );
    assert!(failed["detail"].as_str().unwrap().contains("***"), "{failed}");
    let (_, lambda) = post(&standalone, "hooks/lambda/test", &json!({"data": {"n": 7}})).await;
    assert_eq!(lambda["functions"], json!([{"ok": true, "result": true, "error": null}]), "{lambda}");
    let (_, rejected) = post(&standalone, "hooks/lambda/test", &json!({"data": {"n": 8}})).await;
    assert_eq!((&rejected["delivered"], &rejected["reason"]), (&json!(false), &json!("NotDelivered")));

    let (status, ping) = post(&standalone, "hooks/fine/ping", &json!({})).await;
    assert_eq!((status, &ping["source"], &ping["event"]), (200, &json!("kong:event_hooks"), &json!("ping")));
    for (path, body, status) in [
        ("hooks/held/test", json!({}), 409),
        ("hooks/missing/test", json!({}), 404),
        ("hooks/lambda/ping", json!({}), 400),
        ("hooks/fine/test", json!({"event": "missing"}), 404),
        ("hooks/fine/test", json!({"data": 7}), 400),
        ("hooks/fine/test", json!({"event": "2", "data": {}}), 400),
    ] {
        assert_eq!(post(&standalone, path, &body).await.0, status, "{path} {body}");
    }
    // A test run is no delivery.
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_route_needs_its_right() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let (namespace, kubeconfig) = create_accounts("hooks-api").await;
    let name = namespace.name.clone();
    namespace.apply(&hook("h", &receiver.url(), json!({}))).await.unwrap();
    let rule = |resource: &str, verbs: &str| {
        format!("[{{apiGroups: [hookstream.dev], resources: [{resource}], verbs: [{verbs}]}}]")
    };
    namespace.service_account("lists", &rule("deliveries", "list")).await;
    namespace.service_account("reads", &rule("deliveries", "'get', list")).await;
    namespace.service_account("tests", &rule("eventhooks/test", "create")).await;
    let payload = "[{apiGroups: [hookstream.dev], resources: [eventhooks/test], verbs: [create]}, \
                   {apiGroups: [hookstream.dev], resources: [deliveries, deliveries/payload], verbs: [get]}]";
    namespace.service_account("payload", payload).await;
    namespace.service_account("pings", &rule("eventhooks/ping", "create")).await;
    let worker = Worker::start(namespace, kubeconfig, &["--egress-allow", "127.0.0.0/8"]).await;
    let publisher = worker.namespace.token("publisher", &["hookstream"]).await;
    assert_eq!(worker.publish(&name, Some(&publisher), "1").await.0, 202);
    receiver.wait_for(1, DEADLINE).await;

    let of = |path: &str| format!("{}/v1/namespaces/{name}/{path}", worker.api);
    let (stored, data) = (json!({"event": "1"}), json!({"data": {}}));
    let filter = json!({"filter": "true"});
    let requests = [
        ("hooks", None),
        ("objects", None),
        ("rates", None),
        ("sources", None),
        ("hooks/h", None),
        ("hooks/h/test", Some(&data)),
        ("hooks/h/test", Some(&stored)),
        ("hooks/h/ping", Some(&data)),
        ("events/1/filter", Some(&filter)),
        ("rights", None),
    ];
    let request_status = async |token: Option<&str>, path: &str, body: Option<&Value>| {
        let mut request = match body {
            Some(body) => worker.client.post(of(path)).json(body),
            None => worker.client.get(of(path)),
        };
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    };
    for (account, statuses) in [
        ("lists", [200, 200, 200, 200, 403, 403, 403, 403, 403, 200]),
        ("reads", [200, 200, 200, 200, 200, 403, 403, 403, 403, 200]),
        ("tests", [403, 403, 403, 403, 403, 200, 403, 403, 403, 200]),
        ("payload", [403, 403, 403, 403, 200, 200, 200, 403, 200, 200]),
        ("pings", [403, 403, 403, 403, 403, 403, 403, 200, 403, 200]),
        ("publisher", [403, 403, 403, 403, 403, 403, 403, 403, 403, 200]),
    ] {
        let token = worker.namespace.token(account, &["hookstream"]).await;
        for ((path, body), expected) in requests.iter().zip(statuses) {
            let (status, answered) = request_status(Some(&token), path, *body).await;
            assert_eq!(status, expected, "{account} {path} {body:?}: {answered}");
        }
        for path in ["hooks", "objects", "rates"] {
            let url = format!("{}/v1/{path}", worker.api);
            assert_eq!(answer(worker.client.get(url).bearer_auth(&token)).await.0, 403, "{account} {path}");
        }
    }
    for (path, body) in requests {
        assert_eq!(request_status(None, path, body).await.0, 401, "{path}");
    }

    let token = worker.namespace.token("payload", &["hookstream"]).await;
    let (_, rights) = request_status(Some(&token), "rights", None).await;
    let allowed: Vec<&str> = rights["rights"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|right| right["allowed"] == true)
        .map(|right| right["right"].as_str().unwrap())
        .collect();
    assert_eq!(allowed, ["get deliveries", "get deliveries/payload", "create eventhooks/test"], "{rights}");
    let replay =
        rights["rights"].as_array().unwrap().iter().find(|r| r["right"] == "create deliveries/replay");
    assert_eq!(replay.unwrap()["role"], "deliveries-operator");
    let url = format!("{}/v1/rights", worker.api);
    let (status, all) = answer(worker.client.get(url).bearer_auth(&token)).await;
    assert!(status == 200 && all["namespace"].is_null(), "{all}");
    assert!(all["rights"].as_array().unwrap().iter().all(|right| right["allowed"] == false), "{all}");
    let url = format!("{}/v1/namespaces/default/rights", worker.api);
    let (_, other) = answer(worker.client.get(url).bearer_auth(&token)).await;
    assert!(other["rights"].as_array().unwrap().iter().all(|right| right["allowed"] == false), "{other}");
}
