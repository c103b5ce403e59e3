//! Cancels a batch of deliveries in one operation of the writer.

use rusqlite::Connection;
use uuid::Uuid;

use super::super::{DeliverySeq, HookId};
use super::cache::WriterCache;
use super::schema::{CANDIDATE, PENDING};
use super::transitions;
use crate::core::time::Millis;

/// Cancels those of the deliveries that are pending. Returns them. The next accept waits for it, so the caller bounds the
/// number of ids.
pub(super) fn cancel_many(
    conn: &Connection,
    cache: &mut WriterCache,
    namespace: &str,
    ids: &[Uuid],
    now: Millis,
) -> rusqlite::Result<Vec<(HookId, DeliverySeq)>> {
    let mut cancelled = Vec::with_capacity(ids.len());
    for id in ids {
        let Some((seq, state, _)) = transitions::find(conn, cache, namespace, *id)? else { continue };
        // A delivery that has finished since it was listed keeps its outcome.
        if state != PENDING && state != CANDIDATE {
            continue;
        }
        if let Some(hook) = transitions::cancel(conn, cache, namespace, *id, now)? {
            cancelled.push((hook, seq));
        }
    }
    Ok(cancelled)
}
