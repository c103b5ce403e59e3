//! The dispatcher's own steps, looked at one by one: attempts are spawned and never run, for nothing here waits.

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::cluster::files::Offline;
use crate::core::egress::Policy;
use crate::core::event::{Event, Origin};
use crate::net::{Egress, HttpClient};
use crate::sandbox::{Options, Sandbox};

fn pending(hook: &HookId, seq: Seq) -> Pending {
    let event = Event {
        id: seq.to_string(),
        namespace: "n".into(),
        origin: Origin::Api,
        source: "s".into(),
        event: "e".into(),
        time: String::new(),
        data: serde_json::value::to_raw_value(&seq).unwrap(),
        attributes: [].into(),
    };
    Pending {
        seq,
        id: Uuid::nil(),
        hook: hook.clone(),
        event: Arc::new(event),
        accepted: Millis::now(),
        attempts: 0,
        due: Millis::now(),
        held: Duration::ZERO,
        suppressed: 0,
        replays: 0,
        progress: Vec::new(),
    }
}

#[tokio::test]
async fn a_place_that_becomes_free_goes_to_the_hook_that_waits() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(crate::worker::store::sqlite::SqliteStore::open(folder.path()).unwrap());
    let routes = Arc::new(Routes::default());
    let mut hooks = Vec::new();
    for name in ["busy", "quiet"] {
        let hook = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"source": "s", "handler": {"log": {}}}});
        routes.put(&serde_json::from_value(hook).unwrap());
        hooks.push(routes.get(name).unwrap().id.clone());
    }
    let http = HttpClient::new(Egress::new(Policy::default())).unwrap();
    // No script is run.
    let sandbox = Sandbox::start(Options { program: "/bin/false".into(), ..Options::default() }).await;
    let cluster = Arc::new(Offline::read(Vec::new()).unwrap());
    let (mut dispatcher, _handle) = Dispatcher::new(Parts {
        store,
        routes,
        sender: Arc::new(Sender::new(http, cluster, sandbox)),
        metrics: Arc::default(),
        grace: Duration::ZERO,
        reports: Arc::default(),
    });
    dispatcher.places = Places::new(1);
    let (busy, quiet) = (&hooks[0], &hooks[1]);
    let under_way = |dispatcher: &Dispatcher| {
        [busy, quiet].map(|hook| dispatcher.queues.get(&hook.uid).map_or(0, |queue| queue.in_flight))
    };
    dispatcher.take(Command::Accepted((1..=5).map(|seq| pending(busy, seq)).collect()));
    dispatcher.take(Command::Accepted(vec![pending(quiet, 6)]));
    assert_eq!(under_way(&dispatcher), [1, 0], "the one place is taken");
    let mut turns = Vec::new();
    for _ in 0..4 {
        let uid = if under_way(&dispatcher) == [1, 0] { &busy.uid } else { &quiet.uid };
        dispatcher.take(Command::Sent { uid: uid.clone(), came: Came::Well });
        dispatcher.go_on();
        turns.push(under_way(&dispatcher));
    }
    assert_eq!(
        turns,
        [[1, 0], [0, 1], [1, 0], [1, 0]],
        "each in its turn, whatever the backlog of the other"
    );
}
