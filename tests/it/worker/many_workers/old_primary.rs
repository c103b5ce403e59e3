//! An old primary that accepts writes again after its standby was promoted.

use serde_json::json;

use super::signal;
use crate::harness::manifests::{event, hook, quick};
use crate::harness::postgres::{PASSWORD, PostgresServer, PostgresServerOptions, USER};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Receiver, Reply, eventually};

async fn wait_for_readiness(worker: &Standalone, expected: u16) {
    eventually(DEADLINE, &format!("/readyz to answer {expected}"), async || {
        let url = format!("http://{}/readyz", worker.ops);
        let response = worker.client.get(url).send().await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        if status == expected { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Starts a primary with the database `events`, and its standby. Returns the URL of both.
fn start_servers() -> (PostgresServer, PostgresServer, String) {
    let start = |options| PostgresServer::start(options).unwrap_or_else(|error| panic!("{error}"));
    let old = start(PostgresServerOptions { durable: true, ..Default::default() });
    old.create_database("events");
    let new = start(PostgresServerOptions {
        durable: true,
        standby_of: Some((&old, "standby")),
        ..Default::default()
    });
    let url = format!(
        "postgres://{USER}:{PASSWORD}@127.0.0.1:{},127.0.0.1:{}/events?connect_timeout=2",
        old.port(),
        new.port()
    );
    (old, new, url)
}

/// Waits until the standby has everything that the primary has written.
async fn wait_for_standby(primary: &PostgresServer, standby: &PostgresServer) {
    let written = primary.sql("events", "SELECT pg_current_wal_lsn()").expect("SQL");
    eventually(DEADLINE, "the standby to have the event", async || {
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", written[0][0]);
        let rows = standby.sql("events", &replayed)?;
        if rows == [["t"]] { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

async fn publish(worker: &Standalone, id: &str) {
    eventually(DEADLINE, "the event to be accepted", async || match worker.publish(&event(id)).await {
        (202, _) => Ok(()),
        (status, answer) => Err(format!("{status} {answer}")),
    })
    .await;
}

/// A server with a stalled disk or a suspended machine ends no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_leaves_a_primary_that_hangs() {
    let (old, new, url) = start_servers();
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = hook("h", &receiver.url(), quick());
    // Without the lease of the controller, whose renewals have a shorter limit.
    let worker = Standalone::start(&manifests, &["--store-url", &url]).await;
    worker.publish_accepted(&event("before")).await;
    receiver.wait_for(1, DEADLINE).await;
    wait_for_standby(&old, &new).await;
    let sessions =
        old.sql("events", "SELECT pid FROM pg_stat_activity WHERE application_name = 'hookstream'");
    let sessions: Vec<u32> =
        sessions.expect("SQL").concat().iter().map(|pid| pid.parse().expect("a number")).collect();
    assert!(sessions.len() >= 3, "{sessions:?}");
    sessions.iter().for_each(|pid| signal(*pid, "STOP"));
    old.signal("STOP");
    new.promote().expect("a promotion");
    publish(&worker, "after").await;
    receiver.wait_for(2, DEADLINE).await;
    wait_for_readiness(&worker, 200).await;
    old.signal("CONT");
    sessions.iter().for_each(|pid| signal(*pid, "CONT"));
}

/// The worker has one server with the data of all events that it accepted. It must wait for that server, although the first host
/// of its URL is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_the_newer_primary() {
    let (old, new, url) = start_servers();
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let manifests = hook("h", &receiver.url(), quick());
    let worker = Standalone::start_without_data(&manifests, &["--store-url", &url]).await;
    worker.publish_accepted(&event("before")).await;
    receiver.wait_for(1, DEADLINE).await;
    wait_for_standby(&old, &new).await;

    old.kill9();
    new.promote().expect("a promotion");
    publish(&worker, "on the new one").await;
    receiver.wait_for(2, DEADLINE).await;

    old.restart().expect("a restart");
    new.kill9();
    wait_for_readiness(&worker, 503).await;
    let (status, answer) = worker.publish(&event("refused")).await;
    assert_eq!((status, &answer["reason"]), (503, &json!("Unavailable")), "{answer}");
    let log = worker.process().log();
    assert!(log.contains("the database has no synchronous standby"), "{log}");
    assert!(log.contains(r#""reason":"OlderTimeline""#) && log.contains("is an old primary"), "{log}");
    let state = "SELECT (SELECT count(*) FROM hookstream.events),
        (SELECT max(lease_until) < clock_timestamp() FROM hookstream.workers),
        (SELECT max(lease_until) < clock_timestamp() FROM hookstream.leases)";
    eventually(DEADLINE, "the leases on the old primary to end", async || {
        let rows = old.sql("events", state)?;
        assert_eq!(rows[0][0], "1", "events of the old primary");
        if rows[0][1..] == ["t", "t"] { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;

    new.restart().expect("a restart");
    wait_for_readiness(&worker, 200).await;
    publish(&worker, "after").await;
    receiver.wait_for(3, DEADLINE).await;
    let ids: Vec<_> = receiver.requests().iter().map(|request| request.json()["id"].clone()).collect();
    assert_eq!(ids, [json!("before"), json!("on the new one"), json!("after")]);
}
