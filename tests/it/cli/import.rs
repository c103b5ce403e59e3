//! `hookstream import` turns existing objects into manifests that adopt them without a change.

use serde_json::{Value, json};

use crate::harness::world::World;
use crate::harness::{Kong, Process};

/// Returns the standard output and the standard error.
fn import(world: &World, more: &[&str], code: i32) -> (String, String) {
    let args = ["import", "kong", "--admin-url", &world.kong.url];
    let output = Process::command(args.iter().chain(more), &[]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_hooks_are_adopted_without_write() {
    let world = World::start("import").await;
    let all = json!({"kong": {"gatewayHandlers": ["Webhook", "WebhookCustom", "Log", "Lambda"]}});
    world.apply(&[world.connection_with(all), world.hook("relayed")]).await;
    world.ready("eventhooks/relayed").await;
    // No URL is spelled as a URL parser would spell it.
    let webhook = json!({"url": "https://Receiver.test", "secret": "s1gned",
        "headers": {"x-team": "a", "authorization": "Bearer t0ken"}});
    let secret_url = json!({"url": "https://receiver.test:443/hooks?token=qu3ry"});
    let custom =
        json!({"url": "http://receiver.test:80/a/../b#part", "method": "PUT", "body": "{{ entity.id }}"});
    for (handler, event, config) in [
        ("webhook", json!("consumers"), webhook),
        ("webhook", json!("plugins"), secret_url),
        ("webhook-custom", json!("routes"), custom),
        ("log", json!(null), json!({})),
        ("lambda", json!("services"), json!({"functions": ["return function() return true end"]})),
    ] {
        let body =
            json!({"source": "crud", "event": event, "handler": handler, "config": config, "snooze": 60});
        world.kong.create(body).await;
    }
    let hooks_before = world.kong.hooks().await;
    let count_writes =
        async || world.kong.requests().await.into_iter().filter(|r| r["method"] != "GET").count();
    let writes_before = count_writes().await;

    let secrets = ["s1gned", "t0ken", "qu3ry"];
    let (plain, log) = import(&world, &[], 0);
    assert!(!secrets.iter().any(|secret| plain.contains(secret)), "{plain}");
    assert!(log.contains("relays to a worker"), "{log}");
    let (with_secrets, _) = import(&world, &["--secrets"], 0);
    world.namespace.apply(&with_secrets).await.expect("the imported manifests");
    let list = world.get("eventhooks").await.unwrap();
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for name in names {
        world.ready(&format!("eventhooks/{name}")).await;
    }
    assert_eq!(world.kong.hooks().await, hooks_before);
    assert_eq!(
        count_writes().await,
        writes_before,
        "adoption writes nothing: {:#?}",
        world.kong.requests().await
    );
    let adopted_ids: Vec<Value> = hooks_before.iter().map(|hook| hook["id"].clone()).collect();
    let list = world.get("eventhooks").await.unwrap();
    for object in list["items"].as_array().unwrap() {
        assert!(adopted_ids.contains(&object["status"]["external"]["id"]), "{object:#}");
    }
    world.assert_hides(&secrets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_hooks_that_an_event_hook_cannot_express() {
    let kong = Kong::start(&[]).await;
    let mut ids = Vec::new();
    for (handler, config) in [
        ("webhook-custom", json!({"method": "HEAD", "url": "http://a.example.com/"})),
        (
            "webhook-custom",
            json!({"method": "POST", "url": "http://b.example.com/", "payload": {"a": "1"}, "body": "b"}),
        ),
        ("webhook", json!({"url": "http://ci:pa55word@c.example.com/"})),
        ("webhook", json!({"url": "http://d.example.com"})),
    ] {
        let hook = json!({"source": "crud", "event": "consumers", "handler": handler, "config": config});
        ids.push(kong.create(hook).await["id"].as_str().unwrap().to_owned());
    }
    for more in [&[][..], &["--secrets"]] {
        let args = ["import", "kong", "--admin-url", &kong.url];
        let output = Process::command(args.iter().chain(more), &[]).output().unwrap();
        let (out, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{log}");
        for (id, part) in ids.iter().zip(["HEAD", "payload", "user information"]) {
            let line = log.lines().find(|line| line.contains(id.as_str())).expect(id);
            assert!(line.contains(part) && !out.contains(id.as_str()), "{line}\n{out}");
        }
        assert_eq!(log.lines().count(), 3, "{log}");
        assert!(!format!("{out}{log}").contains("pa55word"), "{out}{log}");
        assert!(out.contains("http://d.example.com"), "{out}");
    }
}

#[test]
fn reports_unreachable_gateway() {
    let port = crate::harness::free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let output = Process::command(["import", "kong", "--admin-url", &url], &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("--admin-url") && log.contains("cannot be reached"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}
