//! Idempotency keys.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::super::EventSeq;
use super::failure::DbError;
use super::session::Session;
use crate::core::time::Millis;

/// A key within its place: half of the hash that identifies the event, which the embedded store keeps too.
pub(super) type StoredKey = ([u8; 16], i64);

/// A key to claim: the event that would own it, and when it expires.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) event: EventSeq,
    pub(super) expires: i64,
}

/// Claims the keys for their events, and returns the owners of those that another event owns at `now`.
///
/// The first lock of a transaction. Waits for other transactions that claim the same keys.
pub(super) async fn claim(
    session: &Session,
    claims: &BTreeMap<StoredKey, Claim>,
    now: Millis,
) -> Result<BTreeMap<StoredKey, EventSeq>, DbError> {
    if claims.is_empty() {
        return Ok(BTreeMap::new());
    }
    let keys: Vec<&[u8]> = claims.keys().map(|(key, _)| &key[..]).collect();
    let places: Vec<i64> = claims.keys().map(|(_, place)| *place).collect();
    let events: Vec<i64> = claims.values().map(|claim| claim.event).collect();
    let expiries: Vec<i64> = claims.values().map(|claim| claim.expires).collect();
    let claimed = session
        .execute(
            "INSERT INTO hookstream.keys AS k (key, place, event, expires)
             SELECT c.key, c.place, c.event, c.expires
             FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) AS c (key, place, event, expires)
             ON CONFLICT (key, place) DO UPDATE SET event = excluded.event, expires = excluded.expires
             WHERE k.expires <= $5",
            &[
                (&keys, Type::BYTEA_ARRAY),
                (&places, Type::INT8_ARRAY),
                (&events, Type::INT8_ARRAY),
                (&expiries, Type::INT8_ARRAY),
                (&now.0, Type::INT8),
            ],
        )
        .await?;
    if usize::try_from(claimed).is_ok_and(|claimed| claimed == claims.len()) {
        return Ok(BTreeMap::new());
    }
    let rows = session
        .query(
            "SELECT k.key, k.place, k.event FROM hookstream.keys k
             JOIN unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS c (key, place, event)
               ON (k.key, k.place) = (c.key, c.place) AND k.event <> c.event",
            &[(&keys, Type::BYTEA_ARRAY), (&places, Type::INT8_ARRAY), (&events, Type::INT8_ARRAY)],
        )
        .await?;
    let mut owned = BTreeMap::new();
    for row in &rows {
        let key: &[u8] = row.try_get(0)?;
        let key =
            key.try_into().map_err(|_| DbError::Unreadable("an idempotency key has not 16 bytes".into()))?;
        owned.insert((key, row.try_get(1)?), row.try_get(2)?);
    }
    Ok(owned)
}

/// Releases keys whose events were refused after all.
pub(super) async fn release(session: &Session, events: &[StoredKey]) -> Result<(), DbError> {
    if events.is_empty() {
        return Ok(());
    }
    let keys: Vec<&[u8]> = events.iter().map(|(key, _)| &key[..]).collect();
    let places: Vec<i64> = events.iter().map(|(_, place)| *place).collect();
    session
        .execute(
            "DELETE FROM hookstream.keys k USING unnest($1::bytea[], $2::bigint[]) AS c (key, place)
             WHERE (k.key, k.place) = (c.key, c.place)",
            &[(&keys, Type::BYTEA_ARRAY), (&places, Type::INT8_ARRAY)],
        )
        .await
        .map(drop)
}
