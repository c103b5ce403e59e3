//! Reads a page of deliveries in several states: one read for each state, merged. And one by reason or status: reads until
//! the page is full, within a bound.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use strum::EnumCount;

use super::query::{ListQuery, MAX_LIMIT, Page};
use crate::worker::store::{DeliveryFilter, DeliveryPage, DeliveryState, HistoryStore, StoreError};

/// The most deliveries that a filtered page examines.
const MAX_EXAMINED: usize = 10_000;
/// How long a filtered page is read.
const MAX_FILTER_TIME: Duration = Duration::from_millis(50);

/// Reads a page. A delivery whose state changes between two of the reads is listed once.
pub async fn read_page(store: &dyn HistoryStore, query: ListQuery) -> Result<DeliveryPage, StoreError> {
    let ListQuery { filter, states, outcome, page } = query;
    if outcome.is_empty() {
        return read_states(store, &filter, &states, page).await;
    }
    let started = Instant::now();
    let (mut records, mut examined, mut before) = (Vec::new(), 0, page.before);
    loop {
        let part = read_states(store, &filter, &states, Page { before, limit: MAX_LIMIT }).await?;
        examined += part.records.len();
        before = part.next;
        for record in part.records.into_iter().filter(|record| outcome.selects(record)) {
            let seq = record.seq;
            records.push(record);
            if records.len() >= page.limit {
                return Ok(DeliveryPage { records, next: Some(seq) });
            }
        }
        if before.is_none() || examined >= MAX_EXAMINED || started.elapsed() > MAX_FILTER_TIME {
            return Ok(DeliveryPage { records, next: before });
        }
    }
}

async fn read_states(
    store: &dyn HistoryStore,
    filter: &DeliveryFilter,
    states: &[DeliveryState],
    Page { before, limit }: Page,
) -> Result<DeliveryPage, StoreError> {
    if states.is_empty() {
        return store.list(filter.clone(), before, limit).await;
    }
    let reads = states.iter().map(|state| {
        let of_state = DeliveryFilter { state: Some(*state), ..filter.clone() };
        store.list(of_state, before, limit)
    });
    Ok(merge(try_join_all(reads).await?, limit))
}

/// Merges pages that begin at the same delivery.
fn merge(pages: Vec<DeliveryPage>, limit: usize) -> DeliveryPage {
    // Below the end of an incomplete page, deliveries of its state may be missing, so the next page begins there.
    let end = pages.iter().filter_map(|page| page.next).max();
    let mut records: Vec<_> = pages.into_iter().flat_map(|page| page.records).collect();
    records.retain(|record| end.is_none_or(|end| record.seq >= end));
    records.sort_by_key(|record| std::cmp::Reverse(record.seq));
    records.dedup_by_key(|record| record.seq);
    let is_full = records.len() > limit;
    records.truncate(limit);
    let next = if is_full { records.last().map(|last| last.seq) } else { end };
    DeliveryPage { records, next }
}

/// Returns the states of a list without duplicates; none if all are selected.
pub fn distinct_states(mut states: Vec<DeliveryState>) -> Vec<DeliveryState> {
    states.sort();
    states.dedup();
    if states.len() == DeliveryState::COUNT { Vec::new() } else { states }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::core::time::Millis;
    use crate::worker::store::{DeliveryRecord, DeliverySeq, HookId};

    fn record(seq: DeliverySeq) -> DeliveryRecord {
        DeliveryRecord {
            seq,
            id: Uuid::nil(),
            hook: HookId { uid: "u".into(), namespace: "n".into(), name: "h".into() },
            event_id: "e".into(),
            state: DeliveryState::Dead,
            reason: None,
            accepted: Millis(0),
            due: None,
            attempts: Vec::new(),
        }
    }

    /// A page of the deliveries of one state, of which a read examines `examined` at most.
    fn page(all: &[DeliverySeq], before: DeliverySeq, limit: usize, examined: usize) -> DeliveryPage {
        let below: Vec<_> = all.iter().copied().filter(|seq| *seq < before).collect();
        let shown = limit.min(examined).min(below.len());
        let next = (shown < below.len()).then(|| below[shown - 1]);
        DeliveryPage { records: below[..shown].iter().map(|seq| record(*seq)).collect(), next }
    }

    proptest! {
        #[test]
        fn pages_together_have_every_delivery_once(
            states in prop::collection::vec(0_usize..3, 0..60),
            limit in 1_usize..8,
            examined in prop::array::uniform3(1_usize..8),
        ) {
            let of_state = |wanted: usize| -> Vec<DeliverySeq> {
                let found = states.iter().enumerate().filter(|(_, state)| **state == wanted);
                found.map(|(seq, _)| i64::try_from(seq).unwrap()).rev().collect()
            };
            let all = [of_state(0), of_state(1), of_state(2)];
            let (mut before, mut listed) = (DeliverySeq::MAX, Vec::new());
            loop {
                let pages = all.iter().zip(examined).map(|(seqs, rows)| page(seqs, before, limit, rows)).collect();
                let merged = merge(pages, limit);
                prop_assert!(merged.records.len() <= limit);
                listed.extend(merged.records.iter().map(|record| record.seq));
                let Some(next) = merged.next else { break };
                prop_assert!(next < before);
                before = next;
            }
            let want: Vec<_> = (0..states.len()).map(|seq| i64::try_from(seq).unwrap()).rev().collect();
            prop_assert_eq!(listed, want);
        }
    }
}
