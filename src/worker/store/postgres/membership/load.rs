//! The load of shards: the attempts that start in a second, averaged over about the last minute.

use std::time::Duration;

use crate::core::fast_map::FastMap;
use crate::core::time::Millis;

/// The time after which a change of the load counts for about two thirds.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// The least time between two samples: a shorter one says nothing about a rate.
const LEAST: Duration = Duration::from_millis(100);

/// Measures the load of each shard of this process.
#[derive(Debug, Default)]
pub(super) struct ShardLoads {
    /// Attempts since the last sample.
    started: FastMap<i16, u32>,
    rates: FastMap<i16, f64>,
    /// On the steady clock. None: before the first sample.
    sampled: Option<Millis>,
}

impl ShardLoads {
    /// Counts the start of an attempt.
    pub(super) fn record(&mut self, shard: i16) {
        *self.started.entry(shard).or_default() += 1;
    }

    /// Returns the attempts of a shard in a second, as of the last sample.
    pub(super) fn of(&self, shard: i16) -> f64 {
        self.rates.get(&shard).copied().unwrap_or(0.0)
    }

    /// True if this process has measured the load of the shard, or continues with one.
    pub(super) fn has(&self, shard: i16) -> bool {
        self.rates.contains_key(&shard)
    }

    /// Starts with a load that another process measured. Otherwise a shard that has just come would count as idle, and its
    /// worker would get further ones.
    pub(super) fn seed(&mut self, shard: i16, load: f64) {
        self.rates.insert(shard, load);
    }

    /// Forgets a shard that went to another worker.
    pub(super) fn remove(&mut self, shard: i16) {
        self.rates.remove(&shard);
        self.started.remove(&shard);
    }

    /// Forgets the shards that are not kept.
    pub(super) fn retain(&mut self, is_kept: impl Fn(i16) -> bool) {
        self.rates.retain(|shard, _| is_kept(*shard));
        self.started.retain(|shard, _| is_kept(*shard));
    }

    /// Updates the loads with what has started since the last sample.
    pub(super) fn sample(&mut self, now: Millis) {
        let Some(sampled) = self.sampled else {
            self.sampled = Some(now);
            return;
        };
        let elapsed = now.since(sampled);
        if elapsed < LEAST {
            return;
        }
        self.sampled = Some(now);
        for shard in self.started.keys() {
            self.rates.entry(*shard).or_default();
        }
        let (seconds, kept) = (elapsed.as_secs_f64(), (-elapsed.as_secs_f64() / WINDOW.as_secs_f64()).exp());
        for (shard, rate) in &mut self.rates {
            let started = self.started.get(shard).copied().unwrap_or(0);
            *rate = *rate * kept + f64::from(started) / seconds * (1.0 - kept);
        }
        self.started.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(loads: &mut ShardLoads, from: u64, seconds: u64, each: u32) -> u64 {
        for second in from..from + seconds {
            (0..each).for_each(|_| loads.record(1));
            loads.sample(Millis(i64::try_from(second).unwrap() * 1000));
        }
        from + seconds
    }

    #[test]
    fn a_load_follows_the_attempts_of_the_last_minutes() {
        let mut loads = ShardLoads::default();
        let at = run(&mut loads, 0, 300, 20);
        assert!((loads.of(1) - 20.0).abs() < 0.5, "{loads:?}");
        run(&mut loads, at, 30, 0);
        assert!((8.0..15.0).contains(&loads.of(1)), "half a minute is not all: {loads:?}");
        run(&mut loads, at + 30, 300, 0);
        assert!(loads.of(1) < 0.5, "{loads:?}");
    }

    #[test]
    fn a_shard_that_came_starts_with_its_load_and_one_that_left_is_forgotten() {
        let mut loads = ShardLoads::default();
        loads.sample(Millis(0));
        loads.seed(1, 20.0);
        run(&mut loads, 1, 10, 20);
        assert!((loads.of(1) - 20.0).abs() < 0.5, "{loads:?}");
        loads.record(1);
        loads.remove(1);
        loads.sample(Millis(60_000));
        assert!(loads.of(1).abs() < f64::EPSILON, "{loads:?}");
    }
}
