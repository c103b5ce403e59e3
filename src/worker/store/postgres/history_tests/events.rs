//! Lists of events, compared with a filter in memory.

use super::super::super::{ALL_NAMESPACES, EventFilter, EventOutcome, EventRecord};
use super::super::events_list;
use super::*;

/// Follows the pages to the end.
async fn all(session: &Session, filter: &EventFilter, page: (usize, bool), rows: usize) -> Vec<EventRecord> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let part = events_list::list(session, filter, before, page, budget(rows)).await.unwrap();
        assert!(part.records.len() <= page.0);
        assert!(part.next.is_none() || part.next < before.or(Some(i64::MAX)), "{filter:?}");
        found.extend(part.records);
        before = part.next;
        if before.is_none() {
            return found;
        }
    }
}

async fn filled(session: &Session) -> Vec<StoredEvent> {
    use DeliveryState::{Cancelled, Dead, Delivered, Dropped, Pending};
    let (shop, other) = (place(session, "shop").await, place(session, "other").await);
    let a = insert_hook(session, shop, "1", "a").await;
    let b = insert_hook(session, shop, "2", "b").await;
    let mixes: [&[(i64, DeliveryState)]; 7] = [
        &[],
        &[(a, Delivered), (b, Pending)],
        &[(a, Dropped), (b, Dropped)],
        &[(a, Dropped), (a, Dead)],
        &[(b, Cancelled)],
        &[],
        &[(b, Dropped), (a, Delivered)],
    ];
    let mut events = Vec::new();
    for seq in 1..=200_i64 {
        let n = usize::try_from(seq).unwrap();
        let accepted = Millis(T0.0 + seq * 60_000);
        let mut event = StoredEvent::new(seq, &format!("id-{n}\0"), accepted, mixes[n * n % 7]);
        if n % 3 == 0 {
            event.data = format!("{{\"note\":\"needle {n}\"}}");
        }
        let place = if n % 11 == 0 { other } else { shop };
        if n % 11 == 0 {
            event.deliveries.clear();
        }
        insert(session, place, std::slice::from_ref(&event)).await;
        if n % 11 != 0 {
            events.push(event);
        }
    }
    events.reverse();
    events
}

#[tokio::test]
async fn every_filter_finds_the_events_that_match_it() {
    let database = Database::new().await;
    let session = database.session().await;
    let events = filled(&session).await;
    let (a, middle) = (
        events.iter().find(|event| event.deliveries.len() == 2).unwrap().deliveries[0].0,
        Millis(T0.0 + 6_000_000),
    );
    type Matches<'m> = Box<dyn Fn(&StoredEvent) -> bool + 'm>;
    let in_shop = EventFilter { namespace: "shop".into(), ..EventFilter::default() };
    let with = |change: fn(&mut EventFilter)| {
        let mut filter = in_shop.clone();
        change(&mut filter);
        filter
    };
    let has = |state: DeliveryState| -> Matches<'_> {
        Box::new(move |event: &StoredEvent| event.deliveries.iter().any(|(_, found)| *found == state))
    };
    let cases: Vec<(EventFilter, Matches<'_>)> = vec![
        (in_shop.clone(), Box::new(|_| true)),
        (with(|f| f.namespace = "unknown".into()), Box::new(|_| false)),
        (with(|f| f.source = Some("orders".into())), Box::new(|_| true)),
        (with(|f| f.source = Some("none".into())), Box::new(|_| false)),
        (with(|f| f.origin = Some("relay".into())), Box::new(|_| false)),
        (with(|f| f.event = Some("paid".into())), Box::new(|_| true)),
        (
            with(|f| f.hook = Some("a".into())),
            Box::new(move |e| e.deliveries.iter().any(|(hook, _)| *hook == a)),
        ),
        (with(|f| f.hook = Some("unknown".into())), Box::new(|_| false)),
        (with(|f| f.outcome = Some(EventOutcome::Unmatched)), Box::new(|e| e.deliveries.is_empty())),
        (with(|f| f.outcome = Some(EventOutcome::Matched)), Box::new(|e| !e.deliveries.is_empty())),
        (with(|f| f.outcome = Some(EventOutcome::Dropped)), has(DeliveryState::Dropped)),
        (with(|f| f.outcome = Some(EventOutcome::Dead)), has(DeliveryState::Dead)),
        (with(|f| f.text = Some("7\0".into())), Box::new(|e| e.id.contains("7\0"))),
        (with(|f| f.text = Some("needle 9".into())), Box::new(|_| false)),
        (
            with(|f| (f.text, f.searches_data) = (Some("needle 9".into()), true)),
            Box::new(|e| e.data.contains("needle 9")),
        ),
        (EventFilter { since: Some(middle), ..in_shop.clone() }, Box::new(|e| e.accepted >= middle)),
        (EventFilter { until: Some(middle), ..in_shop.clone() }, Box::new(|e| e.accepted < middle)),
    ];
    for (filter, matches) in cases {
        let want: Vec<&StoredEvent> = events.iter().filter(|event| matches(event)).collect();
        for (page, rows) in [((7, false), 10_000), ((1000, true), 10_000), ((30, false), 1), ((1, true), 70)]
        {
            let found = all(&session, &filter, page, rows).await;
            let ids: Vec<&str> = found.iter().map(|record| record.event.id.as_str()).collect();
            assert_eq!(
                ids,
                want.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(),
                "{filter:?} {page:?} {rows}"
            );
            for (record, event) in found.iter().zip(&want) {
                let states = event.deliveries.iter().rev().map(|(_, state)| *state);
                assert_eq!(
                    record.deliveries.iter().map(|(_, state)| *state).collect::<Vec<_>>(),
                    states.clone().collect::<Vec<_>>()
                );
                assert_eq!(
                    (record.outcome, record.accepted, record.has_more),
                    (EventOutcome::of(states), event.accepted, false)
                );
                assert_eq!(record.event.data.get(), if page.1 { &*event.data } else { "null" });
            }
        }
    }
}

#[tokio::test]
async fn a_list_of_all_namespaces_merges_them_without_ended_places() {
    let database = Database::new().await;
    let session = database.session().await;
    let in_shop = filled(&session).await;
    places::set_uid(&session, "other", Some("1")).await.unwrap();
    let seqs = async |outcome: Option<EventOutcome>, page: usize, rows: usize| -> Vec<i64> {
        let filter = EventFilter { namespace: ALL_NAMESPACES.into(), outcome, ..EventFilter::default() };
        let found = all(&session, &filter, (page, false), rows).await;
        found.iter().map(|record| (record.accepted.0 - T0.0) / 60_000).collect()
    };
    let unmatched = Some(EventOutcome::Unmatched);
    let of_shop = |is_listed: fn(&StoredEvent) -> bool| -> Vec<i64> {
        in_shop.iter().filter(|event| is_listed(event)).map(|event| event.seq).collect()
    };
    for (page, rows) in [(7, 10_000), (1000, 10_000), (30, 1)] {
        assert_eq!(seqs(None, page, rows).await, (1..=200).rev().collect::<Vec<_>>());
        let expected: Vec<i64> = (1..=200)
            .rev()
            .filter(|seq| seq % 11 == 0 || of_shop(|e| e.deliveries.is_empty()).contains(seq))
            .collect();
        assert_eq!(seqs(unmatched, page, rows).await, expected);
    }
    assert!(places::set_uid(&session, "other", Some("2")).await.unwrap());
    for (page, rows) in [(7, 10_000), (1000, 10_000), (30, 1)] {
        assert_eq!(seqs(None, page, rows).await, of_shop(|_| true));
        assert_eq!(seqs(unmatched, page, rows).await, of_shop(|e| e.deliveries.is_empty()));
    }
}

#[tokio::test]
async fn the_deliveries_of_a_listed_event_are_bounded() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    let deliveries = vec![(hook, DeliveryState::Dropped); 130];
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &deliveries)]).await;
    let filter = EventFilter { namespace: "shop".into(), ..EventFilter::default() };
    let found = all(&session, &filter, (10, false), 10_000).await;
    assert_eq!((found.len(), found[0].deliveries.len(), found[0].has_more), (1, 100, true));
}
