//! Reads a page of the table of hooks.

use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Bound;
use std::sync::Arc;

use super::row::HookRow;
use super::selectors::SelectorSet;
use super::{HookCounts, HookNames, HookTable};
use crate::worker::api::hooks::query::{HookOrder, HookQuery};
use crate::worker::api::keyset::Position;

/// A page of hooks.
#[derive(Debug, PartialEq, Eq)]
pub struct HookPage {
    /// In their order.
    pub hooks: Vec<HookNames>,
    /// Where the next page begins. None: this is the last one.
    pub next: Option<Position>,
    /// The hooks that a query selects without its states.
    pub counts: HookCounts,
}

/// The conditions of a query besides its position.
struct RowFilter<'a> {
    query: &'a HookQuery,
    /// None: every hook.
    selectors: Option<SelectorSet>,
}

impl RowFilter<'_> {
    /// Returns whether the query selects hooks by more than their state, so that the counters of namespaces do not count them.
    fn has_text(&self) -> bool {
        self.selectors.is_some() || self.query.name.is_some()
    }

    fn has_texts_of(&self, name: &str, row: &HookRow) -> bool {
        self.selectors.as_ref().is_none_or(|selected| selected.contains(row.selector))
            && self.query.name.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

/// A hook of the page: its rank, its place among all hooks by namespace and name, and its names. The place decides before the
/// names are compared.
type Candidate<'a> = (i64, usize, &'a Arc<str>, &'a Arc<str>);

impl HookTable {
    /// Returns a page of a namespace, or of all. By name, and without a text to search for, it seeks the first hook and reads the
    /// page; otherwise it visits the rows of the namespace once, and keeps no more of them than the page has.
    pub fn page(&self, scope: &str, query: &HookQuery) -> HookPage {
        let has_selector = query.source.is_some() || query.event.is_some();
        let selectors = has_selector.then(|| {
            self.selectors.select(|selector| query.selects_event(Some(selector.source()), selector.event()))
        });
        let filter = RowFilter { query, selectors };
        let (mut found, counts) = match query.order {
            HookOrder::Name if !filter.has_text() => (self.seek(scope, &filter), self.counts(scope)),
            _ => self.scan(scope, &filter),
        };
        let has_more = found.len() > query.limit;
        found.truncate(query.limit);
        let next = found.last().filter(|_| has_more).map(|(rank, _, namespace, name)| Position {
            rank: *rank,
            namespace: namespace.to_string(),
            name: name.to_string(),
        });
        let hooks = found.into_iter().map(|(_, _, namespace, name)| (namespace.clone(), name.clone()));
        HookPage { hooks: hooks.collect(), next, counts }
    }

    /// Returns the first hooks by name after the query's position, one more than its page has.
    fn seek(&self, scope: &str, filter: &RowFilter<'_>) -> Vec<Candidate<'_>> {
        let after = filter.query.after.as_ref();
        let mut found = Vec::new();
        for (namespace, of_namespace) in self.covered(scope) {
            let rows = match after {
                Some(after) if **namespace < *after.namespace => continue,
                Some(after) if **namespace == *after.namespace => rows_after(&of_namespace.rows, &after.name),
                _ => of_namespace.rows.range::<str, _>((Bound::Unbounded, Bound::Unbounded)),
            };
            for (name, _) in rows.filter(|(_, row)| filter.query.selects_state(row.state)) {
                found.push((0, 0, namespace, name));
                if found.len() > filter.query.limit {
                    return found;
                }
            }
        }
        found
    }

    /// Returns the first hooks of the query's order after its position, one more than its page has, and counts all.
    fn scan(&self, scope: &str, filter: &RowFilter<'_>) -> (Vec<Candidate<'_>>, HookCounts) {
        let (query, after) = (filter.query, filter.query.after.as_ref());
        let (mut counts, mut place) = (HookCounts::default(), 0);
        // The last hook of the page is on top: a hook that sorts before it replaces it.
        let mut first: BinaryHeap<Candidate<'_>> = BinaryHeap::with_capacity(query.limit + 2);
        for (namespace, of_namespace) in self.covered(scope) {
            for (name, row) in &of_namespace.rows {
                place += 1;
                if filter.has_text() {
                    if !filter.has_texts_of(name, row) {
                        continue;
                    }
                    counts.add(row);
                }
                let rank = row.rank(query.order);
                let is_full = first.len() > query.limit;
                let sorts_after_page = is_full && first.peek().is_some_and(|(last, ..)| rank >= *last);
                if sorts_after_page
                    || !filter.query.selects_state(row.state)
                    || !is_after(after, rank, namespace, name)
                {
                    continue;
                }
                if is_full {
                    first.pop();
                }
                first.push((rank, place, namespace, name));
            }
        }
        if !filter.has_text() {
            counts = self.counts(scope);
        }
        (first.into_sorted_vec(), counts)
    }
}

fn rows_after<'a>(
    rows: &'a BTreeMap<Arc<str>, HookRow>,
    name: &str,
) -> std::collections::btree_map::Range<'a, Arc<str>, HookRow> {
    rows.range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
}

fn is_after(after: Option<&Position>, rank: i64, namespace: &str, name: &str) -> bool {
    after.is_none_or(|after| (rank, namespace, name) > (after.rank, &*after.namespace, &*after.name))
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::api::EventHook;
    use crate::cluster::DeserializeGuard;
    use crate::core::time::Millis;
    use crate::metrics::HookTimes;
    use crate::worker::api::hooks::facts::HookFacts;
    use crate::worker::api::hooks::query::parse_hooks;
    use crate::worker::api::hooks::shown_state::ShownState;
    use crate::worker::api::measure::StoreMeasurement;
    use crate::worker::breaker_reports::BreakerReports;
    use crate::worker::index::HookIndex;
    use crate::worker::index::testing::hook;

    /// Hooks in several states, and what the worker knows of them.
    #[derive(Default)]
    struct ManyHooks {
        index: HookIndex,
        breakers: BreakerReports,
        times: HookTimes,
        hooks: Vec<Arc<DeserializeGuard<EventHook>>>,
    }

    impl ManyHooks {
        fn new(count: u64) -> Self {
            let mut many = ManyHooks::default();
            for n in 0..count {
                let spec = json!({"event": format!("e{}", n % 3), "delivery": {"paused": n % 2 == 0}});
                let mut guard = hook(&format!("h-{n}"), &n.to_string(), spec);
                let condition = |kind: &str| {
                    json!({"type": kind, "status": "True", "reason": "R", "message": "m",
                        "lastTransitionTime": "2023-11-14T22:13:20Z"})
                };
                let conditions = json!({"conditions": [condition("Ready"), condition("Delivering")]});
                guard.0.as_mut().unwrap().status = Some(serde_json::from_value(conditions).unwrap());
                many.index.upsert(&guard);
                if n % 5 == 0 {
                    let (uid, success) = (n.to_string().into(), Millis(n as i64));
                    many.times.record(&uid, Duration::from_millis(n), Some(success));
                }
                many.hooks.push(Arc::new(guard));
            }
            many
        }

        fn facts(&self) -> HookFacts<'_> {
            HookFacts { index: &self.index, breakers: &self.breakers, times: &self.times }
        }

        fn table(&self) -> HookTable {
            HookTable::build(&self.facts(), self.hooks.iter().cloned())
        }
    }

    /// Returns every page of a query.
    fn pages(table: &HookTable, query: &str) -> Vec<HookPage> {
        let mut parsed = parse_hooks(Some(query)).unwrap();
        let mut pages = Vec::new();
        loop {
            let page = table.page("n", &parsed);
            // As a client sends it.
            let token = page.next.as_ref().map(|next| next.token(parsed.order.into()));
            pages.push(page);
            let Some(token) = token else { return pages };
            parsed.after = Some(Position::parse(&token, parsed.order.into()).unwrap());
        }
    }

    #[test]
    fn pages_of_thousands_of_hooks_have_each_hook_once_in_order() {
        const HOOKS: u64 = 3000;
        let many = ManyHooks::new(HOOKS);
        let table = many.table();
        for order in ["name", "state", "pending", "oldest", "lastSuccess", "p95"] {
            let pages = pages(&table, &format!("sort={order}&limit=470"));
            let names: HashSet<_> = pages.iter().flat_map(|page| &page.hooks).collect();
            let listed: usize = pages.iter().map(|page| page.hooks.len()).sum();
            assert_eq!((names.len() as u64, listed as u64, pages.len()), (HOOKS, HOOKS, 7), "{order}");
            assert_eq!(pages[0].counts.in_state(ShownState::Paused), 1500);
        }
        let slowest = &pages(&table, "sort=p95&limit=500")[0].hooks;
        let p95 = |(_, name): &HookNames| {
            many.times.get(name.strip_prefix("h-").unwrap()).and_then(|times| times.p95)
        };
        assert!(slowest[..100].is_sorted_by(|a, b| p95(a) >= p95(b)) && p95(&slowest[0]).unwrap() > 2000.0);
        let paused = pages(&table, "state=paused&event=e1&name=9&limit=500");
        let numbers: Vec<u64> = paused
            .iter()
            .flat_map(|page| &page.hooks)
            .map(|(_, name)| name.strip_prefix("h-").unwrap().parse().unwrap())
            .collect();
        let wanted = |n: &u64| n.is_multiple_of(2) && n % 3 == 1 && n.to_string().contains('9');
        assert!(numbers.iter().all(wanted));
        assert_eq!(numbers.len(), (0..HOOKS).filter(wanted).count());
        assert!(table.page("other", &parse_hooks(None).unwrap()).hooks.is_empty());
    }

    #[test]
    #[ignore = "a measurement"]
    fn page_of_a_hundred_thousand_hooks_is_quick() {
        let many = ManyHooks::new(100_000);
        let started = std::time::Instant::now();
        let mut table = many.table();
        println!("build: {:?}", started.elapsed());
        let started = std::time::Instant::now();
        table.set_backlogs(
            &many.index,
            Some(&Arc::new(StoreMeasurement::for_test(Instant::now(), HashMap::new(), HashSet::new()))),
        );
        println!("backlogs: {:?}", started.elapsed());
        // Without optimisation, it takes about ten times as long.
        let limit = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });
        for query in
            ["", "sort=state", "sort=pending", "sort=lastSuccess", "sort=p95", "name=999", "event=e1"]
        {
            let parsed = parse_hooks(Some(query)).unwrap();
            let started = std::time::Instant::now();
            let page = table.page("n", &parsed);
            let took = started.elapsed();
            println!("{query}: {took:?}");
            assert!(!page.hooks.is_empty() && took < limit, "{query}: {took:?}");
        }
    }
}
