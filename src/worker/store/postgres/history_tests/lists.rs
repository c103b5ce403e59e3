//! Lists and counts of deliveries, compared with a filter in memory.

use super::super::super::{ALL_NAMESPACES, DeliveryFilter, PartialCount, selects_namespace};
use super::super::{explanation, history};
use super::*;

const STATES: [DeliveryState; 5] = [
    DeliveryState::Pending,
    DeliveryState::Delivered,
    DeliveryState::Dead,
    DeliveryState::Dropped,
    DeliveryState::Cancelled,
];

/// A delivery as the filter in memory sees it.
struct Known {
    seq: DeliverySeq,
    namespace: &'static str,
    hook: &'static str,
    event: String,
    state: DeliveryState,
    accepted: Millis,
}

/// Fills two namespaces, and a place that has ended. Four hooks have the name "a".
async fn filled(session: &Session) -> Vec<Known> {
    let (shop, other) = (place(session, "shop").await, place(session, "other").await);
    let mut hooks = Vec::new();
    for (uid, name) in [("1", "a"), ("2", "a"), ("3", "b\0c")] {
        hooks.push((insert_hook(session, shop, uid, name).await, name));
    }
    let foreign = insert_hook(session, other, "4", "a").await;
    places::set_uid(session, "recreated", Some("1")).await.unwrap();
    let ended = place(session, "recreated").await;
    let former = insert_hook(session, ended, "5", "a").await;
    let mut known = Vec::new();
    for seq in 1..=150_i64 {
        let n = usize::try_from(seq).unwrap();
        // The times of some events go back, as with workers whose clocks differ.
        let accepted = Millis(T0.0 + n as u64 as i64 * 60_000 - if n % 7 == 0 { 300_000 } else { 0 });
        let id = match n % 10 {
            0 | 4 => "repeated".to_owned(),
            1 => format!("nul\0{n}"),
            _ => format!("e{n}"),
        };
        let state = STATES[n / 5 % 5];
        if n % 15 == 4 {
            insert(session, ended, &[StoredEvent::new(seq, &id, accepted, &[(former, state)])]).await;
            continue;
        }
        if n % 5 == 0 {
            let event = StoredEvent::new(seq, &id, accepted, &[(foreign, state)]);
            let (seq, namespace, hook) = (event.delivery(0), "other", "a");
            known.push(Known { seq, namespace, hook, event: id, state, accepted });
            insert(session, other, &[event]).await;
            continue;
        }
        let count = n % 4;
        let deliveries: Vec<_> = (0..count).map(|i| (hooks[(n + i) % 3], STATES[(n / 2 + i) % 5])).collect();
        let stored: Vec<_> = deliveries.iter().map(|((hook, _), state)| (*hook, *state)).collect();
        let event = StoredEvent::new(seq, &id, accepted, &stored);
        insert(session, shop, std::slice::from_ref(&event)).await;
        for (index, ((_, hook), state)) in deliveries.into_iter().enumerate() {
            let (seq, namespace) = (event.delivery(index), "shop");
            known.push(Known { seq, namespace, hook, event: id.clone(), state, accepted });
        }
    }
    assert!(places::set_uid(session, "recreated", Some("2")).await.unwrap());
    known.reverse();
    known
}

fn matches(filter: &DeliveryFilter, known: &Known) -> bool {
    selects_namespace(&filter.namespace, known.namespace)
        && filter.hook.as_ref().is_none_or(|name| known.hook == name)
        && filter.state.is_none_or(|state| known.state == state)
        && filter.event.as_ref().is_none_or(|id| known.event == *id)
        && filter.since.is_none_or(|since| known.accepted >= since)
        && filter.until.is_none_or(|until| known.accepted < until)
}

fn filters() -> Vec<DeliveryFilter> {
    let all = DeliveryFilter { namespace: "shop".into(), ..DeliveryFilter::default() };
    let mut filters = vec![DeliveryFilter { namespace: "unknown".into(), ..all.clone() }];
    let middle = Millis(T0.0 + 75 * 60_000);
    for state in [None].into_iter().chain(STATES.map(Some)) {
        for hook in [None, Some("a"), Some("b\0c"), Some("unknown")] {
            for event in [None, Some("repeated"), Some("nul\u{0}41"), Some("unknown")] {
                let filter = DeliveryFilter {
                    state,
                    hook: hook.map(Into::into),
                    event: event.map(Into::into),
                    ..all.clone()
                };
                filters.push(filter);
            }
            let of_hook = DeliveryFilter { state, hook: hook.map(Into::into), ..all.clone() };
            filters.push(DeliveryFilter { since: Some(middle), ..of_hook.clone() });
            filters.push(DeliveryFilter { until: Some(middle), ..of_hook });
        }
    }
    let namespace = || ALL_NAMESPACES.to_owned();
    let of_all: Vec<_> =
        filters.iter().map(|filter| DeliveryFilter { namespace: namespace(), ..filter.clone() }).collect();
    filters.extend(of_all);
    filters
}

#[tokio::test]
async fn every_filter_finds_the_deliveries_that_match_it() {
    let database = Database::new().await;
    let session = database.session().await;
    let known = filled(&session).await;
    for filter in filters() {
        let want: Vec<_> = known.iter().filter(|known| matches(&filter, known)).collect();
        let seqs: Vec<DeliverySeq> = want.iter().map(|known| known.seq).collect();
        // A budget of one row: each page ends after its first window.
        for (page_size, rows) in [(7, 10_000), (1000, 10_000), (50, 1)] {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = history::list(&session, &filter, before, page_size, budget(rows)).await.unwrap();
                assert!(
                    page.records.len() <= page_size
                        && (page.next.is_none() || page.next < before.or(Some(i64::MAX)))
                );
                found.extend(page.records);
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(
                found.iter().map(|record| record.seq).collect::<Vec<_>>(),
                seqs,
                "{filter:?} {page_size}"
            );
            for (record, known) in found.iter().zip(&want) {
                assert_eq!(record.id, id_of(known.seq));
                assert_eq!((&*record.hook.name, &*record.hook.namespace), (known.hook, known.namespace));
                assert_eq!(
                    (&record.event_id, record.state, record.accepted),
                    (&known.event, known.state, known.accepted)
                );
                assert_eq!(record.due.is_some(), known.state == DeliveryState::Pending);
                let has_attempt = matches!(known.state, DeliveryState::Delivered | DeliveryState::Dead);
                assert_eq!(record.attempts.len(), usize::from(has_attempt));
            }
        }
        let finished = want.iter().filter(|known| known.state != DeliveryState::Pending).count();
        for (most, rows) in [(1000, 10_000), (3, 10_000), (1000, 1)] {
            let (mut total, mut before) = (0, None);
            loop {
                let PartialCount { count, next } =
                    history::count_finished(&session, &filter, before, most, budget(rows)).await.unwrap();
                assert!(count <= most);
                total += count;
                before = next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(total, finished, "{filter:?} {most}");
        }
    }
}

/// A name has many hooks when its hook was deleted and created again many times.
#[tokio::test]
async fn a_name_of_many_hooks_is_found() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let mut deliveries = Vec::new();
    for n in 0..70 {
        let name = if n % 10 == 0 { "other" } else { "often" };
        deliveries.push((insert_hook(&session, shop, &n.to_string(), name).await, DeliveryState::Dropped));
    }
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &deliveries)]).await;
    for n in 70..80 {
        insert_hook(&session, shop, &n.to_string(), "often").await;
    }
    for namespace in ["shop", ALL_NAMESPACES] {
        let (namespace, hook) = (namespace.into(), Some("often".into()));
        let filter = DeliveryFilter { namespace, hook, ..DeliveryFilter::default() };
        let page = history::list(&session, &filter, None, 100, budget(10_000)).await.unwrap();
        assert_eq!((page.records.len(), page.next), (63, None));
        assert!(page.records.iter().all(|record| &*record.hook.name == "often"));
    }
}

#[tokio::test]
async fn one_delivery_is_read_with_its_event_attempts_and_exchange() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    place(&session, "other").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    let event =
        StoredEvent::new(9, "i\0d", T0, &[(hook, DeliveryState::Dead), (hook, DeliveryState::Pending)]);
    insert(&session, shop, std::slice::from_ref(&event)).await;
    let dead = event.delivery(0);
    session
        .batch(&format!(
            "UPDATE hookstream.finished SET first_at = 5, attempts = 3, replays = 1 WHERE seq = {dead};
             INSERT INTO hookstream.attempts (delivery, n, at, micros, detail) VALUES ({dead}, 3, 7, 9, E'x\\uF8FF0');
             INSERT INTO hookstream.exchanges VALUES ({dead}, {shop}, 9, '{{\"request\":{{\"method\":\"POST\",\"url\":\"u\",\"headers\":[],\"body\":{{\"text\":\"\",\"truncated\":false}}}},\"response\":null}}')"
        ))
        .await
        .unwrap();
    let id = id_of(dead);
    let record = history::delivery(&session, "shop", id).await.unwrap().unwrap();
    assert_eq!((record.seq, record.state, record.event_id.as_str()), (dead, DeliveryState::Dead, "i\0d"));
    assert_eq!(record.attempts.iter().map(|attempt| attempt.at.0).collect::<Vec<_>>(), [5, T0.0, 7]);
    assert_eq!(record.attempts[2].detail.as_deref(), Some("x\0"));
    assert_eq!(history::event_of(&session, "shop", id).await.unwrap().unwrap().data.get(), event.data);
    assert_eq!(history::exchange(&session, "shop", id).await.unwrap().unwrap().request.method, "POST");
    assert_eq!(
        history::state(&session, "shop", id_of(event.delivery(1))).await.unwrap(),
        Some((event.delivery(1), DeliveryState::Pending))
    );
    let explained = explanation::explain(&session, "shop", "i\0d").await.unwrap().unwrap();
    assert_eq!((explained.event.id.as_str(), explained.deliveries.len(), explained.left_out), ("i\0d", 2, 0));
    assert_eq!(explained.deliveries[0], record);
    // The sequence number alone is not enough, and neither is another namespace.
    let forged = webhook_id(dead, 1);
    for (namespace, id) in
        [("other", id), ("unknown", id), ("sh\0op", id), ("shop", forged), ("shop", Uuid::now_v7())]
    {
        assert_eq!(history::delivery(&session, namespace, id).await.unwrap(), None);
        assert_eq!(history::event_of(&session, namespace, id).await.unwrap(), None);
        assert_eq!(history::exchange(&session, namespace, id).await.unwrap(), None);
        assert_eq!(history::state(&session, namespace, id).await.unwrap(), None);
    }
    assert_eq!(explanation::explain(&session, "other", "i\0d").await.unwrap(), None);
}

#[tokio::test]
async fn an_explanation_is_bounded_and_counts_the_rest() {
    let database = Database::new().await;
    let session = database.session().await;
    let shop = place(&session, "shop").await;
    let hook = insert_hook(&session, shop, "1", "a").await;
    let deliveries: Vec<_> = (0..620).map(|n| (hook, STATES[n % 2 * 3])).collect();
    insert(&session, shop, &[StoredEvent::new(1, "e", T0, &deliveries), StoredEvent::new(2, "f", T0, &[])])
        .await;
    let explained = explanation::explain(&session, "shop", "e").await.unwrap().unwrap();
    assert_eq!((explained.deliveries.len(), explained.left_out), (500, 120));
    assert!(explained.deliveries.is_sorted_by_key(|delivery| delivery.seq));
}
