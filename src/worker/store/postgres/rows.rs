//! Conversion between rows and the store's types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio_postgres::Row;

use super::super::AttemptRecord;
use super::failure::DbError;
use super::text;
use crate::core::event::{DataForm, Event, EventData, Origin};
use crate::core::time::Millis;

/// The approximate size of an event's row without its data and attributes.
pub(super) const EVENT_BYTES: usize = 512;

/// The columns of an event that `event` reads, of the table `e` and the namespace's row `ns` (`places`).
pub(super) const EVENT_COLUMNS: &str =
    "e.id AS event_id, ns.name AS namespace, e.origin, e.source, e.event, e.time, e.attributes, e.data";

/// Reads an event from `EVENT_COLUMNS`.
pub(super) fn event(row: &Row) -> Result<Event, DbError> {
    let data: Vec<u8> = row.try_get("data")?;
    let view = String::from_utf8(data).map_err(unreadable)?;
    event_with(row, view)
}

/// Reads an event whose data was not read: it is null.
pub(super) fn event_without_data(row: &Row) -> Result<Event, DbError> {
    event_with(row, "null".to_owned())
}

fn event_with(row: &Row, view: String) -> Result<Event, DbError> {
    let column: Option<String> = row.try_get("attributes")?;
    let (attributes, form) = attributes(column.as_deref())?;
    let origin = text::original(row.try_get("origin")?);
    Ok(Event {
        id: text::original(row.try_get("event_id")?),
        namespace: row.try_get("namespace")?,
        origin: Origin::try_from(origin).map_err(DbError::Unreadable)?,
        source: text::original(row.try_get("source")?),
        event: text::original(row.try_get("event")?),
        time: text::original(row.try_get("time")?),
        attributes,
        data: EventData::new(RawValue::from_string(view).map_err(unreadable)?, form),
    })
}

/// The member of the column `attributes` that holds the form of the data, unless it is inline. No attribute has this
/// name, because the names of attributes have letters and digits only.
const DATA_FORM: &str = "_data";

/// Returns the column `attributes` of an event. JSON text, so it has no U+0000. `None`: the column is NULL.
pub(super) fn attributes_column(event: &Event) -> Result<Option<String>, serde_json::Error> {
    let form: Option<&str> = (event.data.form() != DataForm::Inline).then(|| event.data.form().into());
    match form {
        None if event.attributes.is_empty() => Ok(None),
        None => serde_json::to_string(&event.attributes).map(Some),
        Some(form) => {
            let mut stored = event.attributes.clone();
            stored.insert(DATA_FORM.to_owned(), form.into());
            serde_json::to_string(&stored).map(Some)
        }
    }
}

fn attributes(column: Option<&str>) -> Result<(BTreeMap<String, Value>, DataForm), DbError> {
    let mut attributes: BTreeMap<String, Value> =
        column.map_or(Ok(BTreeMap::new()), serde_json::from_str).map_err(unreadable)?;
    let form = match attributes.remove(DATA_FORM) {
        None => DataForm::Inline,
        Some(Value::String(form)) => form.parse().map_err(unreadable)?,
        Some(_) => return Err(DbError::Unreadable("the form of the data is not a string".into())),
    };
    Ok((attributes, form))
}

fn unreadable(error: impl std::fmt::Display) -> DbError {
    DbError::Unreadable(error.to_string())
}

/// Returns the duration of an attempt in microseconds, as stored.
pub(super) fn micros(attempt: &AttemptRecord) -> i64 {
    i64::try_from(attempt.duration.as_micros()).unwrap_or(i64::MAX)
}

/// Converts stored microseconds.
pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Converts a stored HTTP status.
pub(super) fn status(status: Option<i32>) -> Option<u16> {
    status.and_then(|status| u16::try_from(status).ok())
}

/// Converts a stored count.
pub(super) fn count(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

/// Returns how long a hook has been held in total up to `now`, in milliseconds.
pub(super) fn total_held(held: i64, held_since: Option<i64>, now: Millis) -> i64 {
    held.saturating_add(held_since.map_or(0, |since| now.0.saturating_sub(since).max(0)))
}

/// Converts a number of rows to a LIMIT.
pub(super) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Reads a text as a shared one.
pub(super) fn shared(row: &Row, column: &str) -> Result<Arc<str>, DbError> {
    Ok(row.try_get::<_, &str>(column)?.into())
}
