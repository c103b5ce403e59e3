//! Verifies stored keys, for `store check` and `store recover`.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::block::{INDEXED_BLOCKS, RowTable};
use super::entry::{Entry, Key};
use super::run::{BlockIndex, Manifest};

/// The tables with runs. Their content can be computed from `events.dedup_key`.
pub(in super::super) const TABLES: [&str; 3] = ["key_runs", "key_blocks", "key_filters"];

/// Returns the defects of runs and of keys in event rows. Reads every block.
pub(in super::super) fn find_problems(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut problems = Vec::new();
    // Events above the watermark of materialization are never removed, so the last event has one of these numbers.
    let last_event = conn.query_row(
        "SELECT max(coalesce((SELECT max(seq) FROM events), 0),
                    coalesce((SELECT value FROM meta WHERE name = 'filed'), 0))",
        [],
        |row| row.get(0),
    )?;
    let manifests = match Manifest::read_all(conn) {
        // A value that no program wrote.
        Err(error) if error.sqlite_error().is_none() => {
            problems.push(format!("a run of idempotency keys: {error}"));
            Vec::new()
        }
        read => read?,
    };
    for manifest in manifests {
        if let Err(error) = verify(conn, &manifest, last_event)? {
            problems.push(format!("run {} of idempotency keys: {error}", manifest.id));
        }
    }
    let covered: i64 =
        conn.query_row("SELECT coalesce((SELECT value FROM meta WHERE name = 'keyed'), 0)", [], |row| {
            row.get(0)
        })?;
    if covered > last_event {
        problems.push(format!(
            "the keys of events up to {covered} are in runs, and the last event is {last_event}"
        ));
    }
    let misshaped: i64 = conn.query_row(
        "SELECT count(*) FROM events WHERE dedup_key IS NOT NULL
         AND (typeof(dedup_key) <> 'blob' OR length(dedup_key) <> 16)",
        [],
        |row| row.get(0),
    )?;
    if misshaped > 0 {
        problems.push(format!("{misshaped} events with a damaged idempotency key"));
    }
    Ok(problems)
}

/// Compares the rows of a run with its manifest. The inner error is a defect.
fn verify(
    conn: &Connection,
    manifest: &Manifest,
    last_event: EventSeq,
) -> rusqlite::Result<Result<(), String>> {
    let mut found = Manifest::new(manifest.id, manifest.class, manifest.tier);
    let (mut index, mut previous) = (BlockIndex::default(), None::<Key>);
    for number in 0..manifest.blocks {
        let block = RowTable::Blocks.read(conn, manifest.id, number, <[u8]>::to_vec);
        let block = match unless_damaged(block)? {
            Ok(block) => block,
            Err(defect) => return Ok(Err(defect)),
        };
        index.push(&block);
        for entry in Entry::decode_all(&block) {
            if previous.is_some_and(|previous| previous >= entry.key) {
                return Ok(Err(format!("block {number} is not in order")));
            }
            previous = Some(entry.key);
            found.add(&entry);
        }
        found.blocks += 1;
        if !found.blocks.is_multiple_of(INDEXED_BLOCKS) && found.blocks != manifest.blocks {
            continue;
        }
        let row = (found.blocks - 1) / INDEXED_BLOCKS;
        let stored = RowTable::Filters.read(conn, manifest.id, row, <[u8]>::to_vec);
        match unless_damaged(stored)? {
            Ok(stored) if stored == index.encode(0) => index.truncate(0),
            Ok(_) => return Ok(Err(format!("filters {row} belong to other keys"))),
            Err(defect) => return Ok(Err(defect)),
        }
    }
    Ok(if found != *manifest {
        Err(format!("has {found:?}, and should have {manifest:?}"))
    } else if manifest.last_event > last_event {
        Err(format!("names the event {}, and the last one is {last_event}", manifest.last_event))
    } else {
        Ok(())
    })
}

/// Returns a damaged row as a defect, and any other failure as an error.
fn unless_damaged<T>(read: rusqlite::Result<T>) -> rusqlite::Result<Result<T, String>> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
            Ok(Err(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// Removes all runs of a recovered store that lost rows: an entry may name a lost event, whose number a new event gets.
/// The next start computes the runs from the events that exist.
pub(in super::super) fn forget_runs(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "DELETE FROM key_runs;
         DELETE FROM key_blocks;
         DELETE FROM key_filters;
         UPDATE events SET dedup_key = NULL
         WHERE dedup_key IS NOT NULL AND (typeof(dedup_key) <> 'blob' OR length(dedup_key) <> 16);
         INSERT OR REPLACE INTO meta (name, value) VALUES ('keyed', 0);",
    )
}
