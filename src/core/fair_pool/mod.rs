//! A pool of capacity that members use for a while, such as in-flight slots: divided fairly between groups, then between
//! the members of a group. Here a group is a namespace and a member is a hook.
//!
//! Capacity in use cannot be taken back, so fairness needs capacity that is still free when a new member arrives. Two
//! rules keep it free:
//! - A group takes more only while it holds less than a multiple of the free capacity, and a member only while it holds
//!   less than a multiple of what its group may still take. One busy member may use most of the pool; each further one
//!   leaves a part of the rest.
//! - A quarter is a reserve, for members whose uses are short. Members with long uses can fill the rest for many
//!   minutes, but not the reserve.
//!
//! Members that get nothing wait. Freed capacity goes to the waiting group that holds least, then to its member that
//! holds least; of equals, to the one whose finished uses took least capacity for least time. A member never overtakes a
//! waiting one that holds less, so a large request gets its capacity when enough uses have ended.
//!
//! Each operation costs O(log n). Without waiting members it costs a look-up.
//!
//! `core::fair_shares` divides amounts too, but keeps no queue and no history: it suits callers that are rejected or that
//! queue themselves. `store::sqlite::fair_queue` divides a few equal slots and its own bounded queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::fast_map::FastMap;

/// The part of the capacity that only members with short uses get: one in this many.
const RESERVE_PART: u64 = 4;
/// A group takes more of the general part only while it holds less than this multiple of what is free.
const GROUP_MULTIPLE: u64 = 4;
/// A member takes more of the general part only while it holds less than this multiple of what its group may still take.
const MEMBER_MULTIPLE: u64 = 6;
/// In the reserve, a member takes more only while it holds less than this multiple of what its group may still take. A
/// group may hold as much as it leaves free.
const RESERVE_MEMBER_MULTIPLE: u64 = 2;
/// The largest request that the reserve serves: one in this many of the reserve.
const RESERVE_REQUEST_PART: u64 = 4;
/// A member whose pace is unknown holds at most one in this many of the reserve.
const UNPROVEN_PART: u64 = 64;
/// How far a member's past use may be ahead of that of the others. Bounds how long it comes last.
const MAX_LEAD: Duration = Duration::from_secs(60);

/// How long the uses of a member take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Short. It may use the reserve.
    Fast,
    /// Unknown. It may use a small part of the reserve.
    Unproven,
    /// Long.
    Slow,
}

/// Capacity that a member holds. Return it with [`FairPool::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Grant {
    pub amount: u64,
    is_reserve: bool,
}

/// The order of groups and of members: by the capacity held, then by the capacity used in the past.
type Rank = (u64, u64);

/// The place of a member in the order: the rank of its group, the group's index, its own rank.
type Place = (Rank, usize, Rank);

#[derive(Clone, Copy, Default)]
struct Holding {
    /// All capacity held.
    held: u64,
    /// The part of it that is from the reserve.
    reserved: u64,
    /// Amount and time of ended uses, in KiB-milliseconds; starts at the value of the member that was served last.
    past: u64,
}

impl Holding {
    fn rank(&self) -> Rank {
        (self.held, self.past)
    }

    fn add(&mut self, grant: Grant) {
        self.held = self.held.saturating_add(grant.amount);
        if grant.is_reserve {
            self.reserved = self.reserved.saturating_add(grant.amount);
        }
    }

    fn remove(&mut self, grant: Grant) {
        self.held = self.held.saturating_sub(grant.amount);
        if grant.is_reserve {
            self.reserved = self.reserved.saturating_sub(grant.amount);
        }
    }
}

#[derive(Default)]
struct Group {
    name: Arc<str>,
    holding: Holding,
    /// `past` of the member that was served last.
    floor: u64,
    members: usize,
    /// The waiting members: those that may use the reserve, and the others.
    waiting: [BTreeSet<(Rank, Arc<str>)>; 2],
    /// The rank under which the pool lists the group as waiting.
    listed: Rank,
}

struct Member {
    group: usize,
    holding: Holding,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy)]
struct Waiting {
    amount: u64,
    pace: Pace,
    /// The rank under which the group lists the member.
    listed: Rank,
}

#[derive(Clone, Copy)]
struct Part {
    capacity: u64,
    used: u64,
}

impl Part {
    fn free(self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }
}

/// The pool. Members are identified by name; a member's group never changes while it holds or waits.
pub struct FairPool {
    general: Part,
    reserve: Part,
    groups: Vec<Group>,
    unused_groups: Vec<usize>,
    group_of: FastMap<Arc<str>, usize>,
    members: FastMap<Arc<str>, Member>,
    /// The groups with waiting members: those that may use the reserve, and the others.
    waiting: [BTreeSet<(Rank, usize)>; 2],
    /// `past` of the group that was served last.
    floor: u64,
}

const FAST: usize = 0;
const SLOW: usize = 1;

fn list_of(pace: Pace) -> usize {
    match pace {
        Pace::Fast | Pace::Unproven => FAST,
        Pace::Slow => SLOW,
    }
}

impl FairPool {
    pub fn new(capacity: u64) -> Self {
        let reserve = capacity / RESERVE_PART;
        FairPool {
            general: Part { capacity: capacity - reserve, used: 0 },
            reserve: Part { capacity: reserve, used: 0 },
            groups: Vec::new(),
            unused_groups: Vec::new(),
            group_of: FastMap::default(),
            members: FastMap::default(),
            waiting: [BTreeSet::new(), BTreeSet::new()],
            floor: 0,
        }
    }

    /// Returns the capacity in use.
    pub fn used(&self) -> u64 {
        self.general.used + self.reserve.used
    }

    /// Returns the largest amount that one request can get. A larger request gets this amount.
    pub fn largest(&self) -> u64 {
        self.general.capacity
    }

    /// Takes capacity, unless too little is free for this member or another member that holds less waits for it. The
    /// caller then calls [`FairPool::wait`].
    pub fn request(&mut self, group: &Arc<str>, member: &Arc<str>, amount: u64, pace: Pace) -> Option<Grant> {
        let amount = amount.min(self.largest());
        let known = self.members.get(member);
        let is_waiting = known.is_some_and(|known| known.waiting.is_some());
        let group_index = known.map(|known| known.group).or_else(|| self.group_of.get(group).copied());
        let starting = |past| Holding { past, ..Holding::default() };
        let (of_group, floor) = match group_index.and_then(|index| self.groups.get(index)) {
            Some(group) => (group.holding, group.floor),
            None => (starting(self.floor), 0),
        };
        let of_member = known.map_or(starting(floor), |known| known.holding);
        let place = (of_group.rank(), group_index.unwrap_or(usize::MAX), of_member.rank());
        let may_use = |is_reserve| {
            self.fits(&of_group, &of_member, amount, pace, is_reserve)
                && !self.would_overtake(place, is_reserve)
        };
        let is_reserve = match (may_use(false), pace) {
            (true, _) => false,
            (false, Pace::Fast | Pace::Unproven) if may_use(true) => true,
            _ => return None,
        };
        let grant = Grant { amount, is_reserve };
        let part = if is_reserve { &mut self.reserve } else { &mut self.general };
        part.used += amount;
        if is_waiting {
            self.stop_waiting(member);
        }
        let index = match self.members.get_mut(member) {
            Some(known) => {
                known.holding.add(grant);
                known.group
            }
            None => {
                let mut holding = of_member;
                holding.add(grant);
                self.add_member(group, group_index, member, holding)
            }
        };
        if let Some(group) = self.groups.get_mut(index) {
            group.floor = group.floor.max(of_member.past);
            group.holding.add(grant);
            self.floor = self.floor.max(group.holding.past);
        }
        self.list_group(index);
        Some(grant)
    }

    /// Queues a member for capacity. Replaces its earlier request.
    pub fn wait(&mut self, group: &Arc<str>, member: &Arc<str>, amount: u64, pace: Pace) {
        self.stop_waiting(member);
        let index = self.ensure_member(group, member);
        if let Some(known) = self.members.get_mut(member) {
            let listed = known.holding.rank();
            let amount = amount.min(self.general.capacity);
            known.waiting = Some(Waiting { amount, pace, listed });
            if let Some(list) = self.groups.get_mut(index).and_then(|g| g.waiting.get_mut(list_of(pace))) {
                list.insert((listed, member.clone()));
            }
        }
        self.list_group(index);
    }

    pub fn is_waiting(&self, member: &str) -> bool {
        self.has_waiting() && self.members.get(member).is_some_and(|member| member.waiting.is_some())
    }

    /// Returns whether any member waits.
    pub fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|list| !list.is_empty())
    }

    /// Forgets a member that neither holds nor waits.
    pub fn leave(&mut self, member: &str) {
        if self.members.get(member).is_some_and(|known| known.holding.held == 0 && known.waiting.is_none()) {
            self.forget(member);
        }
    }

    /// Removes and returns the waiting member that gets capacity next, if there is enough for it. The caller then calls
    /// [`FairPool::request`] or [`FairPool::wait`], and at the end [`FairPool::leave`].
    pub fn next_waiting(&mut self) -> Option<Arc<str>> {
        let fast = self.head(FAST);
        let first = [fast.clone(), self.head(SLOW)].into_iter().flatten().min();
        let next = first
            .filter(|(_, name)| self.fits_waiting(name, false))
            .or_else(|| fast.filter(|(_, name)| self.fits_waiting(name, true)))
            .map(|(_, name)| name)?;
        self.stop_waiting(&next);
        Some(next)
    }

    fn fits_waiting(&self, member: &str, is_reserve: bool) -> bool {
        let found = self.members.get(member).and_then(|member| {
            let Waiting { amount, pace, .. } = member.waiting?;
            Some(self.fits(
                &self.groups.get(member.group)?.holding,
                &member.holding,
                amount,
                pace,
                is_reserve,
            ))
        });
        found == Some(true)
    }

    /// Returns capacity, after a use that took `duration`.
    pub fn release(&mut self, member: &str, grant: Grant, duration: Duration) {
        self.give_back(member, grant, cost(grant.amount, duration));
    }

    fn give_back(&mut self, member: &str, grant: Grant, spent: u64) {
        let part = if grant.is_reserve { &mut self.reserve } else { &mut self.general };
        part.used = part.used.saturating_sub(grant.amount);
        let lead = cost(self.general.capacity, MAX_LEAD);
        let Some(known) = self.members.get_mut(member) else { return };
        let index = known.group;
        let Some(group) = self.groups.get_mut(index) else { return };
        for (holding, floor) in [(&mut known.holding, group.floor), (&mut group.holding, self.floor)] {
            holding.remove(grant);
            holding.past = holding.past.saturating_add(spent).min(floor.saturating_add(lead));
        }
        if let Some(waiting) = &mut known.waiting
            && let Some(list) = group.waiting.get_mut(list_of(waiting.pace))
            && let Some((_, name)) = list.take(&(waiting.listed, Arc::from(member)))
        {
            waiting.listed = known.holding.rank();
            list.insert((waiting.listed, name));
        }
        let is_idle = known.holding.held == 0 && known.waiting.is_none();
        self.list_group(index);
        if is_idle {
            self.forget(member);
        }
    }

    /// Returns a part of a grant, so that it holds at most `amount`.
    pub fn shrink(&mut self, member: &str, grant: &mut Grant, amount: u64) {
        let rest = Grant { amount: grant.amount.saturating_sub(amount), ..*grant };
        if rest.amount > 0 {
            grant.amount -= rest.amount;
            self.undo(member, rest);
        }
    }

    /// Returns capacity that was not used.
    pub fn undo(&mut self, member: &str, grant: Grant) {
        self.give_back(member, grant, 0);
    }

    fn fits(&self, group: &Holding, member: &Holding, amount: u64, pace: Pace, is_reserve: bool) -> bool {
        if is_reserve {
            let (free, capacity) = (self.reserve.free(), self.reserve.capacity);
            let for_group = free.saturating_sub(group.reserved) / 2;
            let limit = match pace {
                Pace::Fast => RESERVE_MEMBER_MULTIPLE * for_group,
                Pace::Unproven => for_group.min(capacity / UNPROVEN_PART),
                Pace::Slow => return false,
            };
            return amount <= free
                && amount <= (capacity / RESERVE_REQUEST_PART).max(1)
                && (group.reserved == 0 || for_group > 0)
                && (member.reserved == 0 || member.reserved < limit);
        }
        let free = self.general.free();
        let (group, member) = (group.held - group.reserved, member.held - member.reserved);
        let for_group = (GROUP_MULTIPLE * free).saturating_sub(group) / (GROUP_MULTIPLE + 1);
        amount <= free
            && (group == 0 || for_group > 0)
            && (member == 0 || member < MEMBER_MULTIPLE.saturating_mul(for_group))
    }

    /// True if a waiting member that holds less could use this part of the pool.
    fn would_overtake(&self, place: Place, is_reserve: bool) -> bool {
        let lists: &[usize] = if is_reserve { &[FAST] } else { &[FAST, SLOW] };
        lists.iter().filter_map(|list| self.head(*list)).any(|(head, _)| head < place)
    }

    /// Returns the first waiting member of a list.
    fn head(&self, list: usize) -> Option<(Place, Arc<str>)> {
        let (rank, group) = self.waiting.get(list)?.first()?;
        let (of_member, name) = self.groups.get(*group)?.waiting.get(list)?.first()?;
        Some(((*rank, *group, *of_member), name.clone()))
    }

    fn ensure_member(&mut self, group: &Arc<str>, member: &Arc<str>) -> usize {
        if let Some(known) = self.members.get(member) {
            return known.group;
        }
        let group_index = self.group_of.get(group).copied();
        let floor = group_index.and_then(|index| self.groups.get(index)).map_or(0, |group| group.floor);
        self.add_member(group, group_index, member, Holding { past: floor, ..Holding::default() })
    }

    /// Adds a member, and its group if that is unknown. Returns the group's index.
    fn add_member(
        &mut self,
        group: &Arc<str>,
        group_index: Option<usize>,
        member: &Arc<str>,
        holding: Holding,
    ) -> usize {
        let index = group_index.unwrap_or_else(|| self.add_group(group));
        if let Some(group) = self.groups.get_mut(index) {
            group.members += 1;
        }
        self.members.insert(member.clone(), Member { group: index, holding, waiting: None });
        index
    }

    fn add_group(&mut self, name: &Arc<str>) -> usize {
        let index = self.unused_groups.pop().unwrap_or(self.groups.len());
        let holding = Holding { past: self.floor, ..Holding::default() };
        let group = Group { name: name.clone(), holding, ..Group::default() };
        match self.groups.get_mut(index) {
            Some(unused) => *unused = group,
            None => self.groups.push(group),
        }
        self.group_of.insert(name.clone(), index);
        index
    }

    /// Removes a member from the queue. It keeps its place until [`FairPool::leave`].
    pub fn stop_waiting(&mut self, member: &str) {
        if !self.has_waiting() {
            return;
        }
        let Some(known) = self.members.get_mut(member) else { return };
        let Some(Waiting { pace, listed, .. }) = known.waiting.take() else { return };
        let index = known.group;
        if let Some(list) = self.groups.get_mut(index).and_then(|g| g.waiting.get_mut(list_of(pace))) {
            list.remove(&(listed, Arc::from(member)));
        }
        self.list_group(index);
    }

    /// Lists the group as waiting under its present rank, or removes it if none of its members waits.
    fn list_group(&mut self, index: usize) {
        let Some(group) = self.groups.get_mut(index) else { return };
        let before = std::mem::replace(&mut group.listed, group.holding.rank());
        for (waiting, of_group) in self.waiting.iter_mut().zip(&group.waiting) {
            if waiting.is_empty() && of_group.is_empty() {
                continue;
            }
            waiting.remove(&(before, index));
            if !of_group.is_empty() {
                waiting.insert((group.listed, index));
            }
        }
    }

    fn forget(&mut self, member: &str) {
        let Some(Member { group: index, .. }) = self.members.remove(member) else { return };
        let Some(group) = self.groups.get_mut(index) else { return };
        group.members = group.members.saturating_sub(1);
        if group.members == 0 {
            self.group_of.remove(&group.name);
            *group = Group::default();
            self.unused_groups.push(index);
        }
    }
}

/// Returns capacity times time, in KiB-milliseconds; at least 1 for each started KiB.
fn cost(amount: u64, duration: Duration) -> u64 {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    amount.div_ceil(1024).saturating_mul(millis.saturating_add(1))
}

#[cfg(test)]
mod tests;
