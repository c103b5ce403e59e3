//! What the worker told, for people: tables. JSON is the worker's own text, and YAML the same in other words.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::http::Answer;
use super::super::output::table;
pub use super::super::output::{HELP, Output, clean};
use super::super::{Failure, OrFail, say};

#[derive(Deserialize)]
struct Page {
    items: Vec<Delivery>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    id: String,
    event: String,
    hook: String,
    pub state: String,
    reason: Option<String>,
    accepted_time: String,
    attempts: Vec<Attempt>,
    next_attempt_time: Option<String>,
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    time: String,
    status: Option<u16>,
    duration_ms: u64,
    error: Option<String>,
    detail: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    id: String,
    origin: String,
    source: String,
    event: String,
    time: String,
    accepted_time: String,
    deliveries: Vec<Explained>,
    others: Vec<Other>,
    others_left_out: u64,
}

#[derive(Deserialize)]
struct Explained {
    id: String,
    hook: String,
    explanation: String,
}

#[derive(Deserialize)]
struct Other {
    hook: String,
    explanation: String,
}

/// Prints an answer.
pub fn show(
    answer: &Answer,
    output: Output,
    table: impl FnOnce(&Answer) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    match output {
        Output::Table => table(answer)?.iter().for_each(|line| say(line)),
        // As it came: numbers keep their digits.
        Output::Json => say(answer.json::<&RawValue>()?.get()),
        Output::Yaml => {
            let value: Value = answer.json()?;
            say(serde_saphyr::to_string(&value).or_fail(|| "writing YAML".into())?.trim_end());
        }
    }
    Ok(())
}

pub fn list(answer: &Answer) -> Result<Vec<String>, Failure> {
    let page: Page = answer.json()?;
    let head = ["ID", "EVENT", "HOOK", "STATE", "REASON", "ATTEMPTS", "ACCEPTED", "NEXT ATTEMPT"];
    let rows = page.items.iter().map(|item| {
        let attempts = item.attempts.len().to_string();
        [
            &item.id,
            &item.event,
            &item.hook,
            &item.state,
            item.reason.as_ref().unwrap_or(&String::new()),
            &attempts,
            &item.accepted_time,
            item.next_attempt_time.as_ref().unwrap_or(&String::new()),
        ]
        .map(|cell| clean(cell))
    });
    let mut lines = table(head, rows);
    lines.extend(page.next.map(|next| format!("There are more: --continue {}", clean(&next))));
    Ok(lines)
}

/// True of a list without a line.
pub fn is_empty(answer: &Answer) -> Result<bool, Failure> {
    Ok(answer.json::<Page>()?.items.is_empty())
}

pub fn delivery(answer: &Answer) -> Result<Vec<String>, Failure> {
    let found: Delivery = answer.json()?;
    let mut lines = facts([
        ("Delivery", Some(found.id)),
        ("Event", Some(found.event)),
        ("Hook", Some(found.hook)),
        ("State", Some(found.state)),
        ("Reason", found.reason),
        ("Accepted", Some(found.accepted_time)),
        ("Next attempt", found.next_attempt_time),
        ("Data", found.data.map(|data| data.get().to_owned())),
    ]);
    if found.attempts.is_empty() {
        lines.push("No attempt was made.".into());
        return Ok(lines);
    }
    lines.push(String::new());
    let rows = found.attempts.iter().enumerate().map(|(n, attempt)| {
        [
            (n + 1).to_string(),
            clean(&attempt.time),
            attempt.status.map(|status| status.to_string()).unwrap_or_default(),
            format!("{} ms", attempt.duration_ms),
            clean(attempt.error.as_deref().unwrap_or_default()),
            clean(attempt.detail.as_deref().unwrap_or_default()),
        ]
    });
    lines.extend(table(["ATTEMPT", "TIME", "STATUS", "TOOK", "ERROR", "DETAIL"], rows));
    Ok(lines)
}

pub fn explanation(answer: &Answer) -> Result<Vec<String>, Failure> {
    let found: Explanation = answer.json()?;
    let mut lines = facts([
        ("Event", Some(found.id)),
        ("Source", Some(found.source)),
        ("Name", Some(found.event)),
        ("Origin", Some(found.origin)),
        ("Time", Some(found.time)),
        ("Accepted", Some(found.accepted_time)),
    ]);
    lines.push(String::new());
    if found.deliveries.is_empty() {
        lines.push("No hook matched it.".into());
    } else {
        let rows = found.deliveries.iter().map(|d| [&d.hook, &d.id, &d.explanation].map(|cell| clean(cell)));
        lines.extend(table(["HOOK", "DELIVERY", "WHAT BECAME OF IT"], rows));
    }
    if !found.others.is_empty() {
        lines.push(String::new());
        let rows = found.others.iter().map(|other| [&other.hook, &other.explanation].map(|cell| clean(cell)));
        lines.extend(table(["HOOK", "WHY IT GOT NONE"], rows));
    }
    if found.others_left_out > 0 {
        lines.push(format!("and {} more hooks", found.others_left_out));
    }
    Ok(lines)
}

/// Names and values under each other; what there is nothing to say of is left out.
fn facts<const N: usize>(facts: [(&str, Option<String>); N]) -> Vec<String> {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    facts
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{:width$} {}", format!("{name}:"), clean(&value?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(body: &Value) -> Answer {
        Answer {
            url: "http://a".parse().unwrap(),
            status: reqwest::StatusCode::OK,
            body: body.to_string().into_bytes(),
        }
    }

    fn item(state: &str, attempts: &Value) -> Value {
        json!({"id": "01", "event": "order-1\u{1b}[31m", "hook": "h", "state": state, "reason": null,
            "acceptedTime": "T", "attempts": attempts, "nextAttemptTime": null})
    }

    #[test]
    fn a_list_is_aligned() {
        let page =
            json!({"items": [item("delivered", &json!([])), item("dead", &json!([]))], "continue": "t"});
        let lines = list(&answer(&page)).unwrap();
        assert_eq!(
            lines,
            [
                "ID  EVENT         HOOK  STATE      REASON  ATTEMPTS  ACCEPTED  NEXT ATTEMPT",
                "01  order-1 [31m  h     delivered          0         T",
                "01  order-1 [31m  h     dead               0         T",
                "There are more: --continue t",
            ]
        );
    }

    #[test]
    fn a_delivery_with_its_attempts() {
        let attempts = json!([
            {"time": "T1", "status": null, "durationMs": 15000, "error": "Timeout", "detail": "x\ny"},
            {"time": "T2", "status": 200, "durationMs": 3, "error": null, "detail": null}]);
        let mut delivered = item("delivered", &attempts);
        delivered["data"] = json!({"a": 1});
        let lines = delivery(&answer(&delivered)).unwrap();
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
        assert!(delivery(&answer(&json!({"id": 1}))).unwrap_err().message.contains("not as a worker does"));
    }

    #[test]
    fn an_event_that_matched_nothing() {
        let found = json!({"id": "1", "origin": "api", "source": "s", "event": "e", "time": "T",
            "acceptedTime": "T", "deliveries": [], "othersLeftOut": 2,
            "others": [{"hook": "h", "reason": "OtherSource", "explanation": "its source is t, not s"}]});
        let lines = explanation(&answer(&found)).unwrap();
        let end = [
            "No hook matched it.",
            "",
            "HOOK  WHY IT GOT NONE",
            "h     its source is t, not s",
            "and 2 more hooks",
        ];
        assert_eq!(lines[lines.len() - end.len()..], end);
    }
}
