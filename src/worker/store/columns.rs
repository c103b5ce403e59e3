//! What the columns of both engines hold in the same way.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::AttemptRecord;
use crate::core::event::{DataForm, Event};
use crate::core::time::Millis;

/// The approximate size of an event's row without its data and attributes.
pub(super) const EVENT_BYTES: usize = 512;

/// The member of the column `attributes` that holds the form of the data, unless it is inline. No attribute has this
/// name, because the names of attributes have letters and digits only.
const DATA_FORM: &str = "_data";

/// Returns the column `attributes` of an event. `None`: the column is NULL.
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

/// Reads the column `attributes`. Data of an event from an older version is inline.
pub(super) fn attributes(
    column: Option<&str>,
) -> Result<(BTreeMap<String, Value>, DataForm), Box<dyn std::error::Error + Send + Sync>> {
    let mut attributes: BTreeMap<String, Value> = column.map_or(Ok(BTreeMap::new()), serde_json::from_str)?;
    let form = match attributes.remove(DATA_FORM) {
        None => DataForm::Inline,
        Some(Value::String(form)) => form.parse()?,
        Some(_) => return Err("the form of the data is not a string".into()),
    };
    Ok((attributes, form))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of older versions have no form, and are sent as they were then.
    #[test]
    fn data_without_a_form_is_inline() {
        for column in [None, Some("{}"), Some(r#"{"datacontenttype":"text/plain","data":"x"}"#)] {
            assert_eq!(attributes(column).unwrap().1, DataForm::Inline, "{column:?}");
        }
        let (read, form) = attributes(Some(r#"{"_data":"bytes","subject":"x"}"#)).unwrap();
        assert_eq!((read.len(), form), (1, DataForm::Bytes), "the form is no attribute");
        for column in [r#"{"_data":"other"}"#, r#"{"_data":1}"#, "[]"] {
            assert!(attributes(Some(column)).is_err(), "{column}");
        }
    }
}
