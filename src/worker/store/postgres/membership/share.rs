//! How the shards are divided between the workers: about the same number each. A worker that joins gets its part, and then
//! `rebalance` may move shards, within a quarter of a worker's part.

use super::super::shard::SHARDS;

/// A worker may have one part in this many more or fewer shards than its equal part. Otherwise what `rebalance` moves by load
/// would be moved back.
const SLACK: usize = 4;

/// A shard as the database has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct ShardRow {
    pub(in super::super) shard: i16,
    /// A worker whose lease lasts. None: no worker, or one whose lease ended.
    pub(in super::super) owner: Option<i64>,
    pub(in super::super) epoch: i64,
}

/// What a worker does about its shards.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShareChange {
    /// Shards without an owner that it takes.
    pub(super) take: Vec<i16>,
    /// Shards that it gives to workers with too few.
    pub(super) give: Vec<(i16, i64)>,
}

/// Returns the equal part of the worker at this position.
fn target(position: usize, workers: usize) -> usize {
    let (shards, workers) = (usize::try_from(SHARDS).unwrap_or(0), workers.max(1));
    shards / workers + usize::from(position < shards % workers)
}

/// Returns the number of shards below which a worker gets some from the others.
pub(super) fn least(position: usize, workers: usize) -> usize {
    let target = target(position, workers);
    target - target / SLACK
}

/// Returns the number of shards above which a worker gives some to the others.
pub(super) fn most(position: usize, workers: usize) -> usize {
    let target = target(position, workers);
    target + target / SLACK
}

/// Returns the shards that the worker `own` takes or gives. `workers`: those whose leases last, itself included, in ascending order.
pub(super) fn plan(own: i64, workers: &[i64], shards: &[ShardRow]) -> ShareChange {
    let count_of = |worker: i64| shards.iter().filter(|shard| shard.owner == Some(worker)).count();
    let target = |position: usize| target(position, workers.len());
    let Some(position) = workers.iter().position(|worker| *worker == own) else {
        return ShareChange::default();
    };
    let (owned, wanted) = (count_of(own), target(position));
    if owned < wanted {
        let free = shards.iter().filter(|shard| shard.owner.is_none()).map(|shard| shard.shard);
        // Each worker begins at another place, so that they do not race for the same shards.
        let (start, mut free) = (position * wanted, free.collect::<Vec<_>>());
        if !free.is_empty() {
            let start = start % free.len();
            free.rotate_left(start);
        }
        free.truncate(wanted - owned);
        return ShareChange { take: free, give: Vec::new() };
    }
    let lacks = |(at, worker): (usize, &i64)| count_of(*worker) < least(at, workers.len());
    let is_uneven = owned > most(position, workers.len()) || workers.iter().enumerate().any(lacks);
    if !is_uneven {
        return ShareChange::default();
    }
    let mut receivers =
        workers.iter().enumerate().filter(|(_, worker)| **worker != own).flat_map(|(position, worker)| {
            std::iter::repeat_n(*worker, target(position).saturating_sub(count_of(*worker)))
        });
    // The other workers take the free shards, so this one does not give for them.
    let free = shards.iter().filter(|shard| shard.owner.is_none()).count();
    let own_shards = shards.iter().filter(|shard| shard.owner == Some(own)).map(|shard| shard.shard);
    let give = own_shards.rev().take(owned - wanted).zip(receivers.by_ref().skip(free)).collect();
    ShareChange { take: Vec::new(), give }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets the workers act in turn until nothing changes.
    fn settle(workers: &[i64], shards: &mut [ShardRow]) -> usize {
        for round in 0..10 {
            let mut changed = false;
            for own in workers {
                let ShareChange { take, give } = plan(*own, workers, shards);
                changed |= !take.is_empty() || !give.is_empty();
                let moved = take.into_iter().map(|shard| (shard, *own)).chain(give);
                for (shard, to) in moved {
                    let row = shards.iter_mut().find(|row| row.shard == shard).unwrap();
                    assert!(row.owner.is_none() || row.owner == Some(*own), "only a free or an own shard");
                    row.owner = Some(to);
                }
            }
            if !changed {
                return round;
            }
        }
        panic!("the shards keep moving: {shards:?}");
    }

    proptest! {
        /// Whatever the shards were before: every one gets an owner, each worker gets about its part, and then nothing moves.
        #[test]
        fn shards_are_divided_evenly(owners in prop::collection::vec(prop::option::of(0..6_i64), 256), count in 1..6_i64) {
            let workers: Vec<i64> = (0..count).collect();
            let mut shards: Vec<ShardRow> = owners
                .iter()
                .zip(0..)
                .map(|(owner, shard)| ShardRow { shard, owner: owner.filter(|w| *w < count), epoch: 0 })
                .collect();
            settle(&workers, &mut shards);
            let counts: Vec<usize> =
                workers.iter().map(|w| shards.iter().filter(|s| s.owner == Some(*w)).count()).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), 256);
            for (at, owned) in counts.iter().enumerate() {
                prop_assert!((least(at, counts.len())..=most(at, counts.len())).contains(owned), "{:?}", counts);
            }
        }
    }

    #[test]
    fn an_even_division_moves_nothing() {
        let shards: Vec<ShardRow> = (0..SHARDS)
            .map(|shard| ShardRow { shard, owner: Some(i64::from(shard % 2)), epoch: 1 })
            .collect();
        assert_eq!(plan(0, &[0, 1], &shards), ShareChange::default());
        assert_eq!(plan(7, &[0, 1], &shards), ShareChange::default(), "a worker that is no member");
        let ShareChange { give, .. } = plan(0, &[0, 1, 2], &shards);
        assert!(give.len() == 42 && give.iter().all(|(_, to)| *to == 2), "{give:?}");
    }

    /// A worker that starts alone and others that join one after the other, as in a rollout: all have the same number.
    #[test]
    fn workers_that_join_get_their_whole_part() {
        let mut shards: Vec<ShardRow> =
            (0..SHARDS).map(|shard| ShardRow { shard, owner: Some(0), epoch: 0 }).collect();
        for count in 2..=4_i64 {
            let workers: Vec<i64> = (0..count).collect();
            settle(&workers, &mut shards);
            let counts = workers.iter().map(|w| shards.iter().filter(|s| s.owner == Some(*w)).count());
            let counts: Vec<usize> = counts.collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }
}
