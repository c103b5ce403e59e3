//! Handler `log`: writes one JSON line to standard output.

use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use super::HandlerOutcome;
use crate::core::delivery_reason::AttemptFailure;
use crate::core::hook::CompiledHook;
use crate::core::time::Millis;
use crate::worker::store::PendingDelivery;

/// The log line.
#[derive(Serialize)]
pub struct LogLine<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    namespace: &'a str,
    hook: &'a str,
    /// The delivery's id: a repeated line has the same id.
    id: String,
    source: &'a str,
    event: &'a str,
    data: Box<RawValue>,
    pid: u32,
}

impl<'a> LogLine<'a> {
    pub fn new(hook: &'a CompiledHook, pending: &'a PendingDelivery) -> Self {
        let event = &pending.event;
        LogLine {
            timestamp: Millis::wall().rfc3339(),
            level: "NOTICE",
            message: "log callback",
            namespace: &hook.namespace,
            hook: &hook.name,
            id: pending.id.to_string(),
            source: &event.source,
            event: &event.event,
            data: without_line_breaks(event.data.view()),
            pid: std::process::id(),
        }
    }
}

/// Replaces line breaks by spaces. JSON has raw line breaks between tokens only, never in a string.
fn without_line_breaks(data: &RawValue) -> Box<RawValue> {
    let text = data.get().replace(['\n', '\r'], " ");
    RawValue::from_string(text).unwrap_or_else(|_| data.to_owned())
}

/// Writes the line and flushes it.
pub async fn write(hook: &CompiledHook, pending: &PendingDelivery) -> HandlerOutcome {
    let failed = |detail: String| HandlerOutcome::Failed { reason: AttemptFailure::LogFailed, detail };
    let mut line = match serde_json::to_vec(&LogLine::new(hook, pending)) {
        Ok(line) => line,
        Err(error) => return failed(error.to_string()),
    };
    line.push(b'\n');
    // On a blocking thread, so that a stalled reader of standard output does not stop the worker. The lock keeps the
    // lines of concurrent attempts apart.
    let written = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush())
    });
    match written.await {
        Ok(Ok(())) => HandlerOutcome::Completed,
        Ok(Err(error)) => failed(format!("standard output: {error}")),
        Err(error) => failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_no_line_breaks() {
        let data = serde_json::from_str::<&RawValue>("{\"a\":\r\n [1,\n\"x\\ny\"]}").unwrap();
        let line = without_line_breaks(data);
        assert!(!line.get().contains(['\n', '\r']));
        assert!(line.get().contains("\"x\\ny\""));
    }
}
