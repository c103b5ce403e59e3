//! `/api/v2/event-streams` and the routes under it.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::api::{EmulatedRequest, parse_date};
use super::body::Object;
use super::context::{Auth0, TenantState};
use super::error::{ApiError, json_response, no_content};
use super::event::{self, Event};
use super::history::{Delivery, HistoryFilter, Status};
use super::stream::{self, Stream};
use crate::core::time::Millis;

impl Auth0 {
    pub fn route_streams(
        self: &Arc<Self>,
        call: &EmulatedRequest<'_>,
        segments: &[&str],
    ) -> Result<Response, ApiError> {
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
            [id, "test"] if method == Method::POST => self.send_test_event(call, id),
            _ => Err(ApiError::not_found()),
        }
    }

    fn list_streams(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let query = call.query();
        let take = query.number("take", 1, 100)?.unwrap_or(50);
        let after = query.get("from").map(parse_cursor).transpose()?.unwrap_or(0);
        let (representation, next) = self.store.read(|state| {
            let rest =
                state.streams.range(after.saturating_add(1)..).filter(|(_, stream)| stream.is_visible());
            let page: Vec<(&u64, &Stream)> = rest.take(take + 1).collect();
            let next = page.get(take).and(page.get(take - 1)).map(|(at, _)| format_cursor(**at));
            let representation: Vec<Value> =
                page.iter().take(take).map(|(_, stream)| stream.to_json()).collect();
            (representation, next)
        });
        let mut body = Map::from_iter([("eventStreams".to_owned(), Value::Array(representation))]);
        body.extend(next.map(|next| ("next".to_owned(), next.into())));
        Ok(json_response(StatusCode::OK, &body.into()))
    }

    fn create_stream(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let fields = stream::parse_create(call.json()?, &self.options.tenant)?;
        let visible_at = call.visible_at();
        let representation = self.store.update(|state| {
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
            let representation = stream.to_json();
            state.next += 1;
            state.streams.insert(state.next, stream);
            Ok(representation)
        })?;
        Ok(json_response(StatusCode::CREATED, &representation))
    }

    fn read_stream(&self, id: &str) -> Result<Response, ApiError> {
        self.with_stream(id, |stream| Ok(json_response(StatusCode::OK, &stream.to_json())))
    }

    /// Calls `f` with a stream that reads see; fails with 404 if there is none.
    fn with_stream<T>(
        &self,
        id: &str,
        f: impl FnOnce(&Stream) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.store.read(|state| {
            let stream = state.stream(id).filter(|stream| stream.is_visible());
            f(stream.ok_or_else(ApiError::stream_not_found)?)
        })
    }

    fn patch_stream(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let body = call.json()?;
        let max_failed = self.options.disable_after_total;
        let representation = self.store.update(|state| {
            let old = state.stream(id).ok_or_else(ApiError::stream_not_found)?;
            let new = stream::parse_patch(body, &old.fields)?;
            check_name(state, new.name.as_deref(), id)?;
            let stream = state.stream_mut(id).ok_or_else(ApiError::stream_not_found)?;
            if new.enabled && !stream.fields.enabled {
                if stream.history.failed_total() >= max_failed {
                    let message = "The event stream has too many failed deliveries to be enabled.";
                    return Err(ApiError::unsupported(message));
                }
                stream.history.reset_failures_in_a_row();
            }
            stream.fields = new;
            stream.updated_at = Millis::now();
            Ok(stream.to_json())
        })?;
        Ok(json_response(StatusCode::OK, &representation))
    }

    /// Returns 204 for a stream that does not exist too, as recorded.
    fn delete_stream(&self, id: &str) -> Result<Response, ApiError> {
        self.store.update(|state| {
            state.streams.retain(|_, stream| stream.id != id);
            Ok::<(), ApiError>(())
        })?;
        Ok(no_content())
    }

    fn list_deliveries(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        let take = query.number("take", 1, 100)?.unwrap_or(50);
        let after = query.get("from").map(parse_cursor).transpose()?.unwrap_or(0);
        let split = |name| query.get(name).map(|list| list.split(',').map(str::to_owned).collect());
        let filter = HistoryFilter {
            statuses: split("statuses"),
            event_types: split("event_types"),
            from: query.get("date_from").map(|text| parse_date(text, "date_from")).transpose()?,
            to: query.get("date_to").map(|text| parse_date(text, "date_to")).transpose()?,
        };
        self.with_stream(id, |stream| {
            let page = stream.history.list(&filter, after, take);
            let representation: Vec<Value> = page.iter().map(|(_, delivery)| delivery.to_json(id)).collect();
            let mut body = Map::from_iter([("deliveries".to_owned(), Value::Array(representation))]);
            // The recordings have `next` on the last page too; a pager stops at an empty page.
            body.extend(page.last().map(|(at, _)| ("next".to_owned(), format_cursor(*at).into())));
            Ok(json_response(StatusCode::OK, &body.into()))
        })
    }

    fn read_delivery(&self, id: &str, event: &str) -> Result<Response, ApiError> {
        self.with_stream(id, |stream| {
            let delivery = stream.history.get(event).ok_or_else(delivery_not_found)?;
            Ok(json_response(StatusCode::OK, &delivery.to_json(id)))
        })
    }

    /// Redelivers failed deliveries, even those of a disabled stream: their number must fall before the stream can be
    /// enabled.
    fn redeliver(self: &Arc<Self>, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let filter =
            if call.body.is_empty() { HistoryFilter::default() } else { parse_filter(call.json()?)? };
        let deliveries = self.store.update(|state| {
            let stream = state.stream_mut(id).ok_or_else(ApiError::stream_not_found)?;
            Ok::<_, ApiError>(stream.history.redeliver(&filter, Millis::now()))
        })?;
        self.enqueue(id, deliveries, true);
        Ok(json_response(StatusCode::ACCEPTED, &json!({})))
    }

    fn redeliver_one(self: &Arc<Self>, id: &str, event: &str) -> Result<Response, ApiError> {
        let delivery = self.store.update(|state| {
            let stream = state.stream_mut(id).ok_or_else(ApiError::stream_not_found)?;
            let delivery = stream.history.get_mut(event).ok_or_else(delivery_not_found)?;
            if delivery.status != Status::Failed {
                return Err(ApiError::conflict("The event is not in a redeliverable state."));
            }
            Ok(delivery.mark_for_redelivery(Millis::now()))
        })?;
        self.enqueue(id, vec![delivery], true);
        Ok(json_response(StatusCode::ACCEPTED, &json!({})))
    }

    fn stats(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        // The SDK sends dates with an offset and colons.
        let date = |name| query.get(name).map(|text| parse_date(text, name)).transpose();
        let (from, to) = (date("date_from")?, date("date_to")?);
        self.with_stream(id, |stream| {
            let mut stats = stream.history.stats(from, to, Millis::now());
            if let Some(stats) = stats.as_object_mut() {
                stats.insert("id".into(), id.into());
                stats.insert("name".into(), stream.fields.name.clone().into());
            }
            Ok(json_response(StatusCode::OK, &stats))
        })
    }

    fn send_test_event(self: &Arc<Self>, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let mut body = Object::new("", call.json()?)?;
        let kind = body.take_string("event_type", "", (1, 128))?.ok_or_else(|| body.missing("event_type"))?;
        let data = match body.take("data") {
            None => None,
            Some(Value::Object(data)) => Some(data),
            Some(_) => return Err(body.invalid("Expected type object", "data", "")),
        };
        body.reject_unknown()?;
        self.with_stream(id, |stream| match stream.fields.enabled {
            true => Ok(()),
            false => Err(ApiError::unsupported("Sending events to disabled event streams is not supported.")),
        })?;
        let event = Event::new(kind, data);
        let delivery = self.emit_to_stream(id, &event, true).ok_or_else(ApiError::stream_not_found)?;
        let body = json!({"id": delivery.id, "event_stream_id": id, "event_type": delivery.event_type,
            "status": delivery.status, "attempts": delivery.attempts, "event": *delivery.event});
        Ok(json_response(StatusCode::ACCEPTED, &body))
    }

    /// Emits an event to a stream. A webhook's delivery is queued; for other destinations it counts as delivered at once,
    /// because AWS and Actions are not emulated. Returns `None` if the stream does not exist.
    pub fn emit_to_stream(self: &Arc<Self>, id: &str, event: &Event, test: bool) -> Option<Delivery> {
        let delivery = Delivery {
            id: event.id.clone(),
            event_type: event.kind.clone(),
            status: Status::Pending,
            attempts: Vec::new(),
            time: event.time,
            event: Arc::new(event.body(&self.options.tenant, id, test)),
        };
        let webhook = self.store.update_unsaved(|state| {
            let stream = state.stream_mut(id)?;
            let webhook = matches!(stream.fields.destination, stream::Destination::Webhook { .. });
            if webhook {
                stream.history.push(delivery.clone());
            } else {
                stream.history.record_delivered(&delivery.id, Millis::now());
            }
            Some(webhook)
        })?;
        if webhook {
            self.enqueue(id, vec![(delivery.id.clone(), delivery.size())], false);
        } else {
            self.record_outcome(id, &delivery, "delivered");
        }
        Some(delivery)
    }
}

/// Rejects an id without the format of `prefix`, with the message of the API's schema.
fn check_id(id: &str, prefix: &str, format: &str, property: &str) -> Result<(), ApiError> {
    if event::is_id(id, prefix) {
        return Ok(());
    }
    let (name, about) = property.split_once(" (").unwrap_or((property, ""));
    let reason = format!("Object didn't pass validation for format {format}: {id}");
    Err(ApiError::path(&reason, name, about.trim_end_matches(')')))
}

/// Rejects a name that another stream of the tenant has, even if reads do not see that stream yet. `except` is the id
/// of the stream itself.
fn check_name(state: &TenantState, name: Option<&str>, except: &str) -> Result<(), ApiError> {
    let has_name =
        |stream: &Stream| name.is_some() && stream.fields.name.as_deref() == name && stream.id != except;
    match state.streams.values().any(has_name) {
        true => Err(ApiError::conflict("An event stream with this name already exists.")),
        false => Ok(()),
    }
}

fn delivery_not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "The requested delivery does not exist.")
}

fn parse_filter(value: Value) -> Result<HistoryFilter, ApiError> {
    let mut body = Object::new("", value)?;
    let mut texts = |name: &str| -> Result<Option<Vec<String>>, ApiError> {
        let Some(list) = body.take_array(name, "")? else { return Ok(None) };
        let texts: Option<Vec<String>> = list.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        texts.map(Some).ok_or_else(|| body.invalid("Expected type string", name, ""))
    };
    let (statuses, event_types) = (texts("statuses")?, texts("event_types")?);
    let mut date = |name: &str| -> Result<Option<Millis>, ApiError> {
        let Some(text) = body.take_string(name, "", (0, 64))? else { return Ok(None) };
        let parsed = Millis::parse(&text);
        parsed
            .map(Some)
            .ok_or_else(|| body.invalid("Object didn't pass validation for format date-time", name, ""))
    };
    let filter = HistoryFilter { statuses, event_types, from: date("date_from")?, to: date("date_to")? };
    body.reject_unknown()?;
    Ok(filter)
}

fn format_cursor(at: u64) -> String {
    URL_SAFE_NO_PAD.encode(at.to_string())
}

fn parse_cursor(text: &str) -> Result<u64, ApiError> {
    let decoded = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let at = decoded.and_then(|text| text.parse().ok());
    at.ok_or_else(|| {
        ApiError::query(
            "The value is not a position in this list",
            "from",
            "Optional Id from which to start selection",
        )
    })
}
