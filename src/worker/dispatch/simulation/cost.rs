//! Steps the machine through accept, send and settle, to count its instructions per delivery with callgrind: see
//! CONTRIBUTING.md. The machine's part is all that `measured` runs.

use super::*;
use crate::core::event::{PublishedEvents, parse_request};
use crate::core::fair_shares::Owner;
use crate::memory::{MemoryPool, request_cost};
use crate::metrics::MemoryShareMetrics;
use crate::worker::decide::create_deliveries;

/// Deliveries in one command, as a busy ingest hands them over.
const BATCH: usize = 32;
const HOOKS: usize = 100;

/// The only function whose instructions callgrind collects.
#[inline(never)]
fn measured(machine: &mut DispatchMachine, commands: Vec<DispatchCommand>, now: Now) -> Vec<Effect> {
    machine.step(commands, now)
}

#[test]
#[ignore = "a measurement: run it under callgrind"]
fn dispatch_cost() {
    const DELIVERIES: usize = 10_000;
    let mut simulation = Simulation::new(MEMORY, 1);
    let uid = |n: usize| format!("6f2c1d5e-8a4b-4c3d-9e2f-{n:012}");
    let hooks: Vec<_> = (0..HOOKS)
        .map(|n| {
            let receiver = Receiver::Healthy(Duration::from_millis(1));
            let namespace = format!("namespace-{}", n % 10);
            simulation.put_hook(&namespace, &format!("hook-{n}"), &uid(n), &json!({}), receiver)
        })
        .collect();
    let states: Vec<_> = hooks.iter().map(|uid| simulation.index.get(uid).unwrap()).collect();
    let event = simulation.event(500);
    let (mut sent, mut seq) = (0, 0);
    while sent < DELIVERIES {
        let now = simulation.now();
        let accepted = (0..BATCH).map(|_| {
            seq += 1;
            PendingDelivery {
                epoch: None,
                seq: seq << 20,
                id: Uuid::nil(),
                hook: states[usize::try_from(seq).unwrap() * 7 % HOOKS].id.clone(),
                event: event.clone(),
                accepted: now.wall,
                attempts: 0,
                due: now.wall,
                held: Duration::ZERO,
                suppressed: 0,
                replays: 0,
                progress: Vec::new(),
            }
        });
        let accepted = DispatchCommand::Accepted { pending: accepted.collect(), memory: Vec::new() };
        let started = measured(&mut simulation.machine, vec![accepted], now);
        let mut settled = Vec::new();
        let ended = started.into_iter().filter_map(|effect| {
            let Effect::StartAttempt { pending, ticket } = effect else { return None };
            let uid = pending.hook.uid.clone();
            let next = Some(NextStep::Delivered);
            settled.push(SettledDelivery { uid: uid.clone(), seq: pending.seq, next, notify: false });
            let (signal, evidence) = (ReceiverSignal::Delivered, ReceiverEvidence::Healthy);
            Some(DispatchCommand::AttemptEnded { uid, signal, evidence, ticket, start_delay: Duration::ZERO })
        });
        let ended: Vec<_> = ended.collect();
        sent += ended.len();
        simulation.steady = simulation.steady + Duration::from_millis(1);
        let now = simulation.now();
        measured(&mut simulation.machine, ended, now);
        measured(&mut simulation.machine, vec![DispatchCommand::Settled(settled)], now);
    }
    assert!(simulation.machine.memory.is_empty());
    println!("{sent} deliveries");
}

/// What ingest computes for an event before the store has it. The only function whose instructions callgrind collects.
#[inline(never)]
fn measured_publish(index: &HookIndex, memory: &Arc<MemoryPool>, namespace: &Arc<str>, body: &[u8]) -> usize {
    let owner = Owner::namespace(namespace);
    let reserved = memory.try_reserve(owner, request_cost(body.len() as u64)).unwrap();
    let headers = [("host", b"example".as_slice()), ("content-type", b"application/json")];
    let parsed = parse_request(Some("application/json"), headers, body, 1 << 20).unwrap();
    let PublishedEvents::One(draft) = parsed else { panic!("one event") };
    let event = Event {
        id: draft.id.unwrap_or_default(),
        namespace: namespace.to_string(),
        origin: Origin::Api,
        source: draft.source,
        event: draft.event,
        time: String::new(),
        data: draft.data,
        attributes: draft.attributes,
    };
    let created = create_deliveries(&index.matching(&event), &event, Millis(1));
    drop(reserved);
    created.len()
}

#[test]
#[ignore = "a measurement: run it under callgrind"]
fn publish_cost() {
    let (index, memory) =
        (HookIndex::default(), Arc::new(MemoryPool::new(64 << 20, MemoryShareMetrics::default())));
    for n in 0..HOOKS {
        let object = json!({"apiVersion": "hookstream.dev/v1alpha1", "kind": "EventHook",
            "metadata": {"name": format!("hook-{n}"), "namespace": format!("namespace-{n}"), "uid": format!("{n}")},
            "spec": {"source": "s", "handler": {"webhook": {"url": "https://example.com"}}}});
        index.upsert(&serde_json::from_value(object).unwrap());
    }
    let namespaces: Vec<Arc<str>> = (0..HOOKS).map(|n| format!("namespace-{n}").into()).collect();
    let items: Vec<_> = (0..8)
        .map(|n| json!({"id": n, "sku": "A-1234", "name": "an article", "price": {"amount": "12.50", "currency": "EUR"}}))
        .collect();
    let event =
        json!({"source": "s", "event": "order.created", "data": {"order": {"id": 1, "items": items}}});
    let body = serde_json::to_vec(&event).unwrap();
    let created: usize =
        (0..10_000).map(|n| measured_publish(&index, &memory, &namespaces[n % HOOKS], &body)).sum();
    println!("{created} deliveries of events of {} bytes", body.len());
}
