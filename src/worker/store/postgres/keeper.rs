//! Keeps the lease of this process.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::connections::Connections;
use super::failure::DbError;
use super::membership::{self, Membership};
use super::session::Session;

/// How often the lease is renewed and the shards are divided. Bounds how long a hand-over takes.
const STEP: Duration = Duration::from_millis(500);
/// Steps between two removals of ended workers.
const SWEEP: u32 = 600;

/// Renews the lease until the process stops. Registers again after it ended.
pub(super) async fn keep_lease(
    connections: Arc<Connections>,
    membership: Arc<Membership>,
    stopping: CancellationToken,
) {
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Beside the pool, so that no load delays a renewal.
    let mut connection = None;
    for number in 0_u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = membership.wants_to_leave() => {}
            () = stopping.cancelled() => return,
        }
        let sweeps = number % SWEEP == SWEEP - 1;
        if let Err(error) = step(&connections, &mut connection, &membership, sweeps).await {
            tracing::warn!(%error, "renewal of the worker's lease failed, retried");
            connection = None;
        }
    }
}

async fn step(
    connections: &Connections,
    connection: &mut Option<Session>,
    membership: &Membership,
    sweeps: bool,
) -> Result<(), DbError> {
    let session = match connection {
        Some(session) => session,
        None => connection.insert(connections.dedicated().await?),
    };
    if !membership.step(session).await? {
        tracing::warn!("the worker's lease ended, other workers may own its shards: it registers again");
        membership.register(session).await?;
    }
    if sweeps {
        membership::sweep(session).await?;
    }
    Ok(())
}
