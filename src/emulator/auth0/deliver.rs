//! Delivers events: one at a time for each stream, at most four attempts; a 4xx response ends a delivery.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::context::{Auth0, QueuedDelivery};
use super::history::Attempt;
use super::sender::AttemptRequest;
use super::stream::Stream;
use crate::core::time::Millis;

/// The recorded delays between attempts.
const BACKOFFS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

impl Auth0 {
    /// Adds deliveries to the queue of their stream. `deliveries` contains event ids and sizes in bytes.
    pub fn enqueue(self: &Arc<Self>, stream: &str, deliveries: Vec<(String, usize)>, is_redelivery: bool) {
        for (id, bytes) in deliveries {
            let pushed = self.queues.push(stream.to_owned(), QueuedDelivery { id, is_redelivery }, bytes);
            for dropped in pushed.dropped {
                tracing::warn!(stream, event = dropped.id, "queue full, oldest delivery failed");
                self.finish_failed(stream, &dropped.id);
            }
            if pushed.is_idle {
                tokio::spawn(Arc::clone(self).drain(stream.to_owned()));
            }
        }
    }

    /// Queues the pending deliveries of the state file.
    pub fn resume_deliveries(self: &Arc<Self>) {
        let pending: Vec<_> = self.store.read(|state| {
            let pending = |stream: &Stream| (stream.id.clone(), stream.history.pending());
            state.streams.values().map(pending).collect()
        });
        for (stream, deliveries) in pending {
            self.enqueue(&stream, deliveries, true);
        }
    }

    /// Delivers the events of one queue until it is empty.
    async fn drain(self: Arc<Self>, stream: String) {
        let work = async {
            while let Some(queued) = self.queues.next(&stream) {
                self.deliver(&stream, &queued).await;
            }
        };
        self.stop.run_until_cancelled(work).await;
    }

    /// Attempts one delivery until it succeeds or fails finally.
    async fn deliver(&self, stream: &str, queued: &QueuedDelivery) {
        let mut backoffs = BACKOFFS.iter();
        loop {
            let found = self.store.read(|state| {
                let stream = state.stream(stream)?;
                let request = AttemptRequest::new(stream, stream.history.get(&queued.id)?)?;
                Some((request, stream.fields.enabled || queued.is_redelivery))
            });
            // The stream or the delivery has been deleted since.
            let Some((request, may_send)) = found else { return };
            // It is not documented whether Auth0 drops or keeps the pending deliveries of a disabled stream. Here they
            // fail and can be redelivered.
            if !may_send {
                return self.finish_failed(stream, &queued.id);
            }
            let (time, started) = (Millis::now(), Instant::now());
            let Err(failure) = self.clients.send(&request).await else {
                tracing::info!(stream, event = queued.id, "event delivered");
                return self.finish_delivered(stream, &queued.id);
            };
            tracing::info!(stream, event = queued.id, error = failure.message(), "delivery attempt failed");
            let attempt = Attempt::Failed {
                error_message: failure.message(),
                timestamp: time.rfc3339(),
                duration: started.elapsed().as_secs_f64() * 1000.0,
            };
            self.store.update_unsaved(|state| {
                let delivery = state.stream_mut(stream).and_then(|s| s.history.get_mut(&queued.id));
                if let Some(delivery) = delivery {
                    delivery.attempts.push(attempt);
                }
            });
            match backoffs.next().filter(|_| !failure.is_final) {
                Some(backoff) => tokio::time::sleep(backoff.mul_f64(self.options.time_scale)).await,
                None => return self.finish_failed(stream, &queued.id),
            }
        }
    }

    /// Removes a delivered event from the history and records its outcome.
    fn finish_delivered(&self, stream: &str, id: &str) {
        let delivered = self.store.update_unsaved(|state| {
            let history = &mut state.stream_mut(stream)?.history;
            let delivery = history.get(id).cloned();
            history.record_delivered(id, Millis::now());
            delivery
        });
        if let Some(delivery) = delivered {
            self.record_outcome(stream, &delivery, "delivered");
        }
    }

    /// Marks a delivery as failed. Disables its stream if too many have failed.
    fn finish_failed(&self, stream: &str, id: &str) {
        let (max_in_a_row, max_total) = (self.options.disable_after, self.options.disable_after_total);
        let (failed, disabled) = self.store.update_unsaved(|state| {
            let Some(stream) = state.stream_mut(stream) else { return (None, false) };
            stream.history.record_failed(id, Millis::now());
            let too_many = stream.history.failed_in_a_row() >= max_in_a_row
                || stream.history.failed_total() >= max_total;
            let disabled = too_many && stream.fields.enabled;
            if disabled {
                stream.fields.enabled = false;
                stream.updated_at = Millis::now();
            }
            (stream.history.get(id).cloned(), disabled)
        });
        if let Some(delivery) = failed {
            self.record_outcome(stream, &delivery, "failed");
        }
        if disabled {
            tracing::warn!(stream, "stream disabled, too many deliveries failed");
            self.store.save();
        }
    }
}
