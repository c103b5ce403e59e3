//! A store in PostgreSQL: the flags, `hookstream store migrate` and `check`, and messages for a database that cannot be used.

use serde_json::{Value, json};

use super::run_with;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::postgres::pgbouncer::PgBouncer;
use crate::harness::postgres::{PostgresServer, PostgresServerOptions, shared};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

/// The server of the tests does not sync.
const UNSAFE: &str = "--allow-unsafe-commits";

#[tokio::test(flavor = "multi_thread")]
async fn standalone_keeps_events_in_a_database() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = shared().new_database();
    let manifests = hook("h", &receiver.url(), quick());
    let mut standalone = Standalone::start(&manifests, &["--store-url", &url, UNSAFE]).await;
    for n in 0..5 {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    standalone.restart().await;
    standalone.publish_accepted(&event("e5")).await;
    eventually(DEADLINE, "six deliveries", async || {
        let mut ids: Vec<String> =
            receiver.requests().iter().map(|r| r.json()["id"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids.dedup();
        if ids.len() == 6 { Ok(()) } else { Err(format!("{ids:?}")) }
    })
    .await;
    assert!(!standalone.data.join("hookstream.db").exists(), "no file of the embedded store");
    let (code, report, error) =
        run_with(&["store", "check", "--store-url", &url, UNSAFE, "--output", "json"], &[]).await;
    assert_eq!((code, error.as_str()), (0, ""), "{report}");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((&report["events"], &report["workers"]), (&json!(6), &json!(1)), "{report}");
    assert_eq!(report["problems"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_works_through_pgbouncer() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let url = shared().new_database();
    let bouncer = PgBouncer::start(shared(), 3).unwrap_or_else(|error| panic!("{error}"));
    let url = bouncer.url(url.rsplit('/').next().expect("a name"));
    let manifests = hook("h", &receiver.url(), quick());
    let standalone = Standalone::start_without_data(&manifests, &["--store-url", &url, UNSAFE]).await;
    standalone.process().wait_for_line(|line| line.contains("this process leads"), DEADLINE).await;
    for n in 0..20 {
        standalone.publish_accepted(&event(&format!("e{n}"))).await;
    }
    eventually(DEADLINE, "twenty deliveries", async || match receiver.requests().len() {
        20 => Ok(()),
        n => Err(n.to_string()),
    })
    .await;
    let log = standalone.process().log();
    assert!(log.contains(r#""direct":false"#), "{log}");
    assert!(!log.contains("prepared statement"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrates_and_checks_a_database() {
    let url = shared().new_database();
    let database = [("HOOKSTREAM_STORE_URL", url.as_str()), ("HOOKSTREAM_ALLOW_UNSAFE_COMMITS", "true")];
    let (code, _, error) = run_with(&["store", "check"], &database).await;
    assert_eq!(code, 2);
    assert!(error.contains("run `hookstream store migrate`"), "{error}");
    let (code, out, error) = run_with(&["store", "migrate"], &database).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("applied"), "{out}");
    let (_, out, _) = run_with(&["store", "migrate"], &database).await;
    assert!(out.contains("nothing to do"), "{out}");
    let (code, out, error) = run_with(&["store", "check"], &database).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("Store:        sound") && out.contains("own 0 of 256 shards"), "{out}");

    let name = url.rsplit('/').next().expect("a name");
    shared().sql(name, "DELETE FROM hookstream.shards WHERE shard < 3").expect("SQL");
    let (code, out, error) = run_with(&["store", "check"], &database).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("NOT SOUND") && error.contains("3 shards missing"), "{out}{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_what_to_do_about_a_database_that_cannot_be_used() {
    let url = shared().new_database();
    let other = url.replace(url.rsplit('/').next().expect("a name"), "missing");
    let closed = "postgres://app:secret@127.0.0.1:1/store";
    for (args, code, expected) in [
        (&["--store-url", "mysql://app:secret@db/store"][..], 2, "postgres://USER@HOST:5432/DATABASE"),
        (&["--store-url", closed, "--store-key-file", "/key"], 2, "--store-certificate-file"),
        (&["--store-url", closed, "--store-password-file", "/missing"], 2, "--store-password-file /missing"),
        (&["--store-ca-file", "/ca"], 2, "no effect without --store-url"),
        (&["--store-url", &url], 2, "fsync is off"),
        (&["--store-url", &other, UNSAFE], 2, "create the database, or correct --store-url"),
        (&["--store-url", &url, UNSAFE, "--no-migrate"], 2, "run `hookstream store migrate`"),
        // A restart helps when the database is available again.
        (&["--store-url", closed], 3, "check that the server runs there"),
    ] {
        let standalone = Standalone::prepare(&hook("h", "http://127.0.0.1:1", quick()), args);
        let process = standalone.spawn();
        let status = process.wait(DEADLINE).await;
        let log = process.log();
        let line = log.lines().find(|line| line.starts_with("hookstream: ") || line.starts_with("error: "));
        let line = line.unwrap_or_else(|| panic!("{args:?}: {log}"));
        assert!(log.contains(expected), "{args:?}: {log}");
        assert_eq!(status.code(), Some(code), "{args:?}: {line}");
        assert!(!log.contains("secret"), "{log}");
    }
}

/// The lease is renewed meanwhile, so nothing but the failed commits shows the full disk.
#[tokio::test(flavor = "multi_thread")]
async fn log_names_why_events_cannot_be_stored() {
    let url = shared().new_database();
    let manifests = hook("h", "http://127.0.0.1:1", quick());
    let standalone = Standalone::start_without_data(&manifests, &["--store-url", &url, UNSAFE]).await;
    standalone.publish_accepted(&event("before")).await;
    let name = url.rsplit('/').next().expect("a name");
    let fail = "CREATE FUNCTION hookstream.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'could not extend file' USING ERRCODE = '53100', DETAIL = 'a value'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON hookstream.events FOR EACH ROW EXECUTE FUNCTION hookstream.fail()";
    shared().sql(name, fail).expect("SQL");
    let (status, answer) = standalone.publish(&event("refused")).await;
    assert_eq!((status, &answer["reason"]), (503, &json!("Unavailable")), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|detail| detail.contains("the worker's log")), "{answer}");
    let log = standalone.process().log();
    let line = log.lines().find(|line| line.contains("group commit failed")).expect("a line");
    assert!(line.contains(r#""level":"WARN""#) && line.contains("accepted events"), "{line}");
    assert!(
        line.contains("could not extend file: the disk of the database server is full: free space"),
        "{line}"
    );
    assert!(!line.contains("a value"), "{line}");
    shared().sql(name, "DROP TRIGGER fail ON hookstream.events").expect("SQL");
    standalone.publish_accepted(&event("after")).await;
    standalone.process().wait_for_line(|line| line.contains("group commits succeed again"), DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_database() {
    let server =
        PostgresServer::start(PostgresServerOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    let url = server.create_database("store");
    let manifests = hook("h", "http://127.0.0.1:1", quick());
    let standalone = Standalone::start_without_data(&manifests, &["--store-url", &url, UNSAFE]).await;
    let wait_for = async |status: u16| {
        eventually(DEADLINE, &format!("/readyz to answer {status}"), async || {
            let url = format!("http://{}/readyz", standalone.ops);
            let response = standalone.client.get(url).send().await.map_err(|e| e.to_string())?;
            let (is, text) = (response.status().as_u16(), response.text().await.unwrap_or_default());
            if is == status { Ok(text) } else { Err(format!("{is} {text}")) }
        })
        .await
    };
    wait_for(200).await;
    server.stop();
    let text = wait_for(503).await;
    assert!(text.contains("the database is reachable and accepts writes"), "{text}");
    server.restart().unwrap_or_else(|error| panic!("{error}"));
    wait_for(200).await;
    standalone.publish_accepted(&event("after")).await;

    // A server that has become read-only, such as one that a failover has left behind.
    let set_read_only = |value: &str| {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'store'";
        server.sql("postgres", &format!("ALTER SYSTEM SET default_transaction_read_only = {value}")).unwrap();
        server.sql("postgres", &format!("SELECT pg_reload_conf(); {end}")).unwrap();
    };
    set_read_only("on");
    wait_for(503).await;
    set_read_only("off");
    wait_for(200).await;
}
