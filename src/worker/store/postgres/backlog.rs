//! The backlog of hooks, counted in rows of one writer: writers never wait for each other's counts.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;

use super::failure::DbError;
use super::session::Session;

/// Changes of the backlog by one transaction: deliveries and bytes by the row id of the hook. Sorted, so that the rows are
/// locked in one order.
#[derive(Debug, Default)]
pub(super) struct BacklogChanges(BTreeMap<i64, (i64, i64)>);

impl BacklogChanges {
    /// Counts a delivery that became pending.
    pub(super) fn add(&mut self, hook: i64, size: i32) {
        self.change(hook, 1, i64::from(size));
    }

    /// Counts a delivery that is no longer pending.
    pub(super) fn remove(&mut self, hook: i64, size: i32) {
        self.change(hook, -1, -i64::from(size));
    }

    fn change(&mut self, hook: i64, deliveries: i64, bytes: i64) {
        let counts = self.0.entry(hook).or_default();
        *counts = (counts.0 + deliveries, counts.1 + bytes);
    }

    /// Writes the changes to the rows of this writer.
    pub(super) async fn write(&self, session: &Session, writer: i64) -> Result<(), DbError> {
        let changed: Vec<_> = self.0.iter().filter(|(_, counts)| **counts != (0, 0)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let hooks: Vec<i64> = changed.iter().map(|(hook, _)| **hook).collect();
        let deliveries: Vec<i64> = changed.iter().map(|(_, counts)| counts.0).collect();
        let bytes: Vec<i64> = changed.iter().map(|(_, counts)| counts.1).collect();
        session
            .execute(
                "INSERT INTO hookstream.backlog AS b (hook, writer, deliveries, bytes)
                 SELECT c.hook, $4, c.deliveries, c.bytes
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS c (hook, deliveries, bytes)
                 ON CONFLICT (hook, writer) DO UPDATE
                 SET deliveries = b.deliveries + excluded.deliveries, bytes = b.bytes + excluded.bytes",
                &[
                    (&hooks, Type::INT8_ARRAY),
                    (&deliveries, Type::INT8_ARRAY),
                    (&bytes, Type::INT8_ARRAY),
                    (&writer, Type::INT8),
                ],
            )
            .await
            .map(drop)
    }
}
