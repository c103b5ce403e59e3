//! Log lines name what they are about: the reconciled object, the delivery of an attempt, the accepted event.

use serde_json::{Value, json};

use crate::harness::world::World;
use crate::harness::{DEADLINE, Reply, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn reconciles_attempts_and_events_are_named() {
    let world = World::start("log-lines").await;
    world.receiver.script(|_, n| Reply::status(if n == 1 { 503 } else { 200 }));
    let retry = json!({"delivery": {"retry": {"initialBackoff": "100ms", "maxBackoff": "1s"}}});
    world.apply(&[world.connection(), world.hook_with("relayed", retry)]).await;
    world.ready("eventhooks/relayed").await;
    world.kong.emit("crud", "consumers", json!({"entity": {"id": "1"}, "operation": "create"})).await;
    world.receiver.wait_for(2, DEADLINE).await;
    let lines = |message: &str| -> Vec<Value> {
        let log = world.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    };
    let attempts = eventually(DEADLINE, "a line of each attempt", async || {
        let attempts = lines("attempt ended");
        if attempts.len() == 2 { Ok(attempts) } else { Err(world.log()) }
    })
    .await;
    let namespace = json!(world.namespace.name);
    for (number, line) in attempts.iter().enumerate() {
        assert_eq!((&line["namespace"], &line["hook"]), (&namespace, &json!("relayed")), "{line}");
        assert!(line["attempt"] == number + 1 && line["delivery"] == attempts[0]["delivery"], "{line}");
    }
    assert!(uuid::Uuid::parse_str(attempts[0]["delivery"].as_str().unwrap()).is_ok(), "{attempts:?}");
    let accepted = lines("event accepted");
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    let line = &accepted[0];
    assert_eq!(
        (&line["level"], &line["source"], &line["name"]),
        (&json!("DEBUG"), &json!("crud"), &json!("consumers"))
    );
    assert!(line["namespace"] == namespace && line["event"].is_string(), "{line}");

    // Each call of a reconcile names the object, not only the line that reports its result.
    let calls = lines("admin API called");
    let writes: Vec<&Value> = calls.iter().filter(|line| line["method"] == "PUT").collect();
    assert!(!writes.is_empty(), "{calls:?}");
    for line in writes {
        let object = (&line["object_kind"], &line["object_namespace"], &line["object_name"]);
        assert_eq!(object, (&json!("EventHook"), &namespace, &json!("relayed")), "{line}");
    }
}
