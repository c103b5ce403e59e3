//! EventStreams at Auth0: lifecycle, every destination, adoption, lost answers, and streams that Auth0 disabled.

use serde_json::{Value, json};

use crate::harness::auth0::CLIENT_SECRET;
use crate::harness::auth0_objects::{bearer, connect, spec, stream, tenant, with_spec};
use crate::harness::http::http;
use crate::harness::manifests::manifest;
use crate::harness::objects::{condition, message, object, secret};
use crate::harness::standalone::Standalone;
use crate::harness::world::World;
use crate::harness::{Auth0, DEADLINE, Receiver, Reply, eventually};

/// Returns endpoint and token of the only stream's webhook, as the emulator stores them.
fn stored_webhook(streams: &[Value]) -> (&str, &str) {
    let webhook = &streams[0]["destination"]["webhook"];
    let token = webhook["authorization"]["bearer"]["token"].as_str();
    (webhook["endpoint"].as_str().unwrap(), token.unwrap_or_default())
}

fn is_enabled(streams: &[Value]) -> bool {
    streams.len() == 1 && streams[0]["enabled"] == true
}

fn is_disabled(streams: &[Value]) -> bool {
    streams.len() == 1 && streams[0]["enabled"] == false
}

fn user(n: u32) -> Value {
    json!({"object": {"user_id": format!("auth0|{n}")}})
}

/// Sends an event as Auth0 would. Returns the status.
async fn send(endpoint: &str, token: &str, id: &str) -> u16 {
    let event = json!({"specversion": "1.0", "type": "user.created", "source": "urn:auth0:acme", "id": id,
        "time": "2026-11-22T08:00:00.000Z", "a0tenant": "acme", "a0stream": "est_1", "data": user(1)});
    let request = http().post(endpoint).bearer_auth(token).body(event.to_string());
    request.send().await.unwrap().status().as_u16()
}

fn users_hook(world: &World) -> Value {
    let handler = json!({"webhook": {"url": world.receiver.url()}});
    object("EventHook", "users", json!({"source": "auth0", "handler": handler}))
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_stream_is_synced_and_rotates_token() {
    let world = World::start("evs").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[stream("users", json!({"worker": {}})), users_hook(&world)]).await;
    let object = world.ready("eventstreams/users").await;
    world.ready("eventhooks/users").await;
    let streams = auth0.stored_streams().await;
    let (endpoint, first_token) = stored_webhook(&streams);
    let path = format!("/v1/namespaces/{}/streams/users", world.namespace.name);
    assert!(endpoint.starts_with(&format!("{}{path}?installation=", world.ingest)), "{endpoint}");
    assert_eq!(object["status"]["external"]["id"], streams[0]["id"]);
    assert_eq!(object["status"]["serverStatus"], "enabled");
    assert_eq!(object["status"]["applied"]["destination"], "Worker");
    let has_no_record =
        |o: &Value| o["metadata"]["annotations"].get("hookstream.dev/pending-create").is_none();
    world.until("eventstreams/users", "without the record of its create", has_no_record).await;

    let (_, matched) = auth0.emit("user.created", user(1)).await;
    assert_eq!(matched, 1);
    let requests = world.receiver.wait_for(1, DEADLINE).await;
    assert_eq!(requests[0].json()["object"]["user_id"], "auth0|1");

    // An edit and drift cost one write each.
    world
        .edit(
            "evs/users",
            json!({"subscriptions": [{"eventType": "user.created"}, {"eventType": "user.deleted"}]}),
        )
        .await;
    world.ready("eventstreams/users").await;
    assert_eq!(auth0.stored_streams().await[0]["subscriptions"].as_array().unwrap().len(), 2);
    let id = streams[0]["id"].as_str().unwrap();
    auth0.patch_stream(id, json!({"name": "theirs"})).await;
    world.request("evs/users", "t1").await;
    let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t1";
    world.until("eventstreams/users", "acknowledged", is_acknowledged).await;
    assert_eq!(auth0.stored_streams().await[0]["name"], "users");
    let event = world.event("users", "DriftRepaired").await;
    assert!(event["note"].as_str().unwrap().contains("name"), "{event:#}");

    // After a rotation Auth0 has the new token, and the worker accepts both.
    world.edit("evs/users", json!({"rotation": "2026-11"})).await;
    let has_new_token = |s: &[Value]| stored_webhook(s).1 != first_token;
    let streams = auth0.until_streams("a new token", has_new_token).await;
    let second = stored_webhook(&streams).1;
    let object = world.ready("eventstreams/users").await;
    assert!(object["status"]["applied"]["previous"]["until"].is_string(), "{object:#}");
    assert_eq!(send(endpoint, first_token, "evt_a").await, 202);
    assert_eq!(send(endpoint, second, "evt_b").await, 202);
    assert_eq!(send(endpoint, "guessed", "evt_c").await, 401);
    world.receiver.wait_for(3, DEADLINE).await;

    // An unchanged stream is not written again, and all calls used one login.
    auth0.forget_requests().await;
    world.request("evs/users", "t2").await;
    let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t2";
    world.until("eventstreams/users", "acknowledged", is_acknowledged).await;
    for (method, path) in [("PATCH", "/"), ("POST", "/oauth"), ("DELETE", "/")] {
        assert_eq!(auth0.count(method, path).await, 0, "{method} {path}");
    }
    world.assert_hides(&[first_token, second, CLIENT_SECRET]).await;
    let text = world.get("eventstreams/users").await.unwrap().to_string();
    assert!(!text.contains(first_token) && !text.contains(second));

    world.kubectl(&["delete", "evs/users", "conn/auth0", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn syncs_every_destination_with_secrets() {
    let world = World::start("evs-destinations").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    let secret_ref = |key: &str| json!({"name": "receiver", "key": key});
    let webhook = |authorization: Value| json!({"webhook": {"endpoint": "https://example.com/a", "authorization": authorization}});
    let receiver = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "receiver"},
        "stringData": {"token": "t0ken-1", "password": "p4ssword", "value": "v4lue"}});
    world
        .apply(&[
            receiver,
            stream("bearer", webhook(json!({"bearer": {"tokenSecretRef": secret_ref("token")}}))),
            stream(
                "basic",
                webhook(json!({"basic": {"username": "u", "passwordSecretRef": secret_ref("password")}})),
            ),
            stream(
                "header",
                webhook(json!({"customHeader": {"name": "x-own", "valueSecretRef": secret_ref("value")}})),
            ),
            stream("bridge", json!({"eventBridge": {"accountId": "123456789012", "region": "eu-central-1"}})),
            stream("action", json!({"action": {"actionId": "9c2ba2a9-6e7c-4c43-b3f6-0a4c7b6c7f59"}})),
            with_spec(
                stream("odd", json!({"action": {"actionId": "9c2ba2a9-6e7c-4c43-b3f6-0a4c7b6c7f59"}})),
                json!({"enabled": false, "subscriptions": [{"eventType": "user.exploded"}]}),
            ),
        ])
        .await;
    for name in ["bearer", "basic", "header", "bridge", "action", "odd"] {
        world.ready(&format!("eventstreams/{name}")).await;
    }
    let stream_named = async |name: &str| {
        let all = auth0.stored_streams().await;
        all.into_iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    };
    let authorization =
        async |name: &str| stream_named(name).await["destination"]["webhook"]["authorization"].clone();
    assert_eq!(authorization("bearer").await, json!({"bearer": {"token": "t0ken-1"}}));
    assert_eq!(authorization("basic").await, json!({"basic": {"username": "u", "password": "p4ssword"}}));
    assert_eq!(authorization("header").await, json!({"custom_header": {"key": "x-own", "value": "v4lue"}}));
    let bridge = world.get("eventstreams/bridge").await.unwrap();
    let source = bridge["status"]["partnerEventSource"].as_str().unwrap();
    assert!(source.starts_with("aws.partner/auth0.com/"), "{source}");
    let odd = world.get("eventstreams/odd").await.unwrap();
    assert_eq!(
        (&odd["status"]["serverStatus"], &stream_named("odd").await["enabled"]),
        (&json!("disabled"), &json!(false))
    );
    assert!(condition(&odd, "EventTypesKnown")["message"].as_str().unwrap().contains("user.exploded"));

    // A changed Secret reaches Auth0, with no other write.
    auth0.forget_requests().await;
    world.kubectl(&["patch", "secret/receiver", "-p", r#"{"stringData":{"token":"t0ken-2"}}"#]).await;
    eventually(DEADLINE, "the new token at Auth0", async || {
        let stored = authorization("bearer").await;
        let object = world.get("eventstreams/bearer").await?;
        if stored["bearer"]["token"] == "t0ken-2" {
            Ok(())
        } else {
            Err(format!("{stored} {:#}", object["status"]))
        }
    })
    .await;
    assert_eq!(auth0.count("PATCH", "/api/v2/event-streams").await, 1);
    world.assert_hides(&["t0ken-1", "t0ken-2", "p4ssword", "v4lue"]).await;

    world.kubectl(&["delete", "evs", "--all", "--timeout=60s"]).await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn adopts_existing_stream_by_policy_only() {
    let world = World::start("evs-adopt").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[secret("receiver", "token", "t0ken")]).await;
    let authorization = json!({"method": "bearer", "token": "old"});
    let existing = auth0
        .create_stream(
            json!({"name": "there", "subscriptions": [{"event_type": "user.created"}], "destination":
            {"type": "webhook", "configuration":
                {"webhook_endpoint": "https://example.com/a", "webhook_authorization": authorization}}}),
        )
        .await;
    let id = existing["id"].as_str().unwrap();
    let streams_before = auth0.stored_streams().await;

    world.apply(&[stream("there", bearer("https://example.com/a"))]).await;
    let text = world.stalled("eventstreams/there", "Conflict").await;
    assert!(text.contains(id) && text.contains("adopt"), "{text}");
    world.kubectl(&["delete", "evs/there", "--timeout=30s"]).await;

    // Observed by its name; the condition names the differing field.
    let observed = |endpoint: &str| {
        with_spec(stream("there", bearer(endpoint)), json!({"managementPolicy": "ObserveOnly"}))
    };
    world.apply(&[observed("https://example.com/b")]).await;
    let text = world.stalled("eventstreams/there", "Differs").await;
    assert!(text.contains("destination.configuration.webhook_endpoint"), "{text}");
    world.edit("evs/there", json!({"destination": bearer("https://example.com/a")})).await;
    world.ready("eventstreams/there").await;
    world.kubectl(&["delete", "evs/there", "--timeout=30s"]).await;

    // The mode Match adopts only an equal stream, and writes nothing.
    let adopting = |endpoint: &str, mode: &str| {
        with_spec(stream("there", bearer(endpoint)), json!({"adopt": {"id": id, "mode": mode}}))
    };
    world.apply(&[adopting("https://example.com/b", "Match")]).await;
    world.stalled("eventstreams/there", "Differs").await;
    world.edit("evs/there", json!({"destination": bearer("https://example.com/a")})).await;
    world.ready("eventstreams/there").await;
    assert_eq!(auth0.stored_streams().await, streams_before, "there was a write");
    world.edit("evs/there", json!({"deletionPolicy": "Orphan"})).await;
    world.ready("eventstreams/there").await;
    world.kubectl(&["delete", "evs/there", "--timeout=30s"]).await;

    // The mode Override writes the spec and the secret. Only one object can adopt the stream.
    world.apply(&[adopting("https://example.com/b", "Override")]).await;
    world.ready("eventstreams/there").await;
    let stored = auth0.stored_streams().await;
    assert_eq!((stored_webhook(&stored), stored.len()), (("https://example.com/b", "t0ken"), 1));
    assert_eq!(stored[0]["id"], id);
    let mut second = adopting("https://example.com/c", "Override");
    second["metadata"]["name"] = json!("second");
    world.apply(&[second]).await;
    world.stalled("eventstreams/second", "Held").await;
    world.kubectl(&["delete", "evs/second", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_streams().await.len(), 1);
    world.kubectl(&["delete", "evs/there", "--timeout=30s"]).await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answer_creates_no_second_stream() {
    let world = World::start("evs-lost").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.ready("connections/auth0").await;
    let path = "/api/v2/event-streams";
    auth0.fault(json!({"method": "POST", "path": path, "dropAnswer": true, "times": 1})).await;
    world.apply(&[stream("lost", json!({"worker": {}}))]).await;
    world.ready("eventstreams/lost").await;
    auth0.clear_faults().await;
    // Auth0's list shows a created stream late.
    auth0.fault(json!({"method": "POST", "path": path, "lagMs": 1500, "times": 1})).await;
    world.apply(&[stream("late", json!({"worker": {}}))]).await;
    world.ready("eventstreams/late").await;
    auth0.clear_faults().await;
    auth0.fault(json!({"method": "PATCH", "path": path, "dropAnswer": true, "times": 1})).await;
    world.edit("evs/lost", json!({"name": "renamed"})).await;
    world.ready("eventstreams/lost").await;
    let mut names: Vec<_> = auth0.stored_streams().await.iter().map(|s| s["name"].to_string()).collect();
    names.sort();
    assert_eq!(names, ["\"late\"", "\"renamed\""]);
    auth0.fault(json!({"method": "DELETE", "path": path, "dropAnswer": true, "times": 1})).await;
    world.kubectl(&["delete", "evs", "--all", "--timeout=60s"]).await;
    assert_eq!(auth0.stored_streams().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn enables_disabled_stream_after_resume() {
    let world = World::start("evs-disabled").await;
    let auth0 = Auth0::start(&["--disable-after", "2"]).await;
    let receiver = Receiver::start(|_, _| Reply::status(400));
    connect(&world, &auth0).await;
    world.apply(&[secret("receiver", "token", "t0ken"), stream("ours", bearer(&receiver.url()))]).await;
    world.ready("eventstreams/ours").await;
    for n in 0..2 {
        auth0.emit("user.created", user(n)).await;
    }
    auth0.until_streams("disabled", is_disabled).await;
    world.request("evs/ours", "t1").await;
    let is_stalled = |o: &Value| condition(o, "Stalled")["status"] == "True";
    let text = message(&world.until("eventstreams/ours", "stalled", is_stalled).await);
    assert!(text.starts_with("Auth0 disabled the stream"), "{text}");
    assert!(text.contains("hookstream.dev/resume") && text.contains("newest failure"), "{text}");
    let object = world.get("eventstreams/ours").await.unwrap();
    assert_eq!(object["status"]["serverStatus"], "disabled");
    world.request("evs/ours", "t2").await;
    let is_acknowledged = |o: &Value| o["status"]["handled"]["reconcileRequestedAt"] == "t2";
    world.until("eventstreams/ours", "acknowledged", is_acknowledged).await;
    assert!(is_disabled(&auth0.stored_streams().await), "only the command resume enables it");

    world.kubectl(&["annotate", "evs/ours", "hookstream.dev/resume=now"]).await;
    auth0.until_streams("enabled", is_enabled).await;
    let object = world.ready("eventstreams/ours").await;
    assert_eq!(object["status"]["handled"]["resume"], "now");
    assert_eq!(
        auth0.count("POST", "/api/v2/event-streams/").await,
        0,
        "the endpoint is external: nothing is redelivered"
    );

    // A stream that its spec disables is not a failure.
    world.edit("evs/ours", json!({"enabled": false})).await;
    auth0.until_streams("disabled", is_disabled).await;
    world.ready("eventstreams/ours").await;
    world.edit("evs/ours", json!({"enabled": true})).await;
    auth0.until_streams("enabled", is_enabled).await;
    world.ready("eventstreams/ours").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reenables_stream_after_worker_outage_without_loss() {
    let mut world = World::start("evs-outage").await;
    let auth0 = Auth0::start(&["--disable-after", "2"]).await;
    connect(&world, &auth0).await;
    world.apply(&[stream("users", json!({"worker": {}})), users_hook(&world)]).await;
    world.ready("eventstreams/users").await;
    world.ready("eventhooks/users").await;
    world.kill_operator();
    for n in 0..2 {
        auth0.emit("user.created", user(n)).await;
    }
    auth0.until_streams("disabled", is_disabled).await;
    world.start_operator();
    auth0.until_streams("enabled", is_enabled).await;
    let requests = world.receiver.wait_for(2, DEADLINE).await;
    let mut users: Vec<_> = requests.iter().map(|r| r.json()["object"]["user_id"].to_string()).collect();
    users.sort();
    assert_eq!(users, ["\"auth0|0\"", "\"auth0|1\""]);
    let object = world.ready("eventstreams/users").await;
    assert!(object["status"]["reenabledAt"].is_string(), "{object:#}");
    world.event("users", "Reenabled").await;

    // The controller enables a stream once an hour; until then the message gives the time.
    let id = object["status"]["external"]["id"].as_str().unwrap();
    auth0.patch_stream(id, json!({"status": "disabled"})).await;
    world.request("evs/users", "t1").await;
    let is_waiting = |o: &Value| message(o).contains("at most once an hour");
    let object = world.until("eventstreams/users", "waiting for an hour", is_waiting).await;
    assert_eq!(condition(&object, "Reconciling")["status"], "True");
    world.kubectl(&["annotate", "evs/users", "hookstream.dev/resume=now"]).await;
    auth0.until_streams("enabled", is_enabled).await;
    world.ready("eventstreams/users").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_missing_settings() {
    let world = World::with(
        "evs-missing",
        crate::harness::world::Setup { no_ingest_url: true, ..Default::default() },
    )
    .await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world
        .apply(&[stream("users", json!({"worker": {}})), stream("late", bearer("https://example.com"))])
        .await;
    let text = world.stalled("eventstreams/users", "IngestUrlMissing").await;
    assert!(text.contains("--public-ingest-url"), "{text}");
    let plain_http = json!({"ingestUrl": "http://hookstream-worker.hookstream-system.svc:8080"});
    world.edit("conn/auth0", plain_http).await;
    let text = world.stalled("eventstreams/users", "PublicIngestUrlUnusable").await;
    assert!(text.contains("https"), "{text}");
    world.edit("conn/auth0", json!({"ingestUrl": "https://hooks.example.com/base"})).await;
    world.ready("eventstreams/users").await;
    let path = format!("/base/v1/namespaces/{}/streams/users", world.namespace.name);
    let streams = auth0.stored_streams().await;
    let (endpoint, _) = stored_webhook(&streams);
    assert!(endpoint.starts_with(&format!("https://hooks.example.com{path}?")), "{endpoint}");

    world.not_ready("eventstreams/late", "SecretMissing").await;
    world.apply(&[secret("receiver", "token", "t0ken")]).await;
    world.ready("eventstreams/late").await;
    // Credentials that Auth0 rejects at first.
    world.apply(&[secret("auth0", "secret", "wrong")]).await;
    world.request("evs/late", "t1").await;
    world.not_ready("eventstreams/late", "Unauthorized").await;
    world.apply(&[secret("auth0", "secret", CLIENT_SECRET)]).await;
    world.ready("eventstreams/late").await;
    world.assert_hides(&["t0ken", "wrong"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_suspended_stream_unchanged() {
    let world = World::start("evs-suspend").await;
    let auth0 = Auth0::start(&[]).await;
    connect(&world, &auth0).await;
    world.apply(&[with_spec(stream("rests", json!({"worker": {}})), json!({"suspend": true}))]).await;
    world.apply(&[stream("runs", json!({"worker": {}}))]).await;
    world.ready("eventstreams/runs").await;
    assert_eq!(auth0.stored_streams().await.len(), 1);
    world.edit("evs/rests", json!({"suspend": false})).await;
    world.ready("eventstreams/rests").await;
    assert_eq!(auth0.stored_streams().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_syncs_streams_and_hooks_from_files() {
    let auth0 = Auth0::start(&[]).await;
    let file = |kind: &str, name: &str, spec: Value| {
        manifest("hookstream.dev/v1alpha1", kind, name, json!({"spec": spec}))
    };
    let secret =
        manifest("v1", "Secret", "auth0", json!({"stringData": {"secret": CLIENT_SECRET, "key": "v4lue"}}));
    let common = secret + &file("Connection", "auth0", tenant(&auth0));
    let script = |text: &str| {
        file(
            "Hook",
            "claims",
            json!({"connectionRef": {"name": "auth0"}, "name": "claims",
            "triggerId": "credentials-exchange", "script": text,
            "secrets": [{"name": "KEY", "secretRef": {"name": "auth0", "key": "key"}}]}),
        )
    };
    let users = file("EventStream", "users", spec("users", json!({"worker": {}})));
    let mut standalone = Standalone::prepare(&(common.clone() + &users + &script("one")), &["--prune"]);
    standalone.public_ingest();
    standalone.restart().await;
    let streams = auth0.until_streams("the stream", |s| s.len() == 1).await;
    auth0
        .until_hooks("the hook", |h| {
            h.len() == 1 && h[0]["secrets"]["KEY"] == "v4lue" && h[0]["enabled"] == true
        })
        .await;
    let (endpoint, token) = stored_webhook(&streams);
    assert_eq!(send(endpoint, token, "evt_1").await, 202);

    standalone.write("all.yaml", &(common.clone() + &users + &script("two")));
    auth0.until_hooks("the new script", |h| h.len() == 1 && h[0]["script"] == "two").await;
    standalone.restart().await;
    standalone.write("all.yaml", &(common + &script("two")));
    auth0.until_streams("no stream", |s| s.is_empty()).await;
    assert_eq!(auth0.stored_hooks().await.len(), 1);
}
