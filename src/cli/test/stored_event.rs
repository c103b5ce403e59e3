//! `hookstream test --event-id`: reads an event from a worker.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::failure::{Failure, OrFail};
use crate::cli::worker_args::WorkerApiArgs;
use crate::core::event::{Event, Origin};
use crate::core::hook::CompiledHook;

/// Flags that select a stored event, and the worker that has it.
#[derive(clap::Args)]
pub struct StoredEventArgs {
    /// Use the stored event with this id, with the source, name and data that it was accepted with, from the worker that the
    /// flags below, a profile or a kubeconfig context select. Without --namespace, it is in the hook's. Requires permission to
    /// get deliveries and deliveries/payload.
    #[arg(long, value_name = "ID", conflicts_with_all = ["data", "event"])]
    event_id: Option<String>,
    #[command(flatten)]
    api: WorkerApiArgs,
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
        let StoredEventArgs { event_id: Some(id), mut api } = self else { return Ok(None) };
        if api.caller.namespace.is_empty() {
            api.caller.namespace = (&*hook.namespace).into();
        }
        let worker = api.connect().await?;
        let mut url = worker.url(&api.caller.namespace, &["events", &id])?;
        url.set_query(Some("payload=true"));
        let response = worker.get(url).await?.success(2)?;
        let stored: EventBody = response.json()?;
        let origin = Origin::try_from(stored.origin).or_fail(|| "reading the worker's response".into())?;
        Ok(Some(Event {
            id: stored.id,
            namespace: api.caller.namespace.to_string(),
            origin,
            source: stored.source,
            event: stored.event,
            time: stored.time,
            data: stored.data.into(),
            attributes: Default::default(),
        }))
    }
}
