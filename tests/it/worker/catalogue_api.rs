//! The API's catalogue of sources, the try-out of filters, the objects of every kind, and the rates of the last hour.

use serde_json::{Value, json};

use crate::harness::deliveries::{get, get_ok, list_deliveries, post};
use crate::harness::manifests::{event, hook, manifest, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Kong, Receiver, Reply, eventually, free_port, watchdog};

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_catalogue_and_hooks_are_merged() {
    let manifests = [
        hook("a", "http://127.0.0.1:9/", json!({"source": "shop", "event": "paid"})),
        hook("b", "http://127.0.0.1:9/", json!({"source": "shop"})),
        hook("c", "http://127.0.0.1:9/", json!({"source": "crud", "event": "routes"})),
        hook("d", "http://127.0.0.1:9/", json!({"source": "crud", "event": "custom"})),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    let list = get_ok(&standalone, "sources").await;
    let source = |name: &str| {
        let mut items = list["items"].as_array().unwrap().iter();
        items.find(|item| item["source"] == name).unwrap().clone()
    };
    let event_of = |source: &Value, name: &str| {
        let mut events = source["events"].as_array().unwrap().iter();
        events.find(|event| event["event"] == name).unwrap().clone()
    };
    let (shop, crud, auth0) = (source("shop"), source("crud"), source("auth0"));
    assert_eq!((&shop["catalogue"], &shop["hooks"]), (&Value::Null, &json!(1)));
    assert_eq!(event_of(&shop, "paid")["hooks"], 1);
    assert_eq!(crud["catalogue"], "kong");
    let routes = event_of(&crud, "routes");
    assert_eq!((&routes["hooks"], &routes["sample"]["schema"]), (&json!(1), &json!("routes")));
    assert_eq!(event_of(&crud, "custom")["sample"], Value::Null);
    assert!(event_of(&auth0, "user.created")["sample"]["object"].is_object());
    assert_eq!(list["truncated"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_is_tried_on_a_stored_event() {
    let spec = json!({"filter": "event == 'e' && (data.n > 100 || data.vip)"});
    let standalone = Standalone::start(&hook("h", "http://127.0.0.1:9/", spec), &[]).await;
    let mut body = event("1");
    merge(&mut body, json!({"data": {"n": 7, "vip": false}}));
    standalone.publish_accepted(&body).await;
    let tried = async |filter: &str| {
        let (status, body) = post(&standalone, "events/1/filter", &json!({ "filter": filter })).await;
        assert_eq!(status, 200, "{body}");
        body
    };
    let rejected = tried("data.n > 100 || data.vip").await;
    assert_eq!(rejected["verdict"], "rejects");
    assert_eq!(
        rejected["parts"],
        json!([{"depth": 0, "expression": "data.n > 100", "result": false, "error": null},
            {"depth": 0, "expression": "data.vip", "result": false, "error": null}])
    );
    assert_eq!(tried("data.n == 7").await["verdict"], "accepts");
    let undecided = tried("data.missing == 1").await;
    assert_eq!(undecided["verdict"], "undecided");
    assert!(undecided["error"].as_str().unwrap().contains("missing"), "{undecided}");
    let invalid = tried("data.n >").await;
    assert_eq!((&invalid["verdict"], &invalid["line"]), (&json!("invalid"), &json!(1)));
    for (path, body, status) in [
        ("events/2/filter", json!({"filter": "true"}), 404),
        ("events/1/filter", json!({}), 400),
        ("events/1/filter", json!({"filter": "true", "x": 1}), 400),
        ("events/1/filter", json!({"filter": "x".repeat(20_000)}), 413),
    ] {
        assert_eq!(post(&standalone, path, &body).await.0, status, "{path} {body:.60}");
    }

    // Explain shows the parts of each hook's own filter.
    let explained = get_ok(&standalone, "events/1/explain").await;
    let other = &explained["others"][0];
    assert_eq!((&other["reason"], &other["filter"]["verdict"]), (&json!("Filtered"), &json!("rejects")));
    let results: Vec<_> =
        other["filter"]["parts"].as_array().unwrap().iter().map(|part| &part["result"]).collect();
    assert_eq!(results, [&json!(true), &json!(false), &json!(false), &json!(false)], "{other}");
    let deliveries_only = get_ok(&standalone, "events/1/explain?deliveriesOnly=true").await;
    assert_eq!(deliveries_only["deliveries"], explained["deliveries"]);
    assert_eq!((&deliveries_only["others"], &deliveries_only["othersLeftOut"]), (&json!([]), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_kind_are_listed_with_what_the_vendor_has() {
    let kong = Kong::start(&[]).await;
    let unreachable = json!({"spec": {"kong": {"adminUrl": format!("http://127.0.0.1:{}", free_port())}}});
    let stream = json!({"spec": {"connectionRef": {"name": "absent"}, "name": "users",
        "subscriptions": [{"eventType": "user.created"}], "destination": {"worker": {}}}});
    let manifests = [
        kong.connection(),
        manifest("hookstream.dev/v1alpha1", "Connection", "away", unreachable),
        hook("relayed", "http://127.0.0.1:9/", json!({"source": "crud", "connectionRef": {"name": "kong"}})),
        hook("plain", "http://127.0.0.1:9/", json!({})),
        manifest("hookstream.dev/v1alpha1", "EventStream", "users", stream),
    ]
    .concat();
    let mut standalone = Standalone::prepare(&manifests, &[]);
    standalone.public_ingest();
    standalone.restart().await;
    let list = eventually(DEADLINE, "the objects", async || {
        let list = get_ok(&standalone, "objects").await;
        let items = list["items"].as_array().unwrap();
        let is_settled =
            items.iter().all(|item| item["reason"] != "NotReconciled" && item["reason"] != "Waiting")
                && items.iter().any(|item| item["name"] == "relayed" && item["ready"] == "True")
                && items.iter().any(|item| item["name"] == "away" && item["lastError"].is_object());
        if is_settled { Ok(list) } else { Err(list.to_string()) }
    })
    .await;
    let items = list["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["away", "kong", "plain", "relayed", "users"], "by kind and name");
    let (away, relayed, users) = (&items[0], &items[3], &items[4]);
    assert_eq!((&away["kind"], &away["ready"]), (&json!("Connection"), &json!("False")));
    assert!(relayed["externalId"].is_string() && relayed["connection"] == "kong", "{relayed}");
    assert!(relayed["drift"].is_null() && relayed["stream"].is_null(), "{relayed}");
    assert_eq!(
        users["stream"],
        json!({"serverStatus": null, "disabledByVendor": false, "recovers": true, "reenabledTime": null})
    );
    for (query, expected) in [
        ("kind=EventHook", &["plain", "relayed"][..]),
        ("kind=Connection&ready=False", &["away"]),
        ("ready=True&kind=Connection,EventHook", &["kong", "plain", "relayed"]),
        ("kind=Hook", &[]),
    ] {
        let list = get_ok(&standalone, &format!("objects?{query}")).await;
        let names: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{query}");
    }
    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = get_ok(&standalone, &format!("objects?limit=2{token}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        paged.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["continue"].as_str() else { break };
        token = format!("&continue={next}");
    }
    assert_eq!(paged, names);
    assert_eq!(get(&standalone, "objects?kind=Secret").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_count_events_and_attempts_of_the_last_hour() {
    let receiver = Receiver::start(|request, _| match request.path.as_str() {
        "/refuses" => Reply::status(422),
        _ => Reply::status(200),
    });
    let mut refuses = quick();
    merge(&mut refuses, json!({"event": "bad"}));
    let manifests = hook("good", &format!("{}/good", receiver.url()), json!({"event": "e"}))
        + &hook("bad", &format!("{}/refuses", receiver.url()), refuses);
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, name) in [("1", "e"), ("2", "e"), ("3", "bad"), ("3", "bad")] {
        let mut body = event(id);
        merge(&mut body, json!({ "event": name }));
        standalone.publish_accepted(&body).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    let rates = get_ok(&standalone, "rates").await;
    let hour = &rates["hour"];
    let counts = ["accepted", "delivered", "failed", "dead"].map(|name| hour[name].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 1, 1], "a duplicate is not counted: {hour}");
    assert!(hour["acceptP99Ms"].as_f64().unwrap() > 0.0 && hour["attemptP99Ms"].as_f64().unwrap() > 0.0);
    let minutes = rates["minutes"].as_array().unwrap();
    assert_eq!((minutes.len(), &rates["counted"]), (60, &json!(true)));
    let sum: u64 = minutes.iter().map(|minute| minute["accepted"].as_u64().unwrap()).sum();
    assert_eq!(sum, 3);
    assert_eq!(minutes[0]["acceptP99Ms"], Value::Null, "nothing happened an hour ago");
    let url = format!("http://{}/v1/rates", standalone.api);
    let all: Value = standalone.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(all["hour"]["accepted"], 3);
    let url = format!("http://{}/v1/namespaces/other/rates", standalone.api);
    let other: Value = standalone.client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(other["hour"]["accepted"], 0);

    // The list of deliveries selects by reason and status.
    for (query, events) in [
        ("status=422", &["3"][..]),
        ("status=4xx&limit=1", &["3"]),
        ("status=2xx", &["2", "1"]),
        ("status=2xx&status=422&state=delivered", &["2", "1"]),
        ("reason=TerminalStatus", &["3"]),
        ("reason=MaxAge,Gone", &[]),
        ("status=none", &[]),
    ] {
        let listed = list_deliveries(&standalone, query).await;
        let listed: Vec<_> = listed.iter().map(|item| item["event"].as_str().unwrap()).collect();
        assert_eq!(listed, events, "{query}");
    }
}

/// The worker serves the document of the repository, which `docs::generated` compares with its routes.
#[tokio::test(flavor = "multi_thread")]
async fn openapi_document_is_served_without_a_token() {
    let token = watchdog::unique_path("token");
    std::fs::write(&token, "the-token").unwrap();
    let flags = ["--token-file", token.to_str().unwrap()];
    let standalone = Standalone::start(&hook("a", "http://127.0.0.1:9/", json!({})), &flags).await;
    let served =
        standalone.client.get(format!("http://{}/openapi.json", standalone.api)).send().await.unwrap();
    assert_eq!(
        (served.status().as_u16(), &served.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let served: Value = served.json().await.unwrap();
    assert_eq!(served["openapi"], "3.1.0");
    let documented = include_str!("../../../docs/openapi.json");
    assert_eq!(served, serde_json::from_str::<Value>(documented).unwrap());
}
