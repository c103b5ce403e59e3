//! `POST /v1/namespaces/{ns}/relays/{eventhook}`: what Kong relays for one hook.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::events::event;
use super::{Ingest, Told, decided, hash};
use crate::cluster::Key;
use crate::core::event::{Origin, parse_relayed};
use crate::core::relay::{self, Refused, SIGNATURE_HEADER};
use crate::core::time::Millis;
use crate::core::trace;
use crate::worker::problem::{Problem, close};
use crate::worker::request::{BodyError, InPath, content_length, read};
use crate::worker::route;
use crate::worker::store::{Accepted, Dedup, NewDelivery, NewEvent};

/// What became of a relay.
enum Relayed {
    Accepted(Accepted),
    /// Answered and not stored.
    Ping,
    /// About event hooks themselves: taken, and not stored.
    LeftOut,
    Refused(Problem),
    /// The connection is closed: Kong sends again.
    ComeAgain(&'static str),
}

pub async fn relay(
    State(ingest): State<Arc<Ingest>>,
    InPath((namespace, name)): InPath<(String, String)>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let relayed = accept(&ingest, &Key::new(&namespace, &name), &parts.headers, body).await;
    let (outcome, response) = match relayed {
        Relayed::Accepted(accepted) => {
            let outcome = if accepted.duplicate { "Duplicate" } else { "Accepted" };
            (outcome, (StatusCode::ACCEPTED, Json(Told::of(&accepted))).into_response())
        }
        Relayed::Ping => ("Ping", Json(json!({"pong": true})).into_response()),
        Relayed::LeftOut => {
            ("LeftOut", (StatusCode::ACCEPTED, Json(json!({"deliveries": 0}))).into_response())
        }
        Relayed::Refused(problem) => (problem.reason, problem.into_response()),
        Relayed::ComeAgain(reason) => (reason, close()),
    };
    ingest.metrics.ingested("relays", outcome, started.elapsed());
    response
}

async fn accept(ingest: &Ingest, key: &Key, headers: &HeaderMap, body: Body) -> Relayed {
    let guarded = ingest.view.hook(&key.namespace, &key.name);
    let hook = match guarded.as_ref().map(|g| &g.0) {
        Some(Ok(hook)) => hook,
        Some(Err(_)) => return Relayed::ComeAgain("Unreadable"),
        None if ingest.unknown.certain(key, Instant::now()) => {
            return Relayed::Refused(Problem::new(404, "NotFound", "no EventHook of this name takes relays"));
        }
        None => return Relayed::ComeAgain("Unknown"),
    };
    ingest.unknown.known(key);
    ingest.namespaces.stored(&key.namespace).await;
    if ingest.disk.is_full() {
        return Relayed::ComeAgain("DiskLimit");
    }
    let max = ingest.limits.max_event_bytes;
    let body = match read(body, content_length(headers), max, &ingest.room).await {
        Ok(body) => body,
        Err(BodyError::TooBig) => return Relayed::Refused(Problem::too_big(max)),
        // Of what did not come in time nothing is known, and an answer would be the end of it.
        Err(error) => return Relayed::ComeAgain((&error).into()),
    };
    let Ok(ring) = ingest.cluster.key_ring(false).await else { return Relayed::ComeAgain("KeyRing") };
    let now = Millis::now();
    let terms = relay::terms(hook, &ring, now);
    let signature = headers.get(SIGNATURE_HEADER).and_then(|v| v.to_str().ok());
    let signed = match relay::authenticate(&terms, signature, &body) {
        Ok(signed) => signed,
        Err(refused) => return refuse(401, refused),
    };
    let mut draft = match parse_relayed(&body) {
        Ok(draft) => draft,
        Err(bad) => return Relayed::Refused(bad.into()),
    };
    if relay::is_ping(&draft) {
        return Relayed::Ping;
    }
    if let Err(refused) = relay::agreed(&signed, &draft) {
        return refuse(403, refused);
    }
    if relay::carries_secrets(&draft, hook.spec.event.as_deref() == Some("event_hooks")) {
        return Relayed::LeftOut;
    }

    // The index lags behind by moments at most; a hook that it does not have yet is understood here.
    let known = ingest.routes.get(hook.uid().unwrap_or_default().as_str());
    let known = known.unwrap_or_else(|| Arc::new(route::known(hook, key.clone())));
    let window = ingest.limits.relay_dedup_window;
    let dedup =
        (!window.is_zero()).then(|| Dedup { key: hash(&[b"relay", known.id.uid.as_bytes(), &body]), window });
    trace::take_over(&mut draft.attributes, |name| headers.get(name).and_then(|v| v.to_str().ok()));
    let event = Arc::new(event(draft, key.namespace.clone(), Origin::Relay(key.name.clone()), now));
    let Ok(deliveries) = decided(vec![(event.clone(), vec![known])], now).await else {
        return Relayed::ComeAgain("Closed");
    };
    // Kong is done with it, and it can be replayed should a hook of the name come.
    let dead = hook.meta().deletion_timestamp.is_some().then_some("HookDeleted");
    let deliveries = deliveries.into_iter().flatten();
    let deliveries = deliveries.map(|delivery| NewDelivery { dead, ..delivery }).collect();
    match ingest.committer.accept(vec![NewEvent { event, dedup, deliveries }], now).await {
        Ok(accepted) => accepted.into_iter().next().map_or(Relayed::ComeAgain("Closed"), Relayed::Accepted),
        Err(error) => Relayed::ComeAgain((&error).into()),
    }
}

fn refuse(status: u16, refused: Refused) -> Relayed {
    Relayed::Refused(Problem::new(status, refused.into(), refused.to_string()))
}
