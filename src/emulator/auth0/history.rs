//! A stream's pending and failed deliveries, and its statistics.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::time::Millis;

/// The most deliveries that are kept; the oldest are dropped. Auth0 publishes no number.
const MAX_DELIVERIES: usize = 20_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How long hourly counts are kept: twice the default window of the statistics, in milliseconds.
const COUNTS_AGE: i64 = 30 * DAY;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Failed,
}

/// One attempt, or the mark of a requested redelivery.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(super) enum Attempt {
    Failed { error_message: String, timestamp: String, duration: f64 },
    Retrying { timestamp: String },
}

/// A delivery of one event. It is removed once delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub id: String,
    pub event_type: String,
    pub status: Status,
    pub attempts: Vec<Attempt>,
    pub time: Millis,
    /// The request body.
    pub event: Arc<Value>,
}

impl Delivery {
    /// Returns the delivery in the recorded form: `source` is truncated, and test events are not marked.
    pub fn to_json(&self, stream: &str) -> Value {
        let mut event = Value::clone(&self.event);
        if let Some(event) = event.as_object_mut() {
            event.insert("source".into(), "urn:auth0:".into());
            event.remove("a0purpose");
        }
        json!({"id": self.id, "event_stream_id": stream, "event_type": self.event_type,
            "status": self.status, "attempts": self.attempts, "event": event})
    }
}

/// Selects deliveries; all conditions must hold.
#[derive(Default)]
pub(super) struct HistoryFilter {
    pub statuses: Option<Vec<String>>,
    pub event_types: Option<Vec<String>>,
    /// Inclusive.
    pub from: Option<Millis>,
    /// Exclusive.
    pub to: Option<Millis>,
}

impl HistoryFilter {
    /// Whether a delivery is selected. Only failed deliveries ever are.
    fn matches(&self, delivery: &Delivery) -> bool {
        let contains = |list: &Option<Vec<String>>, value: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|item| item == value))
        };
        delivery.status == Status::Failed
            && contains(&self.statuses, "failed")
            && contains(&self.event_types, &delivery.event_type)
            && self.from.is_none_or(|from| delivery.time >= from)
            && self.to.is_none_or(|to| delivery.time < to)
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// By sequence number, oldest first.
    deliveries: BTreeMap<u64, Delivery>,
    next: u64,
    failed_in_a_row: u64,
    /// The counts of delivered and failed events, by hour since 1970.
    hours: BTreeMap<i64, (u64, u64)>,
}

impl History {
    pub fn push(&mut self, delivery: Delivery) {
        self.next += 1;
        self.deliveries.insert(self.next, delivery);
        if self.deliveries.len() > MAX_DELIVERIES {
            self.deliveries.pop_first();
        }
    }

    pub fn get(&self, id: &str) -> Option<&Delivery> {
        self.deliveries.values().find(|delivery| delivery.id == id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Delivery> {
        self.deliveries.values_mut().find(|delivery| delivery.id == id)
    }

    /// Returns up to `take` matching deliveries after sequence number `after`, with their sequence numbers.
    pub fn list(&self, filter: &HistoryFilter, after: u64, take: usize) -> Vec<(u64, &Delivery)> {
        let after = self.deliveries.range(after.saturating_add(1)..);
        after.filter(|(_, delivery)| filter.matches(delivery)).map(|(at, d)| (*at, d)).take(take).collect()
    }

    /// Marks the matching failed deliveries for redelivery; returns their ids and sizes.
    pub fn redeliver(&mut self, filter: &HistoryFilter, now: Millis) -> Vec<(String, usize)> {
        let failed = self.deliveries.values_mut().filter(|delivery| filter.matches(delivery));
        failed.map(|delivery| delivery.mark_for_redelivery(now)).collect()
    }

    /// Returns the ids and sizes of pending deliveries.
    pub fn pending(&self) -> Vec<(String, usize)> {
        let pending = self.deliveries.values().filter(|delivery| delivery.status == Status::Pending);
        pending.map(|delivery| (delivery.id.clone(), delivery.size())).collect()
    }

    /// Removes a delivered event and counts it.
    pub fn record_delivered(&mut self, id: &str, now: Millis) {
        self.deliveries.retain(|_, delivery| delivery.id != id);
        self.failed_in_a_row = 0;
        self.current_hour(now).0 += 1;
    }

    /// Marks a delivery as failed and counts it.
    pub fn record_failed(&mut self, id: &str, now: Millis) {
        if let Some(delivery) = self.get_mut(id) {
            delivery.status = Status::Failed;
        }
        self.failed_in_a_row += 1;
        self.current_hour(now).1 += 1;
    }

    /// Returns the number of consecutive failures.
    pub fn failed_in_a_row(&self) -> u64 {
        self.failed_in_a_row
    }

    /// Returns the number of failed deliveries that have not been redelivered.
    pub fn failed_total(&self) -> u64 {
        let failed = |delivery: &&Delivery| delivery.status == Status::Failed;
        self.deliveries.values().filter(failed).count() as u64
    }

    /// Resets the consecutive failures of a stream that is enabled again.
    pub fn reset_failures_in_a_row(&mut self) {
        self.failed_in_a_row = 0;
    }

    /// Returns the counts of the current hour. Removes those older than [`COUNTS_AGE`].
    fn current_hour(&mut self, now: Millis) -> &mut (u64, u64) {
        self.hours.retain(|hour, _| hour * HOUR > now.0 - COUNTS_AGE);
        self.hours.entry(now.0.div_euclid(HOUR)).or_default()
    }

    /// Returns the window, buckets and metrics of the statistics. The default window is 15 days. Buckets are hours in a
    /// window of up to a day, otherwise days.
    pub fn stats(&self, from: Option<Millis>, to: Option<Millis>, now: Millis) -> Value {
        let round_down = |time: i64, unit: i64| time.div_euclid(unit) * unit;
        let first = from.map_or(round_down(now.0 - 14 * DAY, HOUR), |from| round_down(from.0, HOUR));
        let last = to.map_or(round_down(now.0, HOUR) + HOUR, |to| round_down(to.0, HOUR)).max(first);
        let unit = if last - first <= DAY { HOUR } else { DAY };
        // At most 31 buckets: older counts are not kept.
        let buckets: Vec<i64> =
            std::iter::successors(Some(round_down(first, unit)), |start| Some(start + unit))
                .take_while(|start| *start <= last)
                .take(31)
                .collect();
        let sums = |which: fn(&(u64, u64)) -> u64| -> Vec<u64> {
            let sum = |start: &i64| {
                let hours = start.div_euclid(HOUR)..(start + unit).div_euclid(HOUR);
                self.hours.range(hours).map(|(_, count)| which(count)).sum()
            };
            buckets.iter().map(sum).collect()
        };
        let metric = |name: &str, data: Vec<u64>| {
            let total: u64 = data.iter().sum();
            json!({"name": format!("auth0.event_streams.{name}"), "window_total": total, "type": "sum", "data": data})
        };
        let text = |time: i64| Millis(time).rfc3339();
        json!({
            "window": {"date_from": text(first), "date_to": text(last),
                "bucket_interval": {"scale_factor": unit / 1000}},
            "buckets": buckets.iter().map(|start| text(*start)).collect::<Vec<_>>(),
            "metrics": [metric("successful_deliveries", sums(|count| count.0)),
                metric("failed_deliveries", sums(|count| count.1))],
        })
    }
}

impl Delivery {
    /// Makes the delivery pending and adds a `retrying` mark. Returns its id and size.
    pub fn mark_for_redelivery(&mut self, now: Millis) -> (String, usize) {
        self.status = Status::Pending;
        self.attempts.push(Attempt::Retrying { timestamp: now.rfc3339() });
        (self.id.clone(), self.size())
    }

    /// Returns the size in bytes for the bound of the queue.
    pub fn size(&self) -> usize {
        self.event.to_string().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: &str, time: i64) -> Delivery {
        Delivery {
            id: id.into(),
            event_type: "user.created".into(),
            status: Status::Pending,
            attempts: Vec::new(),
            time: Millis(time),
            event: Arc::new(json!({"id": id, "source": "urn:auth0:a.b", "a0purpose": "test"})),
        }
    }

    #[test]
    fn lists_failed_deliveries_by_page() {
        let mut history = History::default();
        for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
            history.push(delivery(id, at as i64));
        }
        let ids = |history: &History, filter: &HistoryFilter, after, take| -> String {
            history.list(filter, after, take).iter().map(|(_, d)| d.id.as_str()).collect()
        };
        assert_eq!(ids(&history, &HistoryFilter::default(), 0, 9), "");
        for id in ["a", "b", "c"] {
            history.record_failed(id, Millis(0));
        }
        assert_eq!(ids(&history, &HistoryFilter::default(), 0, 2), "ab");
        assert_eq!(ids(&history, &HistoryFilter::default(), 2, 2), "c");
        let between =
            HistoryFilter { from: Some(Millis(1)), to: Some(Millis(2)), ..HistoryFilter::default() };
        assert_eq!(ids(&history, &between, 0, 9), "b");
        let other =
            HistoryFilter { event_types: Some(vec!["user.deleted".into()]), ..HistoryFilter::default() };
        assert_eq!(ids(&history, &other, 0, 9), "");
        let pending = HistoryFilter { statuses: Some(vec!["pending".into()]), ..HistoryFilter::default() };
        assert_eq!(ids(&history, &pending, 0, 9), "");
        assert_eq!((history.failed_in_a_row(), history.failed_total()), (3, 3));

        assert_eq!(history.redeliver(&between, Millis(5)).len(), 1);
        assert_eq!(history.failed_total(), 2);
        assert_eq!(history.get("b").unwrap().attempts.len(), 1);
        history.record_delivered("b", Millis(5));
        assert!(history.get("b").is_none());
        assert_eq!(history.failed_in_a_row(), 0);
    }

    #[test]
    fn json_cuts_source_and_purpose() {
        let json_form = delivery("a", 0).to_json("est_1");
        assert_eq!(json_form["event"], json!({"id": "a", "source": "urn:auth0:"}));
        assert_eq!(json_form["event_stream_id"], "est_1");
    }

    #[test]
    fn counts_deliveries_by_bucket() {
        let now = Millis::parse("2025-08-01T06:49:00Z").unwrap();
        let mut history = History::default();
        history.push(delivery("a", 0));
        history.record_failed("a", now);
        history.record_delivered("x", now);
        let all = history.stats(None, None, now);
        assert_eq!(
            all["window"],
            json!({"date_from": "2025-07-18T06:00:00.000Z", "date_to": "2025-08-01T07:00:00.000Z",
                "bucket_interval": {"scale_factor": 86400}})
        );
        assert_eq!(all["buckets"].as_array().unwrap().len(), 15);
        assert_eq!(all["buckets"][14], "2025-08-01T00:00:00.000Z");
        assert_eq!(all["metrics"][0]["window_total"], 1);
        assert_eq!(all["metrics"][1]["data"][14], 1);
        let hour = history.stats(Some(Millis(now.0 - 600_000)), Some(now), now);
        assert_eq!(hour["buckets"], json!(["2025-08-01T06:00:00.000Z"]));
        assert_eq!(hour["window"]["bucket_interval"]["scale_factor"], 3600);
        assert_eq!(hour["metrics"][1]["window_total"], 1);
    }

    #[test]
    fn drops_oldest_deliveries() {
        let mut history = History::default();
        (0..MAX_DELIVERIES + 2).for_each(|n| history.push(delivery(&n.to_string(), 0)));
        assert!(history.get("1").is_none() && history.get("2").is_some());
    }
}
