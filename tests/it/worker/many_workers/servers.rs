//! A PostgreSQL server with a synchronous standby, which takes its place when it fails.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::harness::postgres::pgbouncer::PgBouncer;
use crate::harness::postgres::{PASSWORD, PostgresServer, PostgresServerOptions, USER};
use crate::harness::{DEADLINE, eventually};

/// The database of the workers.
const DATABASE: &str = "events";
/// Connections of PgBouncer to the server.
const POOL: u32 = 8;
/// Waits for the standby that a test cancels before the failover.
const CANCELLED: usize = 3;

/// A primary and a standby. Both commit before an event is accepted. They have two ports, which they exchange.
pub struct Servers {
    primary: PostgresServer,
    standby: PostgresServer,
    bouncer: PgBouncer,
    /// Between PgBouncer, which knows one port, and the primary.
    primary_port: Arc<AtomicU16>,
    proxy: AbortHandle,
}

impl Servers {
    pub async fn start() -> Servers {
        let primary = start(None, None);
        primary.create_database(DATABASE);
        // The standby copies the setting, so it accepts nothing after its promotion until it has a standby of its own.
        sql(&primary, "ALTER SYSTEM SET synchronous_standby_names = '*'");
        let standby = start(Some(&primary), None);
        sql(&primary, "SELECT pg_reload_conf()");
        let primary_port = Arc::new(AtomicU16::new(primary.port()));
        let (proxy_port, proxy) = forward(primary_port.clone()).await;
        let bouncer = PgBouncer::start_at(proxy_port, POOL).expect("PgBouncer");
        let servers = Servers { primary, standby, bouncer, primary_port, proxy };
        servers.wait_for_standby().await;
        servers
    }

    /// Returns the URL with both servers.
    pub fn url(&self) -> String {
        let (first, second) = (self.primary.port(), self.standby.port());
        format!(
            "postgres://{USER}:{PASSWORD}@127.0.0.1:{first},127.0.0.1:{second}/{DATABASE}?connect_timeout=2"
        )
    }

    /// Returns the URL through PgBouncer.
    pub fn pooled_url(&self) -> String {
        self.bouncer.url(DATABASE)
    }

    /// Kills the primary, which starts again.
    pub async fn crash(&self) {
        self.primary.kill9();
        self.primary.restart().expect("a restart");
        self.wait_for_standby().await;
    }

    /// Refuses connections for this time.
    pub async fn refuse_connections(&self, time: Duration) {
        self.primary.stop();
        tokio::time::sleep(time).await;
        self.primary.restart().expect("a restart");
        self.wait_for_standby().await;
    }

    /// Kills the primary and promotes the standby.
    pub async fn fail_over(&mut self) {
        self.primary.kill9();
        self.promote().await;
    }

    /// Cancels the waits of commits for the standby, which is away. The primary then has what the standby, which is promoted,
    /// has never received. Nothing of it may have been accepted.
    pub async fn lose_commits_and_fail_over(&mut self) {
        self.standby.kill9();
        let mut cancelled = 0;
        eventually(DEADLINE, "commits to wait for the standby", async || {
            let waiting =
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let rows = sql(&self.primary, waiting);
            cancelled += rows[0][0].parse::<usize>().expect("a count");
            if cancelled >= CANCELLED { Ok(()) } else { Err(format!("{cancelled} of {CANCELLED}")) }
        })
        .await;
        self.primary.kill9();
        self.standby.restart().expect("a restart");
        self.promote().await;
    }

    /// Makes the standby the primary, and starts a new standby on the port of the dead primary.
    async fn promote(&mut self) {
        self.standby.promote().expect("a promotion");
        let port = self.primary.port();
        self.primary_port.store(self.standby.port(), Ordering::SeqCst);
        let standby = start(Some(&self.standby), Some(port));
        let promoted = std::mem::replace(&mut self.standby, standby);
        self.primary = promoted;
        self.wait_for_standby().await;
    }

    async fn wait_for_standby(&self) {
        eventually(DEADLINE, "the standby to be synchronous", async || {
            let rows = self.primary.sql("postgres", "SELECT sync_state FROM pg_stat_replication")?;
            if rows.iter().flatten().any(|state| state == "sync") { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

/// Starts a server. `port`: that of a dead one.
fn start(standby_of: Option<&PostgresServer>, port: Option<u16>) -> PostgresServer {
    let options = PostgresServerOptions {
        durable: true,
        settings: &[("wal_retrieve_retry_interval", "500ms")],
        standby_of: standby_of.map(|primary| (primary, "standby")),
        port,
        ..Default::default()
    };
    PostgresServer::start(options).expect("a server")
}

fn sql(server: &PostgresServer, statement: &str) -> Vec<Vec<String>> {
    server.sql("postgres", statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// Forwards connections of a port to the port in `to`.
async fn forward(to: Arc<AtomicU16>) -> (u16, AbortHandle) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let task = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    (port, task.abort_handle())
}
