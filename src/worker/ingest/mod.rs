//! The ingest port: events of API callers, relays of Kong, event streams of Auth0.
//!
//! Invariants: 202 comes after the commit; who cannot be judged now is told to come again, each sender in the way that
//! makes it do so (Kong never repeats by status, but after a closed connection); bodies are bounded and have a deadline.
//!
//! Left to others: what is an event (`core::event`), who may relay (`core::relay`), who may publish (`cluster`).

mod commit;
mod disk;
mod events;
mod relays;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::namespaces::Namespaces;
use super::problem::Problem;
use super::request::Room;
use super::route::{Known, Routes, deliveries, may_take_long};
use super::store::{Accepted, NewDelivery, StoreError};
use crate::cluster::{Cluster, Key, View};
use crate::core::event::Event;
use crate::core::time::Millis;
use crate::metrics::Metrics;
pub use commit::Committer;
pub use disk::Disk;

/// An object that is not known may be on its way here for this long.
const MAYBE_NEW: Duration = Duration::from_secs(120);
/// A name that nobody asked for during this time may have been given to an object meanwhile.
const FORGOTTEN: Duration = Duration::from_secs(600);
const MAX_UNKNOWN: usize = 4096;

/// Bounds and windows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest event in bytes.
    pub max_event_bytes: usize,
    /// The largest batch in bytes.
    pub max_request_bytes: usize,
    /// How long a repeated id is a duplicate.
    pub dedup_window: Duration,
    /// How long a repeated relay body is a duplicate; zero: never.
    pub relay_dedup_window: Duration,
}

/// What the routes need.
pub struct Ingest {
    pub cluster: Arc<dyn Cluster>,
    pub view: View,
    pub routes: Arc<Routes>,
    pub committer: Committer,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub unknown: Unknown,
    pub unknown_streams: Unknown,
    pub disk: Arc<Disk>,
    pub namespaces: Arc<Namespaces>,
    pub room: Room,
}

/// So many of the largest requests may be read at once.
const LARGEST_AT_ONCE: usize = 4;

impl Limits {
    /// Memory for bodies that are being read.
    pub fn room(&self) -> Room {
        Room::new(self.max_request_bytes.max(self.max_event_bytes).saturating_mul(LARGEST_AT_ONCE))
    }
}

/// The routes of the ingest port.
pub fn router(ingest: Ingest) -> Router {
    Router::new()
        .route("/v1/namespaces/{namespace}/events", post(events::publish).options(events::handshake))
        .route("/v1/namespaces/{namespace}/relays/{eventhook}", post(relays::relay))
        .route("/v1/namespaces/{namespace}/streams/{eventstream}", post(streams::receive))
        .fallback(|| async {
            Problem::new(404, "NotFound", "no such address: POST /v1/namespaces/{namespace}/events")
        })
        .method_not_allowed_fallback(|| async { Problem::new(405, "MethodNotAllowed", "use POST") })
        // The routes bound their bodies themselves, to answer with a problem.
        .layer(DefaultBodyLimit::disable())
        .with_state(Arc::new(ingest))
}

/// What the sender of an event is told with the 202.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    deliveries: usize,
}

impl<'a> Told<'a> {
    fn of(accepted: &'a Accepted) -> Self {
        Told { id: &accepted.event_id, deliveries: accepted.kept() }
    }
}

/// The deliveries that events make at hooks; where filters are asked, on a thread that may take its time.
async fn decided(
    all: Vec<(Arc<Event>, Vec<Arc<Known>>)>,
    now: Millis,
) -> Result<Vec<Vec<NewDelivery>>, Problem> {
    let long = all.iter().any(|(_, hooks)| may_take_long(hooks));
    let decide = move || all.iter().map(|(event, hooks)| deliveries(hooks, event, now)).collect::<Vec<_>>();
    if !long {
        return Ok(decide());
    }
    // A panic in there is one request's, which the sender makes again.
    tokio::task::spawn_blocking(decide).await.map_err(|_| StoreError::Closed.into())
}

/// A hash of parts; their lengths go before them, so that no two lists of parts are the same bytes.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Names that were asked for and are not known. The watch may be behind: only after a while is a name certainly unknown.
#[derive(Default)]
pub struct Unknown {
    asked: Mutex<HashMap<Key, Asked>>,
}

/// When somebody asked for a name.
#[derive(Clone, Copy)]
struct Asked {
    first: Instant,
    last: Instant,
}

impl Asked {
    fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.last) >= FORGOTTEN
    }
}

impl Unknown {
    /// True where the name was unknown for so long that it is certain.
    fn certain(&self, key: &Key, now: Instant) -> bool {
        let mut asked = self.asked.lock();
        if asked.len() >= MAX_UNKNOWN {
            asked.retain(|_, asked| !asked.is_old(now));
        }
        match asked.get_mut(key) {
            Some(asked) if !asked.is_old(now) => {
                asked.last = now;
                now.duration_since(asked.first) >= MAYBE_NEW
            }
            // An object of a name that somebody once mistyped may be as new as any other.
            Some(asked) => {
                *asked = Asked { first: now, last: now };
                false
            }
            None => {
                if asked.len() < MAX_UNKNOWN {
                    asked.insert(key.clone(), Asked { first: now, last: now });
                }
                false
            }
        }
    }

    fn known(&self, key: &Key) {
        self.asked.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_certainly_unknown_after_two_minutes_of_asking() {
        let (unknown, key, begin) = (Unknown::default(), Key::new("n", "h"), Instant::now());
        let at = |seconds: u64| unknown.certain(&key, begin + Duration::from_secs(seconds));
        assert!(!at(0) && !at(119), "it may be on its way");
        assert!(at(120) && at(700), "asked for all the time");
        unknown.known(&key);
        assert!(!at(701), "it was there and went: perhaps to come again");
        assert!(at(830));
        assert!(!at(830 + 600), "nobody asked for long: an object of the name may be new");
        assert!(!unknown.certain(&Key::new("n", "other"), begin), "each by itself");
    }

    #[test]
    fn made_up_names_do_not_fill_the_memory() {
        let (unknown, begin) = (Unknown::default(), Instant::now());
        for number in 0..2 * MAX_UNKNOWN {
            assert!(!unknown.certain(&Key::new("n", &number.to_string()), begin));
        }
        assert_eq!(unknown.asked.lock().len(), MAX_UNKNOWN);
        assert!(!unknown.certain(&Key::new("n", "new"), begin + FORGOTTEN));
        assert_eq!(unknown.asked.lock().len(), 1);
    }
}
