//! The memory of rendered requests that are larger than their event. The dispatcher counts an output of the size of the
//! event for each attempt, before it is rendered; the rest is reserved here.

use std::time::Duration;

use bytes::Bytes;

use super::{HandlerOutcome, HandlerRunner, script_owner};
use crate::core::hook::CompiledHook;
use crate::core::output::COUNTED_OUTPUT;
use crate::memory::{Reservation, counted_bytes};
use crate::worker::store::PendingDelivery;

/// Returns the bytes of output that the dispatcher counts for an attempt.
pub fn counted_output(pending: &PendingDelivery) -> usize {
    pending.event.data.get().len().saturating_add(COUNTED_OUTPUT)
}

/// Reserves memory for `bytes` of output beyond the counted ones.
pub async fn reserve(
    runner: &HandlerRunner,
    hook: &CompiledHook,
    bytes: usize,
    within: Duration,
) -> Result<Reservation, HandlerOutcome> {
    let reserved = runner.rendered.reserve_in_turn(script_owner(hook).into(), bytes as u64, within).await;
    reserved.map_err(|_| HandlerOutcome::Postponed {
        reason: "MemoryBusy",
        detail: "the memory for rendered requests is used up (--memory-budget)".into(),
    })
}

/// Keeps the memory reserved until the request was sent and its body is dropped.
pub fn attach(mut bytes: Vec<u8>, reserved: Option<Reservation>) -> Bytes {
    match reserved {
        None => Bytes::from(bytes),
        Some(reserved) => {
            // While it grew, it may have taken twice its length.
            bytes.shrink_to_fit();
            counted_bytes(bytes, reserved)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::files::OfflineManifests;
    use crate::core::egress::EgressRules;
    use crate::core::event::Event;
    use crate::core::hook::validate;
    use crate::core::output::MAX_OUTPUT;
    use crate::memory::MemoryPool;
    use crate::metrics::MemoryShareMetrics;
    use crate::net::{Egress, HttpClient};
    use crate::sandbox::{Sandbox, SandboxOptions};
    use crate::worker::index::testing;

    fn hook(handler: Value) -> CompiledHook {
        validate(&testing::hook("h", "u", json!({ "handler": handler })).0.unwrap()).unwrap()
    }

    /// A hook whose body has this many copies of the event's text.
    fn copies(count: usize) -> CompiledHook {
        let body = "{* text *}".repeat(count);
        hook(json!({"webhookCustom": {"url": "https://example.com", "method": "POST", "body": body}}))
    }

    fn event(text: usize) -> Event {
        testing::event("s", "e", json!({"text": "x".repeat(text)}))
    }

    async fn runner(bytes: u64, metrics: &MemoryShareMetrics) -> HandlerRunner {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let manifest =
            r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}"#;
        std::fs::write(dir.path().join("c.json"), manifest).unwrap();
        let cluster = Arc::new(OfflineManifests::read(vec![dir.path().into()]).unwrap());
        let sandbox = SandboxOptions { program: "/nonexistent".into(), ..SandboxOptions::default() };
        let http = HttpClient::new(Egress::new(EgressRules::default())).unwrap();
        let pool = Arc::new(MemoryPool::new(bytes, metrics.clone()));
        HandlerRunner::new(http, cluster, Sandbox::start(sandbox).await, pool, String::new())
    }

    #[tokio::test]
    async fn output_larger_than_its_event_is_counted_by_its_real_size() {
        let metrics = MemoryShareMetrics::default();
        let runner = runner(8 << 20, &metrics).await;
        for (count, text) in [(1, 100), (3, 1000), (1, 100_000)] {
            let request = runner.dry_run(&copies(count), event(text)).await.ok().unwrap();
            assert_eq!((request.body.len(), metrics.used()), (count * text, 0), "as large as the event");
        }
        for (count, text) in [(50, 1000), (30, 100_000)] {
            let request = runner.dry_run(&copies(count), event(text)).await.ok().unwrap();
            let counted = event(text).data.get().len() + COUNTED_OUTPUT;
            assert_eq!(request.body.len(), count * text);
            assert_eq!(metrics.used(), (count * text - counted) as u64);
            let body = request.body.clone();
            drop(request);
            assert!(metrics.used() > 0, "the body is still in use");
            drop(body);
            assert_eq!(metrics.used(), 0);
        }
        let too_large = runner.dry_run(&copies(50), event(100_000)).await.err().unwrap();
        assert!(matches!(too_large, HandlerOutcome::Undeliverable { .. }), "{too_large:?}");
        assert_eq!(metrics.used(), 0);
    }

    #[tokio::test]
    async fn attempt_without_memory_is_postponed() {
        let metrics = MemoryShareMetrics::default();
        let runner = runner(MAX_OUTPUT as u64 / 2, &metrics).await;
        assert!(runner.dry_run(&copies(3), event(1000)).await.is_ok(), "it needs none");
        let outcome = runner.dry_run(&copies(50), event(1000)).await.err().unwrap();
        assert!(matches!(outcome, HandlerOutcome::Postponed { reason: "MemoryBusy", .. }), "{outcome:?}");
        // A standard format, with attributes that are longer than the event.
        let standard = hook(json!({"webhook": {"url": "https://example.com", "format": "CloudEvents"}}));
        let attributes = (0..20).map(|n| (format!("a{n}"), json!("x".repeat(1000)))).collect();
        let request = runner.dry_run(&standard, Event { attributes, ..event(10) }).await.ok().unwrap();
        assert!(metrics.used() as usize >= request.body.len() - COUNTED_OUTPUT - 100, "{}", metrics.used());
    }
}
