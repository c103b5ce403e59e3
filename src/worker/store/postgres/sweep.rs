//! Rounds of sweeps: remove what is past its retention, a bounded part in each call.
//!
//! Of many workers one sweeps at a time: each transaction of a sweep holds an advisory lock, and a worker that does not get it
//! leaves the sweep to the other. Each transaction removes a bounded number of rows, because others wait for its locks, and a
//! standby replays it at once.

use std::time::{Duration, Instant};

use super::super::Retention;
use super::byte_limits::ByteLimits;
use super::failure::DbError;
use super::locks::{self, SingleTask};
use super::session::Session;
use super::{byte_limits, ended_places, expired, membership, replays, unused_rows};
use crate::core::time::Millis;

/// Rows that one statement removes.
pub(super) const ROWS: i64 = 1000;
/// A search of what exceeds the byte limits takes at most one part of this many of the time.
const LIMITS_LOAD: u32 = 20;
/// A faster search is always made.
const FAST_SEARCH: Duration = Duration::from_millis(100);

/// The least time between two searches of the whole table of the pacing.
const BETWEEN_PACING: Duration = Duration::from_secs(300);

/// The sweeps of this process.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// The byte limits of the round in progress. None: the next sweep begins a round.
    round: Option<ByteLimits>,
    /// The limits that were found last, and when the next search may begin.
    found: Option<(ByteLimits, Instant)>,
    /// The last hook that was examined.
    hook: i64,
    /// When rows of the pacing may be searched again.
    next_pacing: Option<Instant>,
}

/// Removes a bounded part. True: there is more.
pub(super) async fn sweep(
    session: &Session,
    sweeps: &mut Sweeps,
    retention: Retention,
    now: Millis,
) -> Result<bool, DbError> {
    // A failed step begins a new round.
    let round = sweeps.round.take();
    let begins = round.is_none();
    let tx = session.begin().await?;
    if !locks::try_lock(&tx, SingleTask::Sweep).await? {
        tx.rollback().await?;
        return Ok(false);
    }
    let limits = match round {
        Some(limits) => limits,
        None => find_limits(&tx, sweeps, &retention).await?,
    };
    if begins {
        replays::remove_expired(&tx, now).await?;
        ended_places::remove_deleted_namespaces(&tx).await?;
        unused_rows::merge_backlogs(&tx).await?;
        sweeps.hook = unused_rows::sweep_hooks(&tx, sweeps.hook).await?;
        let now = Instant::now();
        if sweeps.next_pacing.is_none_or(|next| next <= now) && !membership::sweep_pacing(&tx).await? {
            sweeps.next_pacing = Some(now + BETWEEN_PACING);
        }
    }
    let mut has_more = ended_places::sweep(&tx).await?;
    tx.commit().await?;

    let tx = session.begin().await?;
    if locks::try_lock(&tx, SingleTask::Sweep).await? {
        has_more |= expired::sweep(&tx, &retention, &limits, now).await?;
    }
    tx.commit().await?;
    sweeps.round = has_more.then_some(limits);
    Ok(has_more)
}

/// Finds what exceeds the byte limits. Uses the last result if the search takes long and was made recently.
async fn find_limits(
    tx: &Session,
    sweeps: &mut Sweeps,
    retention: &Retention,
) -> Result<ByteLimits, DbError> {
    let started = Instant::now();
    if let Some((limits, next)) = &sweeps.found
        && started < *next
    {
        return Ok(limits.clone());
    }
    let limits = byte_limits::find(tx, retention).await?;
    let taken = started.elapsed();
    let pause = if taken < FAST_SEARCH { Duration::ZERO } else { taken * LIMITS_LOAD };
    sweeps.found = Some((limits.clone(), Instant::now() + pause));
    Ok(limits)
}
