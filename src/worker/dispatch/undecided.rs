//! What waits because a hook's filter could not decide on it.

use std::sync::Arc;

use super::Handle;
use crate::core::time::Millis;
use crate::worker::store::Store;

/// Makes due what the filters of these hooks, as they were, could not decide.
pub(super) async fn decide_again(store: Arc<dyn Store>, handle: Handle, hooks: Vec<Arc<str>>) {
    for uid in hooks {
        loop {
            match store.decide_again(&uid, Millis::now()).await {
                Ok(more) => {
                    handle.wake(uid.clone()).await;
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "what is undecided waits its time, though the spec changed");
                    break;
                }
            }
        }
    }
}
