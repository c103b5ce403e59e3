//! Fails readiness while the database of the store cannot be used.

use std::time::Duration;

use crate::ops::Readiness;
use crate::worker::store::postgres::PostgresStore;

/// How long the database may be away before the process is not ready. Longer than one slow or lost renewal.
const GRACE: Duration = Duration::from_secs(5);
/// The time between two checks.
const CHECK: Duration = Duration::from_millis(500);

/// Closes a gate while the database does not answer or accepts no writes, and opens it when it does again. Never ends.
pub async fn follow_database(store: &PostgresStore, readiness: &Readiness) {
    let mut closed = None;
    loop {
        tokio::time::sleep(CHECK).await;
        let is_away = store.unavailable_for() > GRACE;
        match closed.take() {
            None if is_away => {
                tracing::warn!("the database cannot be used, this process is not ready");
                closed = Some(readiness.add_gate("the database is reachable and accepts writes"));
            }
            Some(gate) if is_away => closed = Some(gate),
            Some(gate) => {
                tracing::info!("the database can be used again");
                gate.open();
            }
            None => {}
        }
    }
}
