//! The conformance suite on a real server.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::conformance::*;
use super::test_server;
use super::*;

/// A database of its own.
struct OwnDatabase {
    url: String,
}

static DATABASES: AtomicUsize = AtomicUsize::new(0);

impl OwnDatabase {
    fn create() -> Self {
        let server = test_server::shared();
        let name = format!("conformance_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name);
        OwnDatabase { url: server.url(&name) }
    }

    async fn open(&self, name: &str) -> PostgresStore {
        let settings = PostgresSettings { name: name.to_owned(), migrate: true };
        PostgresStore::open(&self.url, settings).await.unwrap()
    }
}
