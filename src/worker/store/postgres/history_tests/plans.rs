//! The plans of lists on a filled store: none scans a table that grows with the events.

use super::super::super::{ALL_NAMESPACES, DeliveryFilter};
use super::super::walk::{Direction, Range, Tables, Walk};
use super::super::{
    byte_limits, ended_places, event_numbers, event_rows, events_list, expired, measurements, old_ids,
    records, unused_rows,
};
use super::*;

/// Ten namespaces with 20,000 events each, one delivery of each event.
const FILL: &str = "
INSERT INTO hookstream.hooks (uid, place, name, shard)
SELECT 'uid-' || n, n % 10 + 1, 'hook-' || n / 10, 0 FROM generate_series(0, 199) n;
INSERT INTO hookstream.events (seq, place, accepted, is_loose, unmatched, id, origin, source, event, time, data)
SELECT n, n % 10 + 1, 1700000000000 + n, n % 50 = 0, n % 50 = 0, 'id-' || n, 'api', 's', 'e', 't', '{}'
FROM generate_series(1, 100000) n;
INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts, attempts_before, suppressed, replays, size)
SELECT seq << 20, seq % 200 + 1, place, gen_random_uuid(), CASE WHEN seq % 1000 = 1 THEN 2 ELSE 1 END, accepted, accepted, 1, 0, 0, 0, 9
FROM hookstream.events WHERE seq % 50 > 0 AND seq <= 90000;
INSERT INTO hookstream.attempts (delivery, n, at, micros) SELECT seq, 1, accepted, 5 FROM hookstream.finished;
INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, held_before, size)
SELECT seq << 20, seq % 200 + 1, place, gen_random_uuid(), accepted, accepted, accepted, 0, 9
FROM hookstream.events WHERE seq % 50 > 0 AND seq > 90000;
INSERT INTO hookstream.exchanges (delivery, place, bytes, content) SELECT seq, place, 10, '{}' FROM hookstream.finished;
INSERT INTO hookstream.keys SELECT 1, sha256(n::text::bytea), 1700000000000 + n, n FROM generate_series(1, 80000) n;
INSERT INTO hookstream.gates (hook, kind, key, used) SELECT n % 200 + 1, 1, sha256(n::text::bytea), 1700000000000 + n FROM generate_series(1, 20000) n;
ANALYZE;";

/// Large tables. The others have a row for each hook, namespace or process.
const LARGE: [&str; 7] = ["events", "pending", "finished", "attempts", "exchanges", "keys", "gates"];

async fn filled() -> Database {
    let database = Database::new().await;
    let session = database.session().await;
    for n in 0..10 {
        place(&session, &format!("ns-{n}")).await;
    }
    session.batch(FILL).await.unwrap();
    database
}

/// Explains a statement with and without knowledge of its parameters, and returns both plans.
pub(super) async fn plans(session: &Session, sql: &str, types: &str, values: &str) -> String {
    let mut plans = String::new();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        session
            .batch(&format!("SET plan_cache_mode = {mode}; PREPARE explained ({types}) AS {sql}"))
            .await
            .unwrap();
        for row in session.query(&format!("EXPLAIN EXECUTE explained ({values})"), &[]).await.unwrap() {
            plans += row.get(0);
            plans.push('\n');
        }
        session.batch("DEALLOCATE explained").await.unwrap();
    }
    plans
}

pub(super) fn assert_no_scan(plans: &str, what: &str) {
    for table in LARGE {
        let scans = plans.lines().any(|line| {
            line.contains(&format!("Seq Scan on {table} ")) || line.contains(&format!("Seq Scan on {table}_"))
        });
        assert!(!scans, "{what} scans {table}:\n{plans}");
    }
}

#[tokio::test]
async fn no_list_scans_a_large_table() {
    let database = filled().await;
    let session = database.session().await;
    let types = "bigint[], bigint, bigint, bigint, bigint, bigint, bigint[], bigint";
    let values = "'{3}', 94371840000, 0, 0, 9223372036854775807, 9223372036854775807, '{3}', 50";
    let states =
        [None, Some(DeliveryState::Pending), Some(DeliveryState::Dead), Some(DeliveryState::Dropped)];
    let selections =
        [(None, None), (Some("hook-3"), None), (None, Some("id-7")), (Some("hook-3"), Some("id-7"))];
    for (state, namespace) in states.into_iter().flat_map(|state| [(state, "ns-2"), (state, ALL_NAMESPACES)])
    {
        for (hook, event) in selections {
            let filter = DeliveryFilter {
                namespace: namespace.into(),
                hook: hook.map(Into::into),
                event: event.map(Into::into),
                state,
                ..DeliveryFilter::default()
            };
            for (direction, tables) in
                [(Direction::Older, Tables::Both), (Direction::Newer, Tables::Finished)]
            {
                if tables == Tables::Finished && state == Some(DeliveryState::Pending) {
                    continue;
                }
                let range = Range { direction, from: 94_371_840_000, to: 0 };
                let walk = Walk::begin(&session, &filter, range, tables).await.unwrap().unwrap();
                for rows in [64, 4096] {
                    let plans = plans(&session, &walk.sql(rows), types, values).await;
                    let what = format!("{filter:?} {direction:?} {rows}");
                    assert_no_scan(&plans, &what);
                    let index = match (event, hook, state) {
                        (Some(_), ..) => "_pkey",
                        (None, None, Some(DeliveryState::Dead)) if namespace == ALL_NAMESPACES => {
                            "finished_dead_all"
                        }
                        (None, None, Some(DeliveryState::Pending)) if namespace == ALL_NAMESPACES => {
                            "pending_pkey"
                        }
                        (None, None, _) if namespace == ALL_NAMESPACES => "finished_pkey",
                        // Of few dead letters, the planner may sort those of all namespaces.
                        (None, _, Some(DeliveryState::Dead)) => "finished_dead_",
                        (None, Some(_), Some(DeliveryState::Pending)) => "pending_newest",
                        (None, None, Some(DeliveryState::Pending)) => "pending_place",
                        (None, Some(_), _) => "finished_hook",
                        (None, None, _) => "finished_place",
                    };
                    assert!(plans.contains(index), "{what} does not use {index}:\n{plans}");
                }
            }
        }
    }
}

#[tokio::test]
async fn no_part_of_a_page_scans_a_large_table() {
    let database = filled().await;
    let session = database.session().await;
    let deliveries = (1..50).map(|n| (n << 20).to_string()).collect::<Vec<_>>().join(",");
    let events = (1..50).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for (sql, types, values) in [
        (records::REFERENCES, "bigint[], bigint[]", format!("'{{{deliveries}}}', '{{{events}}}'")),
        (records::ATTEMPTS, "bigint[]", format!("'{{{deliveries}}}'")),
        (old_ids::FIND, "uuid[]", "'{01900000-0000-7000-8000-000000000000}'".to_owned()),
        (event_numbers::OLDER_EVENTS, "bigint, text, bigint", "3, 'id-7', 99999".to_owned()),
        (event_numbers::NEWER_EVENTS, "bigint, text, bigint", "3, 'id-7', 0".to_owned()),
        (event_numbers::OLDER_EVENTS_OF_ALL, "text, bigint", "'id-7', 99999".to_owned()),
        (event_numbers::NEWER_EVENTS_OF_ALL, "text, bigint", "'id-7', 0".to_owned()),
        (event_rows::SUMMARIES, "bigint[], bigint", format!("'{{{events}}}', 3")),
        (event_rows::SUMMARIES, "bigint[], bigint", format!("'{{{events}}}', NULL")),
        (event_rows::SHOWN, "bigint[]", format!("'{{{events}}}'")),
        (events_list::UNMATCHED, "bigint, bigint, bigint", "3, 99999, 0".to_owned()),
        (events_list::UNMATCHED_OF_ALL, "bigint, bigint", "99999, 0".to_owned()),
    ] {
        let plans = plans(&session, sql, types, &values).await;
        assert_no_scan(&plans, sql);
        assert!(sql != events_list::UNMATCHED_OF_ALL || plans.contains("events_unmatched_all"), "{plans}");
    }
}

#[tokio::test]
async fn no_sweep_scans_a_large_table() {
    let database = filled().await;
    let session = database.session().await;
    let events = (1..1000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let keys = expired::expired_keys(3);
    let at = "1700000000500";
    let two = format!("{at}, {at}");
    let loosened = format!("'{{{events}}}', {at}");
    for (sql, types, values) in [
        (expired::FINISHED, "bigint", at),
        (expired::FINISHED_DEAD, "bigint", at),
        (expired::LOOSEN, "bigint[], bigint", &loosened),
        (expired::UNMATCHED, "bigint", at),
        (expired::LOOSE, "bigint", at),
        (expired::UNMATCHED_EXCESS, "bigint, bigint", "3, 5000"),
        (expired::EXCHANGES_EXCESS, "bigint, bigint", "2, 5000"),
        (&keys, "bigint", at),
        (expired::REMOVE_EVENTS, "bigint[], bigint", &loosened),
        (expired::BARE, "bigint", at),
        (expired::UNUSED_GATES, "bigint, bigint", &two),
        (ended_places::PENDING, "bigint", "3"),
        (ended_places::FINISHED, "bigint", "3"),
        (ended_places::EVENTS, "bigint", "3"),
        (ended_places::EXCHANGES, "bigint", "2"),
        (unused_rows::EXAMINE, "bigint", "0"),
        (byte_limits::HISTORY, "bigint", "500"),
        (byte_limits::DEAD, "bigint", "50"),
        (byte_limits::UNMATCHED_EXCESS, "bigint, bigint", "3, 5000"),
        (byte_limits::EXCHANGES_EXCESS, "bigint, bigint", "2, 50"),
        (measurements::RECENT, "bigint, bigint", "1700000000500, 1000"),
    ] {
        let plans = plans(&session, sql, types, values).await;
        assert_no_scan(&plans, sql);
        // A sort would read all rows before the first one is used.
        let sorts =
            plans.lines().any(|line| line.trim_start_matches([' ', '-', '>']).starts_with("Sort  (cost"));
        assert!(!sorts || !sql.contains("PRECEDING"), "{sql} sorts:\n{plans}");
    }
}
