//! Measurements of the store that the responses of a short time share, so that polling clients cost the store no more than
//! one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::leader::LeaderCache;
use super::shared::{Freshness, Shared};
use crate::core::time::Millis;
use crate::worker::ingest::Disk;
use crate::worker::store::{DeadLetterCounts, HookId, Store, StoreError, StoreStats};

/// How long a measurement is shared.
const MAX_AGE: Duration = Duration::from_secs(2);
/// The age up to which lists and the console show a measurement while the next one is made.
pub const MAX_LISTED_AGE: Duration = Duration::from_secs(60);
/// A status waits for a new measurement for a moment, and for the first one until it is made.
const OF_STATUS: Freshness = Freshness {
    max_age: MAX_AGE,
    max_older_age: MAX_LISTED_AGE,
    wait_with_older: Duration::from_millis(30),
    wait_without: None,
};
/// A list does not wait for a new measurement, and for the first one for a moment.
const OF_LIST: Freshness =
    Freshness { wait_with_older: Duration::ZERO, wait_without: Some(Duration::from_millis(60)), ..OF_STATUS };
/// Hooks with a backlog that are measured.
const MAX_MEASURED_HOOKS: usize = 1000;
/// The longest time for measuring them.
const MAX_MEASURE_TIME: Duration = Duration::from_secs(3);
/// Dead letters that are counted.
const MAX_DEAD_LETTERS: usize = 10_000;
/// The age of the dead letters that are counted, in milliseconds.
const DEAD_LETTER_AGE: i64 = 24 * 3_600_000;

/// Measures the store and its disk.
pub struct StatusSources {
    store: Arc<dyn Store>,
    pub disk: Arc<Disk>,
    pub leader: LeaderCache,
    shared: Arc<Shared<Arc<StoreMeasurement>, StoreError>>,
}

/// A request extension of the console, whose overview must not wait for thousands of backlogs: the counts of a status may be
/// up to `MAX_LISTED_AGE` old. Clients over the network cannot set it.
#[derive(Clone, Copy)]
pub struct AcceptsOlderCounts;

/// The backlogs and dead letters of the store.
pub struct StoreMeasurement {
    /// When it began. Measurements are made one after the other.
    started: Instant,
    /// By the hook's uid.
    pub backlogs: HashMap<Arc<str>, (HookId, StoreStats)>,
    /// The uids of hooks with a backlog that was not measured.
    unmeasured: HashSet<Arc<str>>,
    pub dead: DeadLetterCounts,
}

impl StoreMeasurement {
    fn new(started: Instant) -> Self {
        StoreMeasurement {
            started,
            backlogs: HashMap::new(),
            unmeasured: HashSet::new(),
            dead: DeadLetterCounts::default(),
        }
    }

    /// Returns when the measurement began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns false if more hooks have a backlog than were measured.
    pub fn is_exact(&self) -> bool {
        self.unmeasured.is_empty()
    }

    /// Returns the uids of the hooks with a backlog.
    pub fn hooks(&self) -> impl Iterator<Item = &Arc<str>> {
        self.backlogs.keys().chain(&self.unmeasured)
    }

    /// Returns the backlog of a hook. None: it has one that was not measured.
    pub fn backlog(&self, uid: &str) -> Option<StoreStats> {
        match self.backlogs.get(uid) {
            Some((_, stats)) => Some(*stats),
            None => (!self.unmeasured.contains(uid)).then(StoreStats::default),
        }
    }
}

#[cfg(test)]
impl StoreMeasurement {
    pub fn for_test(
        started: Instant,
        backlogs: HashMap<Arc<str>, (HookId, StoreStats)>,
        unmeasured: HashSet<Arc<str>>,
    ) -> Self {
        StoreMeasurement { backlogs, unmeasured, ..StoreMeasurement::new(started) }
    }
}

impl StatusSources {
    pub fn new(store: Arc<dyn Store>, disk: Arc<Disk>) -> Arc<Self> {
        Arc::new(StatusSources { store, disk, leader: LeaderCache::default(), shared: Arc::default() })
    }

    /// Returns the last measurement, or a new one if it is too old. Concurrent callers share it.
    pub async fn measure(&self) -> Result<Arc<StoreMeasurement>, StoreError> {
        self.shared.get(MAX_AGE, self.measure_now()).await
    }

    /// Returns a new measurement, or the last one if the new one takes long: with thousands of backlogs it takes seconds.
    pub async fn measure_soon(self: &Arc<Self>) -> Result<Arc<StoreMeasurement>, StoreError> {
        self.get_or_older(&OF_STATUS).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Returns the last measurement, even if it is some seconds old, and starts a new one then: a list must not wait for
    /// thousands of backlogs. None: there is none yet, or the store does not answer.
    pub async fn measure_for_list(self: &Arc<Self>) -> Option<Arc<StoreMeasurement>> {
        self.get_or_older(&OF_LIST).await?.ok()
    }

    async fn get_or_older(
        self: &Arc<Self>,
        freshness: &Freshness,
    ) -> Option<Result<Arc<StoreMeasurement>, StoreError>> {
        let sources = self.clone();
        self.shared.get_or_older(freshness, async move { sources.measure_now().await }).await
    }

    async fn measure_now(&self) -> Result<Arc<StoreMeasurement>, StoreError> {
        let started = Instant::now();
        let mut measured = StoreMeasurement::new(started);
        for backlog in self.store.backlog_of_all_workers().await? {
            let uid = backlog.hook.uid.clone();
            if measured.backlogs.len() >= MAX_MEASURED_HOOKS || started.elapsed() > MAX_MEASURE_TIME {
                measured.unmeasured.insert(uid);
                continue;
            }
            let stats = self.store.hook_stats(&uid).await?;
            measured.backlogs.insert(uid, (backlog.hook, stats));
        }
        let since = Millis(Millis::for_ages().0.saturating_sub(DEAD_LETTER_AGE));
        measured.dead = self.store.dead_letters(since, MAX_DEAD_LETTERS).await?;
        Ok(Arc::new(measured))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_of_a_hook_is_unknown_only_if_it_was_not_measured() {
        let id = |uid: &str| HookId { uid: uid.into(), namespace: "n".into(), name: uid.into() };
        let stats = StoreStats { pending: 3, ..StoreStats::default() };
        let measured = StoreMeasurement {
            backlogs: [("a".into(), (id("a"), stats))].into(),
            unmeasured: ["b".into()].into(),
            ..StoreMeasurement::new(Instant::now())
        };
        assert_eq!(measured.backlog("a").map(|stats| stats.pending), Some(3));
        assert!(measured.backlog("b").is_none() && !measured.is_exact());
        assert_eq!(measured.backlog("c").map(|stats| stats.pending), Some(0));
    }
}
