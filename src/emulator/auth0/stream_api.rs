//! `/api/v2/event-streams` and what is under it.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::api::{Call, seconds};
use super::body::Object;
use super::error::{ApiError, answer, no_content};
use super::event::{self, Event};
use super::history::{Delivery, Filter, Status};
use super::stream::{self, Stream};
use super::{Auth0, State};
use crate::core::time::Millis;

impl Auth0 {
    pub fn route_streams(self: &Arc<Self>, call: &Call<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        if let Some(id) = segments.first() {
            check_id(id, "est", "event-stream-id", "id (Unique identifier for the event stream)")?;
        }
        if let [_, "deliveries" | "redeliver", event, ..] = segments {
            check_id(event, "evt", "event-id", "event_id (Unique identifier for the event)")?;
        }
        let method = call.method();
        match *segments {
            [] if method == Method::GET => self.list_streams(call),
            [] if method == Method::POST => self.create_stream(call),
            [id] if method == Method::GET => self.read_stream(id),
            [id] if method == Method::PATCH => self.patch_stream(call, id),
            [id] if method == Method::DELETE => self.delete_stream(id),
            [id, "deliveries"] if method == Method::GET => self.list_deliveries(call, id),
            [id, "deliveries", event] if method == Method::GET => self.read_delivery(id, event),
            [id, "redeliver"] if method == Method::POST => self.redeliver(call, id),
            [id, "redeliver", event] if method == Method::POST => self.redeliver_one(id, event),
            [id, "stats"] if method == Method::GET => self.stats(call, id),
            [id, "test"] if method == Method::POST => self.test(call, id),
            _ => Err(ApiError::not_found()),
        }
    }

    fn list_streams(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let query = call.query();
        let take = query.number("take", 1, 100)?.unwrap_or(50);
        let after = query.get("from").map(read_cursor).transpose()?.unwrap_or(0);
        let (shown, next) = self.store.read(|state| {
            let rest = state.streams.range(after.saturating_add(1)..).filter(|(_, stream)| stream.visible());
            let page: Vec<(&u64, &Stream)> = rest.take(take + 1).collect();
            let next = page.get(take).and(page.get(take - 1)).map(|(at, _)| cursor(**at));
            let shown: Vec<Value> = page.iter().take(take).map(|(_, stream)| stream.shown()).collect();
            (shown, next)
        });
        let mut body = Map::from_iter([("eventStreams".to_owned(), Value::Array(shown))]);
        body.extend(next.map(|next| ("next".to_owned(), next.into())));
        Ok(answer(StatusCode::OK, &body.into()))
    }

    fn create_stream(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let fields = stream::create(call.json()?, &self.options.tenant)?;
        let visible_at = call.visible_at();
        let shown = self.store.change(|state| {
            check_name(state, fields.name.as_deref(), "")?;
            if state.streams.len() >= self.options.max_streams {
                return Err(ApiError::conflict("The maximum number of event streams is reached."));
            }
            let now = Millis::now();
            let stream = Stream {
                id: event::new_id("est"),
                fields,
                created_at: now,
                updated_at: now,
                history: Default::default(),
                visible_at,
            };
            let shown = stream.shown();
            state.next += 1;
            state.streams.insert(state.next, stream);
            Ok(shown)
        })?;
        Ok(answer(StatusCode::CREATED, &shown))
    }

    fn read_stream(&self, id: &str) -> Result<Response, ApiError> {
        self.of(id, |stream| Ok(answer(StatusCode::OK, &stream.shown())))
    }

    /// Looks at a stream that reads see.
    fn of<T>(&self, id: &str, look: impl FnOnce(&Stream) -> Result<T, ApiError>) -> Result<T, ApiError> {
        self.store.read(|state| {
            let stream = state.stream(id).filter(|stream| stream.visible());
            look(stream.ok_or_else(ApiError::no_stream)?)
        })
    }

    fn patch_stream(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let body = call.json()?;
        let most = self.options.disable_after_total;
        let shown = self.store.change(|state| {
            let old = state.stream(id).ok_or_else(ApiError::no_stream)?;
            let new = stream::patch(body, &old.fields)?;
            check_name(state, new.name.as_deref(), id)?;
            let stream = state.stream_mut(id).ok_or_else(ApiError::no_stream)?;
            if new.enabled && !stream.fields.enabled {
                if stream.history.failed_in_all() >= most {
                    let why = "The event stream has too many failed deliveries to be enabled.";
                    return Err(ApiError::unsupported(why));
                }
                stream.history.forgive();
            }
            stream.fields = new;
            stream.updated_at = Millis::now();
            Ok(stream.shown())
        })?;
        Ok(answer(StatusCode::OK, &shown))
    }

    /// 204 also for a stream that is not there: so it was recorded.
    fn delete_stream(&self, id: &str) -> Result<Response, ApiError> {
        self.store.change(|state| {
            state.streams.retain(|_, stream| stream.id != id);
            Ok::<(), ApiError>(())
        })?;
        Ok(no_content())
    }

    fn list_deliveries(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        let take = query.number("take", 1, 100)?.unwrap_or(50);
        let after = query.get("from").map(read_cursor).transpose()?.unwrap_or(0);
        let split = |name| query.get(name).map(|list| list.split(',').map(str::to_owned).collect());
        let filter = Filter {
            statuses: split("statuses"),
            event_types: split("event_types"),
            from: query.get("date_from").map(|text| seconds(text, "date_from")).transpose()?,
            to: query.get("date_to").map(|text| seconds(text, "date_to")).transpose()?,
        };
        self.of(id, |stream| {
            let page = stream.history.list(&filter, after, take);
            let shown: Vec<Value> = page.iter().map(|(_, delivery)| delivery.shown(id)).collect();
            let mut body = Map::from_iter([("deliveries".to_owned(), Value::Array(shown))]);
            // Recorded also where nothing follows: a pager ends at an empty page.
            body.extend(page.last().map(|(at, _)| ("next".to_owned(), cursor(*at).into())));
            Ok(answer(StatusCode::OK, &body.into()))
        })
    }

    fn read_delivery(&self, id: &str, event: &str) -> Result<Response, ApiError> {
        self.of(id, |stream| {
            let delivery = stream.history.get(event).ok_or_else(no_delivery)?;
            Ok(answer(StatusCode::OK, &delivery.shown(id)))
        })
    }

    /// Asks for failed deliveries again; also for those of a disabled stream, for their number must sink before it can
    /// be enabled.
    fn redeliver(self: &Arc<Self>, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let filter = if call.body.is_empty() { Filter::default() } else { filter(call.json()?)? };
        let jobs = self.store.change(|state| {
            let stream = state.stream_mut(id).ok_or_else(ApiError::no_stream)?;
            Ok::<_, ApiError>(stream.history.redeliver(&filter, Millis::now()))
        })?;
        self.enqueue(id, jobs, true);
        Ok(answer(StatusCode::ACCEPTED, &json!({})))
    }

    fn redeliver_one(self: &Arc<Self>, id: &str, event: &str) -> Result<Response, ApiError> {
        let job = self.store.change(|state| {
            let stream = state.stream_mut(id).ok_or_else(ApiError::no_stream)?;
            let delivery = stream.history.get_mut(event).ok_or_else(no_delivery)?;
            if delivery.status != Status::Failed {
                return Err(ApiError::conflict("The event is not in a redeliverable state."));
            }
            Ok(delivery.again(Millis::now()))
        })?;
        self.enqueue(id, vec![job], true);
        Ok(answer(StatusCode::ACCEPTED, &json!({})))
    }

    fn stats(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        // With an offset and colons, as the SDK sends it.
        let date = |name| query.get(name).map(|text| seconds(text, name)).transpose();
        let (from, to) = (date("date_from")?, date("date_to")?);
        self.of(id, |stream| {
            let mut stats = stream.history.stats(from, to, Millis::now());
            if let Some(stats) = stats.as_object_mut() {
                stats.insert("id".into(), id.into());
                stats.insert("name".into(), stream.fields.name.clone().into());
            }
            Ok(answer(StatusCode::OK, &stats))
        })
    }

    fn test(self: &Arc<Self>, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let mut body = Object::new("", call.json()?)?;
        let kind = body.text("event_type", "", (1, 128))?.ok_or_else(|| body.missing("event_type"))?;
        let data = match body.take("data") {
            None => None,
            Some(Value::Object(data)) => Some(data),
            Some(_) => return Err(body.refuse("Expected type object", "data", "")),
        };
        body.end()?;
        self.of(id, |stream| match stream.fields.enabled {
            true => Ok(()),
            false => Err(ApiError::unsupported("Sending events to disabled event streams is not supported.")),
        })?;
        let event = Event::new(kind, data);
        let delivery = self.start(id, &event, true).ok_or_else(ApiError::no_stream)?;
        let body = json!({"id": delivery.id, "event_stream_id": id, "event_type": delivery.event_type,
            "status": delivery.status, "attempts": delivery.attempts, "event": *delivery.event});
        Ok(answer(StatusCode::ACCEPTED, &body))
    }

    /// Sends an event to a stream: a webhook's is put into its queue, other destinations have it at once, for what
    /// happens at AWS or in an Action is not emulated.
    pub fn start(self: &Arc<Self>, id: &str, event: &Event, test: bool) -> Option<Delivery> {
        let delivery = Delivery {
            id: event.id.clone(),
            event_type: event.kind.clone(),
            status: Status::Pending,
            attempts: Vec::new(),
            time: event.time,
            event: Arc::new(event.body(&self.options.tenant, id, test)),
        };
        let webhook = self.store.note(|state| {
            let stream = state.stream_mut(id)?;
            let webhook = matches!(stream.fields.destination, stream::Destination::Webhook { .. });
            if webhook {
                stream.history.push(delivery.clone());
            } else {
                stream.history.delivered(&delivery.id, Millis::now());
            }
            Some(webhook)
        })?;
        if webhook {
            self.enqueue(id, vec![(delivery.id.clone(), delivery.size())], false);
        } else {
            self.ended(id, &delivery, "delivered");
        }
        Some(delivery)
    }
}

fn check_id(id: &str, prefix: &str, format: &str, property: &str) -> Result<(), ApiError> {
    if event::is_id(id, prefix) {
        return Ok(());
    }
    let (name, about) = property.split_once(" (").unwrap_or((property, ""));
    let reason = format!("Object didn't pass validation for format {format}: {id}");
    Err(ApiError::path(&reason, name, about.trim_end_matches(')')))
}

/// A name is unique in the tenant; also of what reads do not see yet.
fn check_name(state: &State, name: Option<&str>, but: &str) -> Result<(), ApiError> {
    let taken = |stream: &Stream| name.is_some() && stream.fields.name.as_deref() == name && stream.id != but;
    match state.streams.values().any(taken) {
        true => Err(ApiError::conflict("An event stream with this name already exists.")),
        false => Ok(()),
    }
}

fn no_delivery() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "The requested delivery does not exist.")
}

fn filter(value: Value) -> Result<Filter, ApiError> {
    let mut body = Object::new("", value)?;
    let mut texts = |name: &str| -> Result<Option<Vec<String>>, ApiError> {
        let Some(list) = body.list(name, "")? else { return Ok(None) };
        let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        texts.map(Some).ok_or_else(|| body.refuse("Expected type string", name, ""))
    };
    let (statuses, event_types) = (texts("statuses")?, texts("event_types")?);
    let mut date = |name: &str| -> Result<Option<Millis>, ApiError> {
        let Some(text) = body.text(name, "", (0, 64))? else { return Ok(None) };
        let parsed = Millis::parse(&text);
        parsed
            .map(Some)
            .ok_or_else(|| body.refuse("Object didn't pass validation for format date-time", name, ""))
    };
    let filter = Filter { statuses, event_types, from: date("date_from")?, to: date("date_to")? };
    body.end()?;
    Ok(filter)
}

fn cursor(at: u64) -> String {
    URL_SAFE_NO_PAD.encode(at.to_string())
}

fn read_cursor(text: &str) -> Result<u64, ApiError> {
    let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let at = decoded.and_then(|text| text.parse().ok());
    at.ok_or_else(|| {
        ApiError::query(
            "The value is no place in this list",
            "from",
            "Optional Id from which to start selection",
        )
    })
}
