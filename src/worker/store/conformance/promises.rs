//! Gates, shares, holds, replay and retention by bytes, one promise a test.

use super::*;
use crate::core::gate::{Change, Snooze, Snoozing};

fn wish(group: u8, value: Option<u8>, trailing: bool) -> Asked {
    let rule = Snooze { period: MINUTE, trailing };
    Asked {
        change: value.map(|value| Change { key: [group; 16], value: [value; 16] }),
        snooze: Some(Snoozing { key: [group; 16], rule }),
    }
}

fn change(value: u8) -> Asked {
    Asked { change: Some(Change { key: [0; 16], value: [value; 16] }), snooze: None }
}

/// Accepts one event for the hook `x`: its delivery's id and number, and what became of it.
async fn one(store: &impl Store, asked: Asked, now: Millis) -> (Uuid, Seq, Fate) {
    let delivery = NewDelivery { asked, ..delivery("x", now) };
    let id = delivery.id;
    let new = NewEvent { deliveries: vec![delivery], ..new("e", &[], now) };
    let told = store.accept(vec![new], now).await.unwrap().remove(0).deliveries[0];
    (id, told.seq, told.fate)
}

async fn how(store: &impl Store, id: Uuid) -> (State, Option<String>) {
    let record = store.delivery("shop", id).await.unwrap().unwrap();
    (record.state, record.reason)
}

async fn die(store: &impl Store, seq: Seq, reason: &'static str, now: Millis) -> bool {
    let next = Next::Dead { reason };
    store.settle(Settlement { delivery: seq, at: now, attempt: None, next, progress: None }).await.unwrap()
}

fn goes(due: Millis, suppressed: u32) -> Fate {
    Fate::Pending { due, suppressed }
}

pub(in super::super) async fn snooze_drops_and_tells_how_many<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let asked = wish(1, None, false);
    assert_eq!(one(&store, asked, T0).await.2, goes(T0, 0));
    let (dropped, _, fate) = one(&store, asked, T0).await;
    assert_eq!(fate, Fate::Dropped);
    assert_eq!(how(&store, dropped).await, (State::Dropped, Some("Snoozed".into())));
    assert_eq!(one(&store, wish(2, None, false), T0).await.2, goes(T0, 0), "another group");
    drop(store);
    let store = place.open().await;
    let last = Millis((T0 + MINUTE).0 - 1);
    assert_eq!(one(&store, asked, last).await.2, Fate::Dropped, "also after a restart");
    let then = T0 + MINUTE;
    let (_, seq, fate) = one(&store, asked, then).await;
    assert_eq!(fate, goes(then, 2));
    let due = store.due_by("uid-x", then, 9).await.unwrap();
    assert_eq!(due.iter().find(|p| p.seq == seq).unwrap().suppressed, 2, "kept with it");
    assert_eq!(one(&store, asked, then + MINUTE).await.2, goes(then + MINUTE, 0), "told once");
}

pub(in super::super) async fn on_change_compares_with_what_was_accepted<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    assert_eq!(one(&store, change(1), T0).await.2, goes(T0, 0));
    let (id, _, fate) = one(&store, change(1), T0).await;
    assert_eq!((fate, how(&store, id).await.1.as_deref()), (Fate::Dropped, Some("Unchanged")));
    let (_, second, fate) = one(&store, change(2), T0).await;
    assert_eq!(fate, goes(T0, 1));
    let (_, third, _) = one(&store, change(1), T0).await;
    // Its memory is another's by now: it stays.
    assert!(!die(&store, second, "Gone", T0).await);
    assert_eq!(one(&store, change(1), T0).await.2, Fate::Dropped);
    // This one's is its own: the same value goes again.
    die(&store, third, "Gone", T0).await;
    assert_eq!(one(&store, change(1), T0).await.2, goes(T0, 1), "how many were dropped stays known");
}

pub(in super::super) async fn a_trailing_candidate_goes_when_the_period_ends<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let asked = |value| wish(1, Some(value), true);
    let end = T0 + MINUTE;
    one(&store, asked(1), T0).await;
    let (older, ..) = one(&store, asked(2), T0).await;
    let (newer, seq, fate) = one(&store, asked(3), T0).await;
    assert_eq!(fate, Fate::Candidate { due: end });
    assert_eq!(how(&store, older).await, (State::Dropped, Some("Superseded".into())));
    assert_eq!(how(&store, newer).await.0, State::Pending);
    assert!(!due_ids(&store, "x", LATE).await.contains(&seq), "not before it is promoted");
    assert_eq!(store.next_due("uid-x", T0).await.unwrap(), None);
    assert_eq!(store.next_promotion().await.unwrap(), Some(end));
    assert_eq!(store.promote(Millis(end.0 - 1)).await.unwrap(), []);
    drop(store);
    let store = place.open().await;
    let late = end + HOUR;
    assert_eq!(store.promote(late).await.unwrap(), [hook("x")]);
    let sent = store.due_by("uid-x", late, 9).await.unwrap().into_iter().find(|p| p.seq == seq).unwrap();
    assert_eq!((sent.due, sent.suppressed), (late, 1));
    assert_eq!(store.next_promotion().await.unwrap(), None);
    // It set both memories and opened a new period.
    assert_eq!(one(&store, asked(3), late).await.2, Fate::Dropped);
    assert_eq!(one(&store, asked(4), late).await.2, Fate::Candidate { due: late + MINUTE });
}

pub(in super::super) async fn what_is_unchanged_drops_a_stale_candidate<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    one(&store, wish(1, Some(1), true), T0).await;
    let (stale, ..) = one(&store, wish(1, Some(2), true), T0).await;
    assert_eq!(one(&store, wish(1, Some(1), true), T0).await.2, Fate::Dropped);
    assert_eq!(how(&store, stale).await, (State::Dropped, Some("Superseded".into())));
    assert_eq!(store.next_promotion().await.unwrap(), None);
    let end = T0 + MINUTE;
    assert_eq!(one(&store, wish(1, Some(3), true), end).await.2, goes(end, 2));
}

pub(in super::super) async fn a_candidate_goes_at_once_when_the_one_before_it_dies<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let asked = wish(1, None, true);
    let (_, first, _) = one(&store, asked, T0).await;
    let (id, candidate, _) = one(&store, asked, T0).await;
    assert!(!store.settle(settled(first, T0, 503, Next::Retry { due: T0 })).await.unwrap());
    let at = T0 + Duration::from_secs(9);
    assert!(die(&store, first, "Gone", at).await, "something else is due");
    assert_eq!(store.due_by("uid-x", at, 9).await.unwrap().remove(0).seq, candidate);
    assert_eq!(
        one(&store, asked, at + Duration::from_secs(59)).await.2,
        Fate::Candidate { due: at + MINUTE }
    );
    // The same where it is cancelled.
    assert_eq!(store.cancel("shop", id, at).await.unwrap(), Some(hook("x")));
    assert_eq!(how(&store, id).await.0, State::Cancelled);
    assert_eq!(store.due_by("uid-x", at, 9).await.unwrap().len(), 1);
    assert_eq!(store.next_promotion().await.unwrap(), None);
}

pub(in super::super) async fn accept_promotes_and_tells_who_woke<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    one(&store, wish(1, None, true), T0).await;
    one(&store, wish(1, None, true), T0).await;
    let got = store.accept(vec![new("other", &["y"], T0)], T0 + MINUTE).await.unwrap().remove(0);
    assert_eq!(got.woken, [hook("x")]);
    // It was promoted before the next of its group was judged.
    assert_eq!(one(&store, wish(1, None, false), T0 + MINUTE).await.2, Fate::Dropped);
}

pub(in super::super) async fn a_cancelled_candidate_is_none<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    one(&store, wish(1, None, true), T0).await;
    let (id, ..) = one(&store, wish(1, None, true), T0).await;
    store.cancel("shop", id, T0).await.unwrap();
    assert_eq!(store.promote(LATE).await.unwrap(), []);
    assert_eq!(how(&store, id).await.0, State::Cancelled);
}

pub(in super::super) async fn dead_at_once_is_kept_and_sets_no_memory<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let asked = wish(1, Some(1), false);
    let dead = NewDelivery { asked, dead: Some("HookDeleted"), ..delivery("x", T0) };
    let new = NewEvent { deliveries: vec![dead.clone()], ..new("e", &[], T0) };
    let got = store.accept(vec![new], T0).await.unwrap().remove(0);
    assert_eq!((got.deliveries[0].fate, got.kept()), (Fate::Dead, 1));
    assert_eq!(how(&store, dead.id).await, (State::Dead, Some("HookDeleted".into())));
    assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
    assert_eq!(one(&store, asked, T0).await.2, goes(T0, 0));
    assert_eq!(store.replay("shop", dead.id, T0).await.unwrap(), Some(hook("x")));
    assert_eq!(due_ids(&store, "x", T0).await[0], got.deliveries[0].seq);
}

pub(in super::super) async fn a_repeat_revives_what_died_of_age_or_attempts<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let keyed = || NewEvent { dedup: key(1, HOUR), ..new("a", &["x", "y", "z"], T0) };
    let first = store.accept(vec![keyed()], T0).await.unwrap();
    let seqs = seqs_of(&first);
    store.settle(settled(seqs[0], T0, 503, Next::Dead { reason: "MaxAttempts" })).await.unwrap();
    die(&store, seqs[1], "TerminalStatus", T0).await;
    store.settle(settled(seqs[2], T0, 200, Next::Delivered)).await.unwrap();
    let now = T0 + MINUTE;
    let without = NewEvent { dedup: key(1, HOUR), ..new("a", &["y", "z"], T0) };
    let gone = store.accept(vec![without], now).await.unwrap().remove(0);
    assert!(gone.duplicate && gone.woken.is_empty(), "its hook is gone: {gone:?}");
    assert_eq!(gone.deliveries[0].fate, Fate::Dead);
    let again = store.accept(vec![keyed()], now).await.unwrap().remove(0);
    assert!(again.duplicate);
    let fates: Vec<_> = again.deliveries.iter().map(|d| d.fate).collect();
    assert_eq!(fates, [goes(now, 0), Fate::Dead, Fate::Ended]);
    assert_eq!(again.woken, [hook("x")]);
    let revived = store.due_by("uid-x", now, 9).await.unwrap().remove(0);
    assert_eq!((revived.seq, revived.attempts, revived.accepted, revived.replays), (seqs[0], 0, now, 0));
    let third = store.accept(vec![keyed()], now).await.unwrap().remove(0);
    assert!(third.woken.is_empty(), "once");
}

pub(in super::super) async fn a_replay_begins_anew_under_its_id<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let (id, seq, _) = one(&store, wish(1, None, false), T0).await;
    assert_eq!(store.replay("other", id, T0).await.unwrap(), None);
    store.replay("shop", id, T0 + MINUTE).await.unwrap();
    assert_eq!(store.due_by("uid-x", T0, 9).await.unwrap()[0].replays, 0, "what is pending stays as it is");
    store.settle(settled(seq, T0, 200, Next::Delivered)).await.unwrap();
    let now = T0 + HOUR;
    store.replay("shop", id, now).await.unwrap();
    let again = store.due_by("uid-x", now, 9).await.unwrap().remove(0);
    assert_eq!((again.id, again.attempts, again.accepted, again.replays), (id, 0, now, 1));
    store.settle(settled(seq, now, 503, Next::Retry { due: now })).await.unwrap();
    assert_eq!(store.due_by("uid-x", now, 9).await.unwrap()[0].attempts, 1);
    let record = store.delivery("shop", id).await.unwrap().unwrap();
    assert_eq!((record.attempts.len(), record.accepted), (2, T0), "the history stays");
    // What was delivered once did set the memory: its replay's death clears nothing.
    let asked = wish(2, None, false);
    let (id, seq, _) = one(&store, asked, now).await;
    store.settle(settled(seq, now, 200, Next::Delivered)).await.unwrap();
    store.replay("shop", id, now).await.unwrap();
    die(&store, seq, "Gone", now).await;
    assert_eq!(one(&store, asked, now).await.2, Fate::Dropped);
}

pub(in super::super) async fn a_replay_of_many_is_paced_and_survives_a_restart<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let events: Vec<_> = (0..30).map(|n| new(&format!("e{n}"), &["x", "y"], T0)).collect();
    for seq in seqs_of(&store.accept(events, T0).await.unwrap()) {
        die(&store, seq, "MaxAge", T0).await;
    }
    let filter = Filter { namespace: "shop".into(), hook: Some("x".into()), ..Filter::default() };
    let pending = Filter { state: Some(State::Pending), ..filter.clone() };
    assert!(matches!(store.start_replay(pending, 10, T0).await, Err(StoreError::Refused(_))));
    assert!(matches!(store.start_replay(filter.clone(), 0, T0).await, Err(StoreError::Refused(_))));
    let begun = T0 + MINUTE;
    let filter = Filter { state: Some(State::Dead), ..filter };
    let replay = store.start_replay(filter.clone(), 10, begun).await.unwrap();
    assert_eq!((&replay.filter, replay.rate, replay.replayed, replay.done), (&filter, 10, 0, false));
    let after = store.accept(vec![new("after", &["x"], begun)], begun).await.unwrap().remove(0);
    die(&store, after.deliveries[0].seq, "MaxAge", begun + MINUTE).await;
    assert_eq!(store.step_replays(begun).await.unwrap(), []);
    let half = begun + Duration::from_millis(500);
    assert_eq!(store.step_replays(half).await.unwrap(), [hook("x")]);
    assert_eq!(store.step_replays(half).await.unwrap(), [], "its rate is used up");
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 5);
    drop(store);
    let store = place.open().await;
    store.step_replays(half + HOUR).await.unwrap();
    assert_eq!(due_ids(&store, "x", LATE).await.len(), 15, "a second's worth at most");
    for n in 1..=3 {
        store.step_replays(half + HOUR + Duration::from_secs(n)).await.unwrap();
    }
    let done = store.replay_progress("shop", replay.id).await.unwrap().unwrap();
    assert_eq!((done.replayed, done.done), (30, true));
    assert_eq!(due_ids(&store, "y", LATE).await.len(), 0);
    assert_eq!(how(&store, store.list(filter, None, 1).await.unwrap()[0].id).await.0, State::Dead);
    assert_eq!(store.replay_progress("other", replay.id).await.unwrap(), None);
    store.step_replays(half + HOUR * 30).await.unwrap();
    assert_eq!(store.replay_progress("shop", replay.id).await.unwrap(), None, "forgotten after a day");
}

pub(in super::super) async fn lists_and_explains<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    for n in 0..20_u64 {
        let at = T0 + HOUR * u32::try_from(3 * n).unwrap();
        let got = store.accept(vec![new(&format!("e{n}"), &["x", "y"], at)], at).await.unwrap();
        store.settle(settled(seqs_of(&got)[0], at, 200, Next::Delivered)).await.unwrap();
    }
    let all = Filter { namespace: "shop".into(), ..Filter::default() };
    let events = async |filter: Filter, before| {
        let page = store.list(filter, before, 3).await.unwrap();
        page.into_iter().map(|r| format!("{}{}", r.event_id, r.hook.name)).collect::<Vec<_>>()
    };
    assert_eq!(events(all.clone(), None).await, ["e19y", "e19x", "e18y"]);
    let x = Filter { hook: Some("x".into()), state: Some(State::Delivered), ..all.clone() };
    assert_eq!(events(x.clone(), None).await, ["e19x", "e18x", "e17x"]);
    let third = store.list(x.clone(), None, 3).await.unwrap()[2].clone();
    assert_eq!(third.attempts.len(), 1);
    assert_eq!(events(x.clone(), Some(third.seq)).await, ["e16x", "e15x", "e14x"]);
    let between = Filter { since: Some(T0 + HOUR * 9), until: Some(T0 + HOUR * 12), ..all.clone() };
    assert_eq!(events(between, None).await, ["e3y", "e3x"]);
    let future = Filter { since: Some(LATE), ..all.clone() };
    assert_eq!(events(future, None).await, [""; 0]);
    let event = Filter { event: Some("e7".into()), ..all.clone() };
    assert_eq!(events(event.clone(), None).await, ["e7y", "e7x"]);
    assert_eq!(events(Filter { state: Some(State::Pending), ..event }, None).await, ["e7y"]);
    assert_eq!(events(Filter { namespace: "other".into(), ..all.clone() }, None).await, [""; 0]);
    assert_eq!(events(Filter { state: Some(State::Dead), ..all }, None).await, [""; 0]);

    let told = store.explain("shop", "e4").await.unwrap().unwrap();
    assert_eq!((told.event, told.accepted), (event_with("e4", r#"{"n":1}"#), T0 + HOUR * 12));
    let states: Vec<_> = told.deliveries.iter().map(|d| (d.state, d.attempts.len())).collect();
    assert_eq!(states, [(State::Delivered, 1), (State::Pending, 0)]);
    store.accept(vec![new("e4", &[], T0)], T0).await.unwrap();
    assert_eq!(store.explain("shop", "e4").await.unwrap().unwrap().deliveries, [], "the newest of that id");
    assert_eq!(store.explain("other", "e4").await.unwrap(), None);
}

pub(in super::super) async fn the_age_clock_stands_still_while_held<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let x = hook("x");
    store.set_held(&x, true, T0).await.unwrap();
    store.accept(vec![new("a", &["x"], T0)], T0 + MINUTE).await.unwrap();
    store.set_held(&x, true, T0 + MINUTE).await.unwrap();
    let held = async |store: &S::Store, now| store.due_by("uid-x", now, 9).await.unwrap()[0].held;
    assert_eq!(held(&store, T0 + MINUTE * 3).await, MINUTE * 2, "since it was accepted");
    drop(store);
    let store = place.open().await;
    assert_eq!(store.held().await.unwrap(), std::slice::from_ref(&x));
    store.set_held(&x, false, T0 + MINUTE * 4).await.unwrap();
    store.set_held(&x, false, T0 + MINUTE * 5).await.unwrap();
    assert_eq!(store.held().await.unwrap(), []);
    assert_eq!(held(&store, T0 + HOUR).await, MINUTE * 3);
    store.set_held(&x, true, T0 + HOUR).await.unwrap();
    assert_eq!(held(&store, T0 + HOUR + MINUTE).await, MINUTE * 4);
    let pending = store.due_by("uid-x", T0 + HOUR, 9).await.unwrap().remove(0);
    die(&store, pending.seq, "MaxAge", T0 + HOUR).await;
    store.replay("shop", pending.id, T0 + HOUR + MINUTE).await.unwrap();
    assert_eq!(held(&store, T0 + HOUR + MINUTE).await, Duration::ZERO, "a replay begins anew");
}

pub(in super::super) async fn another_hook_of_the_name_takes_up_what_waits<S: Subject>() {
    let to = HookId { uid: "uid-new".into(), ..hook("x") };
    for known in [false, true] {
        let place = S::new();
        let store = place.open().await;
        let (_, first, _) = one(&store, wish(1, None, true), T0).await;
        let (_, candidate, _) = one(&store, wish(1, None, true), T0).await;
        let more: Vec<_> = (0..700).map(|n| new(&format!("e{n}"), &["x"], T0)).collect();
        let mut want = seqs_of(&store.accept(more, T0).await.unwrap());
        store.set_held(&hook("x"), true, T0).await.unwrap();
        if known {
            let own = NewDelivery { hook: to.clone(), ..delivery("x", T0) };
            let new = NewEvent { deliveries: vec![own], ..new("own", &[], T0) };
            want.extend(seqs_of(&store.accept(vec![new], T0).await.unwrap()));
            store.set_held(&to, true, T0 + HOUR).await.unwrap();
        }
        while store.take_up(&hook("x"), &to, T0 + HOUR).await.unwrap() {}
        want.extend([first, candidate]);
        want.sort_unstable();
        let then = T0 + HOUR * 2;
        let mut got = store.due_by("uid-new", then, 9999).await.unwrap();
        got.sort_by_key(|p| p.seq);
        assert_eq!(got.iter().map(|p| p.seq).collect::<Vec<_>>(), want);
        assert!(got.iter().all(|p| p.hook == to));
        let held = got.iter().find(|p| p.seq == first).unwrap().held;
        assert_eq!(held, if known { HOUR * 2 } else { HOUR }, "for how long it was held stays");
        assert_eq!(due_ids(&store, "x", LATE).await, [0; 0]);
        assert_eq!(store.promote(LATE).await.unwrap(), [], "its candidates are deliveries like any other");
        // The memory of the old one is forgotten, and a hook of the old uid begins anew.
        assert_eq!(one(&store, wish(1, None, false), T0).await.2, goes(T0, 0));
        assert!(!store.take_up(&hook("nobody"), &to, T0).await.unwrap());
    }
}

pub(in super::super) async fn what_is_undecided_does_not_age_and_is_decided_again<S: Subject>() {
    let place = S::new();
    let store = place.open().await;
    let (id, delivery, _) = one(&store, Asked::default(), T0).await;
    let later = Next::Retry { due: T0 + HOUR };
    store.settle(Settlement { delivery, at: T0, attempt: None, next: later, progress: None }).await.unwrap();
    assert_eq!(how(&store, id).await, (State::Pending, Some("Undecided".into())));
    assert!(!store.decide_again("uid-nobody", T0 + MINUTE).await.unwrap());
    assert!(store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap().is_empty());
    assert!(!store.decide_again("uid-x", T0 + MINUTE).await.unwrap());
    let due = store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap();
    assert_eq!((due[0].held, due[0].attempts), (MINUTE, 0));
    // One that was attempted waits for its time.
    store.settle(settled(delivery, T0 + MINUTE, 503, later)).await.unwrap();
    assert_eq!(how(&store, id).await, (State::Pending, None));
    store.decide_again("uid-x", T0 + MINUTE).await.unwrap();
    assert!(store.due_by("uid-x", T0 + MINUTE, 9).await.unwrap().is_empty());
}
