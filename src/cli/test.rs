//! `hookstream test`: one hook, run once on one event's data, here.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::output::{self, HELP, Output};
use super::settings::{EgressArgs, ScriptArgs};
use super::{Failure, OrFail, Outcome, data, say};
use crate::api::SecretKeyRef;
use crate::cluster::files::Offline;
use crate::cluster::{Cluster, Data, Key};
use crate::core::event::Event;
use crate::core::hook::{Handler, Hook, Target, validate};
use crate::core::redact::{MASK, mask};
use crate::net::HttpClient;
use crate::sandbox::Sandbox;
use crate::worker::handlers::{Outgoing, Sender, Sent, posted_event, shown_data};

/// The most of --data that is read: an event may not be larger.
const MAX_DATA: u64 = 1 << 20;
/// What stands for Secrets that a dry run does not have. Shown masked.
const NO_URL: &str = "https://secret.invalid/";
const NO_SECRET: &str = "no-such-secret";

/// Run one hook on one event's data: what would be sent, or what came of it.
///
/// The handler is run here, without a worker and past the gates and the filter. Exit code 1: it failed, or the receiver
/// did not answer 2xx.
///
/// Example: hookstream test -f hook.yaml --data '{"operation":"create"}' --dry-run
/// Example: hookstream test -f hook.yaml -f secrets.yaml --data @consumer.json --event consumers --output json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A manifest with the EventHook; more for its Secrets and ConfigMaps. Files or folders.
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Which hook, where the manifests hold several: its name, or namespace/name.
    #[arg(long, value_name = "NAME")]
    hook: Option<String>,
    /// The event's data: JSON, @FILE, or - (also @-) for standard input.
    #[arg(long, value_name = "JSON|@FILE", allow_hyphen_values = true)]
    data: String,
    /// The event. Default: the hook's.
    #[arg(long)]
    event: Option<String>,
    /// Send nothing: show the request. Lambdas run all the same, for they can change nothing.
    #[arg(long)]
    dry_run: bool,
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: Output,
    #[command(flatten)]
    scripts: ScriptArgs,
    #[command(flatten)]
    egress: EgressArgs,
}

pub async fn run(args: Args) -> Outcome {
    let data = data::read(&args.data, MAX_DATA)?;
    let mut offline = Offline::read(args.files.clone()).or_fail(|| "--file".into())?;
    let hook = pick(&offline, args.hook.as_deref())?;
    if args.dry_run {
        stand_in(&mut offline, &hook).await;
    }
    let event = posted_event(&hook, args.event.as_deref(), data);
    let http = HttpClient::new(args.egress.open(true, Vec::new()).await?)
        .or_fail(|| "reading the system's certificates".into())?;
    let sandbox = Sandbox::start(args.scripts.options()).await;
    let sender = Sender::new(http, Arc::new(offline), sandbox);
    match (&hook.handler, args.dry_run) {
        (Handler::Webhook(_) | Handler::WebhookCustom(_), true) => {
            let request = sender.dry_run(&hook, event).await.map_err(|sent| failed(&sent))?;
            show_request(&request, args.output)
        }
        (Handler::Log, true) => {
            output::print(args.output, &Sender::log_line(&hook, event))?;
            Ok(ExitCode::SUCCESS)
        }
        _ => send(&sender, &hook, event, &args).await,
    }
}

async fn send(sender: &Sender, hook: &Hook, event: Event, args: &Args) -> Outcome {
    let data = shown_data(&event);
    let tested = sender.test(hook, event).await.map_err(|sent| failed(&sent))?;
    let value = serde_json::to_value(&tested).or_fail(|| "writing JSON".into())?;
    match (&hook.handler, args.output) {
        // What it wrote stands there already.
        (Handler::Log, Output::Table) => {}
        (Handler::Lambda(_), output) => output::print(output, &value)?,
        (_, output) => output::print(output, &json!({"data": data, "result": value}))?,
    }
    match tested.failure() {
        None => Ok(ExitCode::SUCCESS),
        Some(why) => Err(Failure { code: 1, message: why }),
    }
}

/// Why nothing came of it. What is missing is no finding: it could not be done.
fn failed(sent: &Sent) -> Failure {
    match sent {
        // Here Secrets are read of the manifests alone.
        Sent::NotNow { detail, .. } => Failure::new(format!("{detail} (more manifests: --file)")),
        Sent::Failed { reason, detail }
        | Sent::Partly { reason, detail, .. }
        | Sent::Hopeless { reason, detail } => Failure { code: 1, message: format!("{reason}: {detail}") },
        Sent::Answer { .. } | Sent::Done => Failure { code: 1, message: "the handler did not answer".into() },
    }
}

/// The hook that is meant.
fn pick(offline: &Offline, asked: Option<&str>) -> Result<Hook, Failure> {
    let mut hooks = offline.hooks();
    if let Some(asked) = asked {
        hooks.retain(|(key, _)| key.name == asked || key.to_string() == asked);
    }
    let several = hooks.len() > 1;
    let names: Vec<String> = hooks.iter().map(|(key, _)| key.to_string()).collect();
    let Some((key, object)) = hooks.into_iter().next().filter(|_| !several) else {
        let what = match asked {
            Some(asked) => format!("--hook {asked}"),
            None => "--file".to_owned(),
        };
        return Err(Failure::new(match several {
            true => {
                format!("{what}: there are several EventHooks, say which by --hook: {}", names.join(", "))
            }
            false => format!("{what}: there is no such EventHook in the manifests"),
        }));
    };
    let invalid = |why: String| Failure { code: 1, message: format!("EventHook {key}: {why}") };
    validate(&object.map_err(invalid)?).map_err(|error| invalid(error.to_string()))
}

/// Puts something in the place of Secrets that are not in the manifests: a dry run masks them anyway.
async fn stand_in(offline: &mut Offline, hook: &Hook) {
    let handler = &hook.handler;
    let url = match handler.target() {
        Some(Target::Secret(reference)) => Some((reference, NO_URL)),
        Some(Target::Url(_)) | None => None,
    };
    let signature = handler.signature().map(|signature| (&signature.secret_ref, NO_SECRET));
    let headers = handler.headers_from().iter().map(|from| (&from.secret_ref, NO_SECRET));
    let all: Vec<(&SecretKeyRef, &str)> = url.into_iter().chain(signature).chain(headers).collect();
    for (reference, _) in &all {
        let key = Key::new(&hook.namespace, &reference.name);
        if !matches!(offline.secret(&key).await, Ok(None)) {
            continue;
        }
        let of_it = all.iter().filter(|(other, _)| other.name == reference.name);
        let data = of_it.map(|(other, value)| (other.key.clone(), value.as_bytes().to_vec()));
        offline.add_secret(key, Data::new(data));
    }
}

/// Shows a request, what is secret in it masked.
fn show_request(request: &Outgoing, output: Output) -> Outcome {
    let shown = |text: &str| mask(text, request.secrets.iter().map(ExposeSecret::expose_secret));
    let headers: Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| {
            let text = match value.is_sensitive() {
                true => MASK.to_owned(),
                false => shown(&String::from_utf8_lossy(value.as_bytes())),
            };
            (name.to_string(), Value::String(text))
        })
        .collect();
    let mut told = json!({"method": request.method.as_str(), "url": shown(&request.uri.to_string()), "headers": headers});
    let body = match std::str::from_utf8(&request.body) {
        Ok(text) => ("body", shown(text)),
        Err(_) => ("bodyBase64", STANDARD.encode(&request.body)),
    };
    if let Some(members) = told.as_object_mut() {
        members.insert(body.0.to_owned(), body.1.clone().into());
    }
    match output {
        Output::Table => {
            say(&format!("{} {}", request.method, shown(&request.uri.to_string())));
            for (name, value) in &headers {
                say(&format!("{name}: {}", value.as_str().unwrap_or_default()));
            }
            say(&format!("\n{}", body.1));
        }
        other => output::print(other, &told)?,
    }
    Ok(ExitCode::SUCCESS)
}
