//! Makes undecided deliveries due again when a hook's spec changes.

use std::sync::Arc;

use super::command::DispatchHandle;
use crate::core::time::Millis;
use crate::worker::store::DispatchStore;

/// Makes the undecided deliveries of these hooks due: the specs may have changed, so their filters may decide them now.
pub async fn retry_undecided(store: Arc<dyn DispatchStore>, dispatch: DispatchHandle, hooks: Vec<Arc<str>>) {
    for uid in hooks {
        loop {
            match store.reschedule_undecided(&uid, Millis::now()).await {
                Ok(more) => {
                    dispatch.notify_due(uid.clone()).await;
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "reschedule of undecided deliveries failed, they stay scheduled");
                    break;
                }
            }
        }
    }
}
