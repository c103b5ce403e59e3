//! `hookstream validate`: checks manifests without a cluster.

mod finding;
mod references;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::{CommandResult, OrFail};
use super::output::{self, HELP, OutputFormat, print_line, strip_control_chars};
use crate::api::{self, GROUP, TextFormat};
use finding::{Finding, FindingContext, Severity};
use references::{check_references, key_of};

use crate::cluster::files::{Document, Ownership, check_data_object, ownership, read_documents};
use crate::core::hook::{self, Handler, InvalidSpec, WebhookCustom};
use crate::core::schema::Schemas;
use crate::core::template::Template;
use crate::core::{auth0_hook, stream};

/// Check manifests without a cluster: schemas, rules, durations, filters, templates, lambdas and references.
///
/// Files are read as kubectl reads them. Secrets and ConfigMaps are checked as the API server checks them; objects of other
/// groups are skipped, unless their group or version looks mistyped. A reference to an object that the files do not contain is a warning, because it may
/// be created elsewhere. Exit code 1: there are errors. Warnings do not change the exit code.
///
/// Example: hookstream validate deploy/samples/quickstart
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json).
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

/// The result of all checks.
#[derive(Serialize)]
struct ValidationReport {
    valid: bool,
    /// The number of checked objects.
    objects: usize,
    findings: Vec<Finding>,
}

pub fn run(args: &Args) -> CommandResult {
    let documents = read_documents(&args.paths).or_fail(|| "validate".into())?;
    let report = check_documents(&documents);
    match args.output {
        OutputFormat::Table => print_report(&report),
        other => output::print_value(other, &report)?,
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_report(report: &ValidationReport) {
    let header = ["SEVERITY", "FILE", "OBJECT", "FIELD", "PROBLEM"];
    let rows = report.findings.iter().map(|finding| {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        [severity, &finding.file, &finding.object, &finding.field, &finding.message].map(strip_control_chars)
    });
    if !report.findings.is_empty() {
        output::table_lines(header, rows).iter().for_each(|line| print_line(line));
    }
    if report.valid {
        print_line(&match report.objects {
            0 => format!("the files contain no object of {GROUP}: nothing was checked"),
            1 => "1 object is valid".to_owned(),
            n => format!("{n} objects are valid"),
        });
    }
}

fn check_documents(documents: &[Document]) -> ValidationReport {
    let schemas = Schemas::from_crds(&api::crds());
    let mut findings = Vec::new();
    let (mut objects, mut paths_by_object) = (0, HashMap::<_, Vec<&Path>>::new());
    for document in documents {
        let mut context =
            FindingContext { file: &document.path, object: String::new(), findings: &mut findings };
        let content = match &document.content {
            Ok(content) => content,
            Err(problem) => {
                context.error("", "Unreadable", problem.clone());
                continue;
            }
        };
        for warning in &document.warnings {
            context.warning("", "Ignored", warning.clone());
        }
        if !content.is_object() {
            let problem = "a document is no object: it needs apiVersion, kind and metadata";
            context.error("", "Unreadable", problem.to_owned());
            continue;
        }
        let owner = ownership(content);
        if owner == Ownership::Foreign {
            continue;
        }
        let kind = content.get("kind").and_then(Value::as_str).unwrap_or_default();
        context.object = format!("{kind} {}", key_of(content));
        objects += usize::from(matches!(owner, Ownership::Own(_) | Ownership::Mistyped(_)));
        match owner {
            Ownership::Own(kind) => {
                let earlier = paths_by_object.entry(context.object.clone()).or_default();
                check_duplicate(earlier, &mut context);
                earlier.push(&document.path);
                check_object(&schemas, kind, content, &mut context);
            }
            Ownership::Data(kind) => {
                for fault in check_data_object(content, kind) {
                    context.error(&fault.field, "InvalidSchema", fault.problem);
                }
            }
            Ownership::Mistyped(problem) => context.error("apiVersion", "UnknownKind", problem),
            Ownership::Namesake(problem) => context.warning("apiVersion", "OtherApplication", problem),
            Ownership::Foreign => {}
        }
    }
    check_references(documents, &mut findings);
    let valid = findings.iter().all(|finding| finding.severity != Severity::Error);
    ValidationReport { valid, objects, findings }
}

/// Returns the errors of one manifest, each with its field.
pub fn find_errors(schemas: &Schemas, manifest: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let mut context = FindingContext { file: Path::new(""), object: String::new(), findings: &mut findings };
    let violations = schemas.check(manifest);
    if violations.is_empty() {
        let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
        check_rules(kind, manifest, &mut context);
    }
    let errors = findings.into_iter().filter(|finding| finding.severity == Severity::Error);
    let errors = errors.map(|finding| format!("{}: {}", finding.field, finding.message));
    violations.iter().map(ToString::to_string).chain(errors).collect()
}

/// Reports an object that is defined twice. Within one folder this is an error, because applying the folder silently loses
/// one of them. In different folders it is a warning, because those are usually for different clusters.
fn check_duplicate(earlier: &[&Path], context: &mut FindingContext<'_>) {
    let folder = context.file.parent();
    let (severity, message) = match (earlier.iter().find(|path| path.parent() == folder), earlier.first()) {
        (Some(path), _) => (
            Severity::Error,
            format!("also defined in {}: the one that is applied last replaces the other", path.display()),
        ),
        (None, Some(path)) => (
            Severity::Warning,
            format!(
                "also defined in {}: fine if the folders are for different clusters or namespaces",
                path.display()
            ),
        ),
        (None, None) => return,
    };
    context.findings.push(Finding { severity, message, ..context.finding("metadata.name", "Duplicate") });
}

/// Checks an object of our group: its schema, then its rules.
fn check_object(schemas: &Schemas, kind: &str, content: &Value, context: &mut FindingContext<'_>) {
    let faults = schemas.check(content);
    for fault in &faults {
        context.error(&fault.field, "InvalidSchema", fault.problem.clone());
    }
    if faults.is_empty() {
        check_rules(kind, content, context);
    }
}

/// Checks the rules of an object that its schema cannot express.
fn check_rules(kind: &str, document: &Value, context: &mut FindingContext<'_>) {
    match kind {
        "EventHook" => {
            if let Some(Handler::WebhookCustom(custom)) =
                validate_with(document, context, hook::validate).map(|hook| hook.handler)
            {
                check_escapes(&custom, context);
            }
        }
        "EventStream" => drop(validate_with(document, context, stream::validate)),
        "Hook" => drop(validate_with(document, context, auth0_hook::validate)),
        _ => {}
    }
}

/// Deserializes and validates an object. Reports errors, and returns None for them.
fn validate_with<K: DeserializeOwned, T>(
    document: &Value,
    context: &mut FindingContext<'_>,
    validate: fn(&K) -> Result<T, InvalidSpec>,
) -> Option<T> {
    let object: K = match serde_json::from_value(document.clone()) {
        Ok(object) => object,
        Err(error) => {
            context.error("spec", "InvalidSpec", error.to_string());
            return None;
        }
    };
    validate(&object).map_err(|invalid| context.invalid(&invalid)).ok()
}

/// Warns of `{{ }}` in JSON bodies. It escapes for HTML: a quote in the value becomes `&quot;`, and a line end makes the JSON
/// invalid.
fn check_escapes(custom: &WebhookCustom, context: &mut FindingContext<'_>) {
    let is_json_template = matches!(custom.body_format, TextFormat::Template) && custom.sends_json_text();
    let Some(body) = custom.body.as_ref().filter(|_| is_json_template) else { return };
    let Ok(template) = Template::parse(body) else { return };
    for escaped in template.html_escaped_tags() {
        let code = escaped.code.trim();
        context.findings.push(Finding {
            severity: Severity::Warning,
            message: format!(
                "line {}, column {}: {{{{ {code} }}}} escapes for HTML, not for JSON: write {{* json({code}) *}} without quotes around it",
                escaped.line, escaped.column
            ),
            line: Some(escaped.line),
            column: Some(escaped.column),
            ..context.finding("spec.handler.webhookCustom.body", "HtmlInJson")
        });
    }
}
