//! Statements that the server fails, as it does when its disk is full, a right is missing, or transactions lose a deadlock.

use super::*;

/// Fails inserts of events whose id matches `condition`, a SQL condition on `NEW`. `attempts` counts them, also those that are
/// rolled back.
fn fail_events(url: &str, condition: &str, code: &str) {
    let sql = format!(
        "CREATE SEQUENCE hookstream.test_attempts;
         CREATE FUNCTION hookstream.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF {condition} THEN RAISE 'failed by the test' USING ERRCODE = '{code}'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER fail BEFORE INSERT ON hookstream.events FOR EACH ROW EXECUTE FUNCTION hookstream.fail()"
    );
    test_server::shared().sql(url.rsplit('/').next().unwrap(), &sql).unwrap();
}

fn events(url: &str) -> Vec<Vec<String>> {
    let sql = "SELECT id FROM hookstream.events ORDER BY id";
    test_server::shared().sql(url.rsplit('/').next().unwrap(), sql).unwrap()
}

async fn worker() -> (String, PostgresStore) {
    let url = test_server::shared().new_database();
    let store = open(&url, "worker").await;
    (url, store)
}

/// A sender must not notice that its transaction lost a deadlock or was not serializable.
#[tokio::test]
async fn a_group_that_loses_a_deadlock_is_repeated_with_the_same_numbers() {
    for code in ["40P01", "40001"] {
        let (url, store) = worker().await;
        fail_events(&url, "nextval('hookstream.test_attempts') <= 3", code);
        let accepted = store.accept(vec![new("a", &["x"], T0)], T0).await.unwrap();
        assert_eq!(events(&url), [["a"]]);
        let due = store.due_by("uid-x", T0, 10).await.unwrap();
        assert_eq!(due.iter().map(|pending| pending.seq).collect::<Vec<_>>(), seqs_of(&accepted));
        let database = url.rsplit('/').next().unwrap();
        let numbers =
            test_server::shared().sql(database, "SELECT last_value FROM hookstream.event_seq").unwrap();
        assert_eq!(numbers, [["1"]], "each repetition took another number");
    }
}

/// One event that the database refuses must not fail the events of other senders in its group.
#[tokio::test]
async fn a_refused_event_fails_alone() {
    let (url, store) = worker().await;
    fail_events(&url, "NEW.id = 'bad'", "22023");
    // Polled one after the other, so that they wait in the queue together.
    let ids = ["first", "a", "bad", "b"];
    let accepted = ids.map(|id| store.accept(vec![new(id, &["x"], T0)], T0));
    let results = futures::future::join_all(accepted).await;
    for (id, result) in ids.iter().zip(&results) {
        match (*id, result) {
            ("bad", Err(StoreError::Refused(_))) => {}
            (id, Ok(_)) if id != "bad" => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(events(&url), [["a"], ["b"], ["first"]]);
}

/// The log has the text of errors: one line, with advice, and without values of rows, which the server sends as DETAIL.
#[tokio::test]
async fn errors_are_one_line_without_values() {
    let (_, store) = worker().await;
    let session = store.session().await.unwrap();
    let failed = session.batch(
        "DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100', DETAIL = 'secret', HINT = 'hint'; END $$",
    );
    let error = failed.await.unwrap_err().to_string();
    assert_eq!(error, "could not extend file: the disk of the database server is full: free space on it");
}
