//! Conversion between rows and the store's types.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio_postgres::Row;

pub(super) use super::super::columns::{
    EVENT_BYTES, attributes, attributes_column, duration, limit, micros, total_held,
};
use super::failure::DbError;
use super::text;
use crate::core::event::{Event, EventData, Origin};

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
    let (attributes, form) = attributes(column.as_deref()).map_err(unreadable)?;
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

fn unreadable(error: impl std::fmt::Display) -> DbError {
    DbError::Unreadable(error.to_string())
}

/// Converts a stored HTTP status.
pub(super) fn status(status: Option<i32>) -> Option<u16> {
    status.and_then(|status| u16::try_from(status).ok())
}

/// Converts a stored count.
pub(super) fn count(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

/// Reads a text as a shared one.
pub(super) fn shared(row: &Row, column: &str) -> Result<Arc<str>, DbError> {
    Ok(row.try_get::<_, &str>(column)?.into())
}
