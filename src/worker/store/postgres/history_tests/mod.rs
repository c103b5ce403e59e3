//! Tests on a real server: history, maintenance and the plans of their statements.

mod events;
mod lists;
mod namespaces;
mod plans;
mod sweeps;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::conformance::T0;
use super::super::ids::{random_bits, webhook_id};
use super::super::read_budget::ReadBudget;
use super::super::sequence::delivery_seq;
use super::super::{DeliverySeq, DeliveryState, EventSeq};
use super::connect::PostgresOptions;
use super::connections::Connections;
use super::session::Session;
use super::{places, schema, state, test_server, text};
use crate::core::time::Millis;

/// A database with the tables.
struct Database {
    connections: Connections,
}

impl Database {
    async fn new() -> Self {
        let url = test_server::shared().new_database();
        let mut options: PostgresOptions = url.parse().unwrap();
        options.allow_unsafe_sync = true;
        let database = Database { connections: Connections::connect(&options).await.unwrap() };
        schema::migrate(&database.session().await).await.unwrap();
        database
    }

    async fn session(&self) -> Session {
        self.connections.session().await.unwrap()
    }

    async fn count(&self, from: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM hookstream.{from}");
        self.session().await.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

/// An event to insert, with the state of each of its deliveries.
#[derive(Clone, Debug)]
struct StoredEvent {
    seq: EventSeq,
    id: String,
    accepted: Millis,
    data: String,
    /// The row id of the hook, and the state.
    deliveries: Vec<(i64, DeliveryState)>,
}

impl StoredEvent {
    fn new(seq: EventSeq, id: &str, accepted: Millis, deliveries: &[(i64, DeliveryState)]) -> Self {
        let (id, data, deliveries) = (id.to_owned(), format!("{{\"n\":{seq}}}"), deliveries.to_vec());
        StoredEvent { seq, id, accepted, data, deliveries }
    }

    fn delivery(&self, index: usize) -> DeliverySeq {
        delivery_seq(self.seq, index)
    }
}

/// Returns the `webhook-id` that `insert` gives to a delivery.
fn id_of(seq: DeliverySeq) -> Uuid {
    webhook_id(seq, random_bits(Uuid::from_u128(7)))
}

async fn place(session: &Session, namespace: &str) -> i64 {
    places::find_or_insert_many(session, &[namespace]).await.unwrap()[namespace]
}

async fn insert_hook(session: &Session, place: i64, uid: &str, name: &str) -> i64 {
    let sql = "INSERT INTO hookstream.hooks (uid, place, name, shard) VALUES ($1, $2, $3, 0) RETURNING id";
    let name = text::stored(name);
    let params = [(&uid as _, Type::TEXT), (&place as _, Type::INT8), (&name.as_ref() as _, Type::TEXT)];
    session.query_one(sql, &params).await.unwrap().get(0)
}

/// Inserts events of a place with their deliveries. Each finished one has an attempt, a delivered one in its row.
async fn insert(session: &Session, place: i64, events: &[StoredEvent]) {
    for event in events {
        let is_unmatched = event.deliveries.is_empty();
        session
            .execute(
                "INSERT INTO hookstream.events (seq, place, accepted, is_loose, unmatched, id, origin, source, event, time, data)
                 VALUES ($1, $2, $3, $4, $4, $5, 'api', 'orders', 'paid', '2023-11-14T22:13:20Z', $6)",
                &[
                    (&event.seq, Type::INT8),
                    (&place, Type::INT8),
                    (&event.accepted.0, Type::INT8),
                    (&is_unmatched, Type::BOOL),
                    (&text::stored(&event.id).as_ref(), Type::TEXT),
                    (&event.data.as_bytes(), Type::BYTEA),
                ],
            )
            .await
            .unwrap();
        for (index, (hook, state)) in event.deliveries.iter().enumerate() {
            insert_delivery(session, place, event, event.delivery(index), (*hook, *state)).await;
        }
    }
}

async fn insert_delivery(
    session: &Session,
    place: i64,
    event: &StoredEvent,
    seq: DeliverySeq,
    (hook, state): (i64, DeliveryState),
) {
    let at = event.accepted.0;
    let size = i32::try_from(event.data.len()).unwrap() + 512;
    let id = id_of(seq);
    let common = [
        (&seq as _, Type::INT8),
        (&hook as _, Type::INT8),
        (&place as _, Type::INT8),
        (&id as _, Type::UUID),
        (&at as _, Type::INT8),
        (&size as _, Type::INT4),
    ];
    let Some(number) = state::number(state) else {
        let sql =
            "INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, held_before, size)
                   VALUES ($1, $2, $3, $4, $5, $5, $5, 0, $6)";
        session.execute(sql, &common).await.unwrap();
        return;
    };
    let (first, attempts) = match state {
        DeliveryState::Delivered => (Some(at), 1),
        DeliveryState::Dead => (None, 1),
        _ => (None, 0),
    };
    let mut params = common.to_vec();
    params.extend([(&number as _, Type::INT2), (&first as _, Type::INT8), (&attempts as _, Type::INT4)]);
    let sql = "INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts, attempts_before,
                   suppressed, replays, size, first_at, first_micros, first_status)
               VALUES ($1, $2, $3, $4, $7, $5, $5, $9, 0, 0, 0, $6, $8, 1000, 200)";
    session.execute(sql, &params).await.unwrap();
    if state == DeliveryState::Dead {
        let sql = "INSERT INTO hookstream.attempts (delivery, n, at, micros, status, error) VALUES ($1, 1, $2, 5, 400, 'Status')";
        session.execute(sql, &[(&seq, Type::INT8), (&at, Type::INT8)]).await.unwrap();
    }
}

fn budget(rows: usize) -> ReadBudget {
    ReadBudget { rows, ..ReadBudget::of_list() }
}
