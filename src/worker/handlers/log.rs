//! `log`: one line on standard output.

use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Sent;
use crate::core::hook::Hook;
use crate::core::time::Millis;
use crate::worker::store::Pending;

/// The line, as JSON.
#[derive(Serialize)]
pub struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    namespace: &'a str,
    hook: &'a str,
    /// The delivery's id: a line that is repeated has the same.
    id: String,
    source: &'a str,
    event: &'a str,
    data: Box<RawValue>,
    pid: u32,
}

impl<'a> Line<'a> {
    pub fn new(hook: &'a Hook, pending: &'a Pending) -> Self {
        let event = &pending.event;
        Line {
            timestamp: Millis::now().rfc3339(),
            level: "NOTICE",
            message: "log callback",
            namespace: &hook.namespace,
            hook: &hook.name,
            id: pending.id.to_string(),
            source: &event.source,
            event: &event.event,
            data: one_line(&event.data),
            pid: std::process::id(),
        }
    }
}

/// Line ends stand in JSON between its parts only, never within a text.
fn one_line(data: &RawValue) -> Box<RawValue> {
    let text = data.get().replace(['\n', '\r'], " ");
    RawValue::from_string(text).unwrap_or_else(|_| data.to_owned())
}

pub async fn write(hook: &Hook, pending: &Pending) -> Sent {
    let failed = |detail: String| Sent::Failed { reason: "LogFailed", detail };
    let mut line = match serde_json::to_vec(&Line::new(hook, pending)) {
        Ok(line) => line,
        Err(error) => return failed(error.to_string()),
    };
    line.push(b'\n');
    // Where blocking is allowed: a reader that stands still must not stop the worker. One lock a line, for lines must not
    // run into each other.
    let written = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        out.write_all(&line).and_then(|()| out.flush())
    });
    match written.await {
        Ok(Ok(())) => Sent::Done,
        Ok(Err(error)) => failed(format!("standard output: {error}")),
        Err(error) => failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_one_line() {
        let data = serde_json::from_str::<&RawValue>("{\"a\":\r\n [1,\n\"x\\ny\"]}").unwrap();
        let line = one_line(data);
        assert!(!line.get().contains(['\n', '\r']));
        assert!(line.get().contains("\"x\\ny\""));
    }
}
