//! A compromised child may send any bytes: its call fails, and the worker stays intact.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hookstream::sandbox::ScriptError;
use serde_json::json;

use super::{CALL_DEADLINE, Scripts};
use crate::harness::watchdog;

/// Creates a program that writes `handshake`, waits for the first byte of a request, writes `reply`, and then runs the
/// command `last`.
fn program(name: &str, handshake: &[u8], reply: &[u8], last: &str) -> PathBuf {
    let folder = watchdog::unique_path("children");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |part: &str, bytes: &[u8]| {
        let path = folder.join(format!("{name}.{part}"));
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let (handshake, reply) = (file("handshake", handshake), file("reply", reply));
    let mut text = String::from("#!/bin/sh\nPATH=/usr/bin:/bin\n");
    write!(text, "cat {handshake}\nhead -c 1 >/dev/null\ncat {reply}\n{last}\n").unwrap();
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

/// Reads its input to the end and writes nothing; its output stays open.
const READS: &str = "cat >/dev/null";
const HANDSHAKE: &str = r#"{"unconfined":null}"#;

fn reply(outcome: &str, logs: &str) -> Vec<u8> {
    framed(&format!(r#"{{"outcome":{outcome},"logs":[{logs}],"last":false}}"#))
}

async fn start(tag: u64, program: PathBuf, timeout: Duration) -> Scripts {
    Scripts::start(tag, |options| {
        (options.program, options.processes, options.timeout) = (program, 1, timeout);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_replies_crash_the_call() {
    // For the call that must reach its timeout; on a busy machine the others need more time.
    const SHORT: Duration = Duration::from_millis(500);
    let log = r#"{"level":4,"text":"x"}"#;
    let long = format!(r#"{{"level":4,"text":"{}"}}"#, "x".repeat(2000));
    let big = format!(r#"{{"Ok":{{"Value":"{}"}}}}"#, "x".repeat(1 << 20));
    let crashed = || Err(ScriptError::ScriptCrashed);
    let cases = [
        // A correct child; otherwise the other rows would prove nothing.
        ("good", reply(r#"{"Ok":{"Value":7}}"#, log), READS, Ok(json!(7))),
        ("no length", vec![255; 4], READS, crashed()),
        ("no JSON", framed("{"), READS, crashed()),
        ("no reply", framed(HANDSHAKE), READS, crashed()),
        ("texts for a value", reply(r#"{"Ok":{"Texts":["7"]}}"#, ""), READS, crashed()),
        ("more than one", [reply(r#"{"Ok":{"Value":7}}"#, ""), vec![0]].concat(), READS, crashed()),
        ("a big value", reply(&big, ""), READS, crashed()),
        ("many lines", reply(r#"{"Ok":{"Value":7}}"#, &vec![log; 65].join(",")), READS, crashed()),
        ("a long line", reply(r#"{"Ok":{"Value":7}}"#, &long), READS, crashed()),
        ("half", reply(r#"{"Ok":{"Value":7}}"#, "")[..20].to_vec(), "exit 0", crashed()),
        ("nothing", Vec::new(), "exit 1", crashed()),
        ("drips", vec![9, 0], READS, Err(ScriptError::ScriptTimeout(SHORT))),
    ];
    for (number, (name, bytes, last, expected)) in (50..).zip(cases) {
        let timeout = if name == "drips" { SHORT } else { CALL_DEADLINE };
        let program = program(&name.replace(' ', "-"), &framed(HANDSHAKE), &bytes, last);
        let scripts = start(number, program, timeout).await;
        assert_eq!(scripts.sandbox.unavailable(), None, "{name}");
        // The program answers one call; the sandbox replaces a child that it has ended.
        let is_replaced = !matches!(name, "good" | "texts for a value");
        for _ in 0..if is_replaced { 2 } else { 1 } {
            assert_eq!(scripts.run("hook", "return 7").await, expected, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_handshake_is_rejected() {
    let early = [framed(HANDSHAKE), reply(r#"{"Ok":{"Value":7}}"#, "")].concat();
    let long = framed(&format!(r#"{{"unconfined":"{}"}}"#, "x".repeat(10_000)));
    for (tag, name, handshake) in [
        (70, "early", early),
        (71, "other", framed("{}x")),
        (72, "much", vec![0, 0, 1, 0]),
        (73, "long", long),
    ] {
        let scripts = start(tag, program(name, &handshake, b"", READS), CALL_DEADLINE).await;
        let message = scripts.sandbox.unavailable().unwrap();
        assert!(message.len() < 1000, "{name}: {message}");
        let outcome = scripts.run("hook", "return 7").await;
        assert!(matches!(outcome, Err(ScriptError::SandboxUnavailable(_))), "{name}: {outcome:?}");
        scripts.wait_for_no_child().await;
    }
}
