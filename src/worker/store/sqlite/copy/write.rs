//! Writes the rows of another engine to a new file.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;

use super::super::super::ids;
use super::super::super::portable::{
    Batch, CopiedKind, CopyProgress, EventKey, SourceInfo, StoredAttempt, StoredCandidate, StoredDelivery,
    StoredEvent, StoredExchange, StoredGate, StoredHook, StoredPlace, StoredReplay, StoredState, Written,
};
use super::super::super::{DeliveryState, StoreError};
use super::super::event_ids::hash_of_place;
use super::super::namespace_keys::find_or_insert_number;
use super::super::outcomes::{self, Outcome};
use super::super::rows::EVENT_BYTES;
use super::super::runs::Key;
use super::super::schema::{CANCELLED, CANDIDATE, DEAD, DELIVERED, DROPPED, PENDING};
use super::super::{event_ids, keys, schema};
use super::counts;
use super::read::plain_key;

/// Outcomes that become segments together.
const OUTCOMES: usize = 4096;
/// Bytes of pages in memory, in KiB.
const CACHE: i64 = 65_536;

/// Writes all batches, and returns the counts of the file.
pub(super) async fn write(
    conn: Connection,
    source: &SourceInfo,
    mut batches: Receiver<Batch>,
    progress: &CopyProgress,
    now: i64,
) -> Result<Written, StoreError> {
    let (source, progress) = (source.clone(), progress.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let mut writer = CopyWriter::begin(conn)?;
        while let Some(batch) = batches.blocking_recv() {
            let rows = batch.len();
            writer.write(batch)?;
            progress.add(rows);
        }
        writer.finish(&source, now)
    });
    writing.await.map_err(|_| StoreError::Closed)?.map_err(schema::open_error)
}

/// The key of a place, and what rows contain instead of it.
struct PlaceKey {
    key: String,
    hash: Key,
    /// `deliveries.namespace`.
    number: Option<i64>,
}

struct CopyWriter {
    conn: Connection,
    places: HashMap<i64, PlaceKey>,
    outcomes: Vec<Outcome>,
    last_outcome: i64,
}

impl CopyWriter {
    /// `publish` syncs the file, so nothing before does.
    fn begin(conn: Connection) -> rusqlite::Result<Self> {
        conn.pragma_update(None, "cache_size", -CACHE)?;
        conn.pragma_update(None, "synchronous", "OFF")?;
        // A temporary file, not memory: there may be millions of keys.
        conn.pragma_update(None, "temp_store", "FILE")?;
        conn.execute_batch(
            "CREATE TEMP TABLE copied_keys (event INTEGER PRIMARY KEY, key BLOB NOT NULL, expires INTEGER NOT NULL);
             BEGIN IMMEDIATE",
        )?;
        Ok(CopyWriter { conn, places: HashMap::new(), outcomes: Vec::new(), last_outcome: 0 })
    }

    fn write(&mut self, batch: Batch) -> rusqlite::Result<()> {
        match batch {
            Batch::Places(rows) => self.write_places(&rows),
            Batch::Hooks(rows) => rows.iter().try_for_each(|row| self.write_hook(row)),
            Batch::Keys(rows) => rows.iter().try_for_each(|row| self.write_key(row)),
            Batch::Events(rows) => rows.iter().try_for_each(|row| self.write_event(row)),
            Batch::Responses(rows) => rows.iter().try_for_each(|row| self.write_response(row)),
            Batch::Gates(rows) => rows.iter().try_for_each(|row| self.write_gate(row)),
            Batch::Deliveries(rows) => rows.iter().try_for_each(|row| self.write_delivery(row)),
            Batch::Attempts(rows) => rows.iter().try_for_each(|row| self.write_attempt(row)),
            Batch::Candidates(rows) => rows.iter().try_for_each(|row| self.write_candidate(row)),
            Batch::Replays(rows) => rows.iter().try_for_each(|row| self.write_replay(row)),
        }
    }

    /// The present namespace of a name has the name as its key, and deleted ones have others.
    fn write_places(&mut self, rows: &[StoredPlace]) -> rusqlite::Result<()> {
        for row in rows {
            let key = match row.is_present {
                true => row.name.clone(),
                false => format!("{}/{}", row.name, Uuid::now_v7()),
            };
            if !row.is_present {
                self.conn.execute("INSERT INTO ended (place) VALUES (?1)", [&key])?;
            } else if row.uid.is_some() || row.is_deleted {
                self.conn.execute(
                    "INSERT INTO namespaces (name, uid, place) VALUES (?1, ?2, ?1)",
                    params![row.name, row.uid],
                )?;
            }
            let hash = hash_of_place(&key);
            self.places.insert(row.number, PlaceKey { key, hash, number: None });
        }
        Ok(())
    }

    fn place(&self, number: i64) -> rusqlite::Result<&PlaceKey> {
        self.places.get(&number).ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    fn write_hook(&mut self, row: &StoredHook) -> rusqlite::Result<()> {
        let number = find_or_insert_number(&self.conn, &self.place(row.place)?.key)?;
        if let Some(place) = self.places.get_mut(&row.place) {
            place.number = Some(number);
        }
        self.conn
            .prepare_cached(
                "INSERT INTO hooks (id, uid, namespace, name, held, held_since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![row.id, row.uid, self.place(row.place)?.key, row.name, row.held, row.held_since])
            .map(drop)
    }

    fn write_key(&self, row: &EventKey) -> rusqlite::Result<()> {
        let key = plain_key(row.key, self.place(row.place)?.hash);
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO copied_keys (event, key, expires) VALUES (?1, ?2, ?3)")?
            .execute(params![row.event, key, row.expires])
            .map(drop)
    }

    fn write_event(&self, row: &StoredEvent) -> rusqlite::Result<()> {
        let place = self.place(row.place)?;
        let copied: Option<(Key, i64)> = self
            .conn
            .prepare_cached("SELECT key, expires FROM copied_keys WHERE event = ?1")?
            .query_row([row.seq], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let own = row.key.map(|key| (plain_key(key, place.hash), row.kept_until.unwrap_or(0)));
        let key = copied.or(own);
        // Retention keeps the event until its key expires.
        let kept_until = row.kept_until.unwrap_or(0).max(key.map_or(0, |(_, expires)| expires));
        let data = str::from_utf8(&row.data)?;
        self.conn
            .prepare_cached(
                "INSERT INTO events (seq, accepted, kept_until, id, namespace, origin, source, event, time, attributes, data,
                                     dedup_key)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                row.seq,
                row.accepted,
                kept_until,
                row.id,
                place.key,
                row.origin,
                row.source,
                row.event,
                row.time,
                row.attributes,
                data,
                key.map(|(key, _)| key),
            ])?;
        if row.is_loose || row.is_bare {
            self.conn
                .prepare_cached(
                    "INSERT INTO loose (accepted, event, kept_until, bare) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![row.accepted, row.seq, kept_until, row.is_bare])?;
        }
        if row.is_unmatched {
            let bytes = row.data.len().saturating_add(EVENT_BYTES);
            self.conn
                .prepare_cached(
                    "INSERT INTO unmatched (event, namespace, accepted, bytes) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    row.seq,
                    place.key,
                    row.accepted,
                    i64::try_from(bytes).unwrap_or(i64::MAX)
                ])?;
        }
        Ok(())
    }

    fn write_response(&self, row: &StoredExchange) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO exchanges (delivery, namespace, bytes, content) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                row.delivery,
                self.place(row.place)?.key,
                row.bytes,
                str::from_utf8(&row.content)?
            ])
            .map(drop)
    }

    fn write_gate(&self, row: &StoredGate) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO gates (hook, kind, key, value, quiet_until, owner, suppressed, used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                row.hook,
                row.kind,
                row.key,
                row.value,
                row.quiet_until,
                row.owner,
                row.suppressed,
                row.used
            ])
            .map(drop)
    }

    fn write_delivery(&mut self, row: &StoredDelivery) -> rusqlite::Result<()> {
        if let Some(outcome) = self.outcome(row)? {
            self.outcomes.push(outcome);
            if self.outcomes.len() >= OUTCOMES {
                let written = outcomes::insert_segments(&self.conn, &self.outcomes, false)?;
                self.outcomes.drain(..written);
            }
            self.last_outcome = row.seq;
            return Ok(());
        }
        let namespace = self.place(row.place)?.number;
        let (state, due, finished_at, size, began, held_before) = match row.state {
            StoredState::Pending { due, began, held_before, is_candidate } => {
                let state = if is_candidate { CANDIDATE } else { PENDING };
                let began = Some(began).filter(|began| *began != row.accepted);
                (state, due, None, row.size, began, held_before)
            }
            StoredState::Finished { state, at } => {
                (state_number(state), row.accepted, Some(at), -row.size, None, 0)
            }
        };
        self.conn
            .prepare_cached(
                "INSERT INTO deliveries (seq, hook, id, state, attempts, due, finished_at, size, held_before, first_at,
                                         first_micros, first_status, reason, suppressed, replays, began, attempts_before,
                                         progress, namespace)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
            )?
            .execute(params![
                row.seq,
                row.hook,
                row.id.as_bytes(),
                state,
                row.attempts,
                due,
                finished_at,
                size,
                held_before,
                row.first.map(|first| first.at),
                row.first.map(|first| first.micros),
                row.first.and_then(|first| first.status),
                row.reason,
                row.suppressed,
                row.replays,
                began,
                row.attempts_before,
                row.progress,
                namespace,
            ])
            .map(drop)
    }

    /// Returns the delivery as an outcome, if that has everything: nothing else happened than a first attempt that delivered,
    /// and neither a kept response nor the memory of a gate refers to it.
    fn outcome(&self, row: &StoredDelivery) -> rusqlite::Result<Option<Outcome>> {
        let StoredState::Finished { state: DeliveryState::Delivered, at: finished_at } = row.state else {
            return Ok(None);
        };
        let Some(first) = row.first else { return Ok(None) };
        let is_plain = (row.attempts, row.attempts_before, row.suppressed, row.replays) == (1, 0, 0, 0)
            && row.reason.is_none()
            && row.progress.is_none()
            && row.seq > self.last_outcome
            && ids::numbered(row.id) == Some(row.seq);
        let status = first.status.map(u16::try_from).transpose();
        let (Ok(status), Some(namespace), true) = (status, self.place(row.place)?.number, is_plain) else {
            return Ok(None);
        };
        let is_referred: bool = self
            .conn
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM exchanges WHERE delivery = ?1)
                     OR EXISTS (SELECT 1 FROM gates INDEXED BY gates_owner WHERE owner = ?1)",
            )?
            .query_row([row.seq], |row| row.get(0))?;
        Ok((!is_referred).then(|| Outcome {
            seq: row.seq,
            hook: row.hook,
            namespace,
            random: ids::random_bits(row.id),
            finished_at,
            first_at: first.at,
            micros: first.micros,
            status,
            size: row.size,
        }))
    }

    fn write_attempt(&self, row: &StoredAttempt) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO attempts (delivery, n, at, micros, status, error, detail)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![row.delivery, row.n, row.at, row.micros, row.status, row.error, row.detail])
            .map(drop)
    }

    fn write_candidate(&self, row: &StoredCandidate) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO candidates (hook, key, delivery, due, period, change_key, change_value)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                row.hook,
                row.key,
                row.delivery,
                row.due,
                row.period,
                row.change_key,
                row.change_value
            ])
            .map(drop)
    }

    fn write_replay(&self, row: &StoredReplay) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached(
                "INSERT INTO replays (id, namespace, filter, rate, started, stepped, at, top, replayed, done_at, cancelled)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                row.id.as_bytes(),
                self.place(row.place)?.key,
                row.filter,
                row.rate,
                row.started,
                row.stepped,
                row.at,
                row.top,
                row.replayed,
                row.done_at,
                row.is_cancelled
            ])
            .map(drop)
    }

    /// Writes what depends on all rows, commits, and counts.
    fn finish(self, source: &SourceInfo, now: i64) -> rusqlite::Result<Written> {
        let CopyWriter { conn, outcomes, last_outcome, .. } = self;
        outcomes::insert_segments(&conn, &outcomes, true)?;
        conn.execute_batch(
            "UPDATE hooks SET waiting = pending.bytes
             FROM (SELECT hook, sum(size) AS bytes FROM deliveries WHERE state IN (0, 5) GROUP BY hook) AS pending
             WHERE pending.hook = hooks.id",
        )?;
        // The next start computes the runs of keys and ids from the events.
        keys::forget_runs(&conn)?;
        event_ids::forget_runs(&conn)?;
        let mut meta = conn.prepare("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?;
        // Every delivery has a row or an outcome, and later events have later numbers.
        meta.execute(params!["filed", source.last_event])?;
        meta.execute(params!["segmented", last_outcome])?;
        if let Some(clock) = source.clock {
            meta.execute(params!["clock", clock])?;
        }
        if let Some(installation) = &source.installation {
            meta.execute(params!["installation", installation])?;
        }
        drop(meta);
        conn.execute_batch("COMMIT; DROP TABLE copied_keys")?;
        let mut counts = counts::count(&conn)?;
        counts.insert(CopiedKind::Keys, counts::count_keys(&conn, now)?);
        Ok(Written { counts, replaced_keys: 0 })
    }
}

fn state_number(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Pending => PENDING,
        DeliveryState::Delivered => DELIVERED,
        DeliveryState::Dead => DEAD,
        DeliveryState::Dropped => DROPPED,
        DeliveryState::Cancelled => CANCELLED,
    }
}
