//! On a real server: every input that cannot work has one line that says what to do, and connections recover.

mod failover;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_postgres::types::Type;

use super::*;
use crate::worker::store::StoreError;
use crate::worker::store::postgres::test_server::pgbouncer::PgBouncer;
use crate::worker::store::postgres::test_server::{PostgresServer, PostgresServerOptions, shared};

fn install_provider() {
    rustls::crypto::ring::default_provider().install_default().ok();
}

fn options(url: &str) -> PostgresOptions {
    install_provider();
    let mut options: PostgresOptions = url.parse().unwrap();
    // The servers of tests run without fsync.
    options.allow_unsafe_sync = true;
    options
}

fn server(options: PostgresServerOptions<'_>) -> PostgresServer {
    PostgresServer::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn create_store(server: &PostgresServer, owner: &str) {
    server.create_database("store");
    server.sql("postgres", &format!("ALTER DATABASE store OWNER TO {owner}")).unwrap();
}

async fn connect(options: &PostgresOptions) -> Database {
    Database::connect(options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Repeats an operation, whose first tries may get connections whose end this process has not seen yet.
async fn eventually<T>(mut operation: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let start = Instant::now();
    loop {
        match operation().await {
            Ok(value) => return value,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
    }
}

/// Returns the message of a failed start, which must be one line without the password.
async fn error_of(options: &PostgresOptions) -> String {
    let error = Database::connect(options).await.expect_err("it connected").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(!error.contains("secret"), "{error}");
    error
}

async fn assert_error(url: &str, expected: &str) {
    let error = error_of(&options(url)).await;
    assert!(error.contains(expected), "{error}\nexpected: {expected}");
}

#[tokio::test]
async fn runs_statements_prepared_once() {
    let database = connect(&options(&shared().new_database())).await;
    let session = database.client().await.unwrap();
    assert!(session.is_direct());
    for n in 0..3_i64 {
        let row = session.fetch_one("SELECT $1 + 1", &[(&n, Type::INT8)]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), n + 1);
    }
    let row = session.fetch_one("SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2, "those of the sum and of this count");
}

#[tokio::test]
async fn reports_wrong_hosts_users_and_databases() {
    let hba = "host all all 127.0.0.1/32 scram-sha-256";
    let server = server(PostgresServerOptions { hba: Some(hba), ..Default::default() });
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    create_store(&server, "app");
    let port = server.port();
    connect(&options(&format!("postgres://app:secret@127.0.0.1:{port}/store"))).await;

    let url = |rest: &str| format!("postgres://{}", rest.replace("HOST", &format!("127.0.0.1:{port}")));
    assert_error(&url("app:secret2@HOST/store"), "check the user in --store-url and the password").await;
    assert_error(&url("app@HOST/store"), "password").await;
    assert_error(&url("other:secret@HOST/store"), "check the user in --store-url").await;
    assert_error(&url("app:secret@HOST/missing"), "create the database, or correct --store-url").await;
    assert_error(&url("app:secret@127.0.0.1:1/store"), "check that the server runs there").await;
    assert_error(&url("app:secret@missing.invalid/store"), "missing.invalid:5432: ").await;
    assert_error(&url("app:secret@HOST/store?sslmode=require"), "server does not support TLS").await;
    assert_error(&url("app:secret@HOST/store?options=-c%20nothing=1"), "nothing").await;
}

#[tokio::test]
async fn reads_the_password_file_at_each_connection() {
    let hba = "host all all 127.0.0.1/32 scram-sha-256";
    let server = server(PostgresServerOptions { hba: Some(hba), ..Default::default() });
    server.sql("postgres", "CREATE ROLE app LOGIN PASSWORD 'first'").unwrap();
    create_store(&server, "app");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    let mut options = options(&format!("postgres://app:wrong@127.0.0.1:{}/store", server.port()));
    options.password_file = Some(file.clone());
    assert!(error_of(&options).await.contains("--store-password-file"));
    std::fs::write(&file, "\n").unwrap();
    assert!(error_of(&options).await.contains("the file is empty"));
    std::fs::write(&file, "first\n").unwrap();
    let database = connect(&options).await;
    server.sql("postgres", "ALTER ROLE app PASSWORD 'second'").unwrap();
    let error = database.dedicated(None).await.expect_err("the old password").to_string();
    assert!(error.contains("not available") && error.contains("--store-password-file"), "{error}");
    std::fs::write(&file, "second\n").unwrap();
    database.dedicated(None).await.unwrap();
}

/// A server with TLS, its authority, and client certificates.
struct TlsServer {
    server: PostgresServer,
    folder: TempDir,
}

impl TlsServer {
    fn start() -> TlsServer {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let issue = |issuer: &CertifiedIssuer<'static, KeyPair>, name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
        };
        let (ours, theirs) = (authority("ours"), authority("theirs"));
        let (certificate, key) = issue(&ours, "localhost");
        let folder = TempDir::new().unwrap();
        let (app, app_key) = issue(&ours, "app");
        let (stranger, stranger_key) = issue(&theirs, "app");
        for (name, text) in [
            ("ca.pem", ours.pem()),
            ("other-ca.pem", theirs.pem()),
            ("app.pem", app),
            ("app.key", app_key),
            ("stranger.pem", stranger),
            ("stranger.key", stranger_key),
            ("broken.pem", "nothing".to_owned()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let server = server(PostgresServerOptions {
            settings: &[
                ("ssl", "on"),
                ("ssl_cert_file", "server.pem"),
                ("ssl_key_file", "server.key"),
                ("ssl_ca_file", "ca.pem"),
            ],
            files: &[("server.pem", &certificate), ("server.key", &key), ("ca.pem", &ours.pem())],
            hba: Some("hostssl store app 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 trust"),
            ..Default::default()
        });
        server.sql("postgres", "CREATE ROLE app LOGIN").unwrap();
        create_store(&server, "app");
        TlsServer { server, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self, user_and_host: &str, parameters: &str) -> PostgresOptions {
        options(&format!("postgres://{user_and_host}:{}/store?{parameters}", self.server.port()))
    }
}

#[tokio::test]
async fn verifies_the_servers_certificate_as_sslmode_says() {
    let tls = TlsServer::start();
    let ca = tls.file("ca.pem").display().to_string();
    let other = tls.file("other-ca.pem").display().to_string();
    for parameters in [
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=require&sslrootcert={ca}"),
        format!("sslmode=verify-ca&sslrootcert={ca}"),
    ] {
        connect(&tls.options("postgres@127.0.0.1", &parameters)).await;
    }
    connect(&tls.options("postgres@localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))).await;

    for (parameters, expected) in [
        ("sslmode=disable".to_owned(), "pg_hba.conf"),
        ("sslmode=verify-full".to_owned(), "TLS failed"),
        (format!("sslmode=verify-full&sslrootcert={ca}"), "not valid for name"),
        (format!("sslmode=verify-ca&sslrootcert={other}"), "no trusted authority"),
        (format!("sslmode=require&sslrootcert={other}"), "no trusted authority"),
        (format!("sslrootcert={other}"), "no trusted authority"),
        (format!("sslrootcert={}", tls.file("broken.pem").display()), "no certificate in PEM format"),
        (format!("sslrootcert={}", tls.file("missing.pem").display()), "cannot be read"),
    ] {
        let error = error_of(&tls.options("postgres@127.0.0.1", &parameters)).await;
        assert!(error.contains(expected), "{parameters}: {error}");
    }
}

#[tokio::test]
async fn logs_in_with_a_client_certificate() {
    let tls = TlsServer::start();
    let with = |name: &str| {
        let mut options = tls.options("app@localhost", "sslmode=verify-full");
        options.set_ca_file(&tls.file("ca.pem"));
        options.client_certificate =
            Some((tls.file(&format!("{name}.pem")), tls.file(&format!("{name}.key"))));
        options
    };
    connect(&with("app")).await;
    let error = error_of(&with("stranger")).await;
    assert!(error.contains("TLS failed") || error.contains("certificate"), "{error}");
    let mut without = with("app");
    without.client_certificate = None;
    let error = error_of(&without).await;
    assert!(error.contains("its certificate"), "{error}");
}

#[tokio::test]
async fn rejects_servers_that_cannot_keep_events() {
    let server = shared();
    let url = server.new_database();
    let mut safe = options(&url);
    safe.allow_unsafe_sync = false;
    let error = error_of(&safe).await;
    assert!(error.contains("fsync is off") && error.contains("--allow-unsafe-commits"), "{error}");

    server
        .sql(
            "postgres",
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
        )
        .unwrap();
    assert_error(&server.url("latin"), "has the encoding LATIN1: create one with ENCODING 'UTF8'").await;

    server.sql("postgres", "CREATE ROLE reader LOGIN").unwrap();
    server.create_database("unowned");
    let reader = format!("postgres://reader@127.0.0.1:{}/unowned", server.port());
    assert_error(&reader, "GRANT CREATE ON DATABASE \"unowned\" TO \"reader\"").await;
    let mut unmigrated = options(&reader);
    unmigrated.migrate = false;
    connect(&unmigrated).await;

    server.create_database("frozen");
    server.sql("postgres", "ALTER DATABASE frozen SET default_transaction_read_only = on").unwrap();
    assert_error(&server.url("frozen"), "the server is read-only").await;
}

#[tokio::test]
async fn rejects_synchronous_commit_off() {
    let server = server(PostgresServerOptions { durable: true, ..Default::default() });
    let url = server.create_database("store");
    let mut options = options(&url);
    options.allow_unsafe_sync = false;
    connect(&options).await;
    server.sql("postgres", "ALTER DATABASE store SET synchronous_commit = off").unwrap();
    let error = error_of(&options).await;
    assert!(error.contains("synchronous_commit is off"), "{error}");
}

#[tokio::test]
async fn reports_too_many_connections() {
    let server = shared();
    let url = server.new_database();
    let name = url.rsplit('/').next().unwrap();
    server.sql("postgres", "CREATE ROLE few LOGIN CONNECTION LIMIT 1").unwrap();
    server.sql("postgres", &format!("GRANT CREATE ON DATABASE {name} TO few")).unwrap();
    let options = options(&format!("postgres://few@127.0.0.1:{}/{name}", server.port()));
    let database = connect(&options).await;
    // The server ends the session of the check a moment after the client.
    let _first = eventually(async || database.client().await).await;
    let error = database.client().await.expect_err("the second connection").to_string();
    assert!(error.contains("too many connections") && error.contains("PgBouncer"), "{error}");
}

#[tokio::test]
async fn finds_the_primary_among_several_hosts() {
    let primary = server(PostgresServerOptions { durable: true, ..Default::default() });
    primary.create_database("store");
    let standby =
        server(PostgresServerOptions { standby_of: Some((&primary, "standby")), ..Default::default() });
    assert_error(&standby.url("store"), "the server is read-only (a standby").await;

    let mut hosts = options(&format!(
        "postgres://postgres@127.0.0.1:1,127.0.0.1:{},127.0.0.1:{}/store?target_session_attrs=read-write",
        standby.port(),
        primary.port()
    ));
    hosts.connect_timeout = Duration::from_secs(2);
    let database = connect(&hosts).await;
    let port = async |database: &Database| -> Result<i32, StoreError> {
        let session = database.client().await?;
        let row =
            session.fetch_one("SELECT inet_server_port()", &[]).await.map_err(|error| failure(&error))?;
        Ok(row.get(0))
    };
    assert_eq!(port(&database).await.unwrap(), i32::from(primary.port()));
    primary.kill9();
    let error = database.dedicated(None).await.expect_err("no primary").to_string();
    assert!(error.contains("not available") && error.contains("read-only"), "{error}");
    standby.promote().unwrap();
    let found = eventually(async || port(&database).await).await;
    assert_eq!(found, i32::from(standby.port()));
}

#[tokio::test]
async fn survives_killed_sessions_and_restarts_of_the_server() {
    let server = server(PostgresServerOptions { durable: true, ..Default::default() });
    let database = connect(&options(&server.create_database("store"))).await;
    let session = database.client().await.unwrap();
    server
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'store'")
        .unwrap();
    let error = session.client().batch_execute("SELECT 1").await.expect_err("a killed session");
    assert_eq!(classify(&error), FailureKind::Disconnected);
    assert!(matches!(failure(&error), StoreError::Unavailable(_)));
    drop(session);
    let select = async || {
        let session = database.client().await?;
        session.client().batch_execute("SELECT 1").await.map_err(|error| failure(&error))
    };
    eventually(select).await;

    server.stop();
    let error = database.dedicated(None).await.expect_err("a stopped server").to_string();
    assert!(error.contains("check that the server runs there"), "{error}");
    server.restart().unwrap();
    eventually(select).await;
}

#[tokio::test]
async fn never_pools_a_connection_with_an_open_transaction() {
    let database = connect(&options(&shared().new_database())).await;
    let pid = async |session: &Session| -> i32 {
        session.fetch_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    };
    let session = database.client().await.unwrap();
    let first = pid(&session).await;
    session.begin().await.unwrap();
    session.commit().await.unwrap();
    drop(session);
    let session = database.client().await.unwrap();
    assert_eq!(pid(&session).await, first, "a connection is used again");
    session.begin().await.unwrap();
    drop(session);
    let session = database.client().await.unwrap();
    assert_ne!(pid(&session).await, first);
}

#[tokio::test]
async fn returns_warnings_with_the_statement_that_caused_them() {
    let database = connect(&options(&shared().new_database())).await;
    let session = database.client().await.unwrap();
    session
        .client()
        .batch_execute("DO $$ BEGIN RAISE WARNING 'careful'; RAISE NOTICE 'hello'; END $$")
        .await
        .unwrap();
    let warnings = session.take_warnings();
    assert_eq!(warnings, [Warning { code: "01000".into(), message: "careful".into() }]);
    assert!(session.take_warnings().is_empty());
}

#[tokio::test]
async fn receives_notifications_on_a_dedicated_connection() {
    let database = connect(&options(&shared().new_database())).await;
    let (sender, mut receiver) = tokio::sync::mpsc::channel(10);
    let listener = database.dedicated(Some(sender)).await.unwrap();
    listener.client().batch_execute("LISTEN hookstream").await.unwrap();
    database.client().await.unwrap().client().batch_execute("NOTIFY hookstream, '7'").await.unwrap();
    let notification = receiver.recv().await.unwrap();
    assert_eq!((notification.channel(), notification.payload()), ("hookstream", "7"));
}

#[tokio::test]
async fn classifies_errors_of_statements() {
    let database = connect(&options(&shared().new_database())).await;
    let session = database.client().await.unwrap();
    for (sql, kind, advice) in [
        ("SELECT 1 / 0", FailureKind::Refused, "division by zero (SQLSTATE 22012)"),
        ("SELECT * FROM missing", FailureKind::Unavailable, "hookstream store migrate"),
        ("SET statement_timeout = 10; SELECT pg_sleep(10)", FailureKind::Unavailable, "statement_timeout"),
        (
            "BEGIN READ ONLY; CREATE TABLE t (n int)",
            FailureKind::Unavailable,
            "the server is read-only: name all hosts",
        ),
        (
            "ROLLBACK; DO $$ BEGIN RAISE SQLSTATE '40001'; END $$",
            FailureKind::Conflict,
            "in each other's way",
        ),
        ("DO $$ BEGIN RAISE SQLSTATE '53100'; END $$", FailureKind::Unavailable, "free space on it"),
        ("DO $$ BEGIN RAISE SQLSTATE '42501'; END $$", FailureKind::Unavailable, "grant the right"),
    ] {
        let error = session.client().batch_execute(sql).await.expect_err(sql);
        assert_eq!(classify(&error), kind, "{sql}: {error:?}");
        let text = failure(&error).to_string();
        assert!(text.contains(advice) && text.lines().count() == 1, "{sql}: {text}");
    }
    session.discard();
}

#[tokio::test]
async fn works_through_pgbouncer_in_transaction_mode() {
    let url = shared().new_database();
    let name = url.rsplit('/').next().unwrap();
    let bouncer = PgBouncer::start(shared(), 2).unwrap_or_else(|error| panic!("{error}"));
    shared().sql(name, "CREATE TABLE counted (n int8); INSERT INTO counted VALUES (0)").unwrap();
    let database = connect(&options(&bouncer.url(name))).await;
    // Five sessions share two connections to the server, so each transaction may get another one.
    let count = async || {
        let session = database.client().await.unwrap();
        assert!(!session.is_direct());
        for _ in 0..20 {
            session.begin().await.unwrap();
            let sql = "UPDATE counted SET n = n + $1 RETURNING n";
            session.fetch_one(sql, &[(&1_i64, Type::INT8)]).await.unwrap();
            session.commit().await.unwrap();
        }
    };
    tokio::join!(count(), count(), count(), count(), count());
    assert_eq!(shared().sql(name, "SELECT n FROM counted").unwrap(), [["100"]]);
}
