//! Conversion between rows and the store's types.

use rusqlite::Row;
use serde_json::value::RawValue;

pub(super) use super::super::columns::{
    EVENT_BYTES, attributes, attributes_column, duration, limit, micros, total_held,
};
use super::super::{DeliveryFilter, HookId};
use super::namespace_keys;
use crate::core::event::{Event, EventData, Origin};

/// Reads a hook from three columns (uid, namespace key, name), the first of them at `at`.
pub(super) fn hook_id(row: &Row<'_>, at: usize) -> rusqlite::Result<HookId> {
    let namespace = namespace_keys::name(row.get_ref(at + 1)?.as_str()?).into();
    Ok(HookId { uid: row.get(at)?, namespace, name: row.get(at + 2)? })
}

/// Reads an event from the columns 5 to 12.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let origin: String = row.get(7)?;
    let column: Option<String> = row.get(11)?;
    let (attributes, form) = attributes(column.as_deref()).map_err(|e| unreadable(11, e))?;
    let view = RawValue::from_string(row.get(12)?).map_err(|e| unreadable(12, e))?;
    Ok(Event {
        id: row.get(5)?,
        namespace: namespace_keys::name(row.get_ref(6)?.as_str()?).to_owned(),
        origin: Origin::try_from(origin).map_err(|e| unreadable(7, e))?,
        source: row.get(8)?,
        event: row.get(9)?,
        time: row.get(10)?,
        attributes,
        data: EventData::new(view, form),
    })
}

/// Reads the filter of a replay. The inner error: its value is damaged, or is from a later program.
pub(super) fn filter(row: &Row<'_>, at: usize) -> rusqlite::Result<Result<DeliveryFilter, String>> {
    let text = row.get_ref(at)?.as_str().map_err(|error| error.to_string());
    Ok(text.and_then(|text| serde_json::from_str(text).map_err(|error| error.to_string())))
}

fn unreadable(
    column: usize,
    e: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, e.into())
}
