//! `hookstream test --event-id`: reads an event from a worker.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::cli::failure::{Failure, OrFail};
use crate::cli::flags::parse_url;
use crate::cli::worker_args::{CallerArgs, ServiceFlag, ServicePort, WorkerPort};
use crate::core::event::{Event, Origin};
use crate::core::hook::CompiledHook;

/// Flags that select a stored event, and the worker that has it.
#[derive(clap::Args)]
pub struct StoredEventArgs {
    /// Use the stored event with this id, with the source, name and data that it was accepted with. Requires permission to get
    /// deliveries and deliveries/payload.
    #[arg(long, value_name = "ID", conflicts_with_all = ["data", "event"])]
    event_id: Option<String>,
    /// With --event-id, the event's namespace. Default: the hook's.
    #[arg(short, long, value_name = "NAMESPACE", requires = "event_id")]
    namespace: Option<String>,
    /// With --event-id, the URL of the worker's API port.
    #[arg(long, default_value = "http://127.0.0.1:8082", value_name = "URL", value_parser = parse_url)]
    url: Url,
    /// With --event-id, reach the worker in the cluster instead, through the API server and your kubeconfig. Without a value:
    /// the chart's Service.
    #[arg(long, default_service = "hookstream-system/hookstream-api:api", requires = "event_id")]
    service: Option<ServicePort>,
    /// With --event-id, a file with the bearer token to send. Default: no token.
    #[arg(long, value_name = "FILE", requires = "event_id")]
    token_file: Option<PathBuf>,
    /// With --service, call as this ServiceAccount of the namespace.
    #[arg(long, value_name = "NAME", conflicts_with = "token_file", requires = "service")]
    service_account: Option<String>,
    /// With --service-account, the audience that the worker requires (its --token-audience).
    #[arg(long, default_value = "hookstream", value_name = "AUDIENCE")]
    token_audience: String,
}

#[derive(Deserialize)]
struct EventBody {
    id: String,
    source: String,
    event: String,
    origin: String,
    time: String,
    data: Box<RawValue>,
}

impl StoredEventArgs {
    /// Reads the event, if one is selected.
    pub async fn read(self, hook: &CompiledHook) -> Result<Option<Event>, Failure> {
        let Some(id) = self.event_id else { return Ok(None) };
        let caller = CallerArgs {
            namespace: self.namespace.as_deref().unwrap_or(&hook.namespace).into(),
            token_file: self.token_file,
            service_account: self.service_account,
            token_audience: Some(self.token_audience),
            ..CallerArgs::default()
        };
        let worker = caller.connect(Some(&self.url), self.service.as_ref(), WorkerPort::Api).await?;
        let mut url = worker.url(&caller.namespace, &["events", &id])?;
        url.set_query(Some("payload=true"));
        let response = worker.get(url).await?.success(2)?;
        let stored: EventBody = response.json()?;
        let origin = Origin::try_from(stored.origin).or_fail(|| "reading the worker's response".into())?;
        Ok(Some(Event {
            id: stored.id,
            namespace: caller.namespace.to_string(),
            origin,
            source: stored.source,
            event: stored.event,
            time: stored.time,
            data: stored.data.into(),
            attributes: Default::default(),
        }))
    }
}
