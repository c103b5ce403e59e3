//! Counts the rows of a database by kind, to compare both sides of a copy.

use super::super::super::portable::{CopiedKind, Counts};
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::state::{CANCELLED, DEAD, DELIVERED, DROPPED};

/// Counts everything, idempotency keys with all that are stored.
pub(super) async fn count(session: &Session) -> Result<Counts, DbError> {
    let mut counts = Counts::new();
    for (kind, rows) in [
        (CopiedKind::Hooks, "hooks"),
        (CopiedKind::HeldHooks, "hooks WHERE held_since IS NOT NULL"),
        (CopiedKind::Events, "events"),
        (CopiedKind::UnmatchedEvents, "events WHERE unmatched"),
        (CopiedKind::Keys, "keys"),
        (CopiedKind::Pending, "pending"),
        (CopiedKind::Attempts, "attempts"),
        (CopiedKind::Responses, "exchanges"),
        (CopiedKind::Gates, "gates"),
        (CopiedKind::Candidates, "candidates"),
        (CopiedKind::Replays, "replays"),
    ] {
        let sql = format!("SELECT count(*) FROM hookstream.{rows}");
        counts.insert(kind, unsigned(session.query_one(&sql, &[]).await?.try_get(0)?));
    }
    let states = session.query("SELECT state, count(*) FROM hookstream.finished GROUP BY state", &[]).await?;
    for row in &states {
        let kind = match row.try_get(0)? {
            DELIVERED => CopiedKind::Delivered,
            DEAD => CopiedKind::Dead,
            DROPPED => CopiedKind::Dropped,
            CANCELLED => CopiedKind::Cancelled,
            state => return Err(DbError::Unreadable(format!("{state} is no state of a delivery"))),
        };
        counts.insert(kind, unsigned(row.try_get(1)?));
    }
    Ok(counts)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
