//! Keeps the lease of this process.

use std::pin::pin;
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
/// How long a renewal may take: after it the lease has ended.
const LIMIT: Duration = membership::LEASE;
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
    let session: &Session = session;
    let mut renewal = pin!(renew(session, membership, sweeps));
    if let Ok(renewed) = tokio::time::timeout(LIMIT, &mut renewal).await {
        return renewed;
    }
    // A server that hangs acknowledges data and ends no connection. Another one may be the primary meanwhile, which a new
    // connection finds. The renewal fails by itself, and is not dropped, so that a hand-over in it is not left half-done.
    session.end();
    renewal.await
}

async fn renew(session: &Session, membership: &Membership, sweeps: bool) -> Result<(), DbError> {
    // Renewals on an old primary would keep this process delivering what other workers own.
    session.check_server().await?;
    if !membership.step(session).await? {
        tracing::warn!("the worker's lease ended, other workers may own its shards: it registers again");
        membership.register(session).await?;
    }
    if sweeps {
        membership::sweep(session).await?;
    }
    Ok(())
}
