//! Users' queries of deliveries: one delivery, a list, a count.
//!
//! Each query is bounded in the rows that it examines, and a list also in time, because it occupies one of few connections and
//! keeps a snapshot, which delays vacuum.

use std::sync::Arc;

use uuid::Uuid;

use super::super::read_budget::{ReadBudget, ReadLimiter};
use super::super::{
    DeliveryFilter, DeliveryPage, DeliveryRecord, DeliverySeq, DeliveryState, Exchange, PartialCount,
};
use super::failure::DbError;
use super::records::{self, MAX_ATTEMPTS};
use super::session::Session;
use super::walk::{FoundDelivery, Range, Tables, Walk};
use crate::core::event::Event;

pub(super) async fn delivery(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<DeliveryRecord>, DbError> {
    // One snapshot for all statements. Otherwise a sweep in between could hide the attempts of a delivery.
    let tx = session.begin_reading().await?;
    let located = records::locate(&tx, namespace, id).await?;
    let record = records::read(&tx, located.into_iter().collect()).await?.pop();
    tx.commit().await?;
    Ok(record)
}

/// Returns the sequence number and the state of a delivery.
pub(super) async fn state(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<(DeliverySeq, DeliveryState)>, DbError> {
    let located = records::locate(session, namespace, id).await?;
    Ok(located.map(|delivery| (delivery.seq, delivery.state)))
}

pub(super) async fn event_of(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<Arc<Event>>, DbError> {
    // Without a common snapshot: the event of a delivery does not change, and is removed only after it.
    let Some(delivery) = records::locate(session, namespace, id).await? else { return Ok(None) };
    Ok(records::event_of(session, delivery.seq).await?.map(Arc::new))
}

pub(super) async fn exchange(
    session: &Session,
    namespace: &str,
    id: Uuid,
) -> Result<Option<Exchange>, DbError> {
    let Some(delivery) = records::locate(session, namespace, id).await? else { return Ok(None) };
    records::exchange_of(session, delivery.seq).await
}

/// Returns a page of up to `page_size` deliveries. A page with fewer ends where the budget is used up; its `next` continues
/// exactly there.
pub(super) async fn list(
    session: &Session,
    filter: &DeliveryFilter,
    before: Option<DeliverySeq>,
    page_size: usize,
    budget: ReadBudget,
) -> Result<DeliveryPage, DbError> {
    let tx = session.begin_reading().await?;
    let mut limiter = ReadLimiter::start(budget);
    let (mut found, mut next) = (Vec::new(), None);
    if let Some(mut walk) = Walk::begin(&tx, filter, Range::older(before), Tables::Both).await? {
        next = fill(&tx, &mut walk, page_size, &mut found, &mut limiter).await?;
    }
    next = cut_attempts(&mut found, budget.rows).or(next);
    let records = records::read(&tx, found).await?;
    tx.commit().await?;
    Ok(DeliveryPage { records, next })
}

/// Reads windows until the page is full. Returns where the next page begins.
async fn fill(
    session: &Session,
    walk: &mut Walk,
    page_size: usize,
    found: &mut Vec<FoundDelivery>,
    limiter: &mut ReadLimiter,
) -> Result<Option<DeliverySeq>, DbError> {
    loop {
        // One more than the page has, which shows that there is a next page.
        let wanted = (page_size + 1).saturating_sub(found.len());
        let window = walk.next(session, wanted, limiter.remaining_rows()).await?;
        limiter.take(window.examined);
        found.extend(window.matched);
        if found.len() > page_size {
            found.truncate(page_size);
            return Ok(found.last().map(|delivery| delivery.seq));
        }
        if window.next.is_none() || limiter.is_used_up() {
            return Ok(window.next);
        }
    }
}

/// Ends a page where it has too many attempts, after at least one delivery. Returns where the next page begins.
fn cut_attempts(found: &mut Vec<FoundDelivery>, max_attempts: usize) -> Option<DeliverySeq> {
    let mut attempts = 0_usize;
    let kept = found.iter().take_while(|delivery| {
        let fits = attempts < max_attempts;
        attempts = attempts.saturating_add(delivery.attempts.min(MAX_ATTEMPTS));
        fits
    });
    let kept = kept.count().max(1);
    if kept >= found.len() {
        return None;
    }
    found.truncate(kept);
    found.last().map(|delivery| delivery.seq)
}

/// Counts up to `most` finished deliveries below `before`. Ends as a list does.
pub(super) async fn count_finished(
    session: &Session,
    filter: &DeliveryFilter,
    before: Option<DeliverySeq>,
    most: usize,
    budget: ReadBudget,
) -> Result<PartialCount, DbError> {
    if filter.state == Some(DeliveryState::Pending) || most == 0 {
        return Ok(PartialCount { count: 0, next: before.filter(|_| most == 0) });
    }
    let tx = session.begin_reading().await?;
    let mut limiter = ReadLimiter::start(budget);
    let mut counted = PartialCount::default();
    if let Some(mut walk) = Walk::begin(&tx, filter, Range::older(before), Tables::Finished).await? {
        loop {
            let window = walk.next(&tx, most - counted.count, limiter.remaining_rows()).await?;
            limiter.take(window.examined);
            counted.count += window.matched.len();
            if window.next.is_none() || counted.count >= most || limiter.is_used_up() {
                counted.next = window.next;
                break;
            }
        }
    }
    tx.commit().await?;
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::super::super::DeliveryState;
    use super::*;
    use crate::core::time::Millis;

    fn found(seq: DeliverySeq, attempts: usize) -> FoundDelivery {
        let (id, state, accepted) = (Uuid::nil(), DeliveryState::Dead, Millis(0));
        FoundDelivery { seq, hook: 1, id, state, reason: None, accepted, due: None, attempts, first: None }
    }

    /// Replays add attempts without an end, and a page must not read those of hundreds of deliveries.
    #[test]
    fn a_page_ends_where_it_has_too_many_attempts() {
        for (attempts, max, kept, next) in [
            (&[][..], 10, 0, None),
            (&[20][..], 10, 1, None),
            (&[20, 0], 10, 1, Some(9)),
            (&[5, 5, 1], 10, 2, Some(8)),
            (&[5, 4, 1], 10, 3, None),
            (&[9999, 1, 1], 1001, 2, Some(8)),
        ] {
            let mut page: Vec<_> = (0..).zip(attempts).map(|(n, attempts)| found(9 - n, *attempts)).collect();
            assert_eq!((cut_attempts(&mut page, max), page.len()), (next, kept), "{attempts:?}");
        }
    }
}
