//! `hookstream send`: publishes one event, or many from a file.

mod lines;
mod many;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::event_data::read_event_data;
use super::failure::{CommandResult, Failure, OrFail};
use super::flags::parse_url;
use super::output::{HELP, OutputFormat, print_line, print_value, strip_control_chars};
use super::worker_args::{CallerArgs, ServiceFlag, ServicePort, WorkerPort};
use crate::core::duration;

/// The largest data that is read, in bytes: more than any worker accepts.
const MAX_DATA_BYTES: u64 = 64 << 20;

/// The time between two requests for the deliveries' states.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Publish an event to a worker, or many events from a file.
///
/// Says if the event is a duplicate or if no hook matched it. Exit code 1: it was rejected, or with --strict one of these.
///
/// Example: hookstream send -n demo --source crud --event consumers --data '{"operation": "create"}'
/// Example: hookstream send -n demo --file events.jsonl --rate 100
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    caller: CallerArgs,
    /// The event's source, for example crud. With --file, of lines without one.
    #[arg(long, env = "HOOKSTREAM_SOURCE", required_unless_present = "file")]
    source: Option<String>,
    /// The event's name, for example consumers. With --file, of lines without one.
    #[arg(long, env = "HOOKSTREAM_EVENT", required_unless_present = "file")]
    event: Option<String>,
    /// The event's data: JSON, @FILE, or - (also @-) for standard input.
    // Not HOOKSTREAM_DATA, which names the data folder of other commands.
    #[arg(
        long,
        value_name = "JSON|@FILE",
        env = "HOOKSTREAM_EVENT_DATA",
        allow_hyphen_values = true,
        required_unless_present = "file"
    )]
    data: Option<String>,
    /// Send the events of this file, or of standard input (-): one JSON object with id, source, event and data on each line.
    #[arg(long, value_name = "FILE|-", env = "HOOKSTREAM_EVENT_FILE", conflicts_with_all = ["data", "id", "wait"])]
    file: Option<String>,
    /// With --file, the most events a second. Default: no limit.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000), requires = "file", env = "HOOKSTREAM_SEND_RATE")]
    rate: Option<u32>,
    /// With --file, the events that are sent at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64), env = "HOOKSTREAM_SEND_CONCURRENCY")]
    concurrency: u8,
    /// Exit with 1 if an event was a duplicate or if no hook matched it.
    #[arg(long, env = "HOOKSTREAM_STRICT_SEND")]
    strict: bool,
    /// The event's id; a second event with the same id is a duplicate. Default: the worker generates one.
    #[arg(long, env = "HOOKSTREAM_ID")]
    id: Option<String>,
    /// The URL of the worker's ingest port. Default: http://127.0.0.1:8080.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_URL")]
    url: Option<Url>,
    /// Reach the ingest port in the cluster instead, through the API server and your kubeconfig. Requires permission to create
    /// services/proxy. Without a value: the chart's Service.
    #[arg(
        long,
        default_service = "hookstream-system/hookstream-ingest:ingest",
        env = "HOOKSTREAM_INGEST_SERVICE"
    )]
    service: Option<ServicePort>,
    /// Wait up to this time (such as 30s) for all deliveries of the event to finish. Exit code 1: no hook matched, or a
    /// delivery failed or did not finish in time.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_WAIT")]
    wait: Option<Duration>,
    /// The URL of the worker's API port, which --wait polls. Default: http://127.0.0.1:8082.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "HOOKSTREAM_API_URL")]
    api_url: Option<Url>,
    /// Reach the API port in the cluster instead, like --service. Requires permission to get services/proxy.
    #[arg(long, default_service = "hookstream-system/hookstream-api:api", env = "HOOKSTREAM_API_SERVICE")]
    api_service: Option<ServicePort>,
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT", env = "HOOKSTREAM_OUTPUT", help = HELP)]
    output: OutputFormat,
}

#[derive(Serialize)]
struct EventBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    source: &'a str,
    event: &'a str,
    /// Sent unchanged, so that numbers keep their digits.
    data: &'a RawValue,
}

/// A list of deliveries, with only the members that are used here.
#[derive(Deserialize)]
struct DeliveryList {
    items: Vec<DeliveryItem>,
}

#[derive(Deserialize)]
struct DeliveryItem {
    id: String,
    state: String,
}

/// The worker's response to an accepted event.
#[derive(Serialize, Deserialize)]
struct AcceptedEvent {
    id: String,
    deliveries: u64,
    /// Absent unless true, and in responses of older workers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

pub async fn run(args: Args) -> CommandResult {
    if let Some(file) = &args.file {
        return many::run(&args, file).await;
    }
    let data = read_event_data(args.data.as_deref().unwrap_or_default(), MAX_DATA_BYTES)?;
    let [source, event] = [&args.source, &args.event].map(|text| text.as_deref().unwrap_or_default());
    let event = EventBody { id: args.id.as_deref(), source, event, data: &data };
    let body = serde_json::to_vec(&event).or_fail(|| "writing the event".into())?;
    let worker = args.caller.connect(args.url.as_ref(), args.service.as_ref(), WorkerPort::Ingest).await?;
    let url = worker.url(&args.caller.namespace, &["events"])?;
    // Report a rejected event (4xx) as a finding, with exit code 1.
    let response = worker.post(url, body).await?.success(1)?;
    let accepted: AcceptedEvent = response.json()?;
    print(&accepted, args.output)?;
    let remark = match &accepted {
        AcceptedEvent { duplicate: true, .. } => Some(format!(
            "the event {} is a duplicate: nothing was stored",
            strip_control_chars(&accepted.id)
        )),
        AcceptedEvent { deliveries: 0, .. } => {
            Some(format!("no hook matched the event: see `{}`", explain_command(&args, &accepted)))
        }
        _ => None,
    };
    match (remark, args.wait) {
        (Some(message), _) if args.strict => return Err(Failure { code: 1, message }),
        // To wait reports it too.
        (Some(message), None) => eprintln!("hookstream: {message}"),
        (Some(message), Some(_)) if accepted.duplicate => eprintln!("hookstream: {message}"),
        _ => {}
    }
    match args.wait {
        None => Ok(ExitCode::SUCCESS),
        Some(timeout) => wait_for_deliveries(&args, &accepted, timeout).await,
    }
}

/// Polls until every delivery of the event has finished, or until the timeout.
async fn wait_for_deliveries(args: &Args, accepted: &AcceptedEvent, timeout: Duration) -> CommandResult {
    let finding = |message: String| Err(Failure { code: 1, message });
    if accepted.deliveries == 0 {
        return finding(format!("no hook matched the event: see `{}`", explain_command(args, accepted)));
    }
    let api = args.caller.connect(args.api_url.as_ref(), args.api_service.as_ref(), WorkerPort::Api).await?;
    let mut url = api.url(&args.caller.namespace, &["deliveries"])?;
    url.query_pairs_mut().append_pair("event", &accepted.id).append_pair("limit", "500");
    let started = Instant::now();
    loop {
        let response = api.get(url.clone()).await?.success(2)?;
        let list: DeliveryList = response.json()?;
        if list.items.iter().all(|delivery| delivery.state != "pending") {
            let is_failed =
                |delivery: &&DeliveryItem| !matches!(delivery.state.as_str(), "delivered" | "dropped");
            return match list.items.iter().find(is_failed) {
                None => Ok(ExitCode::SUCCESS),
                Some(DeliveryItem { id, state }) => finding(format!(
                    "delivery {} is {}: see `{}`",
                    strip_control_chars(id),
                    strip_control_chars(state),
                    explain_command(args, accepted)
                )),
            };
        }
        if started.elapsed() >= timeout {
            return finding(format!(
                "not delivered within {} s (--wait): see `{}`",
                timeout.as_secs_f64(),
                explain_command(args, accepted)
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the command that explains the event's deliveries.
fn explain_command(args: &Args, accepted: &AcceptedEvent) -> String {
    format!(
        "hookstream deliveries explain -n {} {}",
        args.caller.namespace,
        strip_control_chars(&accepted.id)
    )
}

fn print(accepted: &AcceptedEvent, output: OutputFormat) -> Result<(), Failure> {
    match output {
        OutputFormat::Table => {
            let width = accepted.id.chars().count().max(2);
            print_line(&format!("{:width$}  DELIVERIES", "ID"));
            print_line(&format!("{}  {}", strip_control_chars(&accepted.id), accepted.deliveries));
        }
        other => print_value(other, accepted)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum::Json;
    use axum::http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::*;

    async fn ingest(headers: HeaderMap, Json(event): Json<Value>) -> (StatusCode, Json<Value>) {
        if headers["authorization"] != "Bearer t0ken" {
            return (StatusCode::FORBIDDEN, Json(json!({"title": "Forbidden", "detail": "no right"})));
        }
        assert_eq!(event, json!({"id": "e1", "source": "crud", "event": "routes", "data": {"a": 1}}));
        (StatusCode::ACCEPTED, Json(json!({"id": "e1", "deliveries": 2})))
    }

    #[tokio::test]
    async fn exit_code_follows_the_worker_response() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router = axum::Router::new().route("/v1/namespaces/demo/events", axum::routing::post(ingest));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let token = tempfile::NamedTempFile::new().unwrap();
        let args = || Args {
            caller: CallerArgs {
                namespace: "demo".into(),
                token_file: Some(token.path().into()),
                ..CallerArgs::default()
            },
            source: Some("crud".into()),
            event: Some("routes".into()),
            data: Some(r#"{"a": 1}"#.into()),
            file: None,
            rate: None,
            concurrency: 8,
            strict: false,
            id: Some("e1".into()),
            url: Some(url.clone()),
            service: None,
            wait: None,
            api_url: Some(url.clone()),
            api_service: None,
            output: OutputFormat::Json,
        };
        assert!(run(args()).await.unwrap_err().message.ends_with("contains no token"));
        fs::write(token.path(), "t0ken\n").unwrap();
        assert_eq!(run(args()).await.unwrap(), ExitCode::SUCCESS);
        fs::write(token.path(), "other").unwrap();
        let rejected = run(args()).await.unwrap_err();
        assert_eq!(rejected.code, 1);
        assert!(rejected.message.ends_with("returned 403 Forbidden: no right"), "{}", rejected.message);
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let unreachable = run(args()).await.unwrap_err();
        assert_eq!(unreachable.code, 2);
        assert!(unreachable.message.contains("cannot be reached"), "{}", unreachable.message);
    }
}
