//! Work that one worker at a time does for all of them.

use tokio_postgres::types::Type;

use super::failure::DbError;
use super::session::Session;

/// Work that needs no second worker. The keys of the advisory locks are "HkS" and a number.
#[derive(Clone, Copy, Debug)]
pub(super) enum SingleTask {
    Replays,
    Sweep,
}

impl SingleTask {
    fn key(self) -> i64 {
        match self {
            SingleTask::Replays => 0x486b_5301,
            SingleTask::Sweep => 0x486b_5302,
        }
    }
}

/// Takes the lock of a task until the transaction ends. False: another worker has it.
pub(super) async fn try_lock(tx: &Session, task: SingleTask) -> Result<bool, DbError> {
    let sql = "SELECT pg_try_advisory_xact_lock($1)";
    Ok(tx.query_one(sql, &[(&task.key(), Type::INT8)]).await?.try_get(0)?)
}
