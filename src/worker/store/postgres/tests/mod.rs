//! The conformance suite on a real server, with one worker and with three whose calls alternate, and what only several
//! workers show.

mod failures;
mod many;
mod ownership;
mod pacing;

use super::super::conformance::*;
use super::super::*;
use super::connect::PostgresOptions;
use super::test_server;
use super::*;

/// A database with one worker. A store that is opened again is the same worker, so it has its shards at once.
struct OneWorker {
    url: String,
}

impl Subject for OneWorker {
    type Store = PostgresStore;
    const MODEL_RUNS: u32 = 16;
    fn new() -> Self {
        OneWorker { url: test_server::shared().new_database() }
    }
    async fn open(&self) -> PostgresStore {
        open(&self.url, "worker").await
    }
}

async fn open(url: &str, name: &str) -> PostgresStore {
    let mut options: PostgresOptions = url.parse().unwrap();
    // The tests' server does not sync.
    options.allow_unsafe_sync = true;
    // Nothing changes the owners in the background.
    PostgresStore::open_still(&options, name).await.unwrap()
}

conformance!(OneWorker);
