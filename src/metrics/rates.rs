//! Events and attempts in each minute of the last hour, by namespace: what the API shows as sparklines.
//!
//! Recording takes a shared lock and a few atomic additions. A namespace that had an event within the hour uses about 25 KiB,
//! and at most `MAX_NAMESPACES` are counted separately, so all of them use about 6 MiB; the others are counted together.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::latency::{BUCKETS, bucket, quantile};
use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// The minutes that are shown.
pub const MINUTES: usize = 60;
/// The minutes that are stored. More than are shown, so that none is overwritten while it is shown.
const SLOTS: usize = 64;
/// The most namespaces that are counted separately.
pub const MAX_NAMESPACES: usize = 256;
/// The minute of a slot while it is reset.
const RESETTING: i64 = -1;
/// How often a caller checks whether another one has reset the slot, before it gives up its sample.
const MAX_SPINS: usize = 1000;
const MINUTE: i64 = 60_000;

/// The counters of all namespaces.
#[derive(Debug, Default)]
pub struct RateCounters {
    namespaces: RwLock<FastMap<Arc<str>, Arc<NamespaceRates>>>,
    /// The namespaces that are not counted separately.
    others: NamespaceRates,
    /// The last minute in which an idle namespace was searched, to count another one instead.
    last_search: AtomicI64,
}

/// What happened in one minute, or in several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// When the minute began.
    pub start: Millis,
    pub accepted: u64,
    /// Attempts that succeeded.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    pub dead: u64,
    /// The 99th percentile of the duration of accepted requests at the ingest port, in milliseconds.
    pub accept_p99: Option<f64>,
    /// The same of attempts.
    pub attempt_p99: Option<f64>,
}

/// The last hour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HourlyRates {
    /// The last `MINUTES` minutes, oldest first. The last one has not ended.
    pub minutes: Vec<Rates>,
    pub hour: Rates,
    /// False if the namespace is not counted separately.
    pub is_counted: bool,
}

#[derive(Debug)]
struct NamespaceRates {
    slots: Box<[MinuteSlot]>,
    /// The newest minute with a sample.
    newest: AtomicI64,
}

#[derive(Debug, Default)]
struct MinuteSlot {
    /// The minute since the epoch that the counts belong to.
    minute: AtomicI64,
    counts: SlotCounts,
}

#[derive(Debug)]
struct SlotCounts {
    accepted: AtomicU32,
    delivered: AtomicU32,
    failed: AtomicU32,
    dead: AtomicU32,
    accept_times: [AtomicU32; BUCKETS],
    attempt_times: [AtomicU32; BUCKETS],
}

/// The sum of several slots.
#[derive(Default)]
struct Sum {
    rates: Rates,
    accept_times: Histogram,
    attempt_times: Histogram,
}

struct Histogram([u64; BUCKETS]);

impl RateCounters {
    /// Counts accepted events.
    pub fn record_accepted(&self, namespace: &str) {
        self.record(namespace, |counts| add(&counts.accepted));
    }

    /// Records how long a request took whose events were accepted.
    pub fn record_accept_time(&self, namespace: &str, duration: Duration) {
        self.record(namespace, |counts| counts.accept_times.get(bucket(duration)).into_iter().for_each(add));
    }

    /// Counts an attempt.
    pub fn record_attempt(&self, namespace: &str, is_delivered: bool, duration: Duration) {
        self.record(namespace, |counts| {
            add(if is_delivered { &counts.delivered } else { &counts.failed });
            counts.attempt_times.get(bucket(duration)).into_iter().for_each(add);
        });
    }

    /// Counts a delivery that died.
    pub fn record_dead(&self, namespace: &str) {
        self.record(namespace, |counts| add(&counts.dead));
    }

    /// Returns the last hour of a namespace. None: of all.
    pub fn last_hour(&self, namespace: Option<&str>, now: Millis) -> HourlyRates {
        let tracked = self.namespaces.read();
        let (shown, is_counted): (Vec<&NamespaceRates>, bool) = match namespace {
            Some(name) => {
                let found = tracked.get(name).map(|rates| &**rates);
                (found.into_iter().collect(), found.is_some() || tracked.len() < MAX_NAMESPACES)
            }
            None => (tracked.values().map(|rates| &**rates).chain([&self.others]).collect(), true),
        };
        let last = now.0.div_euclid(MINUTE);
        let first = last - MINUTES as i64 + 1;
        let mut hour = Sum::default();
        let minutes = (first..=last).map(|minute| {
            let mut sum = Sum::default();
            shown.iter().filter_map(|rates| rates.find(minute)).for_each(|counts| sum.add(counts));
            hour.merge(&sum);
            sum.finish(minute)
        });
        let minutes = minutes.collect();
        HourlyRates { minutes, hour: hour.finish(first), is_counted }
    }

    fn record(&self, namespace: &str, record: impl Fn(&SlotCounts)) {
        let minute = Millis::wall().0.div_euclid(MINUTE);
        self.record_at(minute, namespace, record);
    }

    fn record_at(&self, minute: i64, namespace: &str, record: impl Fn(&SlotCounts)) {
        if let Some(rates) = self.namespaces.read().get(namespace) {
            return rates.record(minute, record);
        }
        match self.track(minute, namespace) {
            Some(rates) => rates.record(minute, record),
            None => self.others.record(minute, record),
        }
    }

    /// Begins to count a namespace. None if there are too many.
    fn track(&self, minute: i64, namespace: &str) -> Option<Arc<NamespaceRates>> {
        if self.namespaces.read().len() >= MAX_NAMESPACES
            // At most one search in a minute: with more namespaces than fit, each event would search otherwise.
            && self.last_search.swap(minute, Ordering::Relaxed) == minute
        {
            return None;
        }
        let mut all = self.namespaces.write();
        if all.len() >= MAX_NAMESPACES {
            let oldest_shown = minute - MINUTES as i64;
            all.retain(|_, rates| rates.newest.load(Ordering::Relaxed) >= oldest_shown);
        }
        if all.len() >= MAX_NAMESPACES {
            return None;
        }
        Some(all.entry(namespace.into()).or_default().clone())
    }
}

impl Default for NamespaceRates {
    fn default() -> Self {
        let slots = std::iter::repeat_with(MinuteSlot::default).take(SLOTS).collect();
        NamespaceRates { slots, newest: AtomicI64::new(0) }
    }
}

impl NamespaceRates {
    fn slot(&self, minute: i64) -> Option<&MinuteSlot> {
        self.slots.get(usize::try_from(minute.rem_euclid(SLOTS as i64)).unwrap_or_default())
    }

    fn record(&self, minute: i64, record: impl Fn(&SlotCounts)) {
        if let Some(counts) = self.slot(minute).and_then(|slot| slot.begin(minute)) {
            record(counts);
            self.newest.fetch_max(minute, Ordering::Relaxed);
        }
    }

    /// Returns the counts of a minute, if it has any.
    fn find(&self, minute: i64) -> Option<&SlotCounts> {
        let slot = self.slot(minute)?;
        (slot.minute.load(Ordering::Acquire) == minute).then_some(&slot.counts)
    }
}

impl MinuteSlot {
    /// Returns the counts of the minute. Resets the slot if it has those of an earlier one. None if another thread has not
    /// finished that in time: its caller loses a sample, and never waits.
    fn begin(&self, minute: i64) -> Option<&SlotCounts> {
        for _ in 0..MAX_SPINS {
            let present = self.minute.load(Ordering::Acquire);
            if present == minute {
                return Some(&self.counts);
            }
            let won = present != RESETTING
                && self
                    .minute
                    .compare_exchange(present, RESETTING, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok();
            if won {
                self.counts.reset();
                self.minute.store(minute, Ordering::Release);
                return Some(&self.counts);
            }
            std::hint::spin_loop();
        }
        None
    }
}

impl Default for SlotCounts {
    fn default() -> Self {
        let times = || std::array::from_fn(|_| AtomicU32::new(0));
        let [accepted, delivered, failed, dead] = std::array::from_fn(|_| AtomicU32::new(0));
        SlotCounts { accepted, delivered, failed, dead, accept_times: times(), attempt_times: times() }
    }
}

impl SlotCounts {
    fn reset(&self) {
        let counts = [&self.accepted, &self.delivered, &self.failed, &self.dead];
        let times = self.accept_times.iter().chain(&self.attempt_times);
        counts.into_iter().chain(times).for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

fn add(count: &AtomicU32) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Sum {
    fn add(&mut self, counts: &SlotCounts) {
        let read = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
        self.rates.accepted += read(&counts.accepted);
        self.rates.delivered += read(&counts.delivered);
        self.rates.failed += read(&counts.failed);
        self.rates.dead += read(&counts.dead);
        self.accept_times.add(counts.accept_times.iter().map(read));
        self.attempt_times.add(counts.attempt_times.iter().map(read));
    }

    fn merge(&mut self, other: &Sum) {
        let rates = &other.rates;
        self.rates.accepted += rates.accepted;
        self.rates.delivered += rates.delivered;
        self.rates.failed += rates.failed;
        self.rates.dead += rates.dead;
        self.accept_times.add(other.accept_times.0.iter().copied());
        self.attempt_times.add(other.attempt_times.0.iter().copied());
    }

    fn finish(self, minute: i64) -> Rates {
        Rates {
            start: Millis(minute.saturating_mul(MINUTE)),
            accept_p99: quantile(&self.accept_times.0, 0.99),
            attempt_p99: quantile(&self.attempt_times.0, 0.99),
            ..self.rates
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram([0; BUCKETS])
    }
}

impl Histogram {
    fn add(&mut self, counts: impl Iterator<Item = u64>) {
        self.0.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);
    const LAST: i64 = NOW.0 / MINUTE;

    fn accept(rates: &RateCounters, minute: i64, namespace: &str) {
        rates.record_at(minute, namespace, |counts| add(&counts.accepted));
    }

    #[test]
    fn counts_each_minute_of_the_last_hour_by_namespace() {
        let rates = RateCounters::default();
        for (minute, namespace) in
            [(LAST, "a"), (LAST, "b"), (LAST - 1, "a"), (LAST - 59, "a"), (LAST - 60, "a"), (LAST - 60, "c")]
        {
            accept(&rates, minute, namespace);
        }
        let of = |namespace| rates.last_hour(namespace, NOW);
        let a = of(Some("a"));
        assert_eq!(a.minutes.len(), MINUTES);
        let accepted: Vec<u64> = a.minutes.iter().map(|minute| minute.accepted).collect();
        assert_eq!((accepted[0], accepted[1], accepted[58], accepted[59]), (1, 0, 1, 1));
        assert_eq!((a.hour.accepted, of(Some("c")).hour.accepted, of(None).hour.accepted), (3, 0, 4));
        assert_eq!(a.minutes[59].start, Millis(LAST * MINUTE));
        // A slot that is used again has none of the counts of the hour before.
        accept(&rates, LAST + 5, "a");
        assert_eq!(of(Some("a")).hour.accepted, 2);
    }

    #[test]
    fn counts_attempts_with_their_durations() {
        let rates = RateCounters::default();
        (0..99).for_each(|_| rates.record_attempt("a", true, Duration::from_millis(10)));
        (0..2).for_each(|_| rates.record_attempt("a", false, Duration::from_secs(5)));
        rates.record_accept_time("a", Duration::from_millis(2));
        rates.record_dead("a");
        let Rates { delivered, failed, dead, accept_p99, attempt_p99, .. } =
            rates.last_hour(None, Millis::wall()).hour;
        assert_eq!((delivered, failed, dead), (99, 2, 1));
        assert!(attempt_p99.unwrap() > 4000.0 && accept_p99.unwrap() < 3.0, "{attempt_p99:?} {accept_p99:?}");
    }

    #[test]
    fn namespaces_are_bounded_and_idle_ones_make_room() {
        let rates = RateCounters::default();
        (0..MAX_NAMESPACES + 10).for_each(|n| accept(&rates, LAST, &format!("n{n}")));
        assert_eq!(rates.namespaces.read().len(), MAX_NAMESPACES);
        assert_eq!(rates.last_hour(None, NOW).hour.accepted, (MAX_NAMESPACES + 10) as u64);
        let late = format!("n{}", MAX_NAMESPACES + 1);
        assert!(!rates.last_hour(Some(&late), NOW).is_counted);
        accept(&rates, LAST + 61, &late);
        let later = Millis(NOW.0 + 61 * MINUTE);
        assert_eq!(rates.last_hour(Some(&late), later).hour.accepted, 1);
        assert!(rates.namespaces.read().len() < 5);
    }

    #[test]
    fn concurrent_samples_of_a_new_minute_are_counted() {
        let rates = RateCounters::default();
        accept(&rates, LAST - 64, "a");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| accept(&rates, LAST, "a")));
            }
        });
        let counted = rates.last_hour(Some("a"), NOW).hour.accepted;
        assert!(
            counted > 7000 && counted <= 8000,
            "a thread gives up a sample only while a slot is reset: {counted}"
        );
    }
}
