//! Prints the worker's responses: as tables, as the worker's own JSON, or as the same value in YAML.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::failure::Failure;
use crate::cli::output::{OutputFormat, print_json, print_line, strip_control_chars, table_lines};
use crate::cli::worker_client::WorkerResponse;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryBody {
    id: String,
    event: String,
    hook: String,
    pub state: String,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<AttemptBody>,
    next_attempt_time: Option<String>,
    /// Absent in responses of older workers.
    held: Option<HeldBody>,
    data: Option<Box<RawValue>>,
    /// Absent without the data, and in responses of older workers.
    last_exchange: Option<ExchangeBody>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttemptBody {
    time: String,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeldBody {
    reason: String,
    message: String,
    next_probe_time: Option<String>,
}

impl HeldBody {
    fn describe(self) -> String {
        let probe =
            self.next_probe_time.map(|at| format!("; the receiver is probed at {at}")).unwrap_or_default();
        format!("{}: {}{probe}", self.reason, self.message)
    }
}

#[derive(Deserialize)]
struct ExchangeBody {
    request: RequestBody,
    response: Option<ResponseBody>,
}

#[derive(Deserialize)]
struct RequestBody {
    method: String,
    url: String,
    headers: Vec<HeaderBody>,
    body: TextBody,
}

#[derive(Deserialize)]
struct ResponseBody {
    status: u16,
    headers: Vec<HeaderBody>,
    body: TextBody,
}

#[derive(Deserialize)]
struct HeaderBody {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct TextBody {
    text: String,
    truncated: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExplanationBody {
    id: String,
    origin: String,
    source: String,
    event: String,
    time: String,
    accepted_time: String,
    deliveries: Vec<ExplainedDelivery>,
    /// Absent in responses of older workers.
    #[serde(default)]
    deliveries_left_out: u64,
    others: Vec<UnmatchedHook>,
    others_left_out: u64,
}

#[derive(Deserialize)]
struct ExplainedDelivery {
    id: String,
    hook: String,
    explanation: String,
}

#[derive(Deserialize)]
struct UnmatchedHook {
    hook: String,
    explanation: String,
}

/// Prints a response in the given format.
pub fn print_response(
    response: &WorkerResponse,
    format: OutputFormat,
    table: impl FnOnce(&WorkerResponse) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    match format {
        OutputFormat::Table => table(response)?.iter().for_each(|line| print_line(line)),
        other => print_json(other, response.json()?)?,
    }
    Ok(())
}

pub fn delivery_table(response: &WorkerResponse) -> Result<Vec<String>, Failure> {
    let found: DeliveryBody = response.json()?;
    let mut lines = field_lines([
        ("Delivery", Some(found.id)),
        ("Event", Some(found.event)),
        ("Hook", Some(found.hook)),
        ("State", Some(found.state)),
        ("Reason", found.reason),
        ("Accepted", Some(found.accepted_time)),
        ("Next attempt", found.next_attempt_time),
        ("Held", found.held.map(HeldBody::describe)),
        ("Data", found.data.map(|data| data.get().to_owned())),
    ]);
    if found.attempts.is_empty() {
        lines.push("No attempts.".into());
        return Ok(lines);
    }
    lines.push(String::new());
    let rows = found.attempts.iter().enumerate().map(|(n, attempt)| {
        [
            (n + 1).to_string(),
            strip_control_chars(&attempt.time),
            attempt.status.map(|status| status.to_string()).unwrap_or_default(),
            format!("{} ms", attempt.duration_ms),
            strip_control_chars(attempt.error.as_deref().unwrap_or_default()),
            strip_control_chars(attempt.detail.as_deref().unwrap_or_default()),
        ]
    });
    lines.extend(table_lines(["ATTEMPT", "TIME", "STATUS", "TOOK", "ERROR", "DETAIL"], rows));
    if let Some(exchange) = found.last_exchange {
        lines.extend(exchange_lines(&exchange));
    }
    Ok(lines)
}

/// Returns the lines of the last attempt's request and response.
fn exchange_lines(exchange: &ExchangeBody) -> Vec<String> {
    let request = &exchange.request;
    let mut lines = vec![String::new(), "Request of the last attempt:".to_owned()];
    lines.push(indented(&format!("{} {}", request.method, request.url)));
    message_lines(&request.headers, &request.body, &mut lines);
    match &exchange.response {
        None => lines.extend([String::new(), "There was no response.".to_owned()]),
        Some(response) => {
            lines.extend([String::new(), "Response:".to_owned(), indented(&response.status.to_string())]);
            message_lines(&response.headers, &response.body, &mut lines);
        }
    }
    lines
}

fn message_lines(headers: &[HeaderBody], body: &TextBody, lines: &mut Vec<String>) {
    lines.extend(headers.iter().map(|header| indented(&format!("{}: {}", header.name, header.value))));
    if !body.text.is_empty() {
        lines.push(String::new());
        lines.extend(body.text.lines().map(indented));
    }
    if body.truncated {
        lines.push(indented("[the rest was not kept]"));
    }
}

fn indented(line: &str) -> String {
    format!("  {}", strip_control_chars(line))
}

pub fn explanation_table(response: &WorkerResponse) -> Result<Vec<String>, Failure> {
    let found: ExplanationBody = response.json()?;
    let mut lines = field_lines([
        ("Event", Some(found.id)),
        ("Source", Some(found.source)),
        ("Name", Some(found.event)),
        ("Origin", Some(found.origin)),
        ("Time", Some(found.time)),
        ("Accepted", Some(found.accepted_time)),
    ]);
    lines.push(String::new());
    if found.deliveries.is_empty() {
        lines.push("No hook matched the event.".into());
    } else {
        let rows = found
            .deliveries
            .iter()
            .map(|d| [&d.hook, &d.id, &d.explanation].map(|cell| strip_control_chars(cell)));
        lines.extend(table_lines(["HOOK", "DELIVERY", "OUTCOME"], rows));
    }
    if found.deliveries_left_out > 0 {
        let count = found.deliveries_left_out;
        lines.push(format!("and {count} more deliveries: hookstream deliveries list --event shows them"));
    }
    if !found.others.is_empty() {
        lines.push(String::new());
        let rows = found
            .others
            .iter()
            .map(|other| [&other.hook, &other.explanation].map(|cell| strip_control_chars(cell)));
        lines.extend(table_lines(["HOOK", "REASON NOT MATCHED"], rows));
    }
    if found.others_left_out > 0 {
        lines.push(format!("and {} more hooks", found.others_left_out));
    }
    Ok(lines)
}

/// Returns one aligned line for each field with a value.
fn field_lines<const N: usize>(fields: [(&str, Option<String>); N]) -> Vec<String> {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    fields
        .into_iter()
        .filter_map(|(name, value)| {
            Some(format!("{:width$} {}", format!("{name}:"), strip_control_chars(&value?)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(body: &serde_json::Value) -> WorkerResponse {
        WorkerResponse {
            url: "http://a".parse().unwrap(),
            status: reqwest::StatusCode::OK,
            body: body.to_string().into_bytes(),
            caller: None,
        }
    }

    fn item(state: &str, attempts: &serde_json::Value) -> serde_json::Value {
        json!({"id": "01", "event": "order-1\u{1b}[31m", "hook": "h", "state": state, "reason": null,
            "acceptedTime": "T", "attempts": attempts, "nextAttemptTime": null})
    }

    #[test]
    fn prints_a_delivery_with_its_attempts() {
        let attempts = json!([
            {"time": "T1", "status": null, "durationMs": 15000, "error": "Timeout", "detail": "x\ny"},
            {"time": "T2", "status": 200, "durationMs": 3, "error": null, "detail": null}]);
        let mut delivered = item("delivered", &attempts);
        delivered["data"] = json!({"a": 1});
        let lines = delivery_table(&response(&delivered)).unwrap();
        assert_eq!(
            lines,
            [
                "Delivery:     01",
                "Event:        order-1 [31m",
                "Hook:         h",
                "State:        delivered",
                "Accepted:     T",
                "Data:         {\"a\":1}",
                "",
                "ATTEMPT  TIME  STATUS  TOOK      ERROR    DETAIL",
                "1        T1            15000 ms  Timeout  x y",
                "2        T2    200     3 ms",
            ]
        );
        assert!(
            delivery_table(&response(&json!({"id": 1})))
                .unwrap_err()
                .message
                .contains("not a worker's response")
        );
    }

    #[test]
    fn prints_an_event_that_matched_no_hook() {
        let found = json!({"id": "1", "origin": "api", "source": "s", "event": "e", "time": "T",
            "acceptedTime": "T", "deliveries": [], "othersLeftOut": 2,
            "others": [{"hook": "h", "reason": "OtherSource", "explanation": "its source is t, not s"}]});
        let lines = explanation_table(&response(&found)).unwrap();
        let end = [
            "No hook matched the event.",
            "",
            "HOOK  REASON NOT MATCHED",
            "h     its source is t, not s",
            "and 2 more hooks",
        ];
        assert_eq!(lines[lines.len() - end.len()..], end);
    }
}
