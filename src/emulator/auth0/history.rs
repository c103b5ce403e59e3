//! What became of a stream's events: the deliveries that wait or failed, and how many went which way.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::time::Millis;

/// More failed deliveries than this are not kept: the oldest go. Nothing is published.
const MAX_KEPT: usize = 20_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// How far back counts are kept: twice what the statistics show by themselves.
const KEEP_COUNTS: i64 = 30 * DAY;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Failed,
}

/// One try, or the mark that a failed delivery was asked for again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub(super) enum Attempt {
    Failed { error_message: String, timestamp: String, duration: f64 },
    Retrying { timestamp: String },
}

/// One event on its way. A delivered one is forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub id: String,
    pub event_type: String,
    pub status: Status,
    pub attempts: Vec<Attempt>,
    pub time: Millis,
    /// As it is sent.
    pub event: Arc<Value>,
}

impl Delivery {
    /// As recorded: the source is cut, and a test is not told from others.
    pub fn shown(&self, stream: &str) -> Value {
        let mut event = Value::clone(&self.event);
        if let Some(event) = event.as_object_mut() {
            event.insert("source".into(), "urn:auth0:".into());
            event.remove("a0purpose");
        }
        json!({"id": self.id, "event_stream_id": stream, "event_type": self.event_type,
            "status": self.status, "attempts": self.attempts, "event": event})
    }
}

/// Which deliveries are meant; all conditions must hold.
#[derive(Default)]
pub(super) struct Filter {
    pub statuses: Option<Vec<String>>,
    pub event_types: Option<Vec<String>>,
    /// Inclusive.
    pub from: Option<Millis>,
    /// Exclusive.
    pub to: Option<Millis>,
}

impl Filter {
    /// Only failed deliveries are ever meant.
    fn fits(&self, delivery: &Delivery) -> bool {
        let among = |list: &Option<Vec<String>>, value: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|item| item == value))
        };
        delivery.status == Status::Failed
            && among(&self.statuses, "failed")
            && among(&self.event_types, &delivery.event_type)
            && self.from.is_none_or(|from| delivery.time >= from)
            && self.to.is_none_or(|to| delivery.time < to)
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct History {
    /// By the order in which they came.
    deliveries: BTreeMap<u64, Delivery>,
    next: u64,
    failed_in_a_row: u64,
    /// Delivered and failed, by hour since 1970.
    hours: BTreeMap<i64, (u64, u64)>,
}

impl History {
    pub fn push(&mut self, delivery: Delivery) {
        self.next += 1;
        self.deliveries.insert(self.next, delivery);
        if self.deliveries.len() > MAX_KEPT {
            self.deliveries.pop_first();
        }
    }

    pub fn get(&self, id: &str) -> Option<&Delivery> {
        self.deliveries.values().find(|delivery| delivery.id == id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Delivery> {
        self.deliveries.values_mut().find(|delivery| delivery.id == id)
    }

    /// Those that fit, after a place in the list, with their places.
    pub fn list(&self, filter: &Filter, after: u64, take: usize) -> Vec<(u64, &Delivery)> {
        let after = self.deliveries.range(after.saturating_add(1)..);
        after.filter(|(_, delivery)| filter.fits(delivery)).map(|(at, d)| (*at, d)).take(take).collect()
    }

    /// Makes failed deliveries pending again; their ids and sizes.
    pub fn redeliver(&mut self, filter: &Filter, now: Millis) -> Vec<(String, usize)> {
        let failed = self.deliveries.values_mut().filter(|delivery| filter.fits(delivery));
        failed.map(|delivery| delivery.again(now)).collect()
    }

    /// The ids and sizes of those that wait.
    pub fn pending(&self) -> Vec<(String, usize)> {
        let pending = self.deliveries.values().filter(|delivery| delivery.status == Status::Pending);
        pending.map(|delivery| (delivery.id.clone(), delivery.size())).collect()
    }

    pub fn delivered(&mut self, id: &str, now: Millis) {
        self.deliveries.retain(|_, delivery| delivery.id != id);
        self.failed_in_a_row = 0;
        self.count(now).0 += 1;
    }

    pub fn failed(&mut self, id: &str, now: Millis) {
        if let Some(delivery) = self.get_mut(id) {
            delivery.status = Status::Failed;
        }
        self.failed_in_a_row += 1;
        self.count(now).1 += 1;
    }

    /// Failures one after the other.
    pub fn failed_in_a_row(&self) -> u64 {
        self.failed_in_a_row
    }

    /// Failures that stand, for nobody had them delivered again.
    pub fn failed_in_all(&self) -> u64 {
        let failed = |delivery: &&Delivery| delivery.status == Status::Failed;
        self.deliveries.values().filter(failed).count() as u64
    }

    /// The stream is switched on again: it gets as many chances as a new one.
    pub fn forgive(&mut self) {
        self.failed_in_a_row = 0;
    }

    fn count(&mut self, now: Millis) -> &mut (u64, u64) {
        self.hours.retain(|hour, _| hour * HOUR > now.0 - KEEP_COUNTS);
        self.hours.entry(now.0.div_euclid(HOUR)).or_default()
    }

    /// The window, the buckets and the metrics of the statistics. Without dates: fifteen days; up to a day: by hour.
    pub fn stats(&self, from: Option<Millis>, to: Option<Millis>, now: Millis) -> Value {
        let down = |time: i64, unit: i64| time.div_euclid(unit) * unit;
        let first = from.map_or(down(now.0 - 14 * DAY, HOUR), |from| down(from.0, HOUR));
        let last = to.map_or(down(now.0, HOUR) + HOUR, |to| down(to.0, HOUR)).max(first);
        let unit = if last - first <= DAY { HOUR } else { DAY };
        // At most a month of them, for no more is counted.
        let buckets: Vec<i64> = std::iter::successors(Some(down(first, unit)), |start| Some(start + unit))
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
    /// Pending again; the id, and the size that it takes in a queue.
    pub fn again(&mut self, now: Millis) -> (String, usize) {
        self.status = Status::Pending;
        self.attempts.push(Attempt::Retrying { timestamp: now.rfc3339() });
        (self.id.clone(), self.size())
    }

    /// What it takes in a queue.
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
    fn only_failed_ones_are_listed_and_by_page() {
        let mut history = History::default();
        for (at, id) in ["a", "b", "c"].into_iter().enumerate() {
            history.push(delivery(id, at as i64));
        }
        let ids = |history: &History, filter: &Filter, after, take| -> String {
            history.list(filter, after, take).iter().map(|(_, d)| d.id.as_str()).collect()
        };
        assert_eq!(ids(&history, &Filter::default(), 0, 9), "");
        for id in ["a", "b", "c"] {
            history.failed(id, Millis(0));
        }
        assert_eq!(ids(&history, &Filter::default(), 0, 2), "ab");
        assert_eq!(ids(&history, &Filter::default(), 2, 2), "c");
        let between = Filter { from: Some(Millis(1)), to: Some(Millis(2)), ..Filter::default() };
        assert_eq!(ids(&history, &between, 0, 9), "b");
        let other = Filter { event_types: Some(vec!["user.deleted".into()]), ..Filter::default() };
        assert_eq!(ids(&history, &other, 0, 9), "");
        let pending = Filter { statuses: Some(vec!["pending".into()]), ..Filter::default() };
        assert_eq!(ids(&history, &pending, 0, 9), "");
        assert_eq!((history.failed_in_a_row(), history.failed_in_all()), (3, 3));

        assert_eq!(history.redeliver(&between, Millis(5)).len(), 1);
        assert_eq!(history.failed_in_all(), 2);
        assert_eq!(history.get("b").unwrap().attempts.len(), 1);
        history.delivered("b", Millis(5));
        assert!(history.get("b").is_none());
        assert_eq!(history.failed_in_a_row(), 0);
    }

    #[test]
    fn what_is_shown_of_an_event() {
        let shown = delivery("a", 0).shown("est_1");
        assert_eq!(shown["event"], json!({"id": "a", "source": "urn:auth0:"}));
        assert_eq!(shown["event_stream_id"], "est_1");
    }

    #[test]
    fn statistics() {
        let now = Millis::parse("2025-08-01T06:49:00Z").unwrap();
        let mut history = History::default();
        history.push(delivery("a", 0));
        history.failed("a", now);
        history.delivered("x", now);
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
    fn the_oldest_go() {
        let mut history = History::default();
        (0..MAX_KEPT + 2).for_each(|n| history.push(delivery(&n.to_string(), 0)));
        assert!(history.get("1").is_none() && history.get("2").is_some());
    }
}
