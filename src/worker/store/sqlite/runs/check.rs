//! Verifies stored runs, for `store check` and `store recover`.

use rusqlite::Connection;

use super::super::super::EventSeq;
use super::RunKind;
use super::block::INDEXED_BLOCKS;
use super::entry::Entry;
use super::run::{BlockIndex, Manifest};

/// Returns the last event that a store has accepted, or a later number.
pub(in super::super) fn last_event(conn: &Connection) -> rusqlite::Result<EventSeq> {
    // Events above the watermark of materialization are never removed, so the last event has one of these numbers.
    conn.query_row(
        "SELECT max(coalesce((SELECT max(seq) FROM events), 0),
                    coalesce((SELECT value FROM meta WHERE name = 'filed'), 0))",
        [],
        |row| row.get(0),
    )
}

/// Returns the defects of all runs of a kind. Reads every block. `last_event`: no entry may name a later one.
pub(in super::super) fn verify_all(
    conn: &Connection,
    kind: RunKind,
    last_event: EventSeq,
) -> rusqlite::Result<Vec<String>> {
    let mut problems = Vec::new();
    let manifests = match Manifest::read_all(conn, kind) {
        // A value that no program wrote.
        Err(error) if error.sqlite_error().is_none() => {
            problems.push(format!("a run of {}: {error}", kind.name()));
            Vec::new()
        }
        read => read?,
    };
    for manifest in manifests {
        if let Err(error) = verify(conn, kind, &manifest, last_event)? {
            problems.push(format!("run {} of {}: {error}", manifest.id, kind.name()));
        }
    }
    Ok(problems)
}

/// Compares the rows of a run with its manifest. The inner error is a defect.
fn verify(
    conn: &Connection,
    kind: RunKind,
    manifest: &Manifest,
    last_event: EventSeq,
) -> rusqlite::Result<Result<(), String>> {
    let mut found = Manifest::new(manifest.id, manifest.class, manifest.tier);
    let (mut index, mut previous) = (BlockIndex::default(), None::<Entry>);
    for number in 0..manifest.blocks {
        let block = kind.blocks().read(conn, manifest.id, number, <[u8]>::to_vec);
        let block = match unless_damaged(block)? {
            Ok(block) => block,
            Err(defect) => return Ok(Err(defect)),
        };
        for entry in Entry::decode_all(&block) {
            let is_in_order =
                |previous: &Entry| kind.rank(previous) < kind.rank(&entry) && !kind.is_same(previous, &entry);
            if previous.is_some_and(|previous| !is_in_order(&previous)) {
                return Ok(Err(format!("block {number} is not in order")));
            }
            previous = Some(entry);
            found.add(&entry);
        }
        found.blocks += 1;
        let Some(filters) = kind.filters() else { continue };
        index.push(&block);
        if !found.blocks.is_multiple_of(INDEXED_BLOCKS) && found.blocks != manifest.blocks {
            continue;
        }
        let row = (found.blocks - 1) / INDEXED_BLOCKS;
        let stored = filters.read(conn, manifest.id, row, <[u8]>::to_vec);
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
