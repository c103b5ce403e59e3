//! The table of hooks: what lists sort, filter and count by, derived once and kept, so that no request derives it for a hundred
//! thousand hooks.
//!
//! Invariants: a row is a function of the hook's object, its compiled state, its circuit breaker, its attempts and its backlog
//! (`HookRow::derive`), and is derived again when one of them is reported as changed (`ChangeLog`), so a table that was updated
//! equals a new one. The counters of a namespace are those of its rows. Rows have no texts besides the
//! names, which they share with the index: 100,000 hooks take about 10 MB.
//!
//! Out of scope: when the table is built, updated and dropped (`cache`); permissions, which each request checks before.

mod cache;
mod page;
mod row;
mod selectors;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use kube::Resource;
use strum::EnumCount;

use super::facts::HookFacts;
use super::shown_state::ShownState;
use super::source_of;
use crate::api::EventHook;
use crate::cluster::DeserializeGuard;
use crate::core::fast_map::FastMap;
use crate::worker::api::measure::{MAX_LISTED_AGE, StoreMeasurement};
use crate::worker::api::scope::covers;
use crate::worker::index::HookIndex;
use crate::worker::store::ALL_NAMESPACES;
pub use cache::HookTableCache;
pub use row::{HookRow, is_requested, not_delivering, unready};
pub use selectors::Selector;
use selectors::Selectors;

/// A hook's namespace and name, shared with the table.
pub type HookNames = (Arc<str>, Arc<str>);

/// The rows of all hooks.
#[derive(Default)]
pub struct HookTable {
    namespaces: BTreeMap<Arc<str>, NamespaceRows>,
    selectors: Selectors,
    /// The measurement whose backlogs the rows have. None: they are unknown.
    measured: Option<Arc<StoreMeasurement>>,
}

/// The hooks of a namespace, by name.
#[derive(Default)]
struct NamespaceRows {
    rows: BTreeMap<Arc<str>, HookRow>,
    counts: HookCounts,
}

/// The number of hooks in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    states: [usize; ShownState::COUNT],
    unready: usize,
    not_delivering: usize,
}

/// Hooks that need attention, those first that no user requested, and then by namespace and name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AttentionList {
    pub hooks: Vec<HookNames>,
    pub left_out: usize,
}

/// Why a hook needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Its object is not Ready.
    Unready,
    /// Its condition `Delivering` is False.
    NotDelivering,
}

impl HookCounts {
    pub fn add(&mut self, row: &HookRow) {
        self.change(row, |count| count + 1);
    }

    fn remove(&mut self, row: &HookRow) {
        self.change(row, |count| count.saturating_sub(1));
    }

    fn change(&mut self, row: &HookRow, change: impl Fn(usize) -> usize) {
        let state = self.states.get_mut(row.state as usize);
        let unready = row.unready.map(|_| &mut self.unready);
        let not_delivering = row.not_delivering.map(|_| &mut self.not_delivering);
        for count in [state, unready, not_delivering].into_iter().flatten() {
            *count = change(*count);
        }
    }

    fn merge(&mut self, other: &HookCounts) {
        self.states.iter_mut().zip(other.states).for_each(|(count, other)| *count += other);
        self.unready += other.unready;
        self.not_delivering += other.not_delivering;
    }

    pub fn in_state(&self, state: ShownState) -> usize {
        self.states.get(state as usize).copied().unwrap_or_default()
    }

    fn of(&self, attention: Attention) -> usize {
        match attention {
            Attention::Unready => self.unready,
            Attention::NotDelivering => self.not_delivering,
        }
    }
}

impl HookTable {
    /// Builds the rows of these hooks. Their backlogs are unknown at first.
    pub fn build(
        facts: &HookFacts<'_>,
        hooks: impl Iterator<Item = Arc<DeserializeGuard<EventHook>>>,
    ) -> Self {
        let mut table = HookTable::default();
        let mut rows: FastMap<Arc<str>, Vec<(Arc<str>, HookRow)>> = FastMap::default();
        for guard in hooks {
            let (namespace, name) = names_of(facts.index, &guard);
            let row = table.derive(facts, &guard);
            rows.entry(namespace).or_default().push((name, row));
        }
        for (namespace, rows) in rows {
            let mut counts = HookCounts::default();
            rows.iter().for_each(|(_, row)| counts.add(row));
            // Sorted once, which is faster than an insertion of each.
            table.namespaces.insert(namespace, NamespaceRows { rows: rows.into_iter().collect(), counts });
        }
        table
    }

    /// Derives a hook's row again. `guard`: None if it does not exist any more.
    pub fn update(
        &mut self,
        facts: &HookFacts<'_>,
        (namespace, name): HookNames,
        guard: Option<&DeserializeGuard<EventHook>>,
    ) {
        let new = guard.map(|guard| (names_of(facts.index, guard), self.derive(facts, guard)));
        let of_namespace = self.namespaces.entry(namespace.clone()).or_default();
        // An insertion alone would keep the former name, which may be a copy from the time before the index had the hook.
        let old = of_namespace.rows.remove(&name);
        if let Some(((_, name), row)) = new {
            of_namespace.counts.add(&row);
            of_namespace.rows.insert(name, row);
        }
        if let Some(old) = old {
            of_namespace.counts.remove(&old);
            old.selector.into_iter().for_each(|selector| self.selectors.remove(selector));
        }
        if of_namespace.rows.is_empty() {
            self.namespaces.remove(&namespace);
        }
    }

    /// Sets the times of a hook with new attempts.
    pub fn update_times(&mut self, facts: &HookFacts<'_>, uid: &str) {
        if let Some(row) = self.row_of_uid(facts.index, uid) {
            row.set_times(facts.times.get(uid));
        }
    }

    /// Sets the backlogs of all hooks. None: they are unknown.
    pub fn set_backlogs(&mut self, index: &HookIndex, measured: Option<&Arc<StoreMeasurement>>) {
        self.measured = measured.cloned();
        for row in self.namespaces.values_mut().flat_map(|of_namespace| of_namespace.rows.values_mut()) {
            row.clear_backlog(measured.is_some());
        }
        for uid in measured.iter().flat_map(|measured| measured.hooks()) {
            if let Some(row) = self.row_of_uid(index, uid) {
                row.set_backlog(uid, measured.map(|measured| &**measured));
            }
        }
    }

    /// Returns whether the rows have the backlogs of this measurement, or of a newer one. Otherwise two requests with different
    /// measurements would let all rows be changed back and forth. None: the backlogs are unknown, unless the table's are young.
    pub fn has_backlogs_as_new_as(&self, measured: Option<&Arc<StoreMeasurement>>) -> bool {
        match (&self.measured, measured) {
            (None, None) => true,
            (Some(own), Some(measured)) => own.started() >= measured.started(),
            (Some(own), None) => own.started().elapsed() < MAX_LISTED_AGE,
            (None, Some(_)) => false,
        }
    }

    /// Returns the measurement whose backlogs the rows have. None: they are unknown.
    pub fn measurement(&self) -> Option<&Arc<StoreMeasurement>> {
        self.measured.as_ref()
    }

    /// Returns the number of hooks of a namespace, or of all, in each state.
    pub fn counts(&self, scope: &str) -> HookCounts {
        let mut counts = HookCounts::default();
        self.covered(scope).for_each(|(_, of_namespace)| counts.merge(&of_namespace.counts));
        counts
    }

    /// Returns up to `limit` hooks that need attention.
    pub fn attention(&self, scope: &str, attention: Attention, limit: usize) -> AttentionList {
        let (mut unexpected, mut requested, mut total) = (Vec::new(), Vec::new(), 0);
        for (namespace, of_namespace) in self.covered(scope) {
            let mut remaining = of_namespace.counts.of(attention);
            total += remaining;
            for (name, row) in &of_namespace.rows {
                // Most namespaces have none.
                if remaining == 0 {
                    break;
                }
                let found = match attention {
                    Attention::Unready => row.unready,
                    Attention::NotDelivering => row.not_delivering,
                };
                let Some(is_requested) = found else { continue };
                remaining -= 1;
                let hooks = if is_requested { &mut requested } else { &mut unexpected };
                if hooks.len() < limit {
                    hooks.push((namespace.clone(), name.clone()));
                }
            }
        }
        let mut hooks = unexpected;
        hooks.extend(requested);
        hooks.truncate(limit);
        AttentionList { left_out: total - hooks.len(), hooks }
    }

    /// Returns the hooks of a namespace besides some, up to `limit` of them by name, and how many there are in all. If there are
    /// more: those of a source first.
    pub fn others(
        &self,
        namespace: &str,
        besides: &HashSet<Arc<str>>,
        source: &str,
        limit: usize,
    ) -> (Vec<Arc<str>>, usize) {
        let Some(of_namespace) = self.namespaces.get(namespace) else { return (Vec::new(), 0) };
        let of_source = self.selectors.select(|selector| selector.source() == source);
        let (mut same_source, mut other_source) = (Vec::new(), Vec::new());
        for (name, row) in &of_namespace.rows {
            // One that cannot be read may be of the source.
            let may_be_same = row.selector.is_none() || of_source.contains(row.selector);
            let names = if may_be_same { &mut same_source } else { &mut other_source };
            // Compare the length first: a hook beyond the limit needs no lookup.
            if names.len() < limit && !besides.contains(name) {
                names.push(name.clone());
            }
        }
        let excluded = besides.iter().filter(|name| of_namespace.rows.contains_key(*name)).count();
        let total = of_namespace.rows.len() - excluded;
        let mut names = same_source;
        other_source.truncate(limit - names.len());
        names.extend(other_source);
        names.sort_unstable();
        (names, total)
    }

    /// Calls `visit` with each source and event that hooks of a namespace name, and the number of those hooks. Sorted by source
    /// and event, so that a caller with a limit gets the same ones each time.
    pub fn visit_selectors(&self, namespace: &str, mut visit: impl FnMut(&Selector, usize)) {
        let mut hooks: FastMap<u32, usize> = FastMap::default();
        let rows = self.namespaces.get(namespace).into_iter().flat_map(|found| found.rows.values());
        rows.filter_map(|row| row.selector).for_each(|id| *hooks.entry(id).or_default() += 1);
        let found = hooks.into_iter().filter_map(|(id, count)| Some((self.selectors.get(id)?, count)));
        let mut found: Vec<_> = found.collect();
        found.sort_unstable_by_key(|(selector, _)| (selector.source(), selector.event()));
        found.into_iter().for_each(|(selector, count)| visit(selector, count));
    }

    fn derive(&mut self, facts: &HookFacts<'_>, guard: &DeserializeGuard<EventHook>) -> HookRow {
        let mut row = HookRow::derive(facts, guard);
        row.set_backlog(guard.meta().uid.as_deref().unwrap_or_default(), self.measured.as_deref());
        let (source, event) = source_of(guard);
        row.selector = source.map(|source| self.selectors.add(source, event));
        row
    }

    /// Returns the row of the hook that has this uid now.
    fn row_of_uid(&mut self, index: &HookIndex, uid: &str) -> Option<&mut HookRow> {
        let hook = index.get(uid)?;
        self.namespaces.get_mut(&hook.id.namespace)?.rows.get_mut(&hook.id.name)
    }

    fn covered(&self, scope: &str) -> impl Iterator<Item = (&Arc<str>, &NamespaceRows)> {
        // One namespace is found without a visit of the others.
        let bounds = match scope {
            ALL_NAMESPACES => (Bound::Unbounded, Bound::Unbounded),
            scope => (Bound::Included(scope), Bound::Included(scope)),
        };
        self.namespaces.range::<str, _>(bounds).filter(move |(namespace, _)| covers(scope, namespace))
    }
}

/// Returns the names of a hook; those of the index if it has the hook, so that they take no memory of their own.
fn names_of(index: &HookIndex, guard: &DeserializeGuard<EventHook>) -> HookNames {
    let meta = guard.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    let known = meta.uid.as_deref().and_then(|uid| index.get(uid));
    match known.filter(|known| *known.id.namespace == *namespace && *known.id.name == *name) {
        Some(known) => (known.id.namespace.clone(), known.id.name.clone()),
        None => (namespace.into(), name.into()),
    }
}
