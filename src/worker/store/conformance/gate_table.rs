//! The gates as a decision table: what each event of a sequence meets, by the rules of its hook. Every row is played
//! twice, the second time with the store opened again before each step: a memory that a restart loses would show.

use super::*;
use crate::core::gate::{Change, Snooze, Snoozing};

/// What a hook asks for.
#[derive(Clone, Copy, Default)]
struct Rules {
    on_change: bool,
    /// Some(true): trailing.
    snooze: Option<bool>,
}

/// One step, and what it must come to.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// An event of this group with this value, so many seconds after the beginning.
    Event(u8, u8, u64, Meets),
    /// The delivery of the event of this number (from 0) dies; true: a candidate goes at once.
    Dies(usize, u64, bool),
    /// It is delivered.
    Delivered(usize, u64),
    /// Somebody cancels it.
    Cancelled(usize, u64),
    /// Periods that are over are looked for: so many hooks get something due.
    Promote(u64, usize),
}

/// What an event meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meets {
    /// It goes, with so many dropped before it.
    Goes(u32),
    Dropped,
    /// It goes at this second, unless a newer one takes its place.
    Candidate(u64),
}

use Meets::{Candidate, Dropped, Goes};
use Step::{Cancelled, Delivered, Dies, Event as Ev, Promote};

const NONE: Rules = Rules { on_change: false, snooze: None };
const CHANGE: Rules = Rules { on_change: true, snooze: None };
const QUIET: Rules = Rules { on_change: false, snooze: Some(false) };
const LAST: Rules = Rules { on_change: false, snooze: Some(true) };
const BOTH: Rules = Rules { on_change: true, snooze: Some(false) };
const BOTH_LAST: Rules = Rules { on_change: true, snooze: Some(true) };

/// The period is a minute.
const TABLE: &[(&str, Rules, &[Step])] = &[
    ("without gates all goes", NONE, &[Ev(1, 1, 0, Goes(0)), Ev(1, 1, 0, Goes(0))]),
    (
        "onChange: the same value is dropped, however late; another goes, and so does the first again",
        CHANGE,
        &[Ev(1, 1, 0, Goes(0)), Ev(1, 1, 9999, Dropped), Ev(1, 2, 9999, Goes(1)), Ev(1, 1, 9999, Goes(0))],
    ),
    ("onChange: each group has its own value", CHANGE, &[Ev(1, 1, 0, Goes(0)), Ev(2, 1, 0, Goes(0))]),
    (
        "snooze: until the last moment of the period, whatever the value; the period does not begin anew by what is dropped",
        QUIET,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 30, Dropped),
            Ev(1, 3, 59, Dropped),
            Ev(2, 1, 59, Goes(0)),
            Ev(1, 4, 60, Goes(2)),
            Ev(1, 5, 61, Dropped),
        ],
    ),
    (
        "trailing: the newest goes when the period ends, and opens another",
        LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 10, Candidate(60)),
            Ev(1, 3, 20, Candidate(60)),
            Promote(59, 0),
            Promote(60, 1),
            Ev(1, 4, 61, Candidate(120)),
            Promote(120, 1),
            Promote(200, 0),
            Ev(1, 5, 200, Goes(0)),
        ],
    ),
    (
        "trailing: late after a pause of the worker, and the period counts from then",
        LAST,
        &[Ev(1, 1, 0, Goes(0)), Ev(1, 2, 10, Candidate(60)), Promote(500, 1), Ev(1, 3, 559, Candidate(560))],
    ),
    (
        "both: onChange is asked first, and what it drops is no candidate",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 1, 10, Dropped),
            Promote(60, 0),
            Ev(1, 1, 61, Dropped),
            Ev(1, 2, 61, Goes(2)),
        ],
    ),
    (
        "both: what snooze drops changes no value, so the old value is still the one to compare with",
        BOTH,
        &[Ev(1, 1, 0, Goes(0)), Ev(1, 2, 10, Dropped), Ev(1, 1, 61, Dropped), Ev(1, 2, 61, Goes(2))],
    ),
    (
        "both: a change that was undone cancels its candidate",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 10, Candidate(60)),
            Ev(1, 1, 20, Dropped),
            Promote(60, 0),
            Ev(1, 2, 61, Goes(2)),
        ],
    ),
    (
        "both: a candidate that goes sets the value",
        BOTH_LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 10, Candidate(60)),
            Promote(60, 1),
            Ev(1, 2, 200, Dropped),
            Ev(1, 1, 200, Goes(1)),
        ],
    ),
    (
        "a delivery that dies takes both memories along",
        BOTH,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 5, Dropped),
            Dies(0, 10, false),
            Ev(1, 1, 20, Goes(1)),
            Ev(1, 2, 21, Dropped),
        ],
    ),
    (
        "so does one that is cancelled",
        BOTH,
        &[Ev(1, 1, 0, Goes(0)), Cancelled(0, 10), Ev(1, 1, 20, Goes(0)), Ev(1, 2, 21, Dropped)],
    ),
    (
        "one that was delivered keeps them",
        BOTH,
        &[Ev(1, 1, 0, Goes(0)), Delivered(0, 10), Ev(1, 1, 70, Dropped), Ev(1, 2, 70, Goes(1))],
    ),
    (
        "a memory that another has set since is that one's",
        CHANGE,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 1, Goes(0)),
            Dies(0, 10, false),
            Ev(1, 2, 20, Dropped),
            Dies(1, 30, false),
            Ev(1, 2, 40, Goes(1)),
        ],
    ),
    (
        "a candidate goes at once when the one before it dies",
        LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 10, Candidate(60)),
            Dies(0, 20, true),
            Promote(60, 0),
            Ev(1, 3, 79, Candidate(80)),
        ],
    ),
    (
        "a candidate that is cancelled is none, and leaves the period as it is",
        LAST,
        &[
            Ev(1, 1, 0, Goes(0)),
            Ev(1, 2, 10, Candidate(60)),
            Cancelled(1, 20),
            Promote(60, 0),
            Ev(1, 3, 61, Goes(0)),
        ],
    ),
];

fn asked(rules: Rules, group: u8, value: u8) -> Asked {
    let rule = |trailing| Snooze { period: MINUTE, trailing };
    Asked {
        change: rules.on_change.then_some(Change { key: [group; 16], value: [value; 16] }),
        snooze: rules.snooze.map(|trailing| Snoozing { key: [group; 16], rule: rule(trailing) }),
    }
}

pub(in super::super) async fn gates_by_a_decision_table<S: Subject>() {
    for restarts in [false, true] {
        for (what, rules, steps) in TABLE {
            play::<S>(what, *rules, steps, restarts).await;
        }
    }
}

async fn play<S: Subject>(what: &str, rules: Rules, steps: &[Step], restarts: bool) {
    let place = S::new();
    let mut store = place.open().await;
    let mut sent: Vec<(Uuid, Seq)> = Vec::new();
    let at = |second: u64| T0 + Duration::from_secs(second);
    for (n, step) in steps.iter().enumerate() {
        if restarts {
            drop(store);
            store = place.open().await;
        }
        let place = format!("{what}; step {n} ({step:?}), restarts: {restarts}");
        match *step {
            Ev(group, value, second, meets) => {
                let delivery = NewDelivery { asked: asked(rules, group, value), ..delivery("x", at(second)) };
                let id = delivery.id;
                let new = NewEvent { deliveries: vec![delivery], ..new("e", &[], at(second)) };
                let told = store.accept(vec![new], at(second)).await.unwrap().remove(0).deliveries[0];
                let want = match meets {
                    Goes(suppressed) => Fate::Pending { due: at(second), suppressed },
                    Dropped => Fate::Dropped,
                    Candidate(second) => Fate::Candidate { due: at(second) },
                };
                assert_eq!(told.fate, want, "{place}");
                sent.push((id, told.seq));
            }
            Dies(nth, second, woken) => {
                let next = Next::Dead { reason: "Gone" };
                let settled =
                    Settlement { delivery: sent[nth].1, at: at(second), attempt: None, next, progress: None };
                assert_eq!(store.settle(settled).await.unwrap(), woken, "{place}");
            }
            Delivered(nth, second) => {
                store.settle(settled(sent[nth].1, at(second), 200, Next::Delivered)).await.unwrap();
            }
            Cancelled(nth, second) => {
                assert!(store.cancel("shop", sent[nth].0, at(second)).await.unwrap().is_some(), "{place}");
            }
            Promote(second, hooks) => {
                assert_eq!(store.promote(at(second)).await.unwrap().len(), hooks, "{place}");
            }
        }
    }
}
