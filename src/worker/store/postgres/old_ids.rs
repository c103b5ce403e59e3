//! Finds deliveries whose `webhook-id` an older version made: it does not hold the sequence number, so it has an index.
//!
//! PostgreSQL has such deliveries only if they were copied from an embedded store. The indexes of both tables contain no
//! other ids, so they cost new deliveries nothing.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::DeliverySeq;
use super::failure::DbError;
use super::session::Session;

// The condition of the partial indexes: the id is no UUIDv8.
pub(super) const FIND: &str = "
SELECT seq FROM hookstream.pending WHERE id = ANY($1) AND (get_byte(uuid_send(id), 6) >> 4) <> 8
UNION ALL
SELECT seq FROM hookstream.finished WHERE id = ANY($1) AND (get_byte(uuid_send(id), 6) >> 4) <> 8";

/// Returns the sequence numbers of the deliveries with these ids, in any order.
pub(super) async fn find(session: &Session, ids: &[Uuid]) -> Result<Vec<DeliverySeq>, DbError> {
    let rows = session.query(FIND, &[(&ids, Type::UUID_ARRAY)]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
