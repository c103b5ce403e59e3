//! The conformance suite on a real server.

use super::super::conformance::*;
use super::test_server;
use super::*;

/// A database with one worker. A store that is opened again is the same worker, so it has its shards at once.
struct OneWorker {
    url: String,
}

impl Subject for OneWorker {
    type Store = PostgresStore;
    fn new() -> Self {
        OneWorker { url: test_server::shared().new_database() }
    }
    async fn open(&self) -> PostgresStore {
        open(&self.url, "worker").await
    }
}

async fn open(url: &str, name: &str) -> PostgresStore {
    let settings = PostgresSettings { name: name.to_owned(), migrate: true };
    PostgresStore::open(url, settings).await.unwrap()
}

conformance!(OneWorker);
