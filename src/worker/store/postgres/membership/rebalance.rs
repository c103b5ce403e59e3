//! Moves shards by their load. The worker with the highest load gives one shard to the worker with the lowest one, if that
//! lowers the higher of both loads clearly.
//!
//! Each move lowers the sum of the squares of all loads by at least a bounded part, so under a steady load the moves end, and
//! no shard comes back. A shard that makes up most of a worker's load stays: another worker would have the same load then.

use super::share;
use crate::core::fast_map::FastMap;

/// Workers whose mean load is less than this many attempts a second are idle.
const IDLE: f64 = 5.0;
/// A worker gives a shard if its load exceeds the mean by this part.
const EXCESS: f64 = 0.2;
/// A move must lower the higher one of both loads by this part of the mean. More than a load varies within its window.
const GAIN: f64 = 0.05;

/// A worker whose lease lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WorkerLoad {
    pub(super) id: i64,
    /// Its number of shards.
    pub(super) shards: usize,
    /// The attempts that it starts in a second. None: it has not measured for long enough, or is of an older version.
    pub(super) load: Option<f64>,
}

/// Returns the shard that `own` gives, and to whom. `workers`: in ascending order of their ids. `loads`: of its own shards.
pub(super) fn plan(own: i64, workers: &[WorkerLoad], loads: &FastMap<i16, f64>) -> Option<(i16, i64)> {
    let known: Vec<(usize, f64)> =
        workers.iter().enumerate().map(|(at, worker)| Some((at, worker.load?))).collect::<Option<_>>()?;
    let count = f64::from(u32::try_from(known.len()).ok()?);
    let mean = known.iter().map(|(_, load)| load).sum::<f64>() / count;
    let (giver, high) =
        known.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    let giver_row = workers.get(giver)?;
    if giver_row.id != own || mean < IDLE || high < mean * (1.0 + EXCESS) {
        return None;
    }
    // `share` would give it back if the numbers of shards differed by more.
    let may_give = giver_row.shards > share::least(giver, workers.len()).max(1);
    let may_take = |at: usize, worker: &WorkerLoad| worker.shards < share::most(at, workers.len());
    let takers = known.iter().filter(|(at, _)| workers.get(*at).is_some_and(|worker| may_take(*at, worker)));
    let (taker, low) = takers.copied().reduce(|best, next| if next.1 < best.1 { next } else { best })?;
    if !may_give || taker == giver {
        return None;
    }
    let higher_after = |load: f64| (high - load).max(low + load);
    let mut candidates: Vec<(i16, f64)> = loads.iter().map(|(shard, load)| (*shard, *load)).collect();
    candidates.sort_unstable_by_key(|(shard, _)| *shard);
    let (shard, load) = candidates
        .into_iter()
        .reduce(|best, next| if higher_after(next.1) < higher_after(best.1) { next } else { best })?;
    let gain = high - higher_after(load);
    (gain >= mean * GAIN).then_some((shard, workers.get(taker)?.id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shards by their owner and load.
    #[derive(Clone, Debug)]
    struct Cluster {
        workers: i64,
        shards: Vec<(i64, f64)>,
    }

    impl Cluster {
        /// 256 shards, dealt evenly to this many workers.
        fn new(workers: i64, loads: &[f64]) -> Self {
            let shards = (0..256)
                .map(|n: i64| (n % workers, loads.get(usize::try_from(n).unwrap()).copied().unwrap_or(0.0)));
            Cluster { workers, shards: shards.collect() }
        }

        fn load_of(&self, worker: i64) -> f64 {
            self.shards.iter().filter(|(owner, _)| *owner == worker).map(|(_, load)| load).sum()
        }

        fn rows(&self) -> Vec<WorkerLoad> {
            let shards = |worker| self.shards.iter().filter(|(owner, _)| *owner == worker).count();
            let row = |id| WorkerLoad { id, shards: shards(id), load: Some(self.load_of(id)) };
            (0..self.workers).map(row).collect()
        }

        /// Returns the move that one of the workers makes.
        fn next_move(&self) -> Option<(i16, i64)> {
            let rows = self.rows();
            let moves: Vec<_> = (0..self.workers)
                .filter_map(|own| {
                    let owned = (0..).zip(&self.shards).filter(|(_, (owner, _))| *owner == own);
                    let loads: FastMap<i16, f64> = owned.map(|(shard, (_, load))| (shard, *load)).collect();
                    let found = plan(own, &rows, &loads)?;
                    assert!(loads.contains_key(&found.0), "only an own shard");
                    Some(found)
                })
                .collect();
            assert!(moves.len() <= 1, "only one worker gives at a time: {moves:?}");
            moves.first().copied()
        }

        fn highest(&self) -> f64 {
            (0..self.workers).map(|worker| self.load_of(worker)).fold(0.0, f64::max)
        }

        fn mean(&self) -> f64 {
            let workers = f64::from(u32::try_from(self.workers).unwrap());
            self.shards.iter().map(|(_, load)| load).sum::<f64>() / workers
        }

        /// Moves until nothing moves. Returns the moves.
        fn settle(&mut self) -> Vec<(i16, i64)> {
            let mut moves = Vec::new();
            while let Some((shard, to)) = self.next_move() {
                let before = self.highest();
                let from = std::mem::replace(&mut self.shards[usize::try_from(shard).unwrap()].0, to);
                assert!(self.highest() <= before, "{shard} made it worse");
                let both = self.load_of(from).max(self.load_of(to));
                assert!(both <= before - self.mean() * GAIN * 0.999, "{shard} gained too little");
                moves.push((shard, to));
                assert!(moves.len() < 256, "the shards keep moving: {moves:?}");
            }
            moves
        }
    }

    fn loads() -> impl Strategy<Value = Vec<f64>> {
        let load = prop_oneof![8 => 0.0..2.0_f64, 2 => 0.0..40.0_f64, 1 => 0.0..500.0_f64];
        prop::collection::vec(load, 0..256)
    }

    proptest! {
        /// Under a steady load the moves end, and no shard returns to a worker that gave it.
        #[test]
        fn moves_end_and_never_oscillate(workers in 1..7_i64, loads in loads()) {
            let mut cluster = Cluster::new(workers, &loads);
            let before = cluster.clone();
            let moves = cluster.settle();
            let mut owners: FastMap<i16, Vec<i64>> = FastMap::default();
            for (shard, to) in moves {
                let first = before.shards[usize::try_from(shard).unwrap()].0;
                let of_shard = owners.entry(shard).or_insert_with(|| vec![first]);
                prop_assert!(!of_shard.contains(&to), "{shard} returned: {of_shard:?} {to}");
                of_shard.push(to);
            }
            // The shards stay as evenly divided as `share` requires, so it moves none of them back.
            for (at, row) in cluster.rows().iter().enumerate() {
                prop_assert!(row.shards >= share::least(at, cluster.rows().len()));
                prop_assert!(row.shards <= share::most(at, cluster.rows().len()));
            }
        }

        /// Many shards of similar load, all hot ones on one worker: afterwards no worker has much more than its part.
        #[test]
        fn a_divisible_load_becomes_even(workers in 2..5_i64, hot in prop::collection::vec(3.0..6.0_f64, 9..16)) {
            let mut all = vec![0.0; 256];
            for (n, load) in hot.iter().enumerate() {
                all[n * usize::try_from(workers).unwrap()] = *load;
            }
            let mut cluster = Cluster::new(workers, &all);
            cluster.settle();
            // At best a worker has one shard more than another one.
            prop_assert!(cluster.highest() <= cluster.mean() * (1.0 + EXCESS) + 6.0, "{:?}", cluster.rows());
        }

        /// Loads that vary by a tenth from one decision to the next cause a bounded number of moves.
        #[test]
        fn noise_moves_little(workers in 2..5_i64, loads in loads(), seed in any::<u64>()) {
            let mut cluster = Cluster::new(workers, &loads);
            cluster.settle();
            let (mut random, steady) = (fastrand::Rng::with_seed(seed), cluster.shards.clone());
            let mut moves = 0;
            for _ in 0..200 {
                for (shard, (_, load)) in cluster.shards.iter_mut().zip(&steady) {
                    shard.1 = load * (0.95 + 0.1 * random.f64());
                }
                if let Some((shard, to)) = cluster.next_move() {
                    cluster.shards[usize::try_from(shard).unwrap()].0 = to;
                    moves += 1;
                }
            }
            prop_assert!(moves <= 10, "{moves} moves");
        }
    }

    #[test]
    fn the_only_hot_shard_stays() {
        let mut cluster = Cluster::new(3, &[300.0, 1.0, 1.0]);
        assert_eq!(cluster.next_move(), None);
        cluster.shards[3].1 = 60.0;
        assert_eq!(cluster.next_move(), Some((3, 1)), "the smaller one of two goes");
    }

    #[test]
    fn idle_workers_and_unknown_loads_move_nothing() {
        let cluster = Cluster::new(2, &[2.0, 0.0, 2.0]);
        assert_eq!(cluster.next_move(), None, "idle");
        let busy = Cluster::new(2, &[20.0, 0.0, 20.0]);
        assert!(busy.next_move().is_some());
        let mut rows = busy.rows();
        rows[1].load = None;
        let loads = FastMap::from_iter([(0, 20.0), (2, 20.0)]);
        assert_eq!(plan(0, &rows, &loads), None, "a worker of an older version reports none");
        assert_eq!(plan(9, &busy.rows(), &loads), None, "a worker that is no member");
    }
}
