//! The group commits of the bare program: one transaction inserts what has arrived meanwhile, another one settles it.
//! Groups are formed as the store forms them: everything that waits while a transaction runs, up to 1,000 rows.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

/// Rows of one transaction.
const GROUP_ROWS: usize = 1000;
/// How long a key is kept, in milliseconds: the default of `--dedup-window`.
const WINDOW: i64 = 24 * 3_600_000;

const INSERT_KEYS: &str = "
INSERT INTO hookstream.keys (key, place, expires, event)
SELECT key, 1, $3::bigint, event FROM unnest($1::bytea[], $2::bigint[]) AS k (key, event) ON CONFLICT DO NOTHING";
const INSERT_EVENTS: &str = "
INSERT INTO hookstream.events (seq, place, accepted, is_loose, unmatched, id, origin, source, event, time, data, kept_until)
SELECT seq, 1, $5::bigint, false, false, id, 'api', source, 'e', $6::text, data, $5::bigint + 86400000
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[]) AS e (seq, id, source, data)";
const INSERT_PENDING: &str = "
INSERT INTO hookstream.pending (seq, hook, place, id, due, began, accepted, held_before, size)
SELECT seq << 20, hook, 1, id, $4::bigint, $4::bigint, $4::bigint, 0, 1500
FROM unnest($1::bigint[], $2::bigint[], $3::uuid[]) AS d (seq, hook, id)";
const FINISH: &str = "
WITH gone AS (DELETE FROM hookstream.pending WHERE seq = ANY($1::bigint[]) RETURNING *)
INSERT INTO hookstream.finished (seq, hook, place, id, state, finished_at, accepted, attempts, attempts_before, suppressed,
    replays, size, first_at, first_micros, first_status)
SELECT seq, hook, place, id, 1, $2::bigint, accepted, 1, 0, suppressed, replays, size, $2::bigint, 700, 200 FROM gone";

#[derive(Deserialize)]
struct Fields {
    id: String,
    source: String,
    data: Box<serde_json::value::RawValue>,
}

/// An event to insert.
pub struct NewEvent {
    seq: i64,
    fields: Fields,
}

impl NewEvent {
    pub fn new(seq: i64, event: &Bytes) -> NewEvent {
        NewEvent { seq, fields: serde_json::from_slice(event).expect("an event") }
    }
}

/// Inserts events with their keys and pending deliveries.
pub struct Accepts {
    client: Client,
    keys: Statement,
    events: Statement,
    pending: Statement,
}

impl Accepts {
    pub async fn prepare(client: Client) -> Accepts {
        let keys = client.prepare(INSERT_KEYS).await.expect("a statement");
        let events = client.prepare(INSERT_EVENTS).await.expect("a statement");
        let pending = client.prepare(INSERT_PENDING).await.expect("a statement");
        Accepts { client, keys, events, pending }
    }

    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<(Vec<NewEvent>, oneshot::Sender<()>)>) {
        while let Some((mut rows, done)) = queue.recv().await {
            let mut waiting = vec![done];
            while rows.len() < GROUP_ROWS
                && let Ok((more, done)) = queue.try_recv()
            {
                rows.extend(more);
                waiting.push(done);
            }
            self.commit(&rows).await.expect("the group commits");
            for done in waiting {
                done.send(()).ok();
            }
        }
    }

    async fn commit(&mut self, rows: &[NewEvent]) -> Result<(), tokio_postgres::Error> {
        let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        let keys: Vec<Vec<u8>> = rows.iter().map(|row| Sha256::digest(&row.fields.id).to_vec()).collect();
        let ids: Vec<&str> = rows.iter().map(|row| &*row.fields.id).collect();
        let sources: Vec<&str> = rows.iter().map(|row| &*row.fields.source).collect();
        let data: Vec<&[u8]> = rows.iter().map(|row| row.fields.data.get().as_bytes()).collect();
        let number = |source: &&str| source.rsplit('-').next().and_then(|n| n.parse::<i64>().ok());
        let hooks: Vec<i64> = sources.iter().map(|source| number(source).unwrap_or(0)).collect();
        let delivery_ids: Vec<Uuid> = rows.iter().map(|_| Uuid::now_v7()).collect();
        let now = now();
        let tx = self.client.transaction().await?;
        tx.execute(&self.keys, &[&keys, &seqs, &(now + WINDOW)]).await?;
        tx.execute(&self.events, &[&seqs, &ids, &sources, &data, &now, &"2026-01-01T00:00:00.000Z"]).await?;
        tx.execute(&self.pending, &[&seqs, &hooks, &delivery_ids, &now]).await?;
        tx.commit().await
    }
}

/// Moves deliveries to the finished ones.
pub struct Outcomes {
    client: Client,
    finish: Statement,
}

impl Outcomes {
    pub async fn prepare(client: Client) -> Outcomes {
        let finish = client.prepare(FINISH).await.expect("a statement");
        Outcomes { client, finish }
    }

    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<i64>) {
        while let Some(first) = queue.recv().await {
            let mut seqs = vec![first << 20];
            while seqs.len() < GROUP_ROWS
                && let Ok(next) = queue.try_recv()
            {
                seqs.push(next << 20);
            }
            self.commit(&seqs).await.expect("the group commits");
        }
    }

    async fn commit(&mut self, seqs: &[i64]) -> Result<(), tokio_postgres::Error> {
        let tx = self.client.transaction().await?;
        tx.execute(&self.finish, &[&seqs, &now()]).await?;
        tx.commit().await
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
    i64::try_from(since.as_millis()).expect("a time")
}
