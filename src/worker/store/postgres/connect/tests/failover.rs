//! Real primaries, promoted standbys, and old primaries that come back: none of those is used again.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

/// A primary with the database `store`, and its standby.
fn servers() -> (PostgresServer, PostgresServer) {
    let primary = server(PostgresServerOptions { durable: true, ..Default::default() });
    primary.create_database("store");
    let standby =
        server(PostgresServerOptions { standby_of: Some((&primary, "standby")), ..Default::default() });
    (primary, standby)
}

/// Options with these servers as hosts, in this order.
fn hosts(servers: [&PostgresServer; 2]) -> PostgresOptions {
    let [first, second] = servers.map(PostgresServer::port);
    let mut options = options(&format!("postgres://postgres@127.0.0.1:{first},127.0.0.1:{second}/store"));
    options.connect_timeout = Duration::from_secs(2);
    options
}

/// Returns the port of a connection's server.
async fn port_of(session: &Session) -> Result<u16, StoreError> {
    let row = session.fetch_one("SELECT inet_server_port()", &[]).await.map_err(|error| failure(&error))?;
    Ok(u16::try_from(row.get::<_, i32>(0)).unwrap())
}

async fn pooled_port(database: &Database) -> Result<u16, StoreError> {
    port_of(&*database.client().await?).await
}

/// Returns the message of a database that cannot be used, which must be one line.
async fn refusal(database: &Database) -> String {
    let error = database.dedicated(None).await.expect_err("it connected");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = error.to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[tokio::test]
async fn refuses_an_old_primary_that_comes_back() {
    let (primary, standby) = servers();
    let database = connect(&hosts([&primary, &standby])).await;
    assert_eq!(pooled_port(&database).await.unwrap(), primary.port());
    primary.kill9();
    standby.promote().unwrap();
    assert_eq!(eventually(async || pooled_port(&database).await).await, standby.port());

    // It is the first host, and accepts writes.
    primary.restart().unwrap();
    primary.sql("store", "CREATE TABLE diverged (n int)").unwrap();
    let dedicated = database.dedicated(None).await.unwrap();
    assert_eq!(port_of(&dedicated).await.unwrap(), standby.port());
    let (sender, _receiver) = mpsc::channel(1);
    let listening = database.dedicated(Some(sender)).await.unwrap();
    assert_eq!(port_of(&listening).await.unwrap(), standby.port());

    standby.stop();
    let error = refusal(&database).await;
    let old =
        format!("127.0.0.1:{}: the server is an old primary, on timeline 1 of the database", primary.port());
    assert!(error.contains(&old) && error.contains("of which 2 has been seen: stop it"), "{error}");
    let pooled = database.client().await.expect_err("a session of the pool").to_string();
    assert!(pooled.contains(&old), "{pooled}");

    standby.restart().unwrap();
    assert_eq!(eventually(async || pooled_port(&database).await).await, standby.port());
    // A restarted process, which is how an operator returns to the old primary.
    let restarted = connect(&hosts([&primary, &standby])).await;
    assert_eq!(pooled_port(&restarted).await.unwrap(), primary.port());
}

/// The old primary was cut off for a moment, and its connections are still open.
#[tokio::test]
async fn ends_connections_to_the_old_primary_when_a_newer_one_is_seen() {
    let (primary, standby) = servers();
    let database = connect(&hosts([&standby, &primary])).await;
    let (sender, mut notifications) = mpsc::channel(1);
    let listening = database.dedicated(Some(sender)).await.unwrap();
    listening.client().batch_execute("LISTEN hookstream").await.unwrap();
    let idle = database.client().await.unwrap();
    let open = database.client().await.unwrap();
    for session in [&*idle, &*open] {
        assert_eq!(port_of(session).await.unwrap(), primary.port());
    }
    drop(idle);
    open.begin().await.unwrap();
    open.client().batch_execute("CREATE TABLE lost (n int)").await.unwrap();

    standby.promote().unwrap();
    let dedicated = database.dedicated(None).await.unwrap();
    assert_eq!(port_of(&dedicated).await.unwrap(), standby.port());

    let error = open.commit().await.expect_err("a COMMIT on the old primary");
    assert_eq!(classify(&error), FailureKind::Disconnected);
    assert!(notifications.recv().await.is_none(), "it still listens");
    assert_eq!(pooled_port(&database).await.unwrap(), standby.port());
    assert!(!dedicated.is_closed());
    let tables = || primary.sql("store", "SELECT to_regclass('lost')").unwrap();
    assert_eq!(tables(), [[""]]);
}

/// The settings of a standby are its own.
#[tokio::test]
async fn refuses_a_promoted_server_that_could_lose_commits() {
    let (primary, standby) = servers();
    let mut options = hosts([&primary, &standby]);
    options.allow_unsafe_sync = false;
    let database = connect(&options).await;
    primary.kill9();
    standby.promote().unwrap();
    let error = refusal(&database).await;
    let expected = format!("127.0.0.1:{}: fsync is off", standby.port());
    assert!(error.contains(&expected) && error.contains("--allow-unsafe-commits"), "{error}");
}

/// The address leads to a server that has nothing of the database but its name, such as after a restore into a new cluster.
#[tokio::test]
async fn refuses_another_cluster_until_a_restart() {
    let first = server(PostgresServerOptions { durable: true, ..Default::default() });
    let url = first.create_database("store");
    let database = connect(&options(&url)).await;
    first.stop();
    let other = server(PostgresServerOptions { port: Some(first.port()), ..Default::default() });
    other.create_database("store");
    let error = refusal(&database).await;
    assert!(
        error.contains("belongs to another cluster") && error.contains("restart this process"),
        "{error}"
    );
    connect(&options(&url)).await;
    other.stop();
    first.restart().unwrap();
    eventually(async || database.dedicated(None).await).await;
}

#[tokio::test]
async fn checks_servers_with_a_role_without_rights() {
    let (primary, standby) = servers();
    primary.sql("store", "CREATE ROLE app LOGIN; ALTER DATABASE store OWNER TO app").unwrap();
    let mut options = hosts([&primary, &standby]);
    options.config.user("app");
    let database = connect(&options).await;
    assert_eq!(pooled_port(&database).await.unwrap(), primary.port());
    // Until the standby has the role.
    let lsn = primary.sql("store", "SELECT pg_current_wal_lsn()").unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn[0][0]);
    while standby.sql("store", &replayed).unwrap() != [["t"]] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    primary.kill9();
    standby.promote().unwrap();
    eventually(async || pooled_port(&database).await).await;
    standby.kill9();
    primary.restart().unwrap();
    let error = refusal(&database).await;
    assert!(error.contains("old primary"), "{error}");

    // Where it cannot be checked, the database can be used all the same.
    primary.sql("store", "REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC").unwrap();
    let unchecked = connect(&options).await;
    assert_eq!(pooled_port(&unchecked).await.unwrap(), primary.port());
}

/// Forwards connections of a port to the port in `to`, as an address that moves. Ends them when that changes.
async fn forward(to: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (at, to) = (to.load(Ordering::SeqCst), Arc::clone(&to));
            let moved = async move {
                while to.load(Ordering::SeqCst) == at {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, at)).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    () = moved => {}
                }
            });
        }
    });
    port
}

/// PgBouncer keeps the connections of the process, and exchanges its own.
#[tokio::test]
async fn refuses_an_old_primary_behind_pgbouncer() {
    let (primary, standby) = servers();
    let address = Arc::new(AtomicU16::new(primary.port()));
    let bouncer = PgBouncer::start_at(forward(Arc::clone(&address)).await, 2).unwrap();
    let database = connect(&options(&bouncer.url("store"))).await;
    let begin = async || -> Result<(), StoreError> {
        let session = database.client().await?;
        session.begin().await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        session.commit().await.map_err(|error| failure(&error))
    };
    // As the keeper of the lease does.
    let kept = tokio::sync::Mutex::new(None);
    let renew = async || -> Result<(), StoreError> {
        let mut kept = kept.lock().await;
        let session = match kept.take() {
            Some(session) => session,
            None => database.dedicated(None).await?,
        };
        session.check_server().await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        *kept = Some(session);
        Ok(())
    };
    begin().await.unwrap();
    renew().await.unwrap();
    let reading = database.client().await.unwrap();
    reading.begin_reading().await.unwrap();
    let isolation = reading.fetch_one("SELECT current_setting('transaction_isolation')", &[]).await.unwrap();
    assert_eq!(isolation.get::<_, String>(0), "repeatable read");
    reading.discard();

    standby.promote().unwrap();
    address.store(standby.port(), Ordering::SeqCst);
    eventually(begin).await;
    eventually(renew).await;
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'store' AND application_name = 'hookstream'";
    assert_ne!(standby.sql("postgres", sessions).unwrap(), [["0"]], "the new primary is used");

    address.store(primary.port(), Ordering::SeqCst);
    let old = "the server is an old primary, on timeline 1";
    for number in 0.. {
        // The first ones may meet a connection of PgBouncer that has just ended.
        match renew().await.expect_err("a renewal on the old primary").to_string() {
            error if error.contains(old) => break,
            error => assert!(number < 20, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let error = begin().await.expect_err("a transaction on the old primary").to_string();
    assert!(error.contains(old), "{error}");

    address.store(standby.port(), Ordering::SeqCst);
    eventually(begin).await;
}
