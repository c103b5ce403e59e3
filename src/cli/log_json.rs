//! Log lines as JSON: one flat object with the members of the event, then those of the spans around it.
//!
//! The library's own format has an object for each span. There, a field `name` of a span would be a second member beside the
//! span's own name, and readers of JSON would drop one of both. A span's fields need names that no event within it uses,
//! because the event's member wins.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Members that every line has.
const RESERVED: [&str; 3] = ["timestamp", "level", "target"];

/// Formats lines. Requires fields that are formatted as JSON.
pub struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let (mut time, mut fields) = (String::new(), String::new());
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        context.format_fields(Writer::new(&mut fields), event)?;
        let metadata = event.metadata();
        let mut members = vec![
            ("timestamp".to_owned(), Value::from(time)),
            ("level".to_owned(), metadata.level().as_str().into()),
        ];
        members.extend(parse(&fields));
        members.push(("target".to_owned(), metadata.target().into()));
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                members.extend(parse(&fields.fields));
            }
        }
        // A member of the event, or of an inner span, replaces one of the same name.
        let mut names = HashSet::new();
        let mut separator = '{';
        for (name, value) in members.iter().filter(|(name, _)| names.insert(name.as_str())) {
            write!(writer, "{separator}{}:{value}", Value::from(name.as_str()))?;
            separator = ',';
        }
        writeln!(writer, "}}")
    }
}

/// Parses formatted fields. A field with a reserved name gets the prefix `field_`, so that neither member replaces the other.
fn parse(fields: &str) -> Map<String, Value> {
    match serde_json::from_str::<Map<String, Value>>(fields) {
        Ok(members) => {
            let rename = |name: String| match RESERVED.contains(&name.as_str()) {
                true => format!("field_{name}"),
                false => name,
            };
            members.into_iter().map(|(name, value)| (rename(name), value)).collect()
        }
        Err(_) if fields.is_empty() => Map::new(),
        // Without this, a line whose fields cannot be read would lose its message.
        Err(_) => Map::from_iter([("fields".to_owned(), fields.into())]),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn members_of_spans_are_members_of_the_line() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let builder = tracing_subscriber::fmt().with_writer(move || writer.clone()).json();
        let subscriber = builder.map_event_format(|_| JsonLines).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("reconcile", kind = "EventHook", name = "orders", id = "outer").in_scope(
                || {
                    tracing::info_span!("call", id = "inner")
                        .in_scope(|| tracing::info!(count = 1, level = 2, target = "t", "took {:?}", "a\n"));
                },
            );
            tracing::warn!("outside");
        });
        let text = String::from_utf8(buffer.0.lock().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let mut line: Value = serde_json::from_str(lines[0]).unwrap();
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
        line.as_object_mut().unwrap().remove("timestamp");
        let expected = json!({"level": "INFO", "message": "took \"a\\n\"", "count": 1, "target": module_path!(),
            "field_level": 2, "field_target": "t",
            "kind": "EventHook", "name": "orders", "id": "inner"});
        assert_eq!(line, expected);
        for name in ["name", "id"] {
            assert_eq!(lines[0].matches(&format!("\"{name}\":")).count(), 1, "{text}");
        }
        assert!(lines[1].contains(r#""level":"WARN","message":"outside""#), "{text}");
    }

    #[test]
    fn keeps_fields_that_are_not_json() {
        assert_eq!(Value::from(parse("a=1 failed")), json!({"fields": "a=1 failed"}));
        assert!(parse("").is_empty());
    }
}
