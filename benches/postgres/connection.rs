//! A connection of the bench itself, whose statements may take minutes.

use std::sync::OnceLock;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A connection to a database. Each call blocks.
pub struct Connection {
    client: Client,
}

/// The thread that moves the bytes of all connections.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().expect("a runtime")
    })
}

impl Connection {
    pub fn open(url: &str) -> Connection {
        Connection { client: runtime().block_on(connect(url)) }
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        runtime().block_on(self.client.batch_execute(sql)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs a query and returns its rows as texts.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let messages = runtime()
            .block_on(self.client.simple_query(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        messages.iter().filter_map(row).collect()
    }

    /// Runs a query and returns the first column of its first row.
    pub fn number(&self, sql: &str) -> f64 {
        let rows = self.rows(sql);
        let text = rows.first().and_then(|row| row.first());
        text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{sql}: {rows:?} is not a number"))
    }
}

/// Connects, and runs the connection in a task.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}
