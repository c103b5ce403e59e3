//! `hookstream deliveries`, `send` and `test` against a worker: tables, formats, following, and exit codes.

use std::process::Stdio;

use serde_json::{Value, json};

use super::run;
use crate::harness::deliveries::list_deliveries;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DEAD, DELIVERED, FINISHED};
use crate::harness::standalone::Standalone;
use crate::harness::{DEADLINE, Process, Receiver, Reply, eventually, watchdog};

/// Replaces what differs in each run, and the blanks that align columns.
fn stable(text: &str) -> String {
    let id = regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z").unwrap();
    let age = regex::Regex::new(r"(?m)^\d+[sm]\b").unwrap();
    let wait = regex::Regex::new(r"\b(in |)\d+[smh]\b").unwrap();
    let blanks = regex::Regex::new("  +").unwrap();
    let text = id.replace_all(text, "ID");
    let text = time.replace_all(&text, "TIME");
    let text = age.replace_all(&text, "AGE");
    let text = wait.replace_all(&text, "${1}WAIT");
    blanks.replace_all(&text, "  ").into_owned()
}

/// Runs `deliveries list` with these flags.
async fn list(standalone: &Standalone, more: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", standalone.api);
    let mut args = vec!["deliveries", "list", "-n", "default", "--url", &url];
    args.extend(more);
    run(&args).await
}

/// Starts a worker with a delivery that is held, one that waits for its retry, a delivered, a dead and a dropped one.
pub async fn start() -> (Receiver, Standalone) {
    let receiver = Receiver::start(|request, _| match request.path.as_str() {
        "/dead" => Reply::status(422),
        "/waits" => Reply::status(503).header("retry-after", "3600"),
        _ => Reply::status(200),
    });
    let of = |name: &str, more: Value| {
        let mut spec = json!({"event": name});
        merge(&mut spec, more);
        hook(name, &format!("{}/{name}", receiver.url()), spec)
    };
    let manifests = [
        of("held", json!({"delivery": {"paused": true}})),
        of("waits", json!({"delivery": {"retry": {"initialBackoff": "1h", "maxBackoff": "2h"}}})),
        of("dead", json!({})),
        of("snoozed", json!({"snooze": {"period": "1h"}, "groupBy": ["group"]})),
    ]
    .concat();
    let standalone = Standalone::start(&manifests, &[]).await;
    for (id, name) in [("1", "held"), ("2", "waits"), ("3", "dead"), ("4", "snoozed"), ("5", "snoozed")] {
        let mut body = event(id);
        merge(&mut body, json!({"event": name}));
        standalone.publish_accepted(&body).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    standalone.wait_for_count(FINISHED, &[DEAD], 1).await;
    eventually(DEADLINE, "the first attempt of the retried delivery", async || {
        let waiting = list_deliveries(&standalone, "hook=waits").await;
        if waiting[0]["attempts"].as_array().unwrap().len() == 1 {
            Ok(())
        } else {
            Err(format!("{waiting:?}"))
        }
    })
    .await;
    (receiver, standalone)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_say_why_and_when() {
    let (_receiver, standalone) = start().await;
    let (code, table, error) = list(&standalone, &[]).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!(
        stable(&table),
        "AGE  HOOK  EVENT  STATE  WHY  ATTEMPTS  NEXT  ID\n\
         AGE  snoozed  5  dropped  Snoozed  0  ID\n\
         AGE  snoozed  4  delivered  200  1  ID\n\
         AGE  dead  3  dead  TerminalStatus: 422  1  ID\n\
         AGE  waits  2  pending  503  1  WAIT  ID\n\
         AGE  held  1  pending  held: Paused  0  ID\n"
    );
    let (_, wide, _) = list(&standalone, &["-o", "wide", "--state", "dead,pending"]).await;
    let wide = stable(&wide);
    assert!(
        wide.starts_with("AGE  HOOK  EVENT  STATE  WHY  ATTEMPTS  NEXT  ID  ACCEPTED  DETAIL\n"),
        "{wide}"
    );
    assert_eq!(wide.lines().count(), 4, "{wide}");
    let (_, names, _) = list(&standalone, &["-o", "name", "--limit", "2"]).await;
    assert_eq!(stable(&names), "ID\nID\n");
    let (_, lines, _) = list(&standalone, &["-o", "jsonl", "--state", "dropped"]).await;
    let item: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&item["event"], lines.lines().count()), (&json!("5"), 1));
    for format in ["json", "yaml"] {
        let (_, text, _) = list(&standalone, &["-o", format, "--hook", "held"]).await;
        let page: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(page["items"][0]["held"]["reason"], "Paused", "{text}");
    }
    // Pages of several states.
    let url = format!("http://{}/v1/namespaces/default/deliveries", standalone.api);
    let page =
        |query: &str| standalone.client.get(format!("{url}?state=pending,dead,dropped&limit=2{query}"));
    let first: Value = page("").send().await.unwrap().json().await.unwrap();
    let token = first["continue"].as_str().unwrap();
    let second: Value = page(&format!("&continue={token}")).send().await.unwrap().json().await.unwrap();
    let events = |page: &Value| {
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| item["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (events(&first), events(&second)),
        (vec!["5".into(), "3".into()], vec!["2".into(), "1".into()])
    );

    let (code, _, error) = list(&standalone, &["--state", "dead,gone"]).await;
    assert!(code == 2 && error.contains("gone"), "{error}");
    let (code, _, error) = list(&standalone, &["-f", "-o", "json"]).await;
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_when_the_receiver_is_probed() {
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let spec = json!({"delivery": {"retry": {"initialBackoff": "1h", "maxBackoff": "2h"}}});
    let standalone = Standalone::start(&hook("h", &receiver.url(), spec), &[]).await;
    for n in 0..30 {
        standalone.publish_accepted(&event(&n.to_string())).await;
    }
    eventually(DEADLINE, "the circuit breaker to open", async || {
        let (_, table, _) = list(&standalone, &["--limit", "1"]).await;
        let row = stable(table.lines().nth(1).unwrap());
        // Between two rounds of probes, the time of the next one is known.
        if row.contains("held: ReceiverFailing, probe in WAIT") { Ok(()) } else { Err(table) }
    })
    .await;
    let held = list_deliveries(&standalone, "limit=1").await[0]["held"].clone();
    assert_eq!(held["reason"], "ReceiverFailing", "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_each_change_once_until_ctrl_c() {
    let (_receiver, standalone) = start().await;
    let url = format!("http://{}", standalone.api);
    let args =
        ["deliveries", "list", "-n", "default", "--url", &url, "--follow", "-o", "jsonl", "--limit", "1"];
    let process = Process::spawn(args, &[]);
    let line = |event: &str, state: &str| {
        let (event, state) = (format!("\"event\":\"{event}\""), format!("\"state\":\"{state}\""));
        move |line: &str| line.contains(&event) && line.contains(&state)
    };
    process.wait_for_line(line("5", "dropped"), DEADLINE).await;
    let mut body = event("6");
    merge(&mut body, json!({"event": "held"}));
    standalone.publish_accepted(&body).await;
    process.wait_for_line(line("6", "pending"), DEADLINE).await;
    // An older delivery that changes.
    let id = list_deliveries(&standalone, "event=1").await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(run(&["deliveries", "cancel", "-n", "default", "--url", &url, &id]).await.0, 0);
    process.wait_for_line(line("1", "cancelled"), DEADLINE).await;
    let pid = process.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(process.wait(DEADLINE).await.code(), Some(0));
    let events: Vec<String> = process
        .log()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events, ["5", "6", "1"], "each change once, and only the newest of the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_worker_gives_a_one_line_message() {
    let not_found = || async {
        let problem = json!({"type": "about:blank", "title": "Not Found", "status": 404, "reason": "NotFound",
            "detail": "no such path: list deliveries with GET /v1/namespaces/{namespace}/deliveries"});
        (axum::http::StatusCode::NOT_FOUND, problem.to_string())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(not_found);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    for args in [
        &["events", "list", "-n", "shop"][..],
        &["deliveries", "cancel", "-n", "shop", "--hook", "h"],
        &["replays", "list", "-n", "shop"],
        &["replays", "cancel", "-n", "shop", "01a201d0-e928-7748-a797-9272c188e8bd"],
    ] {
        let mut args = args.to_vec();
        args.extend(["--url", &url]);
        let (code, out, error) = run(&args).await;
        assert_eq!((code, out.as_str(), error.lines().count()), (2, "", 1), "{error}");
        assert!(error.contains("the worker is older than this program"), "{error}");
    }
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_a_file_of_events() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = Standalone::start(&hook("h", &receiver.url(), quick()), &[]).await;
    let url = format!("http://{}", standalone.listen);
    let file = watchdog::unique_path("events.jsonl");
    let mut lines: Vec<String> = (0..40).map(|n| event(&n.to_string()).to_string()).collect();
    lines.push(event("7").to_string());
    lines.push(json!({"id": "x", "source": "t", "data": {}}).to_string());
    std::fs::write(&file, lines.join("\n")).unwrap();
    let path = file.display().to_string();
    let base = ["send", "-n", "default", "--url", &url, "--event", "e", "--file"];
    let with = |more: &[&str]| {
        base.iter().map(ToString::to_string).chain(more.iter().map(ToString::to_string)).collect::<Vec<_>>()
    };
    let send = async |more: &[&str]| {
        let args = with(more);
        run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let (code, out, error) = send(&[&path, "--concurrency", "1"]).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "42 sent: 40 matched, 1 unmatched, 1 duplicates, 0 rejected\n"),
        "{error}"
    );
    // Every change names its target first.
    let target = format!("hookstream: target: {url}\n");
    let remarks =
        "hookstream: line 41: 7 is a duplicate: nothing was stored\nhookstream: line 42: no hook matched x\n";
    assert_eq!(error, format!("{target}{remarks}"));
    receiver.wait_for(40, DEADLINE).await;
    let (code, out, error) = send(&[&path, "--strict", "-o", "json"]).await;
    assert_eq!(code, 1, "{error}");
    let totals: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(totals, json!({"sent": 42, "matched": 0, "unmatched": 0, "duplicates": 42, "rejected": 0}));
    assert!(
        error.ends_with("hookstream: 42 duplicates and 0 events that no hook matched (--strict)\n"),
        "{error}"
    );

    // Standard input, with a line that is no event.
    let args = with(&["-", "--source", "s"]);
    let mut command = Process::command(&args, &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"id\":\"s1\",\"data\":1}\nnonsense\n")
        .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("standard input:2: the line is no event"), "{error}");
    // One event.
    let one = |id: &'static str, source: &'static str, more: &'static [&'static str]| {
        let url = url.clone();
        async move {
            let mut args = vec!["send", "-n", "default", "--url", &url, "--event", "e", "--data", "{}"];
            args.extend(["--id", id, "--source", source]);
            args.extend(more);
            run(&args).await
        }
    };
    assert_eq!(one("new", "s", &["--strict"]).await.0, 0);
    let (code, _, error) = one("new", "s", &[]).await;
    let remark = "hookstream: the event new is a duplicate: nothing was stored\n";
    assert_eq!((code, error), (0, format!("{target}{remark}")));
    let (code, _, error) = one("lost", "t", &["--strict"]).await;
    let error = error.strip_prefix(&target).unwrap();
    assert!(code == 1 && error.starts_with("hookstream: no hook matched the event: see `"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn test_says_the_verdict_and_takes_a_stored_event() {
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let spec = json!({"filter": "data.n > 1", "snooze": {"period": "5m"}});
    let manifest = hook("h", &receiver.url(), spec);
    let standalone = Standalone::start(&manifest, &[]).await;
    for (id, n) in [("small", 1), ("large", 2)] {
        standalone.publish_accepted(&json!({"id": id, "source": "s", "event": "e", "data": {"n": n}})).await;
    }
    let file = watchdog::unique_path("hook.yaml");
    std::fs::write(&file, &manifest).unwrap();
    let (file, url) = (file.display().to_string(), format!("http://{}", standalone.api));
    let test = async |more: &[&str]| {
        let mut args = vec!["test", "-f", &file, "--dry-run"];
        args.extend(more);
        run(&args).await
    };
    let (code, out, error) = test(&["--event-id", "large", "--url", &url]).await;
    assert_eq!(code, 0, "{error}");
    assert!(out.starts_with("POST http://") && out.contains("\"n\":2"), "{out}");
    assert!(error.starts_with("filter: accepts the event\nsnooze: drops it within 300s"), "{error}");
    let (code, out, error) = test(&["--event-id", "small", "--url", &url]).await;
    assert_eq!((code, out.as_str()), (1, ""), "{error}");
    assert!(error.contains("filter: rejects the event\n"), "{error}");
    assert!(error.ends_with("the handler did not run (--ignore-filter runs it)\n"), "{error}");
    let (code, out, _) = test(&["--data", "{\"n\":1}", "--ignore-filter"]).await;
    assert!(code == 0 && out.contains("\"n\":1"), "{out}");
    let (code, _, error) = test(&["--event-id", "missing", "--url", &url]).await;
    assert!(code == 2 && error.contains("no event of this id"), "{error}");
    let (code, _, error) = test(&[]).await;
    assert!(code == 2 && error.contains("--data"), "{error}");
}
