//! Divides an amount (bytes, slots) fairly between namespaces, and within a namespace between its hooks.
//!
//! Claims arrive one by one and nothing is taken back by force, so a namespace must not take everything before another
//! one arrives. The limit of a namespace is therefore the larger of two amounts:
//! - an equal part: the capacity divided by the namespaces that have or want something, and one newcomer;
//! - four fifths of its own use and the free amount together. Namespaces that want more than they get thus converge to
//!   the same use, and what the others leave unused is divided between them (max-min fairness). A newcomer always finds
//!   a free part.
//!
//! The same rule divides a namespace's limit between its hooks. A namespace or hook that has nothing may take one item
//! although it is larger than its limit, if it is free: otherwise a large item would never fit.
//!
//! It decides about each claim when it arrives, and keeps no queue: `memory::MemoryPool` adds one. For attempts, whose
//! durations differ widely, see `core::fair_pool`, which also weighs past use and has a reserve.
//!
//! Each operation costs a hash lookup for each level.

use std::sync::Arc;

use super::fast_map::FastMap;

/// The part of its use and the free amount that an owner may have: `GREEDY / (GREEDY + 1)`.
const GREEDY: u64 = 4;

/// The owner of a part: a namespace, or one of its hooks.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    pub namespace: &'a Arc<str>,
    /// None: the amount belongs to no hook.
    pub hook: Option<&'a Arc<str>>,
}

impl<'a> Owner<'a> {
    pub fn namespace(namespace: &'a Arc<str>) -> Self {
        Owner { namespace, hook: None }
    }

    pub fn hook(namespace: &'a Arc<str>, hook: &'a Arc<str>) -> Self {
        Owner { namespace, hook: Some(hook) }
    }
}

/// An amount and its owners.
#[derive(Clone, Debug, Default)]
pub struct FairShares {
    capacity: u64,
    used: u64,
    /// Withheld from `may_take`, for the owner that has waited longest.
    reserved: u64,
    namespaces: FastMap<Arc<str>, NamespaceUse>,
}

/// Exists while the namespace uses something or waits.
#[derive(Clone, Debug, Default)]
struct NamespaceUse {
    used: u64,
    waiting: usize,
    hooks: FastMap<Arc<str>, HookUse>,
}

#[derive(Clone, Copy, Debug, Default)]
struct HookUse {
    used: u64,
    waiting: usize,
}

/// What a namespace or a hook uses, and how much it may have.
#[derive(Clone, Copy)]
struct Level {
    used: u64,
    limit: u64,
}

impl Level {
    fn may_take(self, amount: u64) -> bool {
        self.used == 0 || self.used.saturating_add(amount) <= self.limit
    }
}

impl FairShares {
    pub fn new(capacity: u64) -> Self {
        FairShares { capacity, ..FairShares::default() }
    }

    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    /// Returns the use of a namespace, or of a hook if the owner names one.
    pub fn used_by(&self, owner: Owner<'_>) -> u64 {
        let Some(namespace) = self.namespaces.get(owner.namespace) else { return 0 };
        match owner.hook {
            Some(hook) => namespace.hooks.get(hook).map_or(0, |hook| hook.used),
            None => namespace.used,
        }
    }

    /// Returns how much the owner may have at present.
    pub fn fair_share(&self, owner: Owner<'_>) -> u64 {
        let (namespace, hook) = self.levels(owner, self.free());
        hook.unwrap_or(namespace).limit
    }

    /// Returns the level of the owner's namespace, and of its hook if it names one.
    fn levels(&self, owner: Owner<'_>, free: u64) -> (Level, Option<Level>) {
        let namespace = self.namespaces.get(owner.namespace);
        let used = namespace.map_or(0, |namespace| namespace.used);
        let others = self.namespaces.len() - usize::from(namespace.is_some());
        let limit = limit(used, self.capacity, free, others + 1);
        let of_hook = owner.hook.map(|hook| {
            let own = namespace.and_then(|namespace| namespace.hooks.get(hook));
            let others = namespace.map_or(0, |namespace| namespace.hooks.len() - usize::from(own.is_some()));
            let own_use = own.map_or(0, |hook| hook.used);
            let limit = self::limit(own_use, limit, limit.saturating_sub(used), others + 1);
            Level { used: own_use, limit }
        });
        (Level { used, limit }, of_hook)
    }

    /// Returns true if the owner may take this amount now. Leaves the reserved amount free.
    pub fn may_take(&self, owner: Owner<'_>, amount: u64) -> bool {
        self.may_take_of(owner, amount, self.free().saturating_sub(self.reserved))
    }

    /// Like `may_take`, for the owner for which the amount was reserved.
    pub fn may_take_reserved(&self, owner: Owner<'_>, amount: u64) -> bool {
        self.may_take_of(owner, amount, self.free())
    }

    fn may_take_of(&self, owner: Owner<'_>, amount: u64, free: u64) -> bool {
        if amount > free {
            return false;
        }
        let (namespace, hook) = self.levels(owner, free);
        namespace.may_take(amount) && hook.is_none_or(|hook| hook.may_take(amount))
    }

    /// Takes the amount if the owner may have it.
    pub fn try_take(&mut self, owner: Owner<'_>, amount: u64) -> bool {
        let may = self.may_take(owner, amount);
        if may {
            self.take(owner, amount);
        }
        may
    }

    /// Takes the amount without a check. Call `may_take` first.
    pub fn take(&mut self, owner: Owner<'_>, amount: u64) {
        self.used = self.used.saturating_add(amount);
        self.update(owner, |used, _| *used = used.saturating_add(amount));
    }

    /// Gives back a part of what the owner took.
    pub fn give(&mut self, owner: Owner<'_>, amount: u64) {
        self.used = self.used.saturating_sub(amount);
        self.update(owner, |used, _| *used = used.saturating_sub(amount));
    }

    /// Counts the owner among those between which the capacity is divided, although it has nothing yet. Undo it with
    /// `stop_waiting`.
    pub fn start_waiting(&mut self, owner: Owner<'_>) {
        self.update(owner, |_, waiting| *waiting += 1);
    }

    pub fn stop_waiting(&mut self, owner: Owner<'_>) {
        self.update(owner, |_, waiting| *waiting = waiting.saturating_sub(1));
    }

    /// Withholds an amount from `may_take`. Without it, small claims could take each freed part, and a large one would
    /// wait forever.
    pub fn set_reserved(&mut self, amount: u64) {
        self.reserved = amount;
    }

    /// Changes the counters of the owner's namespace and hook. Forgets those that are zero, so that memory is bounded by
    /// the owners that have or want something.
    fn update(&mut self, owner: Owner<'_>, change: impl Fn(&mut u64, &mut usize)) {
        // Not by `entry`, which would clone the key each time.
        let namespace = match self.namespaces.get_mut(owner.namespace) {
            Some(namespace) => namespace,
            None => self.namespaces.entry(owner.namespace.clone()).or_default(),
        };
        change(&mut namespace.used, &mut namespace.waiting);
        if let Some(hook) = owner.hook {
            let counters = match namespace.hooks.get_mut(hook) {
                Some(counters) => counters,
                None => namespace.hooks.entry(hook.clone()).or_default(),
            };
            change(&mut counters.used, &mut counters.waiting);
            if counters.used == 0 && counters.waiting == 0 {
                namespace.hooks.remove(hook);
            }
        }
        if namespace.used == 0 && namespace.waiting == 0 {
            self.namespaces.remove(owner.namespace);
        }
    }
}

/// Returns the limit of an owner that uses `used`, while `free` is free and `active` owners (itself included) have or
/// want something.
fn limit(used: u64, capacity: u64, free: u64, active: usize) -> u64 {
    let equal = capacity / (active as u64).saturating_add(1);
    let greedy = free.saturating_add(used) / (GREEDY + 1) * GREEDY;
    equal.max(greedy)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(prefix: &str, count: usize) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("{prefix}{n}").into()).collect()
    }

    #[test]
    fn one_namespace_leaves_a_part_for_a_newcomer() {
        let all = names("n", 2);
        let mut shares = FairShares::new(1000);
        while shares.try_take(Owner::namespace(&all[0]), 10) {}
        assert_eq!(shares.used_by(Owner::namespace(&all[0])), 800);
        assert!(shares.try_take(Owner::namespace(&all[1]), 150), "the newcomer fits at once");
        assert!(!shares.try_take(Owner::namespace(&all[0]), 1));
        while shares.try_take(Owner::namespace(&all[1]), 10) {}
        assert!(shares.used_by(Owner::namespace(&all[1])) >= 190, "{shares:?}");
        // Parts of the first one come back: the second one gets an equal part of all.
        shares.give(Owner::namespace(&all[0]), 300);
        assert!(!shares.may_take(Owner::namespace(&all[0]), 300), "{shares:?}");
        while shares.try_take(Owner::namespace(&all[1]), 10) {}
        assert!((390..=410).contains(&shares.used_by(Owner::namespace(&all[1]))), "{shares:?}");
    }

    #[test]
    fn idle_namespaces_leave_their_part_to_the_others() {
        let all = names("n", 11);
        let mut shares = FairShares::new(10_000);
        all[1..].iter().for_each(|small| shares.take(Owner::namespace(small), 10));
        while shares.try_take(Owner::namespace(&all[0]), 10) {}
        assert!(
            shares.used_by(Owner::namespace(&all[0])) > 7_500,
            "ten namespaces with little do not take a tenth each"
        );
    }

    #[test]
    fn hooks_divide_the_limit_of_their_namespace() {
        let (all, hooks) = (names("n", 2), names("h", 3));
        let mut shares = FairShares::new(1000);
        while shares.try_take(Owner::hook(&all[0], &hooks[0]), 10) {}
        let first = shares.used_by(Owner::namespace(&all[0]));
        assert!((600..800).contains(&first), "{first}");
        assert!(shares.try_take(Owner::hook(&all[0], &hooks[1]), 50), "another hook of the namespace fits");
        assert!(shares.try_take(Owner::hook(&all[1], &hooks[2]), 100), "another namespace fits");
        assert_eq!(shares.used_by(Owner::namespace(&all[0])), first + 50);
        shares.give(Owner::hook(&all[0], &hooks[0]), first);
        shares.give(Owner::hook(&all[0], &hooks[1]), 50);
        shares.give(Owner::hook(&all[1], &hooks[2]), 100);
        assert!(shares.namespaces.is_empty() && shares.used() == 0, "{shares:?}");
    }

    #[test]
    fn large_item_fits_an_owner_that_has_nothing() {
        let all = names("n", 100);
        let mut shares = FairShares::new(1000);
        all[1..].iter().for_each(|one| shares.take(Owner::namespace(one), 1));
        assert!(
            shares.fair_share(Owner::namespace(&all[0])) < 900
                && shares.may_take(Owner::namespace(&all[0]), 900)
        );
        assert!(!shares.may_take(Owner::namespace(&all[0]), 902), "but not more than is free");
    }

    #[test]
    fn reserved_amount_is_for_the_owner_that_waits() {
        let all = names("n", 2);
        let mut shares = FairShares::new(1000);
        shares.take(Owner::namespace(&all[0]), 100);
        shares.start_waiting(Owner::namespace(&all[1]));
        shares.set_reserved(850);
        assert!(
            !shares.may_take(Owner::namespace(&all[0]), 100)
                && shares.may_take(Owner::namespace(&all[0]), 10)
        );
        assert!(shares.may_take_reserved(Owner::namespace(&all[1]), 850));
        shares.set_reserved(0);
        shares.stop_waiting(Owner::namespace(&all[1]));
        assert!(shares.may_take(Owner::namespace(&all[0]), 100));
    }

    #[test]
    fn waiting_owner_counts_in_the_equal_parts() {
        let all = names("n", 3);
        let mut shares = FairShares::new(1000);
        shares.take(Owner::namespace(&all[0]), 600);
        shares.take(Owner::namespace(&all[2]), 300);
        assert_eq!(shares.fair_share(Owner::namespace(&all[2])), 333, "two namespaces and a newcomer");
        shares.start_waiting(Owner::namespace(&all[1]));
        assert_eq!(
            shares.fair_share(Owner::namespace(&all[2])),
            320,
            "four fifths of its use and what is free"
        );
        shares.stop_waiting(Owner::namespace(&all[1]));
        assert_eq!((shares.fair_share(Owner::namespace(&all[2])), shares.namespaces.len()), (333, 2));
    }

    proptest! {
        #[test]
        fn counters_add_up_and_nobody_below_its_part_is_rejected(
            steps in proptest::collection::vec((0usize..6, 0usize..4, 1u64..200, any::<bool>()), 0..300),
        ) {
            let (all, hooks) = (names("n", 6), names("h", 4));
            let mut shares = FairShares::new(1000);
            let mut taken: Vec<(usize, usize, u64)> = Vec::new();
            for (n, h, amount, takes) in steps {
                let owner = Owner::hook(&all[n], &hooks[h]);
                if takes {
                    let active = shares.namespaces.len() + usize::from(!shares.namespaces.contains_key(&all[n]));
                    let part = 1000 / (active as u64 + 1);
                    let in_namespace = shares.used_by(Owner::namespace(&all[n]));
                    let (had, is_alone) = (shares.used_by(owner), shares.used_by(owner) == in_namespace);
                    let fits = amount <= shares.free() && in_namespace + amount <= part;
                    let took = shares.try_take(owner, amount);
                    if took {
                        taken.push((n, h, amount));
                    }
                    // A hook that has nothing, or is alone with half of the part, gets what its namespace may have.
                    if fits && (had == 0 || is_alone && in_namespace + amount <= part / 2) {
                        prop_assert!(took, "{shares:?} {n} {h} {amount}");
                    }
                } else if let Some((n, h, amount)) = taken.pop() {
                    shares.give(Owner::hook(&all[n], &hooks[h]), amount);
                }
                prop_assert!(shares.used() <= 1000);
                prop_assert_eq!(shares.used(), taken.iter().map(|(_, _, amount)| amount).sum::<u64>());
                for (n, name) in all.iter().enumerate() {
                    let used: u64 = taken.iter().filter(|one| one.0 == n).map(|one| one.2).sum();
                    prop_assert_eq!(shares.used_by(Owner::namespace(name)), used);
                }
            }
            for (n, h, amount) in taken {
                shares.give(Owner::hook(&all[n], &hooks[h]), amount);
            }
            prop_assert!(shares.namespaces.is_empty() && shares.used() == 0);
        }

        /// However much the first of several greedy namespaces took, it ends with no more than about an equal part.
        #[test]
        fn first_of_greedy_namespaces_keeps_about_an_equal_part(count in 2usize..20, head_start in 0u64..800, seed in any::<u64>()) {
            let all = names("n", count);
            let mut shares = FairShares::new(100_000);
            let mut random = fastrand::Rng::with_seed(seed);
            shares.take(Owner::namespace(&all[0]), head_start * 100);
            // Items end at random, like requests; every namespace always wants more.
            for _ in 0..400 * count {
                let n = random.usize(..count);
                if random.bool() && shares.used_by(Owner::namespace(&all[n])) >= 500 {
                    shares.give(Owner::namespace(&all[n]), 500);
                }
                let n = random.usize(..count);
                shares.try_take(Owner::namespace(&all[n]), 500);
            }
            for name in &all {
                while shares.try_take(Owner::namespace(name), 500) {}
            }
            let used: Vec<u64> = all.iter().map(|name| shares.used_by(Owner::namespace(name))).collect();
            // Those with less get the next free parts; none keeps much more than an equal part.
            let equal = 100_000 / count as u64;
            prop_assert!(used.iter().all(|used| *used <= equal * 2 + 1000), "{used:?}");
        }

        /// With thousands of hooks, each gets capacity for one item once as much as its item is free.
        #[test]
        fn every_newcomer_gets_an_item(owners in 1usize..2000, size in 1u64..50) {
            let all = names("n", owners);
            let mut shares = FairShares::new(1000);
            let mut queue: std::collections::VecDeque<&Arc<str>> = all.iter().collect();
            let mut held = std::collections::VecDeque::new();
            let mut rounds = 0;
            while let Some(name) = queue.pop_front() {
                while !shares.try_take(Owner::namespace(name), size) {
                    let oldest: &Arc<str> = held.pop_front().expect("someone has it");
                    shares.give(Owner::namespace(oldest), size);
                    rounds += 1;
                }
                held.push_back(name);
            }
            prop_assert!(rounds <= owners);
        }
    }
}
