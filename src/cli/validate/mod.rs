//! `hookstream validate`: checks manifests without a cluster.

mod catalogue;
mod finding;
mod references;
mod report;
mod templates;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::{CommandResult, OrFail};
use super::output::{self, OutputFormat, print_line, strip_control_chars};
use crate::api::{self, API_VERSION, GROUP};
use catalogue::check_catalogue;
use finding::{Finding, FindingContext, Severity};
use references::{check_references, key_of};
use templates::check_templates;

use crate::cluster::files::{
    Document, NOT_RENDERED, Ownership, check_data_object, find_helm_value, ownership, read_documents,
};
use crate::core::filter::run_with_parser_stack;
use crate::core::hook::{self, Handler, InvalidSpec};
use crate::core::parallel::map_parts;
use crate::core::schema::Schemas;
use crate::core::{auth0_hook, stream};

/// The least documents that are worth a thread.
const MIN_PART: usize = 64;

/// Check manifests without a cluster: schemas, rules, durations, filters, templates, lambdas, names and references.
///
/// Files are read as kubectl reads them. Secrets and ConfigMaps are checked as the API server checks them; objects of other
/// groups are skipped, unless their group or version looks mistyped. A reference to an object that the files do not contain
/// is a warning, because it may be created elsewhere; so is a source or event that Kong does not document. Exit code 1:
/// there are errors. Warnings do not change the exit code without --strict.
///
/// Example: hookstream validate deploy/samples/quickstart
/// Example: kustomize build . | hookstream validate - --strict --output github
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Files or folders with manifests (*.yaml, *.yml, *.json), or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Exit with 1 for warnings too.
    #[arg(long, env = "HOOKSTREAM_VALIDATE_STRICT")]
    strict: bool,
    /// The output format. github: annotations of GitHub Actions; sarif: for code scanning; junit: for test reports.
    // Not HOOKSTREAM_OUTPUT, because other commands do not have these formats.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_VALIDATE_OUTPUT")]
    output: ReportFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    Yaml,
    Github,
    Sarif,
    Junit,
}

/// The result of all checks.
#[derive(Serialize)]
struct ValidationReport {
    valid: bool,
    /// The number of checked objects.
    objects: usize,
    findings: Vec<Finding>,
    /// The file and name of each checked object.
    #[serde(skip)]
    checked: Vec<(String, String)>,
}

pub fn run(args: &Args) -> CommandResult {
    let documents = read_documents(&args.paths).or_fail(|| "validate".into())?;
    let mut report = check_documents(&documents);
    report.valid &= !args.strict || report.findings.is_empty();
    match args.output {
        ReportFormat::Table => print_report(&report),
        ReportFormat::Json => output::print_value(OutputFormat::Json, &report)?,
        ReportFormat::Yaml => output::print_value(OutputFormat::Yaml, &report)?,
        ReportFormat::Github => report::github(&report).iter().for_each(|line| print_line(line)),
        ReportFormat::Sarif => output::print_value(OutputFormat::Json, &report::sarif(&report))?,
        ReportFormat::Junit => print_line(&report::junit(&report, args.strict)),
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn print_report(report: &ValidationReport) {
    let header = ["SEVERITY", "LOCATION", "OBJECT", "FIELD", "PROBLEM"];
    let rows = report.findings.iter().map(|finding| {
        let severity: &str = finding.severity.into();
        [severity, &finding.location(), &finding.object, &finding.field, &finding.message]
            .map(strip_control_chars)
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

/// The result of checking one document by itself.
#[derive(Default)]
struct CheckedDocument {
    /// Kind, namespace and name of an object that is checked.
    object: Option<String>,
    /// True if it must not be defined twice.
    is_unique: bool,
    findings: Vec<Finding>,
}

fn check_documents(documents: &[Document]) -> ValidationReport {
    let mut findings = Vec::new();
    let (mut checked, mut paths_by_object) = (Vec::new(), HashMap::<_, Vec<&Path>>::new());
    for (document, CheckedDocument { object, is_unique, findings: own }) in
        documents.iter().zip(check_in_parallel(documents))
    {
        if let Some(object) = object {
            checked.push((document.path.display().to_string(), object.clone()));
            if is_unique {
                let earlier: &mut Vec<&Path> = paths_by_object.entry(object.clone()).or_default();
                let source = Some(&document.source);
                let context =
                    &mut FindingContext { file: &document.path, source, object, findings: &mut findings };
                check_duplicate(earlier, context);
                earlier.push(&document.path);
            }
        }
        findings.extend(own);
    }
    check_references(documents, &mut findings);
    findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
    let valid = findings.iter().all(|finding| finding.severity != Severity::Error);
    ValidationReport { valid, objects: checked.len(), findings, checked }
}

/// Checks each document, on a thread for each core. The results have the order of the documents.
fn check_in_parallel(documents: &[Document]) -> Vec<CheckedDocument> {
    let schemas = Schemas::from_crds(&api::crds());
    let check = |part: &[Document]| -> Vec<CheckedDocument> {
        part.iter().map(|document| check_document(&schemas, document)).collect()
    };
    // The filters' parser needs a large stack, and otherwise a thread for each filter.
    map_parts(documents, MIN_PART, |part| match run_with_parser_stack(|| check(part)) {
        Ok(Ok(checked)) => checked,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // Without a thread of this stack, each filter gets one, or fails with this reason.
        Err(_) => check(part),
    })
}

/// Checks a document by itself.
fn check_document(schemas: &Schemas, document: &Document) -> CheckedDocument {
    let mut checked = CheckedDocument::default();
    let mut context = FindingContext {
        file: &document.path,
        source: Some(&document.source),
        object: String::new(),
        findings: &mut checked.findings,
    };
    let Some(content) = check_content(document, &mut context) else { return checked };
    let owner = ownership(content);
    if owner == Ownership::Foreign && !lacks_kind(content) {
        return checked;
    }
    let kind = content.get("kind").and_then(Value::as_str).unwrap_or_default();
    context.object = format!("{kind} {}", key_of(content)).trim_start().to_owned();
    if matches!(owner, Ownership::Own(_) | Ownership::Mistyped(_)) {
        checked.object = Some(context.object.clone());
    }
    let helm_tag = find_helm_value(document.source.text(), content);
    match owner {
        Ownership::Own(_) if helm_tag.is_some() => add_helm(helm_tag.unwrap_or_default(), &mut context),
        Ownership::Own(kind) => {
            checked.is_unique = true;
            check_object(schemas, kind, content, &mut context);
        }
        Ownership::Data(kind) => {
            for fault in check_data_object(content, kind) {
                context.error(&fault.field, "InvalidSchema", fault.problem);
            }
        }
        Ownership::Mistyped(problem) => context.error("apiVersion", "UnknownKind", problem),
        Ownership::Namesake(problem) => context.warning("apiVersion", "OtherApplication", problem),
        Ownership::Foreign => {
            let problem =
                format!("is missing: write apiVersion: {API_VERSION} and kind: EventHook, or another");
            context.error("kind", "UnknownKind", problem);
        }
    }
    checked
}

/// Returns the content of a document if it can be checked, and reports problems of the file.
fn check_content<'d>(document: &'d Document, context: &mut FindingContext<'_>) -> Option<&'d Value> {
    let content = match &document.content {
        Ok(content) => content,
        Err(problem) => {
            let reason = if problem.message == NOT_RENDERED { "NotRendered" } else { "Unreadable" };
            context.file_problem(Severity::Error, reason, problem);
            return None;
        }
    };
    for warning in &document.warnings {
        context.file_problem(Severity::Warning, "Ignored", warning);
    }
    if !content.is_object() {
        let problem = "a document is no object: it needs apiVersion, kind and metadata";
        context.error("", "Unreadable", problem.to_owned());
        return None;
    }
    Some(content)
}

fn add_helm(offset: usize, context: &mut FindingContext<'_>) {
    let position = context.source.map(|source| source.position_of_offset(offset));
    let finding = context.finding("", "NotRendered").at(position);
    context.findings.push(Finding { message: NOT_RENDERED.to_owned(), ..finding });
}

/// Returns true for a document that is likely one of ours without a kind, which kubectl rejects.
fn lacks_kind(content: &Value) -> bool {
    let has = |pointer: &str| content.pointer(pointer).is_some();
    !has("/kind") && has("/metadata") && (has("/spec/handler") || has("/spec/source"))
}

/// Returns the errors of one manifest, each with its field.
pub fn find_errors(schemas: &Schemas, manifest: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    let mut context =
        FindingContext { file: Path::new(""), source: None, object: String::new(), findings: &mut findings };
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
            check_catalogue(document, context);
            if let Some(Handler::WebhookCustom(custom)) =
                validate_with(document, context, hook::validate).map(|hook| hook.handler)
            {
                check_templates(&custom, context);
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
