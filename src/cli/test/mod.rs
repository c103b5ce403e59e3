//! `hookstream test`: runs one hook once on one event, in this process.

mod stored_event;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use crate::api::SecretKeyRef;
use crate::cli::event_data::read_event_data;
use crate::cli::failure::{CommandResult, Failure, OrFail};
use crate::cli::flags::{EgressArgs, ScriptArgs, WebhookOriginArgs};
use crate::cli::output::{self, HELP, OutputFormat, print_line, strip_control_chars};
use crate::cluster::files::OfflineManifests;
use crate::cluster::{Cluster, Data, ObjectKey};
use crate::core::event::Event;
use crate::core::hook::{CompiledHook, Handler, RequestTarget, validate};
use crate::core::output::MAX_OUTPUT;
use crate::core::redact::{MASK, mask};
use crate::memory::MemoryPool;
use crate::metrics::MemoryShareMetrics;
use crate::net::HttpClient;
use crate::sandbox::Sandbox;
use crate::worker::handlers::{
    HandlerOutcome, HandlerRunner, OutgoingRequest, ShownTest, posted_event, shown_data,
};
use stored_event::StoredEventArgs;
use verdict::Verdict;

/// The largest --data, in bytes: the default limit of an event.
const MAX_DATA_BYTES: u64 = 1 << 20;
/// Placeholders for Secrets that a dry run does not have. They are printed masked.
const PLACEHOLDER_URL: &str = "https://secret.invalid/";
/// Valid for every purpose, also as base64.
const PLACEHOLDER_SECRET: &str = "placeholder00000";

/// Run one hook on one event's data, and print the result; with --dry-run print the request instead.
///
/// The handler runs in this process. What the filter and the gates would do is printed before; the state of gates is in the
/// worker. If the filter does not accept the event, the handler does not run. Exit code 1: that, the handler failed, or the
/// receiver did not answer 2xx.
///
/// Example: hookstream test -f hook.yaml --data '{"operation":"create"}' --dry-run
/// Example: hookstream test -f hook.yaml --event-id order-1 --dry-run
/// Example: hookstream test -f hook.yaml -f secrets.yaml --data @consumer.json --event consumers --output json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A file or folder with manifests of the EventHook and its Secrets and ConfigMaps; may be repeated.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// The hook, if the manifests contain several: its name, or namespace/name.
    #[arg(long, value_name = "NAME")]
    hook: Option<String>,
    /// The event's data: JSON, @FILE, or - (also @-) for standard input.
    #[arg(long, value_name = "JSON|@FILE", allow_hyphen_values = true, required_unless_present = "event_id")]
    data: Option<String>,
    /// The event's name. Default: the hook's.
    #[arg(long)]
    event: Option<String>,
    #[command(flatten)]
    stored: StoredEventArgs,
    /// Run the handler even if the filter does not accept the event.
    #[arg(long)]
    ignore_filter: bool,
    /// Print the request instead of sending it. Lambdas run, because they have no side effects.
    #[arg(long)]
    dry_run: bool,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
    #[command(flatten)]
    webhook_origin: WebhookOriginArgs,
    #[command(flatten)]
    scripts: ScriptArgs,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(args: Args) -> CommandResult {
    // Before the manifests, because standard input can be read once.
    let data = args.data.as_deref().map(|data| read_event_data(data, MAX_DATA_BYTES)).transpose()?;
    let mut manifests = OfflineManifests::read(args.files.clone()).or_fail(|| "--file".into())?;
    let hook = find_hook(&manifests, args.hook.as_deref())?;
    if args.dry_run {
        add_placeholder_secrets(&mut manifests, &hook).await;
    }
    let stored = args.stored.read(&hook).await?;
    let event = match (stored, data) {
        (Some(event), _) => event,
        (None, data) => posted_event(&hook, args.event.as_deref(), data.unwrap_or_default()),
    };
    let verdict = Verdict::of(&hook, &event);
    // On standard error, because the result on standard output is the handler's.
    verdict.lines().iter().for_each(|line| eprintln!("{}", strip_control_chars(line)));
    if let Some(why) = verdict.refusal().filter(|_| !args.ignore_filter) {
        let message = format!("{why}: the handler did not run (--ignore-filter runs it)");
        return Err(Failure { code: 1, message });
    }
    let http = HttpClient::new(args.egress.build(true, Vec::new()).await?)
        .or_fail(|| "loading the system's certificates".into())?;
    let sandbox = Sandbox::start(args.scripts.options()).await;
    let rendered = Arc::new(MemoryPool::new(MAX_OUTPUT as u64, MemoryShareMetrics::default()));
    let sender =
        HandlerRunner::new(http, Arc::new(manifests), sandbox, rendered, args.webhook_origin.name.clone());
    match (&hook.handler, args.dry_run) {
        (Handler::Webhook(_) | Handler::WebhookCustom(_), true) => {
            let request = sender.dry_run(&hook, event).await.map_err(|sent| failure_of(&sent))?;
            print_request(&request, args.output)
        }
        (Handler::Log, true) => {
            let line = HandlerRunner::log_line(&hook, event).or_fail(|| "writing JSON".into())?;
            output::print_json(args.output, &line)?;
            Ok(ExitCode::SUCCESS)
        }
        _ => send(&sender, &hook, event, args.output).await,
    }
}

async fn send(
    sender: &HandlerRunner,
    hook: &CompiledHook,
    event: Event,
    output: OutputFormat,
) -> CommandResult {
    let data = shown_data(&event).or_fail(|| "--data".into())?;
    let result = sender.test(hook, event).await.map_err(|sent| failure_of(&sent))?;
    let failure = result.failure();
    match (&hook.handler, output) {
        // The handler already printed its own line.
        (Handler::Log, OutputFormat::Table) => {}
        (Handler::Lambda(_), output) => output::print_value(output, &result)?,
        (_, output) => {
            let shown = to_raw_value(&ShownTest { data, result }).or_fail(|| "writing JSON".into())?;
            output::print_json(output, &shown)?;
        }
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(message) => Err(Failure { code: 1, message }),
    }
}

/// Converts a result without a response into a failure. A missing reference has exit code 2, because the hook could not be
/// tested; everything else has exit code 1.
fn failure_of(sent: &HandlerOutcome) -> Failure {
    match sent {
        // Secrets are read only from the manifests.
        HandlerOutcome::NotReady { detail, .. } => Failure::new(format!("{detail} (more manifests: --file)")),
        HandlerOutcome::Postponed { reason, detail } => {
            Failure { code: 1, message: format!("{reason}: {detail}") }
        }
        HandlerOutcome::Failed { reason, detail } | HandlerOutcome::PartlyFailed { reason, detail, .. } => {
            Failure { code: 1, message: format!("{}: {detail}", reason.as_str()) }
        }
        HandlerOutcome::Undeliverable { reason, detail } => {
            Failure { code: 1, message: format!("{}: {detail}", reason.as_str()) }
        }
        HandlerOutcome::Answered { .. } | HandlerOutcome::Completed => {
            Failure { code: 1, message: "the handler returned no result".into() }
        }
    }
}

/// Finds and validates the hook with this name, or the only one.
fn find_hook(manifests: &OfflineManifests, name: Option<&str>) -> Result<CompiledHook, Failure> {
    let mut hooks = manifests.hooks();
    if let Some(name) = name {
        hooks.retain(|(key, _)| key.name == name || key.to_string() == name);
    }
    let is_ambiguous = hooks.len() > 1;
    let names: Vec<String> = hooks.iter().map(|(key, _)| key.to_string()).collect();
    let Some((key, object)) = hooks.into_iter().next().filter(|_| !is_ambiguous) else {
        let flag = match name {
            Some(name) => format!("--hook {name}"),
            None => "--file".to_owned(),
        };
        return Err(Failure::new(match is_ambiguous {
            true => {
                format!(
                    "{flag}: the manifests contain several EventHooks, choose one with --hook: {}",
                    names.join(", ")
                )
            }
            false => format!("{flag}: the manifests contain no such EventHook"),
        }));
    };
    let invalid = |why: String| Failure { code: 1, message: format!("EventHook {key}: {why}") };
    validate(&object.map_err(invalid)?).map_err(|error| invalid(error.to_string()))
}

/// Adds placeholders for Secrets that are not in the manifests; a dry run masks their values anyway.
async fn add_placeholder_secrets(manifests: &mut OfflineManifests, hook: &CompiledHook) {
    let handler = &hook.handler;
    let url = match handler.target() {
        Some(RequestTarget::Secret(reference)) => Some((reference, PLACEHOLDER_URL)),
        Some(RequestTarget::Url(_)) | None => None,
    };
    let signature = handler.signature().map(|signature| (&signature.secret_ref, PLACEHOLDER_SECRET));
    let headers = handler.headers_from().iter().map(|from| (&from.secret_ref, PLACEHOLDER_SECRET));
    let client = handler.oauth2().map(|oauth2| (&oauth2.client_secret_ref, PLACEHOLDER_SECRET));
    let placeholders: Vec<(&SecretKeyRef, &str)> =
        url.into_iter().chain(signature).chain(headers).chain(client).collect();
    for (reference, _) in &placeholders {
        let key = ObjectKey::new(&hook.namespace, &reference.name);
        if !matches!(manifests.secret(&key).await, Ok(None)) {
            continue;
        }
        let keys = placeholders.iter().filter(|(other, _)| other.name == reference.name);
        let data = keys.map(|(other, value)| (other.key.clone(), value.as_bytes().to_vec()));
        manifests.add_secret(key, Data::new(data));
    }
}

/// Prints a request with its secrets masked.
fn print_request(request: &OutgoingRequest, output: OutputFormat) -> CommandResult {
    let mask_secrets = |text: &str| mask(text, request.secrets.iter().map(ExposeSecret::expose_secret));
    let headers: Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let text = match value.is_sensitive() {
                true => MASK.to_owned(),
                false => mask_secrets(&String::from_utf8_lossy(value.as_bytes())),
            };
            (name.to_string(), Value::String(text))
        })
        .collect();
    let mut value = json!({"method": request.method.as_str(), "url": mask_secrets(&request.uri.to_string()), "headers": headers});
    let body = match std::str::from_utf8(&request.body) {
        Ok(text) => ("body", mask_secrets(text)),
        Err(_) => ("bodyBase64", STANDARD.encode(&request.body)),
    };
    if let Some(members) = value.as_object_mut() {
        members.insert(body.0.to_owned(), body.1.clone().into());
    }
    match output {
        OutputFormat::Table => {
            print_line(&format!("{} {}", request.method, mask_secrets(&request.uri.to_string())));
            for (name, value) in &headers {
                print_line(&format!("{name}: {}", value.as_str().unwrap_or_default()));
            }
            print_line(&format!("\n{}", body.1));
        }
        other => output::print_value(other, &value)?,
    }
    Ok(ExitCode::SUCCESS)
}
