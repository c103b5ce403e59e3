//! `hookstream validate`: what is wrong with manifests, found without a cluster.

mod references;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::output::{self, HELP, Output, clean};
use super::{OrFail, Outcome, say};
use crate::api::{self, GROUP, TextFormat};
use crate::cluster::Kind;
use crate::cluster::files::{Document, documents};
use crate::core::filter::FilterError;
use crate::core::hook::{self, Handler, InvalidSpec, WebhookCustom};
use crate::core::schema::Schemas;
use crate::core::template::Template;
use crate::core::{auth0_hook, stream};

/// Check manifests without a cluster: schema and rules of every kind, durations, filters, templates, lambdas, references.
///
/// Objects of other kinds are passed over. What a manifest refers to and the files do not hold is a warning: it may be made
/// elsewhere. Exit code 1: there are errors (warnings are none).
///
/// Example: hookstream validate deploy/samples/quickstart
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    valid: bool,
    /// Of our kinds.
    objects: usize,
    findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Error,
    Warning,
}

/// Something that is wrong. Line and column are those within the text of the field.
#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    file: String,
    /// `Kind namespace/name`; empty for a file that cannot be read.
    object: String,
    field: String,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

pub fn run(args: &Args) -> Outcome {
    let documents = documents(&args.paths).or_fail(|| "validate".into())?;
    let report = look(&documents);
    match args.output {
        Output::Table => print(&report),
        other => output::print(other, &report)?,
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print(report: &Report) {
    let head = ["SEVERITY", "FILE", "OBJECT", "FIELD", "PROBLEM"];
    let rows = report.findings.iter().map(|finding| {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        [severity, &finding.file, &finding.object, &finding.field, &finding.message].map(clean)
    });
    if !report.findings.is_empty() {
        output::table(head, rows).iter().for_each(|line| say(line));
    }
    if report.valid {
        say(&match report.objects {
            0 => format!("there is no object of {GROUP} in these files: nothing was checked"),
            1 => "1 object is valid".to_owned(),
            n => format!("{n} objects are valid"),
        });
    }
}

fn look(documents: &[Document]) -> Report {
    let schemas = Schemas::of(&api::crds());
    let mut findings = Vec::new();
    let (mut objects, mut seen) = (0, HashMap::<_, Vec<&Path>>::new());
    for document in documents {
        let mut place = Place { file: &document.path, object: String::new(), findings: &mut findings };
        let content = match &document.content {
            Ok(content) => content,
            Err(problem) => {
                place.error("", "Unreadable", problem.clone());
                continue;
            }
        };
        let Some(kind) = own_kind(content) else { continue };
        objects += 1;
        place.object = format!("{kind} {}", references::key_of(content));
        let earlier = seen.entry(place.object.clone()).or_default();
        again(earlier, &mut place);
        earlier.push(&document.path);
        let faults = schemas.check(content);
        for fault in &faults {
            place.error(&fault.field, "InvalidSchema", fault.problem.clone());
        }
        if faults.is_empty() {
            understand(kind, content, &mut place);
        }
    }
    references::look(documents, &mut findings);
    let valid = findings.iter().all(|finding| finding.severity != Severity::Error);
    Report { valid, objects, findings }
}

/// An object that stands in the manifests twice. Within one folder, which is what people apply, one of them is lost in
/// silence; two folders are most often for two clusters.
fn again(earlier: &[&Path], place: &mut Place<'_>) {
    let folder = place.file.parent();
    let (severity, message) = match (earlier.iter().find(|path| path.parent() == folder), earlier.first()) {
        (Some(path), _) => (
            Severity::Error,
            format!("it stands in {} too: of the two the one that is applied last is kept", path.display()),
        ),
        (None, Some(path)) => (
            Severity::Warning,
            format!(
                "it stands in {} too: fine if the folders are for different clusters or namespaces",
                path.display()
            ),
        ),
        (None, None) => return,
    };
    place.findings.push(Finding { severity, message, ..place.finding("metadata.name", "Duplicate") });
}

/// The kind of an object of our group. One of our kinds that forgot to say its group is meant, too.
fn own_kind(document: &Value) -> Option<&str> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let ours = version.split('/').next() == Some(GROUP) || version.is_empty() && kind.parse::<Kind>().is_ok();
    ours.then_some(kind)
}

/// What a schema cannot tell.
fn understand(kind: &str, document: &Value, place: &mut Place<'_>) {
    match kind {
        "EventHook" => {
            if let Some(Handler::WebhookCustom(custom)) =
                understood(document, place, hook::validate).map(|hook| hook.handler)
            {
                escapes(&custom, place);
            }
        }
        "EventStream" => drop(understood(document, place, stream::validate)),
        "Hook" => drop(understood(document, place, auth0_hook::validate)),
        _ => {}
    }
}

fn understood<K: DeserializeOwned, T>(
    document: &Value,
    place: &mut Place<'_>,
    validate: fn(&K) -> Result<T, InvalidSpec>,
) -> Option<T> {
    let object: K = match serde_json::from_value(document.clone()) {
        Ok(object) => object,
        Err(error) => {
            place.error("spec", "InvalidSpec", error.to_string());
            return None;
        }
    };
    validate(&object).map_err(|invalid| place.invalid(&invalid)).ok()
}

/// `{{ }}` escapes for HTML: in JSON a quote in the value comes out as `&quot;`, and a line end breaks the body.
fn escapes(custom: &WebhookCustom, place: &mut Place<'_>) {
    let (Some(body), TextFormat::Template, true) =
        (&custom.body, custom.body_format, custom.sends_json_text())
    else {
        return;
    };
    let Ok(template) = Template::parse(body) else { return };
    for escaped in template.escaped() {
        let code = escaped.code.trim();
        place.findings.push(Finding {
            severity: Severity::Warning,
            message: format!(
                "line {}, column {}: {{{{ {code} }}}} escapes for HTML, not for JSON: for a text write {{* json({code}) *}} without quotes around it",
                escaped.line, escaped.column
            ),
            line: Some(escaped.line),
            column: Some(escaped.column),
            ..place.finding("spec.handler.webhookCustom.body", "HtmlInJson")
        });
    }
}

/// Where findings are made.
struct Place<'a> {
    file: &'a Path,
    object: String,
    findings: &'a mut Vec<Finding>,
}

impl Place<'_> {
    fn finding(&self, field: &str, reason: &'static str) -> Finding {
        Finding {
            severity: Severity::Error,
            file: self.file.display().to_string(),
            object: self.object.clone(),
            field: field.to_owned(),
            reason,
            message: String::new(),
            line: None,
            column: None,
        }
    }

    fn error(&mut self, field: &str, reason: &'static str, message: String) {
        let finding = Finding { message, ..self.finding(field, reason) };
        self.findings.push(finding);
    }

    fn invalid(&mut self, invalid: &InvalidSpec) {
        let reason: &'static str = invalid.into();
        let spec = |field: &str| format!("spec.{field}");
        let (field, at) = match invalid {
            InvalidSpec::InvalidTemplate { field, at } | InvalidSpec::InvalidLambda { field, at } => {
                (spec(field), Some((at.line, at.column)))
            }
            InvalidSpec::InvalidFilter(FilterError::Invalid { line, column, .. }) => {
                (spec("filter"), Some((*line, *column)))
            }
            InvalidSpec::InvalidFilter(_) => (spec("filter"), None),
            InvalidSpec::InvalidSpec { field, .. } => (spec(field), None),
            InvalidSpec::Refused(_) => ("spec".to_owned(), None),
        };
        let message = invalid.to_string();
        // The message begins with the field, which stands in a column of its own.
        let short =
            field.strip_prefix("spec.").and_then(|field| message.strip_prefix(field)?.strip_prefix(": "));
        let finding = Finding {
            message: short.unwrap_or(&message).to_owned(),
            line: at.map(|(line, _)| line),
            column: at.map(|(_, column)| column),
            ..self.finding(&field, reason)
        };
        self.findings.push(finding);
    }
}
