//! `hookstream send`: publishes one event.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::reach::{Caller, Service, ServiceFlag};
use super::{Failure, OrFail, Outcome, data, say};
use crate::core::duration;

/// The largest data that is read, above what any worker takes.
const MAX_DATA: u64 = 64 << 20;

/// How often the deliveries are asked for.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// Publish an event to a worker.
///
/// Example: hookstream send -n demo --source crud --event consumers --data '{"operation": "create"}'
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    caller: Caller,
    /// The event's source, for example crud.
    #[arg(long, env = "HOOKSTREAM_SOURCE")]
    source: String,
    /// The event's name, for example consumers.
    #[arg(long, env = "HOOKSTREAM_EVENT")]
    event: String,
    /// The event's data: JSON, @FILE, or - (also @-) for standard input.
    // Not HOOKSTREAM_DATA, which is the folder of the roles.
    #[arg(long, value_name = "JSON|@FILE", env = "HOOKSTREAM_EVENT_DATA", allow_hyphen_values = true)]
    data: String,
    /// The event's id: sent again with the same id it is accepted once. Default: the worker makes one.
    #[arg(long, env = "HOOKSTREAM_ID")]
    id: Option<String>,
    /// The worker's ingest address.
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "HOOKSTREAM_URL")]
    url: Url,
    /// Reach the ingest port in the cluster instead, through the API server and your kubeconfig. Takes the right to create
    /// services/proxy. Default: the chart's.
    #[arg(
        long,
        or_the_charts = "hookstream-system/hookstream-ingest:ingest",
        env = "HOOKSTREAM_INGEST_SERVICE"
    )]
    service: Option<Service>,
    /// Wait so long for the event's deliveries to end, such as 30s. Exit code 1: one was not delivered, or no hook took it.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, env = "HOOKSTREAM_WAIT")]
    wait: Option<Duration>,
    /// The address of the worker's API port, where --wait asks.
    #[arg(long, default_value = "http://127.0.0.1:8082", env = "HOOKSTREAM_API_URL")]
    api_url: Url,
    /// The API port in the cluster, as --service. Takes the right to get services/proxy.
    #[arg(long, or_the_charts = "hookstream-system/hookstream-api:api", env = "HOOKSTREAM_API_SERVICE")]
    api_service: Option<Service>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table, env = "HOOKSTREAM_OUTPUT")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    source: &'a str,
    event: &'a str,
    /// Sent as it was written: numbers keep their digits.
    data: &'a RawValue,
}

/// The event's deliveries, as far as they concern this.
#[derive(Deserialize)]
struct Deliveries {
    items: Vec<Delivery>,
}

#[derive(Deserialize)]
struct Delivery {
    id: String,
    state: String,
}

#[derive(Serialize, Deserialize)]
struct Accepted {
    id: String,
    deliveries: u64,
}

pub async fn run(args: Args) -> Outcome {
    let data = data::read(&args.data, MAX_DATA)?;
    let event = Event { id: args.id.as_deref(), source: &args.source, event: &args.event, data: &data };
    let body = serde_json::to_vec(&event).or_fail(|| "writing the event".into())?;
    let worker = args.caller.worker(&args.url, args.service.as_ref()).await?;
    let url = worker.url(&args.caller.namespace, &["events"])?;
    // Refused (4xx) is found out, not a failure to ask.
    let answer = worker.post(url, body).await?.success(1)?;
    let accepted: Accepted = answer.json()?;
    print(&accepted, args.output)?;
    match args.wait {
        None => Ok(ExitCode::SUCCESS),
        Some(time) => delivered(&args, &accepted, time).await,
    }
}

/// Waits until every delivery of the event has ended.
async fn delivered(args: &Args, accepted: &Accepted, time: Duration) -> Outcome {
    let found = |message: String| Err(Failure { code: 1, message });
    if accepted.deliveries == 0 {
        return found(format!("no hook took the event: see `{}`", explain(args, accepted)));
    }
    let api = args.caller.worker(&args.api_url, args.api_service.as_ref()).await?;
    let mut url = api.url(&args.caller.namespace, &["deliveries"])?;
    url.query_pairs_mut().append_pair("event", &accepted.id).append_pair("limit", "500");
    let started = Instant::now();
    loop {
        let answer = api.get(url.clone()).await?.success(2)?;
        let list: Deliveries = answer.json()?;
        if list.items.iter().all(|delivery| delivery.state != "pending") {
            let failed = |delivery: &&Delivery| !matches!(delivery.state.as_str(), "delivered" | "dropped");
            return match list.items.iter().find(failed) {
                None => Ok(ExitCode::SUCCESS),
                Some(Delivery { id, state }) => found(format!(
                    "the delivery {} is {}: see `{}`",
                    id.escape_default(),
                    state.escape_default(),
                    explain(args, accepted)
                )),
            };
        }
        if started.elapsed() >= time {
            return found(format!("not delivered within {time:?}: see `{}`", explain(args, accepted)));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The command that tells what became of the event.
fn explain(args: &Args, accepted: &Accepted) -> String {
    format!("hookstream deliveries explain -n {} {}", args.caller.namespace, accepted.id.escape_default())
}

fn print(accepted: &Accepted, output: Output) -> Result<(), Failure> {
    match output {
        Output::Table => {
            let width = accepted.id.chars().count().max(2);
            say(&format!("{:width$}  DELIVERIES", "ID"));
            say(&format!("{}  {}", accepted.id.escape_default(), accepted.deliveries));
        }
        Output::Json => say(&serde_json::to_string(accepted).or_fail(|| "writing JSON".into())?),
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
    async fn what_the_worker_says_is_the_exit_code() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let router = axum::Router::new().route("/v1/namespaces/demo/events", axum::routing::post(ingest));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let token = tempfile::NamedTempFile::new().unwrap();
        let args = || Args {
            caller: Caller {
                namespace: "demo".into(),
                token_file: Some(token.path().into()),
                service_account: None,
                token_audience: "hookstream".into(),
            },
            source: "crud".into(),
            event: "routes".into(),
            data: r#"{"a": 1}"#.into(),
            id: Some("e1".into()),
            url: url.clone(),
            service: None,
            wait: None,
            api_url: url.clone(),
            api_service: None,
            output: Output::Json,
        };
        assert!(run(args()).await.unwrap_err().message.ends_with("holds no token"));
        fs::write(token.path(), "t0ken\n").unwrap();
        assert_eq!(run(args()).await.unwrap(), ExitCode::SUCCESS);
        fs::write(token.path(), "other").unwrap();
        let refused = run(args()).await.unwrap_err();
        assert_eq!(refused.code, 1);
        assert!(
            refused.message.ends_with("answered 403 Forbidden: Forbidden: no right"),
            "{}",
            refused.message
        );
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        let gone = run(args()).await.unwrap_err();
        assert_eq!(gone.code, 2);
        assert!(gone.message.contains("cannot be reached"), "{}", gone.message);
    }
}
