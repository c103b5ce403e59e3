//! Tests of single dispatcher steps. The spawned attempts never run, because no step here awaits.

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::cluster::files::OfflineManifests;
use crate::core::egress::EgressRules;
use crate::core::event::{Event, Origin};
use crate::net::{Egress, HttpClient};
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::worker::store::sqlite::SqliteStore;

fn pending(hook: &HookId, seq: DeliverySeq) -> PendingDelivery {
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
    PendingDelivery {
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
async fn a_free_slot_goes_to_the_waiting_hook() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(folder.path()).unwrap());
    let index = Arc::new(HookIndex::default());
    let mut hooks = Vec::new();
    for name in ["busy", "quiet"] {
        let hook = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"source": "s", "handler": {"log": {}}}});
        index.upsert(&serde_json::from_value(hook).unwrap());
        hooks.push(index.get(name).unwrap().id.clone());
    }
    let http = HttpClient::new(Egress::new(EgressRules::default())).unwrap();
    // No script is run.
    let sandbox =
        Sandbox::start(SandboxOptions { program: "/bin/false".into(), ..SandboxOptions::default() }).await;
    let cluster = Arc::new(OfflineManifests::read(Vec::new()).unwrap());
    let (mut dispatcher, _handle) = Dispatcher::new(DispatcherParts {
        store,
        index,
        runner: Arc::new(HandlerRunner::new(http, cluster, sandbox)),
        metrics: Arc::default(),
        grace: Duration::ZERO,
        reports: Arc::default(),
    });
    dispatcher.slots = AttemptSlots::new(1);
    let (busy, quiet) = (&hooks[0], &hooks[1]);
    let in_flight = |dispatcher: &Dispatcher| {
        [busy, quiet].map(|hook| dispatcher.queues.get(&hook.uid).map_or(0, |queue| queue.in_flight))
    };
    let accepted = (1..=5).map(|seq| pending(busy, seq)).collect();
    dispatcher.handle_command(DispatchCommand::Accepted(accepted));
    dispatcher.handle_command(DispatchCommand::Accepted(vec![pending(quiet, 6)]));
    assert_eq!(in_flight(&dispatcher), [1, 0], "the only slot is taken");
    let mut history = Vec::new();
    for _ in 0..4 {
        let uid = if in_flight(&dispatcher) == [1, 0] { &busy.uid } else { &quiet.uid };
        let signal = ReceiverSignal::Healthy;
        dispatcher.handle_command(DispatchCommand::AttemptEnded { uid: uid.clone(), signal });
        dispatcher.dispatch_marked();
        history.push(in_flight(&dispatcher));
    }
    assert_eq!(
        history,
        [[1, 0], [0, 1], [1, 0], [1, 0]],
        "the hooks alternate, whatever the backlog of the other"
    );
}
