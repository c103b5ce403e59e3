//! A compromised child may send any bytes: it costs the call, and the worker stays intact.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hookstream::sandbox::ScriptError;
use serde_json::json;

use super::Scripts;
use crate::harness::watchdog;

/// Creates a program that writes `first`, waits for the first byte of a request, writes `reply`, and then runs `then`.
fn program(name: &str, first: &[u8], reply: &[u8], then: &str) -> PathBuf {
    let folder = watchdog::unique_path("children");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |part: &str, bytes: &[u8]| {
        let path = folder.join(format!("{name}.{part}"));
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (first, reply) = (file("first", first), file("reply", reply));
    let mut text = String::from("#!/bin/sh\nPATH=/usr/bin:/bin\n");
    write!(text, "cat {first}\nhead -c 1 >/dev/null\ncat {reply}\n{then}\n").unwrap();
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn framed(body: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(body.bytes());
    bytes
}

/// Reads on and writes nothing; its output stays open.
const STAYS: &str = "cat >/dev/null";
const HELLO: &str = r#"{"unconfined":null}"#;

fn reply(outcome: &str, logs: &str) -> Vec<u8> {
    framed(&format!(r#"{{"outcome":{outcome},"logs":[{logs}],"last":false}}"#))
}

async fn start(tag: u64, program: PathBuf) -> Scripts {
    Scripts::start(tag, |options| {
        (options.program, options.processes, options.timeout) = (program, 1, Duration::from_millis(500));
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_replies_crash_the_call() {
    let log = r#"{"level":4,"text":"x"}"#;
    let long = format!(r#"{{"level":4,"text":"{}"}}"#, "x".repeat(2000));
    let big = format!(r#"{{"Ok":{{"Value":"{}"}}}}"#, "x".repeat(1 << 20));
    let crashed = || Err(ScriptError::ScriptCrashed);
    let cases = [
        // A correct child; otherwise the other rows would prove nothing.
        ("good", reply(r#"{"Ok":{"Value":7}}"#, log), STAYS, Ok(json!(7))),
        ("no length", vec![255; 4], STAYS, crashed()),
        ("no JSON", framed("{"), STAYS, crashed()),
        ("no reply", framed(HELLO), STAYS, crashed()),
        ("texts for a value", reply(r#"{"Ok":{"Texts":["7"]}}"#, ""), STAYS, crashed()),
        ("more than one", [reply(r#"{"Ok":{"Value":7}}"#, ""), vec![0]].concat(), STAYS, crashed()),
        ("a big value", reply(&big, ""), STAYS, crashed()),
        ("many lines", reply(r#"{"Ok":{"Value":7}}"#, &vec![log; 65].join(",")), STAYS, crashed()),
        ("a long line", reply(r#"{"Ok":{"Value":7}}"#, &long), STAYS, crashed()),
        ("half", reply(r#"{"Ok":{"Value":7}}"#, "")[..20].to_vec(), "exit 0", crashed()),
        ("nothing", Vec::new(), "exit 1", crashed()),
        ("drips", vec![9, 0], STAYS, Err(ScriptError::ScriptTimeout(Duration::from_millis(500)))),
    ];
    for (number, (name, bytes, then, expected)) in (50..).zip(cases) {
        let scripts = start(number, program(&name.replace(' ', "-"), &framed(HELLO), &bytes, then)).await;
        assert_eq!(scripts.sandbox.unavailable(), None, "{name}");
        // The program answers one call; a child that was ended is replaced for the next one.
        let ended = !matches!(name, "good" | "texts for a value");
        for _ in 0..if ended { 2 } else { 1 } {
            assert_eq!(scripts.run("hook", "return 7").await, expected, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_handshake_is_rejected() {
    let early = [framed(HELLO), reply(r#"{"Ok":{"Value":7}}"#, "")].concat();
    let long = framed(&format!(r#"{{"unconfined":"{}"}}"#, "x".repeat(10_000)));
    for (tag, name, first) in [
        (70, "early", early),
        (71, "other", framed("{}x")),
        (72, "much", vec![0, 0, 1, 0]),
        (73, "long", long),
    ] {
        let scripts = start(tag, program(name, &first, b"", STAYS)).await;
        let why = scripts.sandbox.unavailable().unwrap();
        assert!(why.len() < 1000, "{name}: {why}");
        let outcome = scripts.run("hook", "return 7").await;
        assert!(matches!(outcome, Err(ScriptError::SandboxUnavailable(_))), "{name}: {outcome:?}");
        scripts.until_no_child().await;
    }
}
