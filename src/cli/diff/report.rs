//! The report of `hookstream diff`: a table, JSON, YAML or Markdown.

use serde::Serialize;
use serde_json::Value;

use crate::cli::output::{self, print_line, strip_control_chars};
use crate::cluster::{ObjectKey, ResourceKind};
use crate::controller::{FieldChange, ObjectPreview, SyncError, VendorChange};
use crate::core::conditions::cut;

/// The `change` of an object that could not be compared.
pub const UNKNOWN: &str = "unknown";
/// The `change` of an object that the files do not have.
const DELETE: &str = "delete";
/// The longest value in a table, in bytes.
const MAX_VALUE: usize = 120;

/// Not a list: the differences of each object.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    format_version: u32,
    pub data: Vec<Row>,
    pub plan: Plan,
}

/// The number of objects of each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    create: usize,
    change: usize,
    delete: usize,
    unchanged: usize,
    /// Objects that differ and that a policy keeps as they are.
    differs: usize,
    unknown: usize,
}

/// One object. `change` is create, update, delete, differs, unchanged or unknown.
#[derive(Serialize)]
pub struct Row {
    kind: &'static str,
    namespace: String,
    name: String,
    pub change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    fields: Vec<String>,
    /// The values of `fields`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Values>,
    /// Secrets that cannot be compared here. They do not count as a difference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uncompared: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// The values of a field. Secrets are absent.
#[derive(Serialize)]
struct Values {
    field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<Value>,
    secret: bool,
}

impl Report {
    pub fn new(data: Vec<Row>) -> Self {
        let mut plan = Plan::default();
        for row in &data {
            let count = match row.change {
                "create" => &mut plan.create,
                "update" => &mut plan.change,
                DELETE => &mut plan.delete,
                "differs" => &mut plan.differs,
                UNKNOWN => &mut plan.unknown,
                _ => &mut plan.unchanged,
            };
            *count += 1;
        }
        Report { format_version: 1, data, plan }
    }

    /// Returns the exit code: 2 if an object could not be compared, 1 if something differs.
    pub fn exit_code(&self) -> u8 {
        let Plan { create, change, delete, differs, unknown, .. } = self.plan;
        if unknown > 0 { 2 } else { u8::from(create + change + delete + differs > 0) }
    }
}

impl Plan {
    /// Returns the last line of the report.
    pub fn line(&self) -> String {
        let Plan { create, change, delete, unchanged, differs, unknown } = self;
        let mut line = format!(
            "Plan: {create} to create, {change} to change, {delete} to delete, {unchanged} unchanged"
        );
        for (count, text) in [(differs, "different and kept by a policy"), (unknown, "not comparable")] {
            if *count > 0 {
                line.push_str(&format!(", {count} {text}"));
            }
        }
        line
    }
}

/// Returns the row of a preview. `has_state`: the state of the objects is known, so that an object without one is new.
pub fn preview_row(preview: ObjectPreview, has_state: bool) -> Row {
    let ObjectPreview { kind, key, has_status, result } = preview;
    let row = empty_row(kind, key);
    match result {
        Ok(preview) => {
            let may_exist = preview.change == VendorChange::Create && !has_status && !has_state;
            Row {
                change: preview.change.into(),
                id: preview.id,
                fields: preview.fields,
                values: preview.values.into_iter().map(Values::from).collect(),
                message: message(preview.note, &preview.unverified, may_exist),
                uncompared: preview.unverified,
                ..row
            }
        }
        Err(error) => {
            let mut message = error.to_string();
            if matches!(error, SyncError::Conflict { .. }) && !has_state {
                message.push_str(
                    "; if it belongs to this object, give --cluster or --data, or the manifest as kubectl get -o yaml prints it",
                );
            }
            if matches!(error, SyncError::IngestUrlMissing | SyncError::PublicIngestUrlMissing) {
                message.push_str(
                    "; give diff the same flag (a standalone without it uses the address of its --listen)",
                );
            }
            Row { reason: Some(error.reason()), message: Some(message), ..row }
        }
    }
}

/// Returns the row of a live object that the files do not have.
pub fn deleted_row(
    kind: ResourceKind,
    key: ObjectKey,
    object: &Value,
    live: &[(ResourceKind, Value)],
) -> Row {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let id = text("/status/external/id").map(ToOwned::to_owned);
    let connection = text("/spec/connectionRef/name");
    let of_connection = live
        .iter()
        .filter(|(kind, found)| {
            let is = |pointer: &str, expected: Option<&str>| {
                found.pointer(pointer).and_then(Value::as_str) == expected
            };
            *kind == ResourceKind::Connection
                && connection.is_some()
                && is("/metadata/name", connection)
                && is("/metadata/namespace", Some(&key.namespace))
        })
        .find_map(|(_, found)| found.pointer("/spec/deletionPolicy")?.as_str());
    let stays = match (text("/spec/managementPolicy"), text("/spec/deletionPolicy").or(of_connection)) {
        (Some("ObserveOnly"), _) => Some("managementPolicy: ObserveOnly"),
        (_, Some("Orphan")) => Some("deletionPolicy: Orphan"),
        _ => None,
    };
    let message = id.as_ref().and(stays).map(|policy| format!("stays at the vendor ({policy})"));
    Row { change: DELETE, id, message, ..empty_row(kind.into(), key) }
}

fn empty_row(kind: &'static str, key: ObjectKey) -> Row {
    Row {
        kind,
        namespace: key.namespace,
        name: key.name,
        change: UNKNOWN,
        id: None,
        fields: Vec::new(),
        values: Vec::new(),
        uncompared: Vec::new(),
        reason: None,
        message: None,
    }
}

impl From<FieldChange> for Values {
    fn from(change: FieldChange) -> Self {
        let FieldChange { path, old, new, is_secret } = change;
        Values { field: path, old, new, secret: is_secret }
    }
}

/// Joins the parts of the message. `may_exist`: the object would be created, but the files may lack its status.
fn message(note: Option<String>, unverified: &[String], may_exist: bool) -> Option<String> {
    let hint = may_exist.then(|| {
        "if it exists in a cluster already, give --cluster, or the manifest as kubectl get -o yaml prints it"
            .to_owned()
    });
    let secrets = (!unverified.is_empty()).then(|| format!("not comparable here: {}", unverified.join(", ")));
    let all: Vec<String> = note.into_iter().chain(hint).chain(secrets).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Prints the table and the plan.
pub fn print(report: &Report) {
    let head = ["OBJECT", "CHANGE", "FIELDS", "MESSAGE"];
    let lines = report.data.iter().map(|row| {
        let fields: Vec<String> = row.values.iter().map(Values::text).collect();
        let message = row.message.clone().unwrap_or_default();
        [row.object(), row.change.to_owned(), fields.join(", "), message]
            .map(|text| strip_control_chars(&text))
    });
    output::table_lines(head, lines).iter().for_each(|line| print_line(line));
    print_line(&report.plan.line());
}

/// Prints Markdown, for a comment on a change.
pub fn print_markdown(report: &Report) {
    let changed = report.data.iter().filter(|row| row.change != "unchanged");
    let mut lines = vec!["### hookstream diff".to_owned(), String::new()];
    let head = ["| object | change | field | old | new |".to_owned(), "|---|---|---|---|---|".to_owned()];
    let mut rows: Vec<String> = Vec::new();
    for row in changed {
        let object = markdown(&row.object());
        let message = row.message.as_deref().map(markdown).unwrap_or_default();
        if row.values.is_empty() {
            rows.push(format!("| {object} | {} | {message} | | |", row.change));
        }
        for values in &row.values {
            let [old, new] = values.sides().map(|side| markdown(&side));
            rows.push(format!("| {object} | {} | {} | {old} | {new} |", row.change, markdown(&values.field)));
        }
    }
    if !rows.is_empty() {
        lines.extend(head.into_iter().chain(rows).chain([String::new()]));
    }
    lines.push(format!("**{}**", report.plan.line()));
    lines.iter().for_each(|line| print_line(line));
}

impl Row {
    fn object(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Values {
    /// Returns the old and the new value, for people.
    fn sides(&self) -> [String; 2] {
        let hidden = if self.secret { "(secret)" } else { "(none)" };
        [&self.old, &self.new].map(|value| match value {
            None => hidden.to_owned(),
            Some(Value::String(text)) => cut(text, MAX_VALUE).to_owned(),
            Some(other) => cut(&other.to_string(), MAX_VALUE).to_owned(),
        })
    }

    fn text(&self) -> String {
        match self.sides() {
            [old, new] if self.old.is_none() && self.new.is_none() && old == new => {
                format!("{}: changed", self.field)
            }
            [old, new] => format!("{}: {old} -> {new}", self.field),
        }
    }
}

/// Escapes a text for a cell of a Markdown table.
fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    for character in strip_control_chars(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '@' | '#' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plan_counts_each_change() {
        let row = |change| Row { change, ..empty_row("EventHook", ObjectKey::new("n", "a")) };
        let report = |changes: &[&'static str]| Report::new(changes.iter().copied().map(row).collect());
        for (changes, line, code) in [
            (&["unchanged", "unchanged"][..], "0 to create, 0 to change, 0 to delete, 2 unchanged", 0),
            (
                &["create", "update", "delete", "unchanged"],
                "1 to create, 1 to change, 1 to delete, 1 unchanged",
                1,
            ),
            (
                &["differs"],
                "0 to create, 0 to change, 0 to delete, 0 unchanged, 1 different and kept by a policy",
                1,
            ),
            (
                &["unknown", "create"],
                "1 to create, 0 to change, 0 to delete, 0 unchanged, 1 not comparable",
                2,
            ),
        ] {
            let report = report(changes);
            assert_eq!((report.plan.line(), report.exit_code()), (format!("Plan: {line}"), code));
        }
    }

    #[test]
    fn deletion_says_what_stays_at_the_vendor() {
        let connection =
            json!({"metadata": {"namespace": "n", "name": "kong"}, "spec": {"deletionPolicy": "Orphan"}});
        let live = [(ResourceKind::Connection, connection)];
        let object = |spec: Value| json!({"spec": spec, "status": {"external": {"id": "e"}}});
        let row = |spec: Value| {
            let row = deleted_row(ResourceKind::EventHook, ObjectKey::new("n", "a"), &object(spec), &live);
            (row.change, row.id, row.message)
        };
        let deleted =
            |message: Option<&str>| ("delete", Some("e".to_owned()), message.map(ToOwned::to_owned));
        let orphan = Some("stays at the vendor (deletionPolicy: Orphan)");
        assert_eq!(row(json!({"connectionRef": {"name": "kong"}})), deleted(orphan));
        assert_eq!(
            row(json!({"connectionRef": {"name": "kong"}, "deletionPolicy": "Delete"})),
            deleted(None)
        );
        assert_eq!(row(json!({"connectionRef": {"name": "other"}})), deleted(None));
    }

    #[test]
    fn markdown_cannot_be_broken_out_of() {
        assert_eq!(markdown("a|b\n`c` <img> @all"), "a\\|b \\`c\\` &lt;img&gt; \\@all");
    }
}
