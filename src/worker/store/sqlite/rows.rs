//! Conversion between rows and the store's types.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::Row;
use serde_json::value::RawValue;

use super::super::{AttemptRecord, DeliveryFilter, HookId};
use super::namespace_keys;
use crate::core::event::{Event, Origin};
use crate::core::time::Millis;

/// The approximate size of an event's row without its data and attributes.
pub(super) const EVENT_BYTES: usize = 512;

/// Reads a hook from three columns (uid, namespace key, name), the first of them at `at`.
pub(super) fn hook_id(row: &Row<'_>, at: usize) -> rusqlite::Result<HookId> {
    let namespace = namespace_keys::name(row.get_ref(at + 1)?.as_str()?).into();
    Ok(HookId { uid: row.get(at)?, namespace, name: row.get(at + 2)? })
}

/// Reads an event from the columns 5 to 12.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let origin: String = row.get(7)?;
    let attributes: Option<String> = row.get(11)?;
    Ok(Event {
        id: row.get(5)?,
        namespace: namespace_keys::name(row.get_ref(6)?.as_str()?).to_owned(),
        origin: Origin::try_from(origin).map_err(|e| unreadable(7, e))?,
        source: row.get(8)?,
        event: row.get(9)?,
        time: row.get(10)?,
        attributes: match attributes {
            Some(text) => serde_json::from_str(&text).map_err(|e| unreadable(11, e))?,
            None => BTreeMap::new(),
        },
        data: RawValue::from_string(row.get(12)?).map_err(|e| unreadable(12, e))?,
    })
}

/// Reads the filter of a replay.
pub(super) fn filter(row: &Row<'_>, at: usize) -> rusqlite::Result<DeliveryFilter> {
    let text: String = row.get(at)?;
    serde_json::from_str(&text).map_err(|e| unreadable(at, e))
}

fn unreadable(
    column: usize,
    e: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, e.into())
}

/// Returns the duration of an attempt in microseconds, as stored.
pub(super) fn micros(attempt: &AttemptRecord) -> i64 {
    i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX)
}

/// Converts stored microseconds.
pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Returns how long a hook has been held in total up to `now`, in milliseconds. `held` and `held_since` are its columns.
pub(super) fn total_held(held: i64, held_since: Option<i64>, now: Millis) -> i64 {
    held.saturating_add(held_since.map_or(0, |since| now.0.saturating_sub(since).max(0)))
}

/// Converts a number of rows to a LIMIT.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
